/** Plug-ins that work, and plug-ins that die, hang, talk nonsense, flood or answer the wrong question: each by its name. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openPlugin } from '../../../harness/engines/plugin.ts';
import type { Budget } from '../../../harness/gate/budget.ts';
import { find, gate, refutations, SMALL } from './support.ts';

const ROOT = join(import.meta.dirname, '../../..');
const TOY = `cmd:python3 ${join(ROOT, 'examples/engine_toy.py')}`;
/** Long enough for a busy machine to start Python; an engine that hangs costs this once. */
const LIMITS = { answerMs: 5_000, lineBytes: 200_000 };

/** Enough to catch an untruth that is in every round: two interpreters stand behind each answer here, and the rest is waiting. */
const FEW: Partial<Budget> = { ...SMALL, lawTokens: 2_000, toyTokens: 1_000 };

/** Until no process has `marker` in its arguments; one that stays is seen by the limit of the test. */
async function gone(marker: string): Promise<void> {
  while (execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).includes(marker)) {
    await new Promise((done) => setTimeout(done, 50));
  }
}

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-plugins-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function judged(text: string, budget?: Partial<Budget>) {
  const source = openPlugin(text, LIMITS);
  try {
    return await gate(source, { stepMs: 6_000, ...(budget === undefined ? {} : { budget }) });
  } finally {
    await source.close();
  }
}

describe('the example in Python', () => {
  it('passes', async () => {
    const result = await judged(TOY);
    expect(result.verdict).toBe('passed');
    for (const id of ['echo', 'replay', 'counters', 'toy rows', 'toy replay', 'boundary rows', 'boundary numbers']) {
      expect(find(result, id).outcome, id).toBe('consistent');
    }
  });
  it.each(['always-accept', 'residual-p'])('is refuted when it lies: %s', async (lie) => {
    const result = await judged(`${TOY} --lie ${lie}`);
    expect(result.verdict).toBe('refuted');
    expect(refutations(result)).toContain('law emission');
  });
});

/** A child that runs the toy and, from answer `from` on, does `act` with the line instead of passing it. */
function faulty(name: string, act: string, from = 12): string {
  const path = join(scratch, `${name}.py`);
  writeFileSync(
    path,
    `import subprocess, sys, os, time, json, re
toy = subprocess.Popen([sys.executable, ${JSON.stringify(join(ROOT, 'examples/engine_toy.py'))}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
n = 0
for request in sys.stdin:
    toy.stdin.write(request); toy.stdin.flush()
    line = toy.stdout.readline()
    n += 1
    if n >= ${from}:
        ${act}
    sys.stdout.write(line); sys.stdout.flush()
`,
  );
  return `cmd:exec python3 ${path}`;
}

describe('what a round carries over the wire', () => {
  const noisy = [
    'noise = [{"of": "target", "position": 2, "round": 0, "u": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}]',
    'answer = json.loads(line)',
    'if "committed" in (answer.get("result") or {}): answer["result"]["replay"]["noise"] = noise; line = json.dumps(answer) + "\\n"',
  ];
  it('arrives: rows, numbers with their counters, noise', async () => {
    const source = openPlugin(faulty('noisy', noisy.join('\n        '), 1), LIMITS);
    const engine = await source.open({});
    const session = await engine.open([1, 2], {
      seed: '1',
      temperature: 1,
      topP: 1,
      topK: 0,
      maxTokens: 9,
      stopIds: [],
    });
    await session.step();
    const { replay } = await session.step();
    await source.close();
    expect(replay!.noise).toEqual([
      { of: 'target', position: 2, round: 0, u: Float64Array.of(0.1, 0.2, 0.3, 0.4, 0.5, 0.6) },
    ]);
    expect(replay!.uniforms[0]).toEqual({ stream: 'draft', position: 3, round: 1, u: expect.any(Number) });
    expect(replay!.p[0]).toBeInstanceOf(Float64Array);
    expect(engine.openToy).toBeDefined();
    expect([engine.tapes, engine.generator]).toEqual([true, undefined]);
  });
});

