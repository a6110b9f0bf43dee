/**
 * Exact enumeration against laws worked out by hand, against a sum over paths that shares no code with it, against
 * seeded sessions, and against any small fixture.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { VerificationRule } from '../../../harness/engine.ts';
import { outcomesOf } from '../../../harness/oracle/branching.ts';
import { enumerate, LAW_TOLERANCE } from '../../../harness/oracle/enumerate.ts';
import type { Fixture } from '../../../harness/oracle/fixture.ts';
import { findDefect } from '../../../harness/oracle/judge.ts';
import { Model } from '../../../harness/oracle/model.ts';
import { autoregressiveLaw, distanceOf, type Law } from '../../../harness/oracle/plain.ts';
import { Simulator, simulatedLaw } from '../../../harness/oracle/simulate.ts';
import { type Source, STREAM } from '../../../harness/oracle/source.ts';
import { inverseCdf } from '../../support/oracle/decode.ts';
import { uniform } from '../../support/oracle/random.ts';
import { anyFixture, FIXTURE_NAMES, fixture, make, property, RULES } from './support.ts';

const CASES = FIXTURE_NAMES.flatMap((name) => RULES.map((rule) => [name, rule] as const));

test.each(CASES)('%s under %s keeps the law of plain decoding', (name, rule) => {
  const { distance, offSupport, law, acceptance } = enumerate(fixture(name), rule);
  expect(distance).toBeLessThanOrEqual(LAW_TOLERANCE);
  expect(offSupport).toBe(0);
  expect(Math.abs([...law.values()].reduce((a, b) => a + b, 0) - 1)).toBeLessThan(1e-13);
  const { raw, kept, histogram } = acceptance!;
  expect(kept).toBeLessThanOrEqual(raw);
  expect(Math.abs(histogram.reduce((a, b) => a + b, 0) - 1)).toBeLessThan(1e-13);
  expect(Math.abs(1 + histogram.reduce((sum, share, count) => sum + share * count, 0) - raw)).toBeLessThan(1e-12);
});

describe('by hand', () => {
  // One context matters less than the arithmetic: after any token p = (0.6, 0.4), q = (0.8, 0.2), one draft.
  const tiny = make({
    vocab: 2,
    order: 1,
    block: 2,
    tokens: 2,
    prompt: [0],
    target: [
      [0.6, 0.4],
      [0.6, 0.4],
    ],
    draft: [[[0.8, 0.2]], [[0.8, 0.2]]],
  });
  const expected = { '0 0': 0.36, '0 1': 0.24, '1 0': 0.24, '1 1': 0.16 };

  // reject accepts with min(.8, .6) + min(.2, .4); match when the target draws the argmax 0; coupled: 1 / sum max(q / q_a,
  // p / p_a) for a = 0 is 1 / (1 + 2/3), for a = 1 it is 1 / (4 + 1).
  test.each([
    ['reject', 0.8],
    ['match', 0.6],
    ['coupled', 1 / (1 + 0.4 / 0.6) + 1 / (0.8 / 0.2 + 1)],
  ] as const)('%s accepts with probability %f', (rule, accepted) => {
    const { law, acceptance } = enumerate(tiny, rule);
    for (const [key, mass] of Object.entries(expected)) expect(law.get(key)).toBeCloseTo(mass, 15);
    expect(acceptance!.histogram[1]).toBeCloseTo(accepted, 14);
    expect(acceptance!.firstRound).toBeCloseTo(1 + accepted, 14);
    expect(acceptance!.rounds).toBeCloseTo(1, 14);
    expect(acceptance!.kept).toBeCloseTo(1, 14);
  });

  test('rounds and kept tokens: three tokens need a second round after a refusal only', () => {
    const { acceptance } = enumerate({ ...tiny, tokens: 3 }, 'reject');
    // 1 + 0.2 rounds; the first brings 2 or 1 of the two wanted, the second 1 of the 1 wanted.
    expect(acceptance!.rounds).toBeCloseTo(1.2, 14);
    expect(acceptance!.kept).toBeCloseTo(2 / 1.2, 14);
    expect(acceptance!.raw).toBeCloseTo(1.8, 14);
  });

  test('a stop id ends the sequence and is part of it', () => {
    const stopping = { ...tiny, tokens: 3, decoding: { ...tiny.decoding, stopIds: [1] } };
    const { law, distance } = enumerate(stopping, 'reject');
    expect(distance).toBeLessThanOrEqual(LAW_TOLERANCE);
    expect([...law.keys()].sort()).toEqual(['0 0 0', '0 0 1', '0 1', '1']);
    expect(law.get('0 1')).toBeCloseTo(0.24, 15);
  });

  test('a run of the prefill token alone has no acceptance', () => {
    expect(enumerate({ ...tiny, tokens: 1 }, 'reject').acceptance).toBeNull();
  });

  test('the first round is that of the runs that have one', () => {
    // The prefill stops with probability 0.4; the others have one round of 1.8 tokens in the mean.
    const stopping = { ...tiny, decoding: { ...tiny.decoding, stopIds: [1] } };
    const { firstRound, rounds } = enumerate(stopping, 'reject').acceptance!;
    expect(rounds).toBeCloseTo(0.6, 14);
    expect(firstRound).toBeCloseTo(1.8, 14);
  });

  test('distance counts what either law lacks', () => {
    const law = (entries: Record<string, number>): Law => new Map(Object.entries(entries));
    expect(distanceOf(law({ a: 0.5, b: 0.5 }), law({ a: 0.25, c: 0.75 }))).toEqual({ distance: 0.75, offSupport: 0.5 });
    expect(distanceOf(law({ a: 1 }), law({ a: 0.5, c: 0.5 }))).toEqual({ distance: 0.5, offSupport: 0 });
  });

  test('rounds differ in weight: the micro mean is a ratio of expectations', () => {
    // After token 0 the draft is always right, after token 1 always wrong (p and q are disjoint).
    const uneven = make({
      vocab: 2,
      order: 1,
      block: 2,
      tokens: 3,
      prompt: [0],
      target: [
        [0.5, 0.5],
        [1, 0],
      ],
      draft: [[[0.5, 0.5]], [[0, 1]]],
    });
    // Prefill 0 (1/2): one round of 2. Prefill 1 (1/2): a round of 1 that emits 0, then one of 2 of which 1 is wanted.
    const { raw, rounds, firstRound } = enumerate(uneven, 'reject').acceptance!;
    expect(rounds).toBeCloseTo(1.5, 14);
    expect(raw).toBeCloseTo((0.5 * 2 + 0.5 * (1 + 2)) / 1.5, 14);
    expect(firstRound).toBeCloseTo(1.5, 14);
  });
});

/**
 * `reject` as a sum over every (draft, verdict, correction) path, straight from the definition: rows by lookup, no filters, no
 * shared state.
 */
