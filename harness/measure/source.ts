/**
 * How directly a figure was observed, best first; printed beside the figure.
 *   trace     from the record of every single round
 *   request   from the clock and counts of whole requests
 *   counter   from counters that the engine adds up itself
 *   inferred  by a formula from other figures, or from the sizes of what arrived
 */
export const SOURCES = ['trace', 'request', 'counter', 'inferred'] as const;
export type Source = (typeof SOURCES)[number];

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
