/** Numbers and dates as they are printed. Rounding is for the eye only: every printed number carries its full value. */

/** Decimals that suit the magnitude: 3 below 0.1, 2 below 10, 1 below 100, none above. */
export function decimalsFor(value: number): number {
  const size = Math.abs(value);
  if (size === 0) return 2;
  return size < 0.1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0;
}

/** `1234.5` with 0 decimals is `1,235`. A true minus sign; never `-0`. */
export function fixed(value: number, decimals: number): string {
  const shown = Math.abs(value).toFixed(decimals);
  const [whole = '', fraction] = shown.split('.');
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ',');
  const sign = value < 0 && Number(shown) !== 0 ? '\u2212' : '';
  return sign + (fraction === undefined ? grouped : `${grouped}.${fraction}`);
}

export const rounded = (value: number): string => fixed(value, decimalsFor(value));

export const count = (value: number): string => fixed(value, 0);

/** `5.93–6.41`, or `−0.02 to 0.31` where a dash would read as a minus. */
export function range(low: number, high: number, decimals: number): string {
  return `${fixed(low, decimals)}${low < 0 || high < 0 ? ' to ' : '\u2013'}${fixed(high, decimals)}`;
}

/** 0.95 as `95 %`. */
export const percent = (level: number): string => `${Number((level * 100).toPrecision(6))}\u00a0%`;

const MONTHS = 'January February March April May June July August September October November December'.split(' ');

/** `20 November 2026, 23:05 UTC`; a text that is no date is returned as it is. */
export function moment(iso: string): string {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return iso;
  const two = (n: number): string => String(n).padStart(2, '0');
  const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
  return `${day}, ${two(date.getUTCHours())}:${two(date.getUTCMinutes())} UTC`;
}

/** The text with a full stop, if it ends in no mark of its own. */
export const sentence = (text: string): string => (/[.!?:;]$/.test(text) ? text : `${text}.`);

/** A heading's anchor: lower case, words joined by hyphens. */
export const slug = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