function pathSum({ vocab, order, block, tokens, prompt, target, draft }: Fixture): Law {
  const law = new Map<string, number>();
  const context = (text: readonly number[]): number => text.slice(-order).reduce((sum, id) => sum * vocab + id, 0);
  const round = (emitted: readonly number[], mass: number): void => {
    if (mass === 0) return;
    if (emitted.length >= tokens) {
      const key = emitted.slice(0, tokens).join(' ');
      law.set(key, (law.get(key) ?? 0) + mass);
      return;
    }
    const q = draft[context([...prompt, ...emitted])]!;
    const slot = (i: number, taken: readonly number[], weight: number): void => {
      const p = target[context([...prompt, ...emitted, ...taken])]!;
      if (i === block - 1) {
        for (const [id, value] of p.entries()) round([...emitted, ...taken, id], weight * value);
        return;
      }
      const rest = p.map((value, id) => Math.max(value - q[i]![id]!, 0));
      const left = rest.reduce((a, b) => a + b, 0);
      for (const [id, drawn] of q[i]!.entries()) {
        if (drawn === 0) continue;
        const keep = Math.min(1, p[id]! / drawn);
        if (keep > 0) slot(i + 1, [...taken, id], weight * drawn * keep);
        if (keep === 1 || left === 0) continue;
        for (const [y, value] of rest.entries()) {
          if (value > 0) round([...emitted, ...taken, y], (weight * drawn * (1 - keep) * value) / left);
        }
      }
    };
    slot(0, [], mass);
  };
  for (const [id, value] of target[context(prompt)]!.entries()) round([id], value);
  return law;
}

