/** A truthful engine is never accused, whatever its block, acceptance, stop, limits and rule; its copies go on alike. */
import { fc, test as prop } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import type { SessionTrace } from '../../../harness/bundle/reader.ts';
import { RoundRow } from '../../../harness/bundle/rows.ts';
import type { Decoding, Engine, Session } from '../../../harness/engine.ts';
import { scriptedEngine } from '../../../harness/engines/scripted.ts';
import { acceptanceIdentities, acceptanceSums } from '../../../harness/measure/acceptance.ts';
import { checkBooks } from '../../../harness/verify/books.ts';

const setup = fc.record({
  weights: fc.integer({ min: 0, max: 1000 }).map(String),
  acceptance: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 7 }),
  rule: fc.constantFrom('match' as const, 'coupled' as const, 'reject' as const),
  prompt: fc.array(fc.integer({ min: 0, max: 11 }), { minLength: 1, maxLength: 10 }),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(String),
  temperature: fc.constantFrom(0, 0.7, 1),
  maxTokens: fc.integer({ min: 1, max: 40 }),
  stopIds: fc.array(fc.integer({ min: 0, max: 11 }), { maxLength: 2 }),
  spare: fc.integer({ min: 1, max: 50 }),
});

type Setup = typeof setup extends fc.Arbitrary<infer T> ? T : never;

function engineOf(config: Setup, acceptance = config.acceptance): Engine {
  return scriptedEngine({
    weights: config.weights,
    vocabSize: 12,
    blockSize: acceptance.length + 1,
    rule: config.rule,
    acceptance,
    maxContext: config.prompt.length + config.spare,
  });
}

function decodingOf({ seed, temperature, maxTokens, stopIds }: Setup): Decoding {
  return { seed, temperature, topP: 1, topK: 0, maxTokens, stopIds };
}

async function runOut(session: Session, from = 0): Promise<RoundRow[]> {
  const rows: RoundRow[] = [];
  for (let index = from; ; index++) {
    const { hostNs, ...round } = await session.step();
    rows.push(RoundRow.parse({ ...round, session: 's', index, ns: hostNs, wallNs: hostNs.total }));
    if (round.finish !== null) return rows;
  }
}

describe('a truthful engine', () => {
  prop.prop([setup], { seed: 71, numRuns: 300 })('balances its books', async (config) => {
    const engine = engineOf(config);
    const rounds = await runOut(await engine.open(config.prompt, decodingOf(config)));
    const row = { session: 's', promptTokens: config.prompt.length, decoding: decodingOf(config) };
    const trace = { row: row as unknown as SessionTrace['row'], rounds, fault: null };
    expect(checkBooks(trace, { ...engine.card, numerics: { ...engine.card.numerics }, defects: [] })).toEqual([]);
    const { blockSize } = engine.card;
    expect(acceptanceIdentities(acceptanceSums([{ prompt: 'p', rounds }], blockSize), blockSize)).toEqual([]);
  });

  prop.prop([setup], { seed: 72, numRuns: 200 })(
    'emits the plain tokens under every rule but reject',
    async (config) => {
      const tokens = async (acceptance: number[]): Promise<number[]> => {
        const rounds = await runOut(await engineOf(config, acceptance).open(config.prompt, decodingOf(config)));
        return rounds.flatMap((round) => round.committed);
      };
      if (config.rule === 'reject' && config.temperature > 0) return;
      expect(await tokens(config.acceptance)).toEqual(await tokens([]));
    },
  );

  prop.prop([setup, fc.integer({ min: 0, max: 6 })], { seed: 73, numRuns: 150 })(
    'goes on from a fork as it would have gone on itself',
    async (config, steps) => {
      const session = await engineOf(config).open(config.prompt, decodingOf(config));
      for (let i = 0; i < steps; i++) if ((await session.step()).finish !== null) return;
      const copy = await session.fork();
      const tail = async (of: Session): Promise<number[][]> =>
        (await runOut(of, steps)).map((round) => [round.accepted, ...round.committed]);
      expect(await tail(copy)).toEqual(await tail(session));
    },
  );
});
