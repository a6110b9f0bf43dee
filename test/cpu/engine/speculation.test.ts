/**
 * Losslessness as equality: with greedy decoding, and with `match` and `coupled` at any temperature, speculation emits the very
 * tokens of plain decoding, whatever the block. Two twins that break one thing each show that the comparison can fail.
 */
import { describe, expect, test } from 'vitest';
import type { Decoding, VerificationRule } from '../../../harness/engine.ts';
import { CpuModel } from '../../../native/engines.ts';
import { Oracle, OracleSession } from '../../support/oracle.ts';
import { checkpoint, decode, GREEDY, randomIds, SAMPLED, tinyVocabulary, tokensOf } from './checkpoints.ts';

const VOCAB = 6;
const tiny = () => checkpoint('tiny', tinyVocabulary(VOCAB));

const CASES: [string, VerificationRule, Decoding][] = [
  ['greedy', 'match', GREEDY],
  ['greedy under reject', 'reject', GREEDY],
  ['match', 'match', SAMPLED],
  ['match with filters', 'match', { ...SAMPLED, temperature: 0.8, topK: 7, topP: 0.9 }],
  ['coupled', 'coupled', SAMPLED],
  ['coupled with filters', 'coupled', { ...SAMPLED, temperature: 1.3, topP: 0.95 }],
];

describe.each(['fp8', 'bf16'] as const)('activations %s', (activations) => {
  test.each(CASES)('%s', async (_, rule, decoding) => {
    const model = await CpuModel.load(await tiny(), { activations });
    const plain = model.engine({ blockSize: 1, rule });
    const accepted = new Set<number>();
    let rounds = 0;
    for (let i = 0; i < 8; i++) {
      const prompt = randomIds(i, 1 + (i % 7) * 3, VOCAB);
      const settings = { ...decoding, seed: String(BigInt(decoding.seed) - BigInt(i % 2)), maxTokens: 40 };
      const expected = tokensOf(await decode(plain, prompt, settings));
      for (let blockSize = 2; blockSize <= 8; blockSize++) {
        const got = await decode(model.engine({ blockSize, rule }), prompt, settings);
        expect(tokensOf(got), `prompt ${i}, block ${blockSize}`).toEqual(expected);
        for (const round of got) accepted.add(round.accepted);
        rounds += got.length;
      }
    }
    expect(rounds).toBeGreaterThan(500);
    expect(accepted.size).toBeGreaterThan(5); // of 8; equality of nothing but rejections would be easy
    await model.close();
  });
});

test('a loop that does not roll the cache back is caught', async () => {
  const directory = await tiny();
  const model = await CpuModel.load(directory, { activations: 'bf16' });
  const oracle = new Oracle(directory);
  let caught = 0;
  for (let i = 0; i < 6; i++) {
    const prompt = randomIds(i, 4, VOCAB);
    const decoding = { ...SAMPLED, seed: String(i) };
    const target = oracle.target('bf16');
    target.crop = () => {};
    const broken = new OracleSession(target, oracle.draft(target), 'match', prompt, { ...decoding, seed: BigInt(i) });
    const tokens = broken.run().flatMap((round) => round.committed);
    const plain = tokensOf(await decode(model.engine({ blockSize: 1 }), prompt, decoding));
    if (tokens.join() !== plain.join()) caught += 1;
  }
  expect(caught).toBeGreaterThan(0);
  await model.close();
});

test('reject draws other tokens than plain decoding, so equality would not hold by accident', async () => {
  const model = await CpuModel.load(await tiny());
  const prompt = randomIds(1, 6, VOCAB);
  const plain = await decode(model.engine({ blockSize: 1, rule: 'reject' }), prompt, SAMPLED);
  const speculative = await decode(model.engine({ rule: 'reject' }), prompt, SAMPLED);
  expect(tokensOf(speculative)).not.toEqual(tokensOf(plain));
  await model.close();
});
