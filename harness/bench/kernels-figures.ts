/** Every figure of a kernel bench from its raw samples alone, so that a stored document can be derived anew anywhere. */
import type { Figures, Operation, PeerRow, PeerWeights, Raw, Summary } from './kernels-schema.ts';

/** Median (of an even number of samples the mean of the middle two) and the spread. @throws RangeError without samples */
export function summary(samples: readonly number[]): Summary {
  if (samples.length === 0) throw new RangeError('no samples');
  const sorted = [...samples].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  return { median, least: sorted[0]!, most: sorted.at(-1)!, samples: sorted.length };
}

/** Bytes in microseconds as GB/s. */
export const gbPerS = (bytes: number, us: number): number => bytes / us / 1e3;

export function deriveFigures({ floors, operations, layers, peers }: Raw): Figures {
  const reads = floors.reads.map(({ ringKib, pageBytes, bytes, us }) => {
    const times = summary(us);
    return { ringKib, pageBytes, us: times, gbPerS: gbPerS(bytes, times.median) };
  });
  const best = reads.reduce((a, b) => (b.gbPerS > a.gbPerS ? b : a));
  const rate = (bytes: number, us: Summary) => {
    const reached = gbPerS(bytes, us.median);
    return { us, gbPerS: reached, share: reached / best.gbPerS };
  };
  return {
    ceiling: { gbPerS: best.gbPerS, ringKib: best.ringKib, pageBytes: best.pageBytes },
    reads,
    barrierUs: summary(floors.barrierUs),
    hops: { flag: hops(floors.flag), flagged: hops(floors.flagged), carried: hops(floors.carried) },
    launchUs: summary(floors.launchUs),
    graphNodeUs: summary(floors.graphNodeUs),
    operations: operations.map((operation) => {
      const { op, weights, experts, m, arrangement, choice, bytes, calls, spanUs } = operation;
      const reached = rate(bytes, summary(spanUs.map((span) => span / calls)));
      const peer = fastestPeer(operation, peers?.rows ?? [], reached.us.median);
      // Documents older than `choice` have none, and their figures have none either.
      const chosen = choice === undefined ? {} : { choice };
      return { op, weights, experts, m, arrangement, ...chosen, bytes, ...reached, peer };
    }),
    layers: (layers?.times ?? []).map(({ m, fewUs, manyUs, experts }) => {
      const between = layers!.many - layers!.few;
      const us = (summary(manyUs).median - summary(fewUs).median) / between;
      const distinct = experts.reduce((sum, count) => sum + count, 0) / experts.length;
      const bytes = layers!.linearBytes + distinct * layers!.expertBytes;
      const reached = gbPerS(bytes, us);
      return {
        m,
        experts: distinct,
        bytes,
        us,
        gbPerS: reached,
        share: reached / best.gbPerS,
        timesItsBytes: best.gbPerS / reached,
      };
    }),
    peers: (peers?.rows ?? []).map(({ matrix, m, experts, peer, weights, mode, bytes, us }) => ({
      matrix,
      m,
      experts,
      peer,
      weights,
      mode,
      ...rate(bytes, summary(us)),
    })),
  };
}

function hops(list: Raw['floors']['flag']): Figures['hops']['flag'] {
  const { median, least, most, samples } = summary(list.map(({ us }) => summary(us).median));
  return { partners: samples, medianUs: median, bestUs: least, worstUs: most };
}

/** Bits a weight, of codes and of the scales that every 32 (MXFP4, 8 bits) or 128 (INT4, 16 bits) share. */
const BITS: Record<PeerWeights, number> = { int4: 4.125, mxfp4: 4.25, fp8: 8, bf16: 16, f32: 32 };

/** Of the peers that did the same product with weights at least as wide: a narrower format would be another model. */
function fastestPeer(
  { op, m, experts, weights }: Operation,
  rows: readonly PeerRow[],
  ours: number,
): Figures['operations'][number]['peer'] {
  const fitting = rows
    .filter((row) => row.matrix === op && row.m === m && row.experts === experts && BITS[row.weights] >= BITS[weights])
    .map(({ peer, mode, us }) => ({ peer, mode, us: summary(us).median }))
    .sort((a, b) => a.us - b.us);
  const [first] = fitting;
  return first === undefined ? null : { ...first, ratio: first.us / ours };
}
