/**
 * Decisions at the edges, where statistics would need 1e8 draws: tables whose rows are NaN or have no mass, and tapes of uniforms
 * that lie on 0, on the largest value below 1 and on the edges of cumulative sums. Rows are 1, 1/2 or 1/4 on a few tokens, exact
 * in every precision, so what each number decides is worked out by the rule without a guard band; a row of ten tenths, whose sum
 * stays below 1, meets the two extremes only.
 */
import type { Decoding, Engine, Round, Toy, VerificationRule } from '../engine.ts';
import { Random } from '../stats/philox.ts';
import { residualRow } from '../verify/replay.ts';
import type { Observer } from './observer.ts';
import type { Check } from './result.ts';
import { ToyRows } from './toys.ts';

/** The largest of the 52-bit uniforms; the sum of ten tenths in binary64 is the same number. */
const LARGEST = 1 - 2 ** -53;
const EXTREMES: readonly (readonly number[])[] = [[0], [LARGEST], [0, LARGEST], [LARGEST, 0], [0, 0, LARGEST]];
const EDGES: readonly (readonly number[])[] = [
  ...EXTREMES,
  [0.25],
  [0.5],
  [0.75],
  [0.25, 0.5, 0.75],
  [0.5, 0, 0.25, LARGEST, 0.75],
  [0.5, 0.5, 0, 0.5, 0.25],
];
const NONE = Number.NEGATIVE_INFINITY;
const SESSION_TOKENS = 30;

export interface BoundaryInput {
  readonly engine: Engine;
  readonly observer: Observer;
  readonly decoding: (over: Partial<Decoding>) => Decoding;
  readonly seed: string;
  readonly signal: AbortSignal;
}

export async function checkBoundaries(input: BoundaryInput): Promise<Check[]> {
  return [await brokenRows(input), await tapes(input)];
}

const ROWS = {
  id: 'boundary rows',
  question: 'Are rows that are no law refused, and never sampled?',
  of: 'tables',
  logE: null,
  decisive: false,
  wouldHaveCaught: null,
} as const;

async function brokenRows({ engine, observer, decoding, signal }: BoundaryInput): Promise<Check> {
  if (engine.openToy === undefined) {
    return {
      ...ROWS,
      n: 0,
      outcome: 'not testable here',
      evidence: 'The engine takes no rows from outside (no toys).',
    };
  }
  const fine = [0, 0.5, 1];
  const bad: readonly (readonly [string, readonly number[]])[] = [
    ['NaN in front', [Number.NaN, 0, 0]],
    ['NaN at the end', [0, 0, Number.NaN]],
    ['no mass', [NONE, NONE, NONE]],
  ];
  const problems: string[] = [];
  let n = 0;
  for (const [what, row] of bad) {
    for (const side of ['target', 'draft'] as const) {
      for (const temperature of [1, 0]) {
        if (observer.broken || signal.aborted) break;
        const tables = (broken: boolean) => [0, 1, 2].map(() => (broken ? row : fine));
        const toy: Toy = {
          vocab: 3,
          order: 1,
          block: 3,
          maxContext: 64,
          target: tables(side === 'target'),
          draft: tables(side === 'draft').map((one) => [one, one]),
        };
        n += 1;
        // Two rounds: the prefill needs no draft.
        const token = await observer.mayRefuse(`boundary, ${what}`, 'a toy with a broken row', async () => {
          const broken = await engine.openToy!(toy, {});
          try {
            const session = await broken.open([0], decoding({ temperature, maxTokens: 8 }));
            const [prefill, round] = [await session.step(), await session.step()];
            return side === 'target' ? prefill.committed[0] : round.committed[0];
          } finally {
            await broken.close();
          }
        });
        if (token !== null)
          problems.push(`${side} rows with ${what}, temperature ${temperature}: token ${token} is emitted`);
      }
    }
  }
  const first = problems[0];
  if (first !== undefined) {
    return { ...ROWS, n, outcome: 'refuted', evidence: `${problems.length} of ${n} are sampled; first: ${first}.` };
  }
  return {
    ...ROWS,
    n,
    outcome: 'consistent',
    evidence: `${n} tables with a row of NaN or without mass are refused, when opened or when met.`,
    wouldHaveCaught: 'a token drawn from a row that holds NaN or no mass',
  };
}

const NUMBERS = {
  id: 'boundary numbers',
  question: 'Are uniforms at the edges decided as the rule says?',
  of: 'sessions',
  logE: null,
  decisive: false,
  wouldHaveCaught: null,
} as const;

