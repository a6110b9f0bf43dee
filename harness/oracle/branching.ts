/**
 * Exact exploration: runs a program over a `Source` once per distinguishable outcome of its randomness and gives every
 * result with its probability. A uniform is an interval of [0, 1) that each comparison narrows, so a number that is read
 * twice is handled exactly; Gumbel noise may be read by two rows (see gumbel.ts). Branches of probability 0 are never
 * entered.
 */
import { sharedGumbelGiven } from './gumbel.ts';
import type { Row } from './rows.ts';
import type { Address, Source } from './source.ts';

/** The randomness is used in a way whose law has no closed form here; simulate instead. */
export class NotEnumerable extends Error {
  override readonly name = 'NotEnumerable';
}

export interface Outcome<T> {
  readonly value: T;
  readonly probability: number;
}

/** Closer to 1 than this, the sum of a row is 1 up to rounding. */
const NORMALISED = 1e-12;

interface Choice {
  readonly weights: readonly number[];
  index: number;
}

class Exploration implements Source {
  readonly #path: Choice[] = [];
  #depth = 0;
  readonly #intervals = new Map<number, readonly [low: number, high: number]>();
  readonly #noise = new Map<number, { readonly row: Row; readonly winner: number; second: Row | null; b: number }>();
  probability = 1;

  /** Readies the next run; false when every outcome was seen. */
  advance(): boolean {
    this.#intervals.clear();
    this.#noise.clear();
    this.#depth = 0;
    this.probability = 1;
    while (this.#path.length > 0) {
      const last = this.#path.at(-1)!;
      const next = last.weights.findIndex((weight, index) => index > last.index && weight > 0);
      if (next >= 0) {
        last.index = next;
        return true;
      }
      this.#path.pop();
    }
    return false;
  }

  #choose(weights: readonly number[]): number {
    if (this.#depth === this.#path.length) {
      const index = weights.findIndex((weight) => weight > 0);
      if (index < 0) throw new RangeError('a draw from a row without mass');
      this.#path.push({ weights, index });
    }
    const choice = this.#path[this.#depth++]!;
    this.probability *= choice.weights[choice.index]!;
    return choice.index;
  }

  #interval(key: number): readonly [number, number] {
    return this.#intervals.get(key) ?? [0, 1];
  }

  pick(address: Address, row: Row): number {
    const key = keyOf(address);
    const fresh = !this.#intervals.has(key);
    const [low, high] = this.#interval(key);
    // Whatever the row lacks to 1 falls through to its last token with mass, or to token 0, as in inverseCdf.
    const last = Math.max(
      0,
      row.findLastIndex((value) => value > 0),
    );
    const span = (id: number): readonly [number, number] => {
      const below = massOf(row, id);
      return [Math.max(low, Math.min(1, below)), id === last ? high : Math.min(high, 1, below + row[id]!)];
    };
    // A fresh uniform gives a normalised row itself: no digit is lost in differences of cumulative masses.
    const weights =
      fresh && Math.abs(massOf(row, row.length) - 1) < NORMALISED
        ? row
        : row.map((value, id) => (value > 0 || id === last ? share(span(id), low, high) : 0));
    const id = this.#choose(weights);
    this.#intervals.set(key, span(id));
    return id;
  }

  coin(address: Address, numerator: number, denominator: number): boolean {
    const key = keyOf(address);
    const [low, high] = this.#interval(key);
    const ratio = denominator > 0 ? numerator / denominator : numerator > 0 ? 1 : 0;
    const edge = Math.min(high, Math.max(low, ratio));
    const weights = [share([low, edge], low, high), share([edge, high], low, high)];
    const accepted = this.#choose(weights) === 0;
    this.#intervals.set(key, accepted ? [low, edge] : [edge, high]);
    return accepted;
  }

  gumbel(address: Address, row: Row): number {
    const key = keyOf(address);
    const read = this.#noise.get(key);
    if (read === undefined) {
      const winner = this.#choose(row);
      this.#noise.set(key, { row, winner, second: null, b: 0 });
      return winner;
    }
    if (sameRow(read.row, row)) return read.winner;
    if (read.second !== null) {
      if (sameRow(read.second, row)) return read.b;
      throw new NotEnumerable('three rows read the noise of one position');
    }
    read.b = this.#choose(sharedGumbelGiven(read.row, row, read.winner));
    read.second = row;
    return read.b;
  }

  exponentials(): number[] {
    throw new NotEnumerable('the noise itself, not only its argmax, reaches a decision');
  }
}

/** How much of [low, high) lies in the part. An interval that rounding made empty is a point, and lies where it lies. */
function share([from, to]: readonly [number, number], low: number, high: number): number {
  if (high > low) return Math.max(0, to - from) / (high - low);
  return from <= low && low <= to ? 1 : 0;
}

/** Mass of the ids below `end`, added in ascending order. */
function massOf(row: Row, end: number): number {
  let mass = 0;
  for (let id = 0; id < end; id++) mass += row[id]!;
  return mass;
}

function keyOf({ stream, position, round }: Address): number {
  return (round * 65536 + position) * 8 + stream;
}

function sameRow(a: Row, b: Row): boolean {
  return a === b || a.every((value, id) => value === b[id]);
}

/** Every outcome of `program` that has positive probability; the probabilities add up to 1 up to rounding. */
export function* outcomesOf<T>(program: (source: Source) => T): Generator<Outcome<T>> {
  const exploration = new Exploration();
  do {
    const value = program(exploration);
    yield { value, probability: exploration.probability };
  } while (exploration.advance());
}
