/**
 * How directly a figure was observed, best first. Where several are to be had the best is taken, and the one taken is printed.
 *   trace     from the record of every single round
 *   request   from the clock and counts of whole requests
 *   counter   from counters that the engine adds up itself
 *   inferred  by a formula from other figures, or from the sizes of what arrived
 */
export const SOURCES = ['trace', 'request', 'counter', 'inferred'] as const;
export type Source = (typeof SOURCES)[number];

/** The better of two. */
export function bestSource(sources: readonly Source[]): Source {
  return SOURCES.find((source) => sources.includes(source)) ?? 'inferred';
}

/** The worse: what a figure made of several is as good as. */
export function worstSource(sources: readonly Source[]): Source {
  return [...SOURCES].reverse().find((source) => sources.includes(source)) ?? 'inferred';
}

/**
 * Where acceptance figures come from. Drafts that are listed make a trace; an engine with a block above 1 that never shows a draft
 * and yet keeps more than one token a round lets acceptance be inferred from the sizes only.
 */
export function acceptanceSource(
  rounds: Iterable<{ readonly drafted: number; readonly kept: number }>,
  blockSize: number,
): Source {
  if (blockSize === 1) return 'trace';
  let shown = false;
  let many = false;
  for (const { drafted, kept } of rounds) {
    shown ||= drafted > 0;
    many ||= kept > 1;
  }
  return !shown && many ? 'inferred' : 'trace';
}
