/**
 * `stack-cuda` behind the seam, on a Hopper GPU, with experts in MXFP4 and in FP8: speculation changes no token, recorded rows and numbers give the
 * round's decisions again, rows lie as near to unrounded ones as those of `reference-cuda`, toys run in the same loop, and what the stack cannot
 * hold is refused. Without the CUDA addon or a GPU every test is counted as skipped. What it asks of FP8
 * experts a script asked on a GPU (results/gpu/stack-experts-fp8-*.txt), not yet this file.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadSuites } from '../../harness/suite/suite.ts';
import { loadTokenizer } from '../../harness/suite/tokenizer.ts';
import { CudaModel, gpuReport, type ScoredCase } from '../../native/engines.ts';
import { checkpoint, decode, GREEDY, randomIds, SAMPLED, tokensOf } from '../cpu/engine/checkpoints.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const NANO = path.join(ROOT, 'checkpoints/nano');
const STACK = { engine: 'stack-cuda' } as const;

/** Why nothing can run here, or null. */
function lack(): string | null {
  if (!existsSync(path.join(ROOT, 'build/Release/kilotoken_cuda.node'))) return 'the CUDA engines are not built';
  return gpuReport().lack || null;
}
const missing = lack();

const on = missing === null ? 'on this GPU' : `SKIPPED: ${missing}`;

