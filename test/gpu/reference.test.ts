/**
 * `reference-cuda` behind the seam, on a Hopper GPU: the tokens, rows and scores of the CPU reference, bit for bit. The C++ programs beside
 * this file look at single ops. Without the CUDA addon or a GPU every test here is skipped, and counted as skipped.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CpuModel, CudaModel, gpuReport } from '../../native/engines.ts';
import { decode, firstDifference, GREEDY, randomIds, SAMPLED, tokensOf } from '../cpu/engine/checkpoints.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const REFERENCE = { engine: 'reference-cuda' } as const;
const NANO = path.join(ROOT, 'checkpoints/nano');

/** Why nothing can run here, or null. */
function lack(): string | null {
  if (!existsSync(path.join(ROOT, 'build/Release/kilotoken_cuda.node'))) return 'the CUDA engines are not built';
  return gpuReport().lack || null;
}
const missing = lack();
const title = missing === null ? 'on this GPU' : `SKIPPED: ${missing}`;

describe.skipIf(missing !== null)(`reference-cuda, ${title}`, () => {
  describe.each(['fp4', 'fp8'])('nano %s', (format) => {
    let cpu: CpuModel;
    let cuda: CudaModel;
    beforeAll(async () => {
      cpu = await CpuModel.load(path.join(NANO, format), { activations: 'fp8' });
      cuda = await CudaModel.load(path.join(NANO, format), { engine: 'reference-cuda', activations: 'fp8' });
    });
    afterAll(() => Promise.all([cpu?.close(), cuda?.close()]));

    test('the card says what runs where, with the numerics of the CPU reference', () => {
      const [a, b] = [cpu.engine().card, cuda.engine().card];
      expect([b.name, b.numerics, b.weightsDigest, b.draftDigest, b.defects]).toEqual([
        'reference-cuda',
        a.numerics,
        a.weightsDigest,
        a.draftDigest,
        [],
      ]);
      expect(b.device).toMatch(/driver for CUDA/);
    });

    test('teacher-forced log-probabilities have the same bits', async () => {
      const cases = [randomIds(1, 300, 1024), randomIds(2, 20, 1024)];
      const [a, b] = [await cpu.scoreCases(cases, 5), await cuda.scoreCases(cases, 5)];
      for (const [i, scored] of a.entries()) {
        expect(firstDifference(scored.nextLogprobs, b[i]!.nextLogprobs)).toBeNull();
        expect(b[i]!.topIds).toEqual(scored.topIds);
      }
    });

    test.each(['match', 'coupled', 'reject'] as const)(
      'plain and speculative tokens under %s are those of the CPU',
      async (rule) => {
        for (const decoding of [GREEDY, SAMPLED]) {
          const prompt = randomIds(3, 40, 1024);
          for (const blockSize of format === 'fp4' ? [1, 8] : [1]) {
            const asked = { ...decoding, maxTokens: 120 };
            const expected = tokensOf(await decode(cpu.engine({ rule, blockSize }), prompt, asked));
            expect(tokensOf(await decode(cuda.engine({ rule, blockSize }), prompt, asked))).toEqual(expected);
          }
        }
      },
    );

    test('a fork continues as its origin does', async () => {
      const session = await cuda.engine({ blockSize: 1 }).open(randomIds(4, 30, 1024), SAMPLED);
      await session.step();
      await session.step();
      const fork = await session.fork();
      for (let i = 0; i < 5; i++) expect((await fork.step()).committed).toEqual((await session.step()).committed);
      await Promise.all([fork.close(), session.close()]);
    });

    test('sessions at once do not disturb one another', async () => {
      const prompts = [5, 6, 7, 8].map((seed) => randomIds(seed, 25, 1024));
      const engine = cuda.engine({ blockSize: 1 });
      const alone: number[][] = [];
      for (const prompt of prompts) alone.push(tokensOf(await decode(engine, prompt, SAMPLED)));
      const together = await Promise.all(prompts.map((prompt) => decode(engine, prompt, SAMPLED)));
      expect(together.map(tokensOf)).toEqual(alone);
    });
  });

  test('a pro-synthetic slice is the same model each time it is made', async () => {
    const choice = { layers: 2, rank: 3, ranks: 8, seed: '1', experts: 'mxfp4', maxContext: 512 } as const;
    const ids = [randomIds(9, 30, 19072)];
    const rows: number[][] = [];
    for (let i = 0; i < 2; i++) {
      const model = await CudaModel.synthetic(choice, REFERENCE);
      rows.push([...(await model.scoreCases(ids, 1))[0]!.nextLogprobs]);
      await model.close();
    }
    expect(firstDifference(rows[0]!, rows[1]!)).toBeNull();
    const other = await CudaModel.synthetic({ ...choice, seed: '2' }, REFERENCE);
    expect(firstDifference(rows[0]!, (await other.scoreCases(ids, 1))[0]!.nextLogprobs)).not.toBeNull();
    await other.close();
  });

  test('more layers than the memory holds: EnvironmentError, and the next model still loads', async () => {
    const choice = { layers: 200, rank: 0, ranks: 1, seed: '1', experts: 'fp8', maxContext: 512 } as const;
    await expect(CudaModel.synthetic(choice, REFERENCE)).rejects.toThrow(/too little memory/);
    await (await CudaModel.synthetic({ ...choice, layers: 1, ranks: 8 }, REFERENCE)).close();
  });
});
