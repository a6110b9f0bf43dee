/**
 * `audit` and `verify` on a slice of pro-synthetic, as commands, without a GPU: a stand-in for the CUDA addon loads a random network of the slice's
 * vocabulary on the CPU where it is asked for the slice. What is told of it, where it is told, and how often it is loaded is what a GPU run would show.
 */
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { SegmentOrder } from '../../../bin/support/segments.ts';
import { checkBundle } from '../../../harness/bundle/check/check.ts';
import type { SegmentRunner } from '../../../harness/measure/campaign.ts';
import type { NativeModel, NativeSynthetic } from '../../../native/addon.ts';
import { writeSyntheticCheckpoint } from '../../support/synthetic-checkpoint.ts';
import { nativePlan } from '../engine/checkpoints.ts';

const VOCAB = 19_072;
const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-synthetic-'));
const STAND_IN = path.join(folder, 'stand_in.node');
const NETWORK = path.join(folder, 'network');
const seen = vi.hoisted(() => ({ asked: [] as unknown[], open: 0, mostOpen: 0, orders: [] as unknown[] }));

vi.mock('../../../native/addon.ts', async (original) => {
  const real = await original<typeof import('../../../native/addon.ts')>();
  const cpu = real.addon();
  const loadSyntheticStack = async (asked: NativeSynthetic): Promise<NativeModel> => {
    seen.asked.push(asked);
    const model = await cpu.load({ ...(await nativePlan(NETWORK, 'fp8')), instructionSet: cpu.instructionSets()[0]! });
    seen.mostOpen = Math.max(seen.mostOpen, ++seen.open);
    let closed = false;
    const close = (): void => {
      if (!closed) seen.open -= 1;
      closed = true;
      model.close();
    };
    return {
      open: (...args) => model.open(...args),
      score: (...args) => model.score(...args),
      draft: (...args) => model.draft(...args),
      close,
    };
  };
  const gpu = () => ({
    lack: '',
    name: 'stand-in',
    capability: '9.0',
    driverCuda: 12080,
    runtimeCuda: 12080,
    memory: 8e10,
    freeMemory: 8e10,
  });
  const standIn = { ...cpu, gpu, loadSyntheticStack, loadStackToy: cpu.loadToy };
  return {
    ...real,
    cudaAddonFile: () => STAND_IN,
    addon: (file?: string) => (file === STAND_IN ? standIn : real.addon(file)),
  };
});

// A segment where it is ordered: this process has the stand-in, a fresh one would not.
vi.mock('../../../bin/support/segments.ts', async () => {
  const { runSegment } = await import('../../../harness/measure/timed.ts');
  const { loadModel } = await import('../../../bin/support/model.ts');
  const segmentsInChildren =
    (order: SegmentOrder, block: number, before: () => Promise<void>): SegmentRunner =>
    async (job, host) => {
      await before();
      seen.orders.push(order);
      const model = await loadModel(
        order.checkpoint,
        order.activations ?? undefined,
        order.engine,
        order.model ?? undefined,
      );
      const blockSize = job.plan.order[job.segment] === 'plain' ? 1 : block;
      const { now, origin, signal, sink } = host;
      const surroundings = () => ({ foreignCores: null, gpuProcesses: null, switches: [] });
      try {
        const engine = model.engine({ rule: job.plan.rule, blockSize });
        await runSegment(job, { engine, now, origin, signal, sink, surroundings, freshProcess: true });
      } finally {
        await model.close();
      }
    };
  return { segmentsInChildren };
});

// The gate itself is tested elsewhere; what it is asked about and how it is named is not.
vi.mock('../../../harness/gate/gate.ts', async (original) => {
  const real = await original<typeof import('../../../harness/gate/gate.ts')>();
  const budget = {
    prompts: 2,
    toyTokens: 300,
    toyEqualitySessions: 2,
    equalityPrompts: 2,
    equalityTokens: 8,
    lawSessionTokens: 8,
  };
  const runGate: typeof real.runGate = (input) => real.runGate({ ...input, budget: { ...input.budget, ...budget } });
  return { ...real, runGate };
});

beforeAll(async () => {
  const config = {
    ...{ vocab_size: VOCAB, eos_token_id: 0, pad_token_id: 0, max_position_embeddings: 1024, hidden_size: 64 },
    ...{
      intermediate_size: 96,
      moe_intermediate_size: 32,
      head_dim: 24,
      swa_head_dim: 24,
      v_head_dim: 16,
      swa_v_head_dim: 16,
    },
  };
  const dflash_config = {
    ...{ target_layer_ids: [0, 2, 3], mask_token_id: VOCAB - 1, block_size: 8, use_swa: true, swa_window_size: 12 },
    ...{ attention_value_scale: 0.612, attention_sink_bias: true },
  };
  const draft = { dflash_config, intermediate_size: 96, head_dim: 16, v_head_dim: 16 };
  await writeSyntheticCheckpoint(NETWORK, { seed: 11, config, draft, experts: 'mxfp4' });
  const { addonFile } = await import('../../../native/addon.ts');
  symlinkSync(addonFile(), STAND_IN);
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  Object.assign(seen, { asked: [], open: 0, mostOpen: 0, orders: [] });
});