describe('a child process that', () => {
  it.each([
    ['dies', 'os._exit(9)', 'died'],
    ['hangs', 'time.sleep(60)', 'hung'],
    ['closes its output and stays', 'os.close(1); time.sleep(60)', 'died: the engine closed its output'],
    ['prints garbage', 'line = "Segmentation fault\\n"', 'garbage'],
    ['answers with NaN, which is not JSON', 'line = \'{"id": %d, "result": NaN}\\n\' % n', 'garbage'],
    ['answers with a number', 'line = "7\\n"', 'garbage'],
    ['answers without a result', 'line = \'{"id": %d}\\n\' % n', 'garbage'],
    ['floods', 'line = "x" * 400000', 'oversize'],
    ['answers another request', 'line = re.sub(r\'"id": \\d+\', \'"id": 99999\', line)', 'unknown id'],
    ['answers twice', 'sys.stdout.write(line)', 'unknown id'],
  ])('%s', async (name, act, kind) => {
    const result = await judged(faulty(name.replace(/\W/g, '_'), act));
    expect(result.verdict).toBe('refuted');
    expect(find(result, 'sessions').evidence).toMatch(new RegExp(`: ${kind}(: |\\.)`));
  });

  it.each([
    ['rows', `line = line.replace('"p": [[', '"p": [[0.5, ')`],
    ['books', `line = re.sub(r'"accepted": \\d', '"accepted": 3', line)`],
    ['books', `line = line.replace('"committed": [', '"committed": [1, 1, 1, 1, 1, 1, ')`],
    ['sessions', `line = line.replace('"finish": null', '"finish": "tired"')`],
    ['replay', `line = line.replace('"u": 0.', '"u": 0.0')`],
    ['counters', `line = re.sub(r'"position": \\d+', '"position": 7', line)`],
    ['sessions', `line = line.replace('"u": ', '"u": "x", "v": ')`],
    ['sessions', `line = line.replace('"round": ', '"draw": -1, "round": ')`],
    ['sessions', `line = line.replace('"uniforms": [', '"uniforms": [7, ')`],
    ['sessions', `line = line.replace('"uniforms": [', '"noise": [{"of": "nobody"}], "uniforms": [')`],
    ['sessions', `line = line.replace('"toys": true', '"generator": "dice", "toys": true')`],
    ['counters', `line = line.replace('"toys": true', '"generator": "philox4x32-10", "toys": true')`],
    ['toy rows', `line = line.replace('"vocabSize": 3', '"vocabSize": 4')`],
    ['rows', `line = re.sub(r'"logprobs": \\[-\\d+\\.\\d+', '"logprobs": [-0.5', line)`],
    ['sessions', `line = line.replace('"committed": [', '"committed": [1e400, ')`],
    ['books', `line = re.sub(r'"drafted": \\[(\\d)', r'"drafted": [0, 0, 0, 0, \\1', line)`],
  ])('tells an untruth that %s refutes', async (check, act) => {
    const result = await judged(faulty(`lies_${act.replace(/\W/g, '').slice(-40)}`, act, 1), FEW);
    expect(refutations(result)).toContain(check);
  });

  it('cannot be started is the fault of the machine', async () => {
    await expect(judged('cmd:no-such-command-anywhere')).rejects.toMatchObject({ name: 'EnvironmentError' });
  });

  it('leaves no process behind', async () => {
    const marker = `marker-${process.pid}-${Date.now()}`;
    const source = openPlugin(`cmd:sleep 300 & python3 ${join(ROOT, 'examples/engine_toy.py')} # ${marker}`, LIMITS);
    await source.open({});
    await source.close();
    await gone(marker);
  });

  it('dies with the harness', async () => {
    // A harness that ends by itself, without closing the plug-in: the exit handler has to do it.
    const marker = `orphan-${process.pid}-${Date.now()}`;
    const code = `
      const { openPlugin } = await import(${JSON.stringify(join(ROOT, 'dist/harness/engines/plugin.js'))});
      const source = openPlugin(${JSON.stringify(`${TOY} # ${marker}`)});
      await source.open({});
      process.exit(0);`;
    const ended = new Promise((done) =>
      spawn(process.execPath, ['--input-type=module', '-e', code]).once('exit', done),
    );
    expect(await ended).toBe(0); // otherwise nothing was started that could be left
    await gone(marker);
  });
});

/** A JavaScript module: the documented example of docs/engines.md, with one line exchanged. */
function moduleOf(name: string, change: (text: string) => string = (text) => text): string {
  const text = /```js\n([\s\S]*?)```/.exec(readFileSync(join(ROOT, 'docs/engines.md'), 'utf8'))![1]!;
  const path = join(scratch, `${name}.mjs`);
  const changed = change(text);
  if (name !== 'whole') expect(changed).not.toBe(text);
  writeFileSync(path, changed);
  return path;
}

describe('a JavaScript module', () => {
  it('as documented passes', async () => {
    const result = await judged(moduleOf('whole'));
    expect(result.checks.filter((check) => check.outcome !== 'consistent').map((check) => check.id)).toEqual([
      'reference scores', // nobody stated what it should give
      'law drafts', // its drafts are not sampled
      'toys', // it opens none
      'boundary rows',
      'boundary numbers',
      'acceptance floor', // nor its acceptance
      'reference drafts', // nor its drafts
    ]);
    expect(result.verdict).toBe('passed');
  });
  it.each([
    ['busy', 'for (;;) {}', 'hung'],
    ['never', 'await new Promise(() => {});', 'hung'],
    ['exits', 'process.exit(0);', 'died'],
    ['throws', 'throw new Error("the device is gone");', 'failed'],
  ])('that %s in a step is refuted', async (name, line, kind) => {
    const path = moduleOf(name, (text) => text.replace('async step() {', `async step() { ${line}`));
    const result = await judged(path);
    expect(result.verdict).toBe('refuted');
    expect(find(result, 'sessions').evidence).toContain(`${kind}:`);
  });
  it('with a syntax error, or that gives no engine, is refuted', async () => {
    for (const [i, [text, says]] of [
      [
        'export default {',
        'the module cannot be loaded: SyntaxError: Unexpected end of input (node --check shows the line)',
      ],
      ['throw new RangeError("too far");', 'the module cannot be loaded: RangeError: too far'],
      ['export default 7;', 'the module gives no Engine'],
      ['export const x = 1;', 'the module exports neither createEngine nor a default'],
    ].entries() as Iterable<[number, [string, string]]>) {
      const path = join(scratch, `broken${i}.mjs`);
      writeFileSync(path, text);
      const result = await judged(path);
      expect(result.verdict).toBe('refuted');
      expect(find(result, 'sessions').evidence).toContain(says);
    }
  });
  it('that does not exist is bad input', () => {
    expect(() => openPlugin('./no-such-engine.mjs')).toThrow(/no such module/);
  });
});
