/**
 * The stack's C++ programs on a Hopper GPU: every operation alone and whole layers against double, and each comparison shown to fail; compute-sanitizer over them; how faults end; and that
 * each known mistake of the device code is noticed on nano. Without the programs (`npm run build:cuda`) or a GPU every test here is skipped, and counted as skipped.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { gpuReport } from '../../native/engines.ts';
import { randomIds } from '../cpu/engine/checkpoints.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROGRAMS = path.join(ROOT, 'build/gpu');
const run = (program: string, args: readonly string[]) => spawnSync(program, args, { cwd: ROOT, encoding: 'utf8' });
const stack = (program: string, ...args: string[]) => run(path.join(PROGRAMS, program), args);

/** Why nothing can run here, or null. */
function lack(): string | null {
  if (!existsSync(path.join(ROOT, 'build/Release/kilotoken_cuda.node'))) return 'the CUDA engines are not built';
  if (!existsSync(path.join(PROGRAMS, 'stack_defects'))) return 'npm run build:cuda was not run';
  return gpuReport().lack || null;
}
const missing = lack();
const on = missing === null ? 'on this GPU' : `SKIPPED: ${missing}`;
/** What a program lists; nothing where it cannot run. */
const listed = (program: string, ...args: string[]) =>
  missing === null
    ? stack(program, ...args)
        .stdout.trim()
        .split('\n')
    : ['nothing'];

describe.skipIf(missing !== null)(`operations of the stack, ${on}`, () => {
  test.each([
    ['stack_ops'],
    ['stack_ops', '--break', 'all'],
    ['stack_layer'],
    ['stack_layer', '--break', 'all'],
    ['stack_experts'],
    ['stack_attention', '--quick'],
    ['instruction_fetch'],
  ])('%s %s %s', { timeout: 300_000 }, (program, ...args) => {
    const { status, stdout } = stack(program!, ...args.filter((word) => word !== undefined));
    expect(stdout).toMatch(/, 0 failed|(\d+) of \1 mistakes noticed/);
    expect(status).toBe(0);
  });

  const sanitizer = run('compute-sanitizer', ['--version']).status === 0;
  test.skipIf(!sanitizer).each(['memcheck', 'racecheck'])(
    sanitizer ? 'compute-sanitizer %s' : 'compute-sanitizer %s: SKIPPED, it is not installed',
    { timeout: 600_000 },
    (tool) => {
      const program = path.join(PROGRAMS, 'stack_ops');
      const { status, stdout } = run('compute-sanitizer', [
        '--tool',
        tool,
        '--error-exitcode',
        '9',
        program,
        '--small',
      ]);
      expect(stdout).toMatch(/SUMMARY: 0 (errors|hazards)/);
      expect(status).toBe(0);
    },
  );
});

describe.skipIf(missing !== null)(`faults of the stack, ${on}`, () => {
  /** As the program states them: 70 a fault of the kernel, 3 a lack of the machine, 2 the caller's. */
  const EXITS: Record<string, number> = { blocks: 3, grid: 2, memory: 3, none: 0 };
  test.each(listed('stack_faults'))('%s', { timeout: 60_000 }, (fault) => {
    const { status, stdout } = stack('stack_faults', fault);
    expect(stdout).not.toMatch(/FAILED/);
    expect(status).toBe(EXITS[fault] ?? 70);
  });
});

describe.skipIf(missing !== null)(`two GPUs that do not get on, ${on}`, () => {
  /** 0: nothing is wrong. 3: the machine lacks something, here a second GPU in reach too. 70: a GPU failed while decoding. */
  const EXITS: Record<string, number> = { none: 0, stack: 0, memory: 3 };
  test.each(listed('parallel_faults'))('%s', { timeout: 90_000 }, (fault) => {
    const { status, stdout } = stack('parallel_faults', fault);
    if (status === 3 && stdout.startsWith('error: ')) return console.warn(`SKIPPED: ${stdout.trimEnd()}`);
    expect(stdout).not.toMatch(/FAILED/);
    expect(status).toBe(EXITS[fault] ?? 70);
  });
});

// A toy whose rows hold a NaN, in a process of its own: what the command line would print and exit with.
const SEAM = `
  import { explain } from './dist/bin/support/exit.js';
  import { cudaAddonFile } from './dist/native/addon.js';
  import { ToyModel } from './dist/native/toy.js';
  try {
    const tables = { vocab: 2, order: 1, block: 1, maxContext: 16, targetLogits: Float32Array.of(NaN, 0, NaN, 0), draftLogits: new Float32Array(0), allowNan: true };
    const toy = await ToyModel.load(tables, cudaAddonFile(), 'stack-cuda');
    const session = await toy.engine().open([0], { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: 4, stopIds: [] });
    await session.step();
  } catch (error) {
    const { code, text } = explain(error);
    console.log(text);
    process.exit(code);
  }`;

describe.skipIf(missing !== null || !existsSync(path.join(ROOT, 'dist/bin')))(
  `a fault behind the seam, ${missing === null ? 'on this GPU (needs npm run build:ts)' : on}`,
  () => {
    test('a NaN among the logits: one line, exit code 70', { timeout: 60_000 }, () => {
      const { status, stdout } = run(process.execPath, ['--input-type=module', '--eval', SEAM]);
      expect(stdout).toMatch(
        /^internal error: .*a logit that is not a number \(rank 0, block \d+, instruction \d+\)$/m,
      );
      expect(status).toBe(70);
    });
  },
);

describe.skipIf(missing !== null)(`known mistakes of the device code, ${on}`, () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-defects-'));
    const prompts = [1, 2, 3, 4, 5, 6].map((seed) => randomIds(seed, 60 + 10 * seed, 1024).join(' '));
    writeFileSync(path.join(folder, 'prompts.txt'), `${prompts.join('\n')}\n`);
    const written = run(process.execPath, [
      'test/gpu/write-spec.mjs',
      'checkpoints/nano/fp4',
      path.join(folder, 'nano.spec'),
    ]);
    expect(written.stderr).toBe('');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each(listed('stack_defects', 'list'))('%s', { timeout: 120_000 }, (id) => {
    const { status, stdout } = stack(
      'stack_defects',
      path.join(folder, 'nano.spec'),
      path.join(folder, 'prompts.txt'),
      id,
    );
    expect(stdout).toMatch(/^ok /m);
    expect(status).toBe(0);
  });
});