/** Runs a command in this process; what it printed to stdout, and its exit code. */
async function command(...args: string[]): Promise<{ readonly stdout: string; readonly code: number }> {
  const { auditCommand } = await import('../../../bin/commands/audit.ts');
  const { verifyCommand } = await import('../../../bin/commands/verify.ts');
  const root = new Command('kilotoken').exitOverride();
  auditCommand(root);
  verifyCommand(root);
  const written: string[] = [];
  const out = vi.spyOn(process.stdout, 'write').mockImplementation((text) => written.push(String(text)) > 0);
  const err = vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
  const before = process.exitCode;
  process.exitCode = 0;
  try {
    await root.parseAsync(['node', 'kilotoken', ...args]);
    return { stdout: written.join(''), code: Number(process.exitCode) };
  } finally {
    out.mockRestore();
    err.mockRestore();
    process.exitCode = before;
  }
}

const MODEL = ['--engine', 'stack-cuda', '--model', 'pro-synthetic:layers=2,rank=3/8,experts=fp8,context=1024'];
const NAME = 'pro-synthetic:layers=2,rank=3/8,experts=fp8';

test('audit: bundle, report and terminal say that the weights are synthetic; nano made the ids', {
  timeout: 600_000,
}, async () => {
  const run = path.join(folder, 'run');
  const sizes = [
    '--prompts',
    '1',
    '--tokens',
    '8',
    '--sampled-tokens',
    '4',
    '--law-prompts',
    '1',
    '--law-seeds',
    '5',
    '--law-prompt-tokens',
    '8',
  ];
  const speed = ['--speed-prompts', '1', '--speed-tokens', '6', '--speed-seconds', '0', '--scenario', 'math'];
  const { stdout, code } = await command('audit', ...MODEL, '--quick', ...sizes, ...speed, '--out', run, '--no-page');
  // Five sessions an arm decide no law; nothing is refuted.
  expect(code, stdout).toBe(4);
  const json = (name: string) => JSON.parse(readFileSync(path.join(run, name), 'utf8'));
  const [manifest, plan, report] = [json('manifest.json'), json('plan.json'), json('report.json')];
  expect(manifest.model).toMatchObject({
    kind: 'pro-synthetic',
    name: NAME,
    note: expect.stringMatching(/^Synthetic weights: /),
  });
  expect(manifest.title).toBe(`Speculation on against off, ${NAME}, block 8, synthetic weights`);
  expect(manifest.provenance.notes).toEqual([
    expect.stringMatching(/^synthetic weights: /),
    expect.stringMatching(/token ids of nano's/),
  ]);
  expect(manifest.tokenizer.digest).toMatch(/^sha256:/);
  expect(plan.stopIds).toEqual([]);
  for (const card of Object.values<Record<string, unknown>>(manifest.engines)) {
    expect(card).toMatchObject({
      name: 'stack-cuda',
      vocabSize: VOCAB,
      topology: 'one GPU as rank 3 of 8, without the others',
    });
    expect(card.numerics).toMatchObject({ experts: 'fp8-128x128' });
  }
  expect(report.verdicts.map(({ id, outcome }: { id: string; outcome: string }) => [id, outcome])).toEqual(
    expect.arrayContaining([
      ['greedy', 'consistent'],
      ['timed-output', 'consistent'],
    ]),
  );
  expect(stdout).toContain('Acceptance length, tokens a round, bonus counted, synthetic weights');
  expect(stdout).toMatch(/synthetic-weights: Synthetic weights: /);
  // A stranger's check of it: the build by its bytes, the documents from the rows.
  const checked = await checkBundle(run, { publicKey: null, build: readFileSync(STAND_IN) });
  expect([checked.outcome, checked.findings.filter(({ level }) => level === 'difference')]).toEqual(['intact', []]);
  // The slice that was asked for, here and in each timed process, and never twice at once.
  const due = { layers: 2, rank: 3, ranks: 8, seed: '1', fp8Experts: true, maxContext: 1024, activations: 'fp8' };
  expect(seen.orders.length).toBeGreaterThan(0);
  expect(seen.asked).toEqual(Array.from({ length: 1 + seen.orders.length }, () => due));
  expect(seen.mostOpen).toBe(1);
});

test('verify: the result is named after the slice; the model is loaded once for all rules', {
  timeout: 600_000,
}, async () => {
  const [junit, summary] = [path.join(folder, 'junit.xml'), path.join(folder, 'summary.md')];
  const { stdout, code } = await command(
    'verify',
    ...MODEL,
    '--tokens',
    '40',
    '--json',
    '--junit',
    junit,
    '--summary',
    summary,
  );
  const results = JSON.parse(stdout) as {
    subject: string;
    verdict: string;
    card: { rule: string };
  }[];
  expect(results.map(({ card }) => card.rule)).toEqual(['match', 'coupled', 'reject']);
  const subject = `stack-cuda over ${NAME} (synthetic weights)`;
  expect(results.map((result) => result.subject)).toEqual([subject, subject, subject]);
  expect(results.filter(({ verdict }) => verdict === 'refuted')).toEqual([]);
  expect([0, 4]).toContain(code);
  for (const file of [junit, summary]) expect(readFileSync(file, 'utf8').split('(synthetic weights').length).toBe(4);
  expect(seen.asked).toHaveLength(1);
  expect(seen.open).toBe(0);
});
