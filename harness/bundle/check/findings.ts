/** What a check of a bundle found, one line each, and how grave it is. */

/**
 * difference: the bundle does not hold what it says of itself. doubt: nothing contradicts, but something that would settle it is
 * missing. note: worth knowing.
 */
export type Level = 'difference' | 'doubt' | 'note';

export interface Finding {
  readonly level: Level;
  /** Which check, for instance `tree`, `clocks`, `continuation`. */
  readonly check: string;
  readonly text: string;
}

/** Lines of one check that are kept; the rest are counted. */
const MOST = 20;

export class Findings {
  readonly #all: Finding[] = [];
  readonly #counts = new Map<string, { count: number; level: Level }>();

  add(level: Level, check: string, text: string): void {
    const key = `${level} ${check}`;
    const seen = this.#counts.get(key) ?? { count: 0, level };
    this.#counts.set(key, seen);
    seen.count += 1;
    if (seen.count <= MOST) this.#all.push({ level, check, text });
  }

  difference(check: string, text: string): void {
    this.add('difference', check, text);
  }

  doubt(check: string, text: string): void {
    this.add('doubt', check, text);
  }

  note(check: string, text: string): void {
    this.add('note', check, text);
  }

  count(level: Level): number {
    return [...this.#counts.values()].reduce((sum, seen) => sum + (seen.level === level ? seen.count : 0), 0);
  }

  list(): Finding[] {
    const more = [...this.#counts].flatMap(([key, { count, level }]) =>
      count <= MOST
        ? []
        : [{ level, check: key.slice(level.length + 1), text: `and ${count - MOST} more of this kind` }],
    );
    return [...this.#all, ...more];
  }
}
