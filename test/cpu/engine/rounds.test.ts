/**
 * Whole rounds against the oracle's own decode loop: what was drafted, what was accepted, what was committed and why it ended, under
 * every rule, plain and speculative, through filters, stop ids and limits.
 * Nothing is rounded but sums, so the two sides' rows differ by about 1e-6; a draw that close to a boundary could fall on either side of
 * it, and the seeds are ones where none does.
 */
import { describe, expect, test } from 'vitest';
import type { Decoding, VerificationRule } from '../../../harness/engine.ts';
import { CpuModel } from '../../../native/engines.ts';
import { Oracle, OracleSession } from '../../support/oracle.ts';
import { checkpoint, decode, GREEDY, randomIds, SAMPLED, tinyVocabulary } from './checkpoints.ts';

const VOCAB = 6;
// Unquantised storage: no activation can round the other way, so both sides see rows that differ by binary32 sums alone.
const SPEC = { ...tinyVocabulary(VOCAB), experts: 'f32', linears: 'f32', outputProjection: 'f32' } as const;

/** Decoding values, and the lengths of the prompts. */
const SETTINGS: Record<string, [Decoding, number[]]> = {
  greedy: [GREEDY, [1, 10, 19]],
  'temperature 1': [SAMPLED, [1, 11, 20]],
  'temperature 0.7, top-k 5, top-p 0.9': [{ ...SAMPLED, temperature: 0.7, topK: 5, topP: 0.9 }, [1, 10, 19]],
  'a stop id': [{ ...SAMPLED, seed: '7', stopIds: [3] }, [2, 3, 4, 5, 6]],
  'a short limit': [{ ...SAMPLED, maxTokens: 5 }, [2, 3, 4, 5]],
  'up to the context limit': [{ ...SAMPLED, maxTokens: 1000 }, [45, 55, 57, 60, 62, 63]],
};

describe.each(Object.entries(SETTINGS))('%s', (_, [decoding, lengths]) => {
  test.each(['match', 'reject', 'coupled'] as const)('%s, plain and speculative', async (rule: VerificationRule) => {
    const directory = await checkpoint('unquantised-tiny', SPEC);
    const model = await CpuModel.load(directory, { activations: 'bf16' });
    const oracle = new Oracle(directory);
    for (const length of lengths) {
      const prompt = randomIds(length, length, VOCAB);
      for (const blockSize of [1, 8]) {
        const rounds = await decode(model.engine({ blockSize, rule }), prompt, decoding);
        const target = oracle.target('bf16');
        const draft = blockSize === 1 ? null : oracle.draft(target);
        const expected = new OracleSession(target, draft, rule, prompt, {
          ...decoding,
          seed: BigInt(decoding.seed),
        }).run();
        expect(
          rounds.map(({ committed, drafted, accepted, finish }) => ({ committed, drafted, accepted, finish })),
          `prompt of ${length}, block ${blockSize}`,
        ).toEqual(expected);
        expect(rounds.map((round) => round.kind)).toEqual(rounds.map((_, r) => (r === 0 ? 'prefill' : 'decode')));
      }
    }
    await model.close();
  });
});
