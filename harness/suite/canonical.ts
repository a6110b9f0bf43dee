/**
 * One spelling for a JSON value, so that a digest names the content and not its formatting: object keys in code-point
 * order, no white space, numbers as ECMAScript prints them (the rules of RFC 8785, for values without lone surrogates).
 */
import { createHash } from 'node:crypto';

/** Canonical JSON text of `value`. Throws TypeError on what JSON cannot hold (undefined, functions, NaN, infinities). */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new TypeError(`${value} has no JSON form`);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, member]) => member !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`).join(',')}}`;
  }
  throw new TypeError(`a ${typeof value} has no JSON form`);
}

/** `sha256:<hex>` of text (as UTF-8) or bytes. */
export function sha256(data: string | Uint8Array): string {
  return `sha256:${createHash('sha256').update(data).digest('hex')}`;
}