test('reject against a sum over paths that shares no code with it', () => {
  for (const name of ['one-hot', 'zeros']) {
    const small = { ...fixture(name), block: 3, tokens: 4 };
    const cut = { ...small, draft: small.draft.map((slots) => slots.slice(0, 2)) };
    expect(distanceOf(enumerate(cut, 'reject').law, pathSum(cut)).distance).toBeLessThan(1e-14);
  }
});

/** E[accepted] of the first round of `reject`: sum over slots of the chance that all drafts up to it survive. */
function firstRoundOfReject({ vocab, order, block, prompt, target, draft }: Fixture): number {
  const context = (text: readonly number[]): number => text.slice(-order).reduce((sum, id) => sum * vocab + id, 0);
  let mean = 0;
  for (const [anchor, mass] of target[context(prompt)]!.entries()) {
    const q = draft[context([...prompt, anchor])]!;
    let alive: { text: number[]; weight: number }[] = [{ text: [...prompt, anchor], weight: mass }];
    for (let i = 0; i < block - 1; i++) {
      alive = alive.flatMap(({ text, weight }) =>
        target[context(text)]!.map((p, id) => ({ text: [...text, id], weight: weight * Math.min(p, q[i]![id]!) })),
      );
      mean += alive.reduce((sum, { weight }) => sum + weight, 0);
    }
    mean += mass;
  }
  return mean;
}

test('acceptance of the first round against products of min(p, q)', () => {
  for (const name of ['e1', 'one-hot', 'zeros', 'near-equal', 'block-8']) {
    const expected = firstRoundOfReject(fixture(name));
    expect(enumerate(fixture(name), 'reject').acceptance!.firstRound).toBeCloseTo(expected, 12);
  }
});

describe('seeded sessions of the same sampler', () => {
  const RUNS = 8_000;
  test.each(['e2', 'stop', 'penalties', 'limit'].flatMap((name) => RULES.map((rule) => [name, rule] as const)))(
    '%s under %s: three tokens and the acceptance length',
    (name, rule) => {
      const data = fixture(name);
      const simulator = new Simulator(data, rule);
      const reference = autoregressiveLaw(new Model(data), 3);
      for (const [key, share] of simulatedLaw(simulator, 3, RUNS, 1)) {
        const p = reference.get(key) ?? 0;
        expect(Math.abs(share - p), `share of ${key}`).toBeLessThanOrEqual(5.5 * Math.sqrt((p * (1 - p)) / RUNS));
      }
      const { raw, kept, rounds } = enumerate(data, rule).acceptance!;
      let [gotRounds, gotRaw, gotKept] = [0, 0, 0];
      for (let seed = 1; seed <= RUNS; seed++) {
        for (const round of simulator.session(String(seed)).rounds) {
          gotRounds += 1;
          gotRaw += round.tokens.length;
          gotKept += round.kept.length;
        }
      }
      // A round has 1 to 4 tokens, so no standard deviation exceeds 1.5; five of them.
      const width = (5 * 1.5) / Math.sqrt(gotRounds);
      expect(Math.abs(gotRaw / gotRounds - raw)).toBeLessThan(width);
      expect(Math.abs(gotKept / gotRounds - kept)).toBeLessThan(width);
      expect(Math.abs(gotRounds / RUNS - rounds)).toBeLessThan((5 * 2.5) / Math.sqrt(RUNS));
    },
  );

  test('match and coupled emit the very tokens of plain decoding with the same seed', () => {
    for (const name of ['e1', 'e2', 'penalties', 'stop', 'ties', 'logits']) {
      const data = fixture(name);
      const single = { ...data, block: 1, draft: data.draft.map(() => []) };
      for (const rule of ['match', 'coupled'] as const) {
        const speculative = new Simulator(data, rule);
        const plain = new Simulator(single, rule);
        let drafts = 0;
        for (let seed = 1; seed <= 200; seed++) {
          const session = speculative.session(String(seed));
          expect(session.tokens).toEqual(plain.session(String(seed)).tokens);
          drafts += session.rounds.reduce((sum, { accepted }) => sum + accepted, 0);
        }
        expect(drafts).toBeGreaterThan(50);
      }
    }
  });
});

