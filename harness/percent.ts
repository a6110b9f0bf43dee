/** A share as evidence says it: three significant digits, of a hundred. */
export function percent(share: number): string {
  return `${Number((100 * share).toPrecision(3))} %`;
}
