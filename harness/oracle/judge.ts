/**
 * A defect on a fixture: the exact law where there is one, seeded sessions of the same sampler where not, edge vectors
 * where the defect has measure zero. A defect that the fixture cannot show is said to be invisible, never counted as
 * harmless.
 */
import { InputError, type VerificationRule } from '../engine.ts';
import { DEFECTS, type Defect, missing } from './defects.ts';
import { EDGE_VECTORS, WRONG_COMPARISONS, wrongEdges } from './edges.ts';
import { EMPIRICAL_ALPHA, logEvalue } from './empirical.ts';
import { type Acceptance, enumerate, LAW_TOLERANCE } from './enumerate.ts';
import { type Fixture, runLength } from './fixture.ts';
import { Model } from './model.ts';
import { autoregressiveLaw, distanceOf } from './plain.ts';
import { Simulator, simulatedLaw } from './simulate.ts';
import { type Address, CounterSource } from './source.ts';

/** Sessions of a simulation and their first seed; the same in every run, so that its figures can be recomputed. */
const SIMULATED_SESSIONS = 10_000;
/** A simulated law is compared on this many first tokens: few cells, so that sampling alone stays small. */
const SIMULATED_TOKENS = 3;
const FIRST_SEED = 1;
const OTHER_RANK = 1_000_000_007;

interface Named {
  readonly id: string;
  readonly title: string;
  readonly hook: string;
  readonly anchor: string | null;
  readonly effects: readonly string[];
}

export type DefectRow = Named &
  (
    | {
        readonly state: 'enumerated';
        readonly distance: number;
        readonly offSupport: number;
        readonly acceptance: Acceptance | null;
        /** The law shows it; for a defect of acceptance alone: the law does not and the acceptance does. */
        readonly seen: boolean;
      }
    | {
        readonly state: 'simulated';
        readonly sessions: number;
        /** Tokens of a session that the shares are over. */
        readonly tokens: number;
        /** Distance of the shares of the first tokens to the exact law of plain decoding: biased upwards by sampling. */
        readonly distance: number;
        /** Natural logarithm of the e-value of the shares against that law: 1 / EMPIRICAL_ALPHA or more refutes. */
        readonly logE: number;
        /**
         * Share of sessions whose tokens are not those of the correct sampler with the same seed (M40: of the other rank);
         * null where that is no sign of a defect: `reject` promises a law, not tokens.
         */
        readonly disagreement: number | null;
        readonly seen: boolean;
      }
    | { readonly state: 'edge'; readonly vectors: number; readonly wrong: readonly string[]; readonly seen: boolean }
    | { readonly state: 'invisible'; readonly reason: string }
  );

export function findDefect(id: string): Defect {
  const found = DEFECTS.find((defect) => defect.id.toLowerCase() === id.toLowerCase());
  if (found !== undefined) return found;
  throw new InputError(`there is no defect "${id}"; there are ${DEFECTS.map((defect) => defect.id).join(', ')}`);
}

/** Why the defect cannot be seen here, or null. */
export function invisible(defect: Defect, fixture: Fixture, rule: VerificationRule): string | null {
  if (!defect.rules.includes(rule)) return `rule ${rule} does not show it; ${defect.rules.join(', ')} does`;
  const lacks = missing(defect, fixture);
  return lacks.length === 0 ? null : `needs ${lacks.join(' and ')}`;
}

export function judgeDefect(defect: Defect, fixture: Fixture, rule: VerificationRule): DefectRow {
  const { id, title, hook, anchor, effects } = defect;
  const named: Named = { id, title, hook, anchor, effects };
  const reason = invisible(defect, fixture, rule);
  if (reason !== null) return { ...named, state: 'invisible', reason };
  const comparisons = WRONG_COMPARISONS[id];
  if (comparisons !== undefined) {
    const wrong = wrongEdges(comparisons);
    return { ...named, state: 'edge', vectors: EDGE_VECTORS.length, wrong, seen: wrong.length > 0 };
  }
  if (!defect.exact.includes(rule)) return { ...named, ...simulated(defect, fixture, rule) };
  const { distance, offSupport, acceptance } = enumerate(fixture, rule, defect.change);
  const lawKept = distance <= LAW_TOLERANCE;
  const seen = effects.includes('acceptance') ? lawKept && slower(acceptance, fixture, rule) : !lawKept;
  return { ...named, state: 'enumerated', distance, offSupport, acceptance, seen };
}

function slower(acceptance: Acceptance | null, fixture: Fixture, rule: VerificationRule): boolean {
  const correct = enumerate(fixture, rule).acceptance;
  return acceptance !== null && correct !== null && Math.abs(acceptance.raw - correct.raw) > 1e-9;
}

/** Accept coins from another seed, everything else from the first. */
class OtherCoins extends CounterSource {
  readonly #coins: CounterSource;

  constructor(seed: string, coins: string) {
    super(seed);
    this.#coins = new CounterSource(coins);
  }

  override coin(address: Address, numerator: number, denominator: number): boolean {
    return this.#coins.coin(address, numerator, denominator);
  }
}

type Simulation = Pick<
  Extract<DefectRow, { state: 'simulated' }>,
  'state' | 'sessions' | 'tokens' | 'distance' | 'logE' | 'disagreement' | 'seen'
>;

function simulated(defect: Defect, fixture: Fixture, rule: VerificationRule): Simulation {
  const length = Math.min(SIMULATED_TOKENS, runLength(fixture));
  const reference = autoregressiveLaw(new Model(fixture), length);
  const sessions = SIMULATED_SESSIONS;
  const correct = new Simulator(fixture, rule);
  const simulator = new Simulator(fixture, rule, defect.change);
  const shares = simulatedLaw(simulator, length, sessions, FIRST_SEED);
  const { distance } = distanceOf(shares, reference);
  const counts = new Map([...shares].map(([key, share]) => [key, Math.round(share * sessions)]));
  const logE = logEvalue(counts, reference);
  const base = { state: 'simulated', sessions, tokens: length, distance, logE } as const;
  const ranks = defect.effects.includes('agreement');
  // A correct sampler emits the same tokens as the other: its own second rank, or by equality rules plain decoding.
  if (!ranks && rule === 'reject') return { ...base, disagreement: null, seen: logE >= Math.log(1 / EMPIRICAL_ALPHA) };
  let differ = 0;
  for (let i = 0; i < sessions; i++) {
    const seed = String(FIRST_SEED + i);
    const right = correct.session(seed).tokens;
    const other = ranks
      ? correct.session(seed, new OtherCoins(seed, String(OTHER_RANK + i))).tokens
      : simulator.session(seed).tokens;
    if (right.join() !== other.join()) differ += 1;
  }
  return { ...base, disagreement: differ / sessions, seen: differ > 0 };
}