const listed = <T>(program: (source: Source) => T) => [...outcomesOf(program)];

test('sessions draw by the counters of the engine: position is absolute, the target stream has round 0', () => {
  const data = fixture('e1');
  const model = new Model(data);
  for (const seed of [1, 2, 3]) {
    const text = [...data.prompt];
    while (text.length < data.prompt.length + data.tokens) {
      const u = uniform(BigInt(seed), text.length, STREAM.target, 0);
      text.push(inverseCdf(model.targetRow(model.contextOf(text), []), u));
    }
    expect(new Simulator(data, 'match').session(String(seed)).tokens).toEqual(text.slice(data.prompt.length));
  }
});

describe('exploration', () => {
  const address = { stream: STREAM.coin, position: 0, round: 0 };

  test('a uniform that is read twice is one uniform', () => {
    const seen = listed((source) => [source.coin(address, 0.25, 1), source.pick(address, [0.5, 0.5])].join());
    expect(Object.fromEntries(seen.map(({ value, probability }) => [value, probability]))).toEqual({
      'true,0': 0.25,
      'false,0': 0.25,
      'false,1': 0.5,
    });
  });

  test('two addresses are two uniforms', () => {
    const other = { ...address, position: 1 };
    const seen = listed((source) => [source.coin(address, 0.25, 1), source.coin(other, 0.5, 1)].join());
    expect(seen.map(({ probability }) => probability)).toEqual([0.125, 0.125, 0.375, 0.375]);
  });

  test('a row that does not reach 1 falls through to its last token with mass', () => {
    const seen = listed((source) => source.pick(address, [0.25, 0.25, 0]));
    expect(seen).toEqual([
      { value: 0, probability: 0.25 },
      { value: 1, probability: 0.75 },
    ]);
  });

  test('noise that three different rows read is refused, not guessed', () => {
    const rows = [
      [0.5, 0.5],
      [0.4, 0.6],
      [0.3, 0.7],
    ];
    expect(() => listed((source) => rows.map((row) => source.gumbel(address, row)))).toThrow(/three rows/);
  });
});

property(
  'enumerate.test.ts',
  'every rule keeps the law on any fixture',
  fc.tuple(anyFixture, fc.constantFrom<VerificationRule>('match', 'reject', 'coupled')),
  { seed: 51, runs: 500 },
  ([data, rule]) => {
    const { distance, acceptance } = enumerate(data, rule);
    expect(distance).toBeLessThanOrEqual(LAW_TOLERANCE);
    if (acceptance === null) return;
    expect(acceptance.raw).toBeGreaterThanOrEqual(1 - 1e-12);
    expect(acceptance.raw).toBeLessThanOrEqual(data.block + 1e-12);
  },
);

property(
  'enumerate.test.ts',
  'match and coupled emit the tokens of plain decoding on any fixture',
  fc.tuple(anyFixture, fc.constantFrom<VerificationRule>('match', 'coupled'), fc.integer({ min: 1, max: 1 << 30 })),
  { seed: 52, runs: 300 },
  ([data, rule, seed]) => {
    const single = { ...data, block: 1, draft: data.draft.map(() => []) };
    const plain = new Simulator(single, rule).session(String(seed)).tokens;
    expect(new Simulator(data, rule).session(String(seed)).tokens).toEqual(plain);
  },
);

property(
  'enumerate.test.ts',
  'lossless but slow drafters and rules keep the law on any fixture',
  fc.tuple(anyFixture, fc.constantFrom('G01', 'G02', 'G03')),
  { seed: 53, runs: 300 },
  ([data, id]) => {
    expect(enumerate(data, 'reject', findDefect(id).change).distance).toBeLessThanOrEqual(LAW_TOLERANCE);
  },
);