async function tapes({ engine, observer, decoding, seed, signal }: BoundaryInput): Promise<Check> {
  const { rule } = engine.card;
  const open = engine.openToy;
  if (open === undefined || engine.tapes !== true || rule === 'coupled') {
    const why = rule === 'coupled' ? 'noise has no tape' : 'the engine takes no uniforms from outside';
    return { ...NUMBERS, n: 0, outcome: 'not testable here', evidence: `Not testable here: ${why}.` };
  }
  const problems: string[] = [];
  let n = 0;
  for (const [toy, list] of [
    [dyadicToy(seed), EDGES],
    [tenthsToy(), EXTREMES],
  ] as const) {
    const rows = new ToyRows(toy);
    for (const tape of list) {
      for (const blockSize of [toy.block, 1]) {
        if (observer.broken || signal.aborted) break;
        const opened = await observer.ask('boundary', 'opening a toy with a tape', () =>
          open(toy, { blockSize, tape }),
        );
        if (opened === null) break;
        const asked = decoding({ maxTokens: SESSION_TOKENS });
        const label = `boundary, tape ${tape.join(' ')}, block ${blockSize}`;
        const run = await observer.run(opened, { name: `vocabulary ${toy.vocab}`, ids: [n % toy.vocab] }, asked, label);
        await observer.ask('boundary', 'close', () => opened.close());
        if (run.fault !== null) continue;
        n += 1;
        const due = decided({ rule, rows, toy, blockSize, tape }, [(n - 1) % toy.vocab], asked);
        const at = due.findIndex((round, i) => text(round) !== text(run.rounds[i]));
        if (at >= 0) problems.push(`${label}, round ${at}: ${text(run.rounds[at])} where ${text(due[at])} is due`);
      }
    }
  }
  const first = problems[0];
  if (first !== undefined) {
    return { ...NUMBERS, n, outcome: 'refuted', evidence: `${problems.length} of ${n} go otherwise; first: ${first}.` };
  }
  return {
    ...NUMBERS,
    n,
    outcome: 'consistent',
    evidence: `${n} sessions on tapes of 0, 1/4, 1/2, 3/4 and 1 - 2^-53 go as worked out.`,
    wouldHaveCaught:
      'a wrong comparison at u = 0, at the largest u, on an edge of a cumulative sum, at a coin equal to p/q, at p = 0 or q = 0',
  };
}

type Decided = Pick<Round, 'committed' | 'drafted' | 'accepted'>;

const text = (round: Decided | undefined): string =>
  round === undefined
    ? 'no round'
    : `drafts [${[...round.drafted].join(' ')}], ${round.accepted} accepted, tokens [${[...round.committed].join(' ')}]`;

/** Zeros in front, behind and between; every row 1, 1/2 or 1/4 on 1, 2 or 4 tokens. Some draft rows are the target's. */
function dyadicToy(seed: string): Toy {
  const vocab = 6;
  const random = new Random(seed, 49);
  const row = (): number[] => {
    const size = [1, 2, 4, 4][random.below(4)]!;
    const ids = Array.from({ length: vocab }, (_, x) => x);
    for (let i = vocab - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [ids[i], ids[j]] = [ids[j]!, ids[i]!];
    }
    const kept = new Set(ids.slice(0, size));
    return Array.from({ length: vocab }, (_, x) => (kept.has(x) ? 0 : NONE));
  };
  const target = Array.from({ length: vocab }, row);
  const draft = target.map((here) => Array.from({ length: 3 }, () => (random.below(3) === 0 ? here : row())));
  return { vocab, order: 1, block: 4, maxContext: 64, target, draft };
}

/** Ten tokens of a tenth, at the start or at the end of twelve. */
function tenthsToy(): Toy {
  const ids = Array.from({ length: 12 }, (_, x) => x);
  const low = ids.map((x) => (x < 10 ? 0 : NONE));
  const high = ids.map((x) => (x >= 2 ? 0 : NONE));
  const target = ids.map((x) => (x % 3 === 0 ? high : low));
  const draft = ids.map((x) => [x % 2 === 0 ? low : high, low]);
  return { vocab: 12, order: 1, block: 3, maxContext: 64, target, draft };
}

interface Taped {
  readonly rule: VerificationRule;
  readonly rows: ToyRows;
  readonly toy: Toy;
  readonly blockSize: number;
  readonly tape: readonly number[];
}

/** The rounds that the rule makes of the tape, by strict comparisons. */
function decided(
  { rule, rows, toy, blockSize, tape }: Taped,
  prompt: readonly number[],
  decoding: Decoding,
): Decided[] {
  const tokens = [...prompt];
  const rounds: Decided[] = [];
  let read = 0;
  const next = (): number => tape[read++ % tape.length]!;
  const pick = (row: Float64Array): number => {
    const u = next();
    let sum = 0;
    for (let x = 0; x < row.length; x++) {
      sum += row[x]!;
      if (sum > u) return x;
    }
    return row.findLastIndex((value) => value > 0);
  };
  while (tokens.length - prompt.length < decoding.maxTokens) {
    const drafts = rounds.length === 0 ? 0 : Math.min(blockSize, toy.maxContext - tokens.length) - 1;
    const q = Array.from({ length: drafts }, (_, slot) => rows.draft(tokens, slot, decoding));
    const drafted = q.map((row) => (rule === 'reject' ? pick(row) : row.indexOf(Math.max(...row))));
    const out: number[] = [];
    let accepted = 0;
    for (let i = 0; i <= drafts; i++) {
      const p = rows.target([...tokens, ...drafted.slice(0, i)], decoding);
      const draft = drafted[i];
      if (rule !== 'reject' || draft === undefined) {
        out.push(pick(p));
        if (out[i] !== draft) break;
      } else if (next() * q[i]![draft]! < p[draft]!) out.push(draft);
      else {
        out.push(pick(residualRow(p, q[i]!)));
        break;
      }
      accepted += 1;
    }
    const committed = out.slice(0, decoding.maxTokens - (tokens.length - prompt.length));
    rounds.push({ committed, drafted, accepted });
    tokens.push(...committed);
  }
  return rounds;
}
