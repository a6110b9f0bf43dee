/**
 * The all-reduce of the fake machine: its sums are computed as they must be, or by one rank in another order; its times are a formula with
 * a little noise. No number of it says anything about a real machine.
 */
import { Random } from '../../stats/philox.ts';
import { collectiveSums, expectedDigest, sumsDigest } from './collectives-oracle.ts';
import type { CollectiveLaunch, CollectiveSamples, CollectiveSums } from './machine.ts';

/** A chained call, and a meeting of blocks, nanoseconds; the GPUs of a call wait for each other. */
export const FAKE_COLLECTIVE_NS = { oneHop: 2400, twoHops: 3200, eachGpu: 50, meeting: 900 };
const CALLS = 40;
const LAUNCHES = 3;
const CHECKED_CALLS = 4;
const CYCLE_NS = 0.5;

export interface FakeCollectiveFaults {
  /** This rank adds the ranks in reverse. */
  readonly reversed?: number;
  /** There is no NCCL, for this reason. */
  readonly noNccl?: string;
  readonly unseenMistake?: boolean;
  /** What the machine's own comparison says of a timed launch. */
  readonly wrong?: string;
}

export function fakeCollectives(gpus: number, faults: FakeCollectiveFaults = {}): CollectiveSamples {
  const random = new Random('5', gpus);
  const launch = (
    how: CollectiveLaunch['how'],
    arrangement: CollectiveLaunch['arrangement'],
    rows: number,
    number: number,
    rank: number,
  ): CollectiveLaunch => {
    const { oneHop, twoHops, eachGpu, meeting } = FAKE_COLLECTIVE_NS;
    const sum = how === 'none' ? 0 : (how === 'one-hop' ? oneHop : twoHops) + eachGpu * gpus - 20 * (8 - rows);
    const ns = sum + (arrangement === 'chain' ? 0 : meeting);
    const cycles = Array.from({ length: CALLS }, () => Math.round((ns / CYCLE_NS) * (0.98 + 0.04 * random.uniform())));
    const spanNs = CYCLE_NS * cycles.reduce((a, b) => a + b, 0);
    return { how, arrangement, rows, launch: number, rank, spanNs, slowestNs: spanNs * 1.01, cycles };
  };
  const launches: CollectiveLaunch[] = [];
  const kinds = (['one-hop', 'two-hops'] as const).flatMap((how) =>
    [1, 8].flatMap((rows) => (['chain', 'step'] as const).map((arrangement) => ({ how, arrangement, rows }))),
  );
  for (const { how, arrangement, rows } of [{ how: 'none', arrangement: 'barrier', rows: 8 } as const, ...kinds])
    for (let number = 0; number < LAUNCHES; number++)
      for (let rank = 0; rank < gpus; rank++) launches.push(launch(how, arrangement, rows, number, rank));
  const forms = ['one-hop', 'two-hops'] as const;
  const mistakes = ['marks of the use before', ...(gpus > 2 ? ['ranks added in another order'] : [])];
  return {
    launches: faults.wrong === undefined ? launches : [],
    wrong: faults.wrong === undefined ? [] : [faults.wrong],
    sums: forms.flatMap((how) =>
      (['random', 'cancelling'] as const).map((data): CollectiveSums => {
        const of = { how, data, calls: CHECKED_CALLS };
        const reverse = Array.from({ length: gpus }, (_, rank) => gpus - 1 - rank);
        const digests = Array.from({ length: gpus }, (_, rank) =>
          rank === faults.reversed ? sumsDigest(collectiveSums(of, gpus, reverse)) : expectedDigest(of, gpus),
        );
        return { ...of, digests };
      }),
    ),
    planted: forms.flatMap((how) =>
      mistakes.map((mistake) => ({ how, mistake, seen: faults.unseenMistake ? 0 : 1000, values: 49_152 * gpus })),
    ),
    nccl: {
      version: faults.noNccl === undefined ? '2.28.9' : null,
      lack: faults.noNccl ?? null,
      graphLack: null,
      batch: 200,
      times:
        faults.noNccl !== undefined
          ? []
          : (['eager', 'graph'] as const).flatMap((how) =>
              Array.from({ length: gpus }, (_, rank) => ({
                how,
                rank,
                us: Array.from({ length: 5 }, () => (how === 'eager' ? 20 : 12) + 0.2 * random.uniform()),
              })),
            ),
    },
  };
}
