/** A node benchmark over the fake machine, in a folder of its own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  benchNode,
  type NodeBenchInput,
  type NodeBenchOptions,
  type NodeBenchResult,
} from '../../../harness/bench/node/bench.ts';
import { FakeClock, FakeMachine, type FakeOptions } from '../../../harness/bench/node/fake.ts';
import { GROUPS } from '../../../harness/bench/node/plan.ts';
import { PROFILES } from '../../../harness/bench/node/profile.ts';
import { untoldProvenance } from '../../../harness/bundle/provenance.ts';

export const SMALL: NodeBenchOptions = {
  shape: 'pro',
  seed: '1',
  gpus: null,
  layers: null,
  groups: [...GROUPS],
  budgetSeconds: 900,
  losslessTokens: 300,
  repeats: 3,
  tokens: { headline: 160, sweep: 96, plain: 48, reference: 24 },
  profiles: [...PROFILES],
};

export interface FakeBench {
  readonly directory: string;
  readonly fake?: FakeOptions;
  readonly options?: Partial<NodeBenchOptions>;
  readonly signal?: AbortSignal;
  readonly patience?: number;
  readonly about?: Partial<NodeBenchInput['about']>;
}

export function fakeBench(bench: FakeBench): Promise<NodeBenchResult> {
  const clock = new FakeClock();
  return benchNode({
    machine: new FakeMachine({ gpus: 4, clock, ...bench.fake }),
    options: { ...SMALL, ...bench.options },
    about: {
      id: 'test',
      startedAt: '2026-11-21T00:00:00.000Z',
      command: 'kilotoken bench node --shape pro',
      commit: 'unknown',
      dirty: false,
      machine: { cpu: 'none', cores: 1, memoryGiB: 1, os: 'none', node: '20', gpus: [] },
      ...bench.about,
    },
    provenance: () => untoldProvenance('a fake'),
    directory: bench.directory,
    telemetryHz: 10,
    smi: null,
    signal: bench.signal ?? new AbortController().signal,
    now: clock.now,
    progress: () => {},
    ...(bench.patience === undefined ? {} : { patience: bench.patience }),
  });
}

export async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'kilotoken-node-'));
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
