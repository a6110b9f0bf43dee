/** Digests of the things a run names, all written as `sha256:<hex>`. */
import { canonicalJson, sha256 } from '../suite/canonical.ts';

/** Of a JSON value, whatever the order of its keys. Throws on NaN and infinities. */
export function digestOf(value: unknown): string {
  return sha256(canonicalJson(value));
}

/** Of a token sequence: its ids as little-endian 32-bit words. */
export function tokensDigest(ids: readonly number[]): string {
  return sha256(new Uint8Array(Uint32Array.from(ids).buffer));
}

/** A 64-bit seed, as a decimal string, from a seed and the name of what it is for. */
export function derivedSeed(seed: string, purpose: string): string {
  const hex = sha256(`${seed}/${purpose}`).slice('sha256:'.length, 'sha256:'.length + 16);
  return BigInt(`0x${hex}`).toString();
}
