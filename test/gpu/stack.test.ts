/**
 * `stack-cuda` behind the seam, on a Hopper GPU: speculation changes no token, recorded rows and numbers give the round's decisions again,
 * toys run in the same loop, and what the stack cannot hold is refused. Without the CUDA addon or a GPU every test is counted as skipped.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CudaModel, gpuReport } from '../../native/engines.ts';
import { decode, GREEDY, randomIds, SAMPLED, tokensOf } from '../cpu/engine/checkpoints.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const NANO = path.join(ROOT, 'checkpoints/nano');
const STACK = { engine: 'stack-cuda' } as const;

/** Why nothing can run here, or null. */
function lack(): string | null {
  if (!existsSync(path.join(ROOT, 'build/Release/kilotoken_cuda.node'))) return 'the CUDA engines are not built';
  return gpuReport().lack || null;
}
const missing = lack();

describe.skipIf(missing !== null)(`stack-cuda, ${missing === null ? 'on this GPU' : `SKIPPED: ${missing}`}`, () => {
  let model: CudaModel;
  beforeAll(async () => {
    model = await CudaModel.load(path.join(NANO, 'fp4'), STACK);
  });
  afterAll(() => model?.close());

  test('the card names its own numerics, device and build', () => {
    const { card } = model.engine();
    expect([card.name, card.blockSize, card.defects, card.syntheticAcceptance]).toEqual(['stack-cuda', 8, [], null]);
    expect(card.numerics.id).toMatch(/^experts=mxfp4;.*sum=stack$/);
    expect(card.buildDigest).toMatch(/^sha256:[0-9a-f]{64}$/);
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

  test('what the stack cannot hold is the caller`s fault', async () => {
    await expect(CudaModel.load(path.join(NANO, 'fp8'), STACK)).rejects.toThrow(/MXFP4/);
    await expect(CudaModel.load(path.join(NANO, 'fp4'), { ...STACK, activations: 'bf16' })).rejects.toThrow(/FP8/);
    const stopIds = Array.from({ length: 17 }, (_, i) => i);
    await expect(model.engine().open([1, 2], { ...GREEDY, stopIds })).rejects.toThrow(/stop ids/);
  });
});
