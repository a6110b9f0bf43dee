/**
 * What the all-reduce inside the kernel must give, computed here from the ranks alone: binary32 sums in the order of ranks, as
 * kernels/bench/collectives.h states them. Shares no code with what it judges; a digest of a rank that is not this one is a refutation.
 */
import { sha256 } from '../../suite/canonical.ts';
import type { CollectiveSums } from './machine.ts';

const HIDDEN = 6144;
const COLLECTIVE_ROWS = 8;
export const COLLECTIVE_VALUES = COLLECTIVE_ROWS * HIDDEN;
/** What a rank adds next is its base, some bits of which change with every call, less a sixteenth of the sum. */
const FEEDBACK = -0.0625;
const variation = (call: number): number => (Math.imul(call, 0x9e3779b1) >>> 20) & 0xffe;

type Data = CollectiveSums['data'];

/** Finaliser of MurmurHash3 (Appleby). */
function mix(key: number): number {
  let x = key;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** A multiple of 2^-23 in [-1, 1). */
function unit(key: number): number {
  return (mix(key) >> 8) * 2 ** -23;
}

/** What `rank` of `ranks` adds first, and its base, [8][6144]. */
function baseOf(data: Data, rank: number, ranks: number): Float32Array {
  const half = Math.floor(ranks / 2);
  return Float32Array.from({ length: COLLECTIVE_VALUES }, (_, i) => {
    const small = unit(i * 16 + rank * 2);
    if (data === 'random' || rank >= 2 * half) return small;
    const large = unit(i * 16 + (rank % half) * 2 + 1) * 4096;
    return small + (rank < half ? large : -large);
  });
}

/** The sum of the last of `calls` calls. `order`: ranks as they are added; what is not theirs by number is a planted mistake. */
export function collectiveSums(
  { how, data, calls }: Pick<CollectiveSums, 'how' | 'data' | 'calls'>,
  ranks: number,
  order: readonly number[] = Array.from({ length: ranks }, (_, rank) => rank),
): Float32Array {
  const base = order.map((rank) => baseOf(data, rank, ranks));
  const baseWords = base.map((values) => new Int32Array(values.buffer));
  const mine = base.map((values) => Float32Array.from(values));
  // The lowest bit of what goes over the links is not data.
  const words = mine.map((values) => new Int32Array(values.buffer));
  const sum = new Float32Array(COLLECTIVE_VALUES);
  const sumWords = new Int32Array(sum.buffer);
  for (let call = 0; call < calls; call++) {
    for (const own of words) for (let i = 0; i < own.length; i++) own[i]! &= ~1;
    sum.set(mine[0]!);
    // A sum of two binary32 numbers that is rounded to binary64 and then to binary32 is the binary32 sum.
    for (const summand of mine.slice(1)) for (let i = 0; i < sum.length; i++) sum[i]! += summand[i]!;
    if (how === 'two-hops') for (let i = 0; i < sum.length; i++) sumWords[i]! &= ~1;
    for (const own of baseWords) for (let i = 0; i < own.length; i++) own[i]! ^= variation(call) ^ variation(call + 1);
    for (const [rank, values] of mine.entries())
      for (let i = 0; i < values.length; i++) values[i] = base[rank]![i]! + sum[i]! * FEEDBACK;
  }
  return sum;
}

export function sumsDigest(sums: Float32Array): string {
  return sha256(new Uint8Array(sums.buffer, sums.byteOffset, sums.byteLength));
}

const known = new Map<string, string>();

/** sumsDigest of what every one of `ranks` ranks must hold. Made once. */
export function expectedDigest(of: Pick<CollectiveSums, 'how' | 'data' | 'calls'>, ranks: number): string {
  const key = `${of.how}/${of.data}/${of.calls}/${ranks}`;
  const digest = known.get(key) ?? sumsDigest(collectiveSums(of, ranks));
  known.set(key, digest);
  return digest;
}