const folder = mkdtempSync(path.join(tmpdir(), 'kilotoken-stack-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A nano checkpoint with the one draft there is, which was trained beside the MXFP4 target. */
function withDraft(format: string): string {
  const own = path.join(NANO, format);
  if (existsSync(path.join(own, 'dflash'))) return own;
  const joined = path.join(folder, format);
  mkdirSync(joined);
  for (const name of readdirSync(own)) symlinkSync(path.join(own, name), path.join(joined, name));
  symlinkSync(path.join(NANO, 'fp4/dflash'), path.join(joined, 'dflash'));
  return joined;
}

/** Log-probabilities of a row by token id; `topK` was the vocabulary. */
const byId = ({ topIds, topLogprobs }: ScoredCase, row: number): Map<number, number> =>
  new Map(topIds[row]!.map((id, i) => [id, topLogprobs[row]![i]!]));

/** Kullback-Leibler divergence in nats. */
const divergence = (p: ReadonlyMap<number, number>, q: ReadonlyMap<number, number>): number =>
  [...p].reduce((sum, [id, logP]) => sum + Math.exp(logP) * (logP - q.get(id)!), 0);

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

describe.skipIf(missing !== null).each(['fp4', 'fp8'])(`stack-cuda, nano %s, ${on}`, (format) => {
  let model: CudaModel;
  let directory: string;
  beforeAll(async () => {
    directory = withDraft(format);
    model = await CudaModel.load(directory, { ...STACK, activations: 'fp8' });
  });
  afterAll(() => model?.close());

  test('the card names its own numerics, device and build', () => {
    const { card } = model.engine();
    expect([card.name, card.blockSize, card.defects, card.syntheticAcceptance]).toEqual(['stack-cuda', 8, [], null]);
    const experts = format === 'fp8' ? 'fp8-128x128' : 'mxfp4';
    expect(card.numerics.id).toMatch(new RegExp(`^experts=${experts};.*sum=stack$`));
    expect(card.buildDigest).toMatch(/^sha256:[0-9a-f]{64}$/);
  });

  // Two orders of sums behind activations of three bits cannot agree row by row: one code that falls the other way moves a whole row. So the stack may
  // lie no further from the unrounded rows than the reference does that rounds alike, and its first choice is another only where two are nearly alike.
  test('rows lie as near to unrounded ones as those of reference-cuda', async () => {
    const tokenizer = await loadTokenizer(directory);
    const suites = await loadSuites(path.join(ROOT, 'suites'), { limit: 2 });
    const cases = suites.flatMap(({ prompts }) =>
      prompts.map(({ messages, tools }) => tokenizer.encodeChat(messages, tools).slice(0, 100)),
    );
    const scored = async (activations: 'bf16' | 'fp8'): Promise<ScoredCase[]> => {
      const reference = await CudaModel.load(directory, { engine: 'reference-cuda', activations });
      try {
        return await reference.scoreCases(cases, 1024);
      } finally {
        await reference.close();
      }
    };
    const [exact, rounded, mine] = [await scored('bf16'), await scored('fp8'), await model.scoreCases(cases, 1024)];
    const [ofReference, ofStack]: [number[], number[]] = [[], []];
    for (const [i, ids] of cases.entries()) {
      for (let row = 0; row < ids.length; row++) {
        const [e, r, m] = [byId(exact[i]!, row), byId(rounded[i]!, row), byId(mine[i]!, row)];
        ofReference.push(divergence(e, r));
        ofStack.push(divergence(e, m));
        const [own, other] = [mine[i]!.topIds[row]![0]!, rounded[i]!.topIds[row]![0]!];
        const off = Math.abs(e.get(other)! - r.get(other)!) + Math.abs(e.get(own)! - r.get(own)!);
        if (own !== other) expect(r.get(other)! - r.get(own)!).toBeLessThan(2 * off);
      }
    }
    expect(mean(ofStack)).toBeLessThan(1.5 * mean(ofReference) + 1e-6);
  });

  // Where the two part, both tokens were nearly as likely: nearer than what the rounding of activations moves in this very text.
  test('greedy text, plain and speculative, is that of reference-cuda up to a near tie', async () => {
    const tokenizer = await loadTokenizer(directory);
    const [suite] = await loadSuites(path.join(ROOT, 'suites'), { scenarios: ['coding'], limit: 4 });
    const reference = await CudaModel.load(directory, { engine: 'reference-cuda', activations: 'fp8' });
    const unrounded = await CudaModel.load(directory, { engine: 'reference-cuda', activations: 'bf16' });
    try {
      for (const { messages, tools } of suite!.prompts) {
        const prompt = tokenizer.encodeChat(messages, tools);
        const asked = { ...GREEDY, maxTokens: 100 };
        const due = tokensOf(await decode(reference.engine({ blockSize: 1 }), prompt, asked));
        for (const blockSize of [1, 8]) {
          const found = tokensOf(await decode(model.engine({ blockSize }), prompt, asked));
          const at = due.findIndex((token, i) => token !== found[i]);
          if (at < 0) continue;
          const text = [[...prompt, ...due.slice(0, at)]];
          const [[rounded], [exact]] = [await reference.scoreCases(text, 1024), await unrounded.scoreCases(text, 1024)];
          const moved = text[0]!.flatMap((_, row) => {
            const [r, e] = [byId(rounded!, row), byId(exact!, row)];
            return rounded!.topIds[row]!.slice(0, 2).map((id) => Math.abs(r.get(id)! - e.get(id)!));
          });
          const last = byId(rounded!, text[0]!.length - 1);
          expect(last.get(due[at]!)! - last.get(found[at]!)!).toBeLessThan(2 * Math.max(...moved));
        }
      }
    } finally {
      await Promise.all([reference.close(), unrounded.close()]);
    }
  });

  test.each([2, 5, 8])('block %d: greedy, match and coupled emit the tokens of plain decoding', async (blockSize) => {
    for (const [rule, decoding] of [
      ['match', GREEDY],
      ['match', SAMPLED],
      ['coupled', SAMPLED],
    ] as const) {
      const asked = { ...decoding, maxTokens: 200 };
      const prompt = randomIds(3, 40, 1024);
      const plain = tokensOf(await decode(model.engine({ rule, blockSize: 1 }), prompt, asked));
      expect(tokensOf(await decode(model.engine({ rule, blockSize }), prompt, asked))).toEqual(plain);
    }
  });

  test.each(['match', 'coupled', 'reject'] as const)(
    '%s: rounds with rows recorded are the rounds without',
    async (rule) => {
      const prompt = randomIds(8, 33, 1024);
      const asked = { ...SAMPLED, maxTokens: 80 };
      const bare = await decode(model.engine({ rule }), prompt, asked);
      const recorded = await decode(model.engine({ rule, replay: true }), prompt, asked);
      expect(recorded.map(({ committed, drafted, accepted }) => ({ committed, drafted, accepted }))).toEqual(
        bare.map(({ committed, drafted, accepted }) => ({ committed, drafted, accepted })),
      );
      for (const round of recorded) {
        expect(round.replay!.p).toHaveLength(round.drafted.length + 1);
        // What was emitted had a probability.
        for (const [i, token] of round.committed.entries())
          expect(round.replay!.p[i]![token]!).toBeGreaterThan(-Infinity);
        const { draft, verify, total } = round.hostNs;
        expect(draft + verify).toBeLessThanOrEqual(total);
      }
    },
  );

  test('a fork continues as its origin does, also one made before the first step', async () => {
    const session = await model.engine({ rule: 'coupled' }).open(randomIds(4, 30, 1024), SAMPLED);
    const early = await session.fork();
    const first = (await session.step()).committed;
    expect((await early.step()).committed).toEqual(first);
    const fork = await session.fork();
    for (let i = 0; i < 3; i++) expect((await fork.step()).committed).toEqual((await session.step()).committed);
    await Promise.all([early.close(), fork.close(), session.close()]);
  });
});

describe.skipIf(missing !== null)(`stack-cuda, ${on}`, () => {
  let model: CudaModel;
  beforeAll(async () => {
    model = await CudaModel.load(path.join(NANO, 'fp4'), STACK);
  });
  afterAll(() => model?.close());

  test('toys run in the same loop, without a tape', async () => {
    const engine = model.engine({ rule: 'match' });
    expect(engine.tapes).toBe(false);
    const toy = {
      vocab: 3,
      order: 1,
      block: 3,
      maxContext: 40,
      target: [
        [0, 1, 2],
        [2, 0, 1],
        [1, 2, 0],
      ],
      draft: [
        [
          [0, 1, 2],
          [2, 0, 1],
        ],
        [
          [2, 0, 1],
          [1, 2, 0],
        ],
        [
          [1, 2, 0],
          [0, 1, 2],
        ],
      ],
    };
    const [speculative, plain] = [await engine.openToy!(toy, {}), await engine.openToy!(toy, { blockSize: 1 })];
    for (const decoding of [GREEDY, SAMPLED]) {
      expect(tokensOf(await decode(speculative, [0], decoding))).toEqual(tokensOf(await decode(plain, [0], decoding)));
    }
  });

  test.each(['mxfp4', 'fp8'] as const)(
    'a rank of pro-synthetic with %s experts: speculation changes no token',
    async (experts) => {
      const slice = { layers: 3, rank: 1, ranks: 8, seed: '1', experts, maxContext: 512 } as const;
      const synthetic = await CudaModel.synthetic(slice, STACK);
      try {
        const prompt = randomIds(6, 50, 19_072);
        for (const [rule, decoding] of [
          ['match', GREEDY],
          ['match', SAMPLED],
          ['coupled', SAMPLED],
        ] as const) {
          const asked = { ...decoding, maxTokens: 60 };
          const plain = tokensOf(await decode(synthetic.engine({ rule, blockSize: 1 }), prompt, asked));
          expect(tokensOf(await decode(synthetic.engine({ rule, blockSize: 8 }), prompt, asked))).toEqual(plain);
        }
      } finally {
        await synthetic.close();
      }
    },
  );

  test('what the stack cannot hold is the caller`s fault', async () => {
    const plain = await checkpoint('plain experts', { experts: 'bf16', linears: 'bf16' });
    await expect(CudaModel.load(plain, { ...STACK, activations: 'fp8' })).rejects.toThrow(
      /holds MXFP4 and FP8 experts/,
    );
    await expect(CudaModel.load(path.join(NANO, 'fp4'), { ...STACK, activations: 'bf16' })).rejects.toThrow(/FP8/);
    const stopIds = Array.from({ length: 17 }, (_, i) => i);
    await expect(model.engine().open([1, 2], { ...GREEDY, stopIds })).rejects.toThrow(/stop ids/);
  });
});
