/** The addon behind the benchmark's seam. Needs the CUDA addon; skipped aloud elsewhere. What needs a GPU is in test/gpu. */
import { expect, test } from 'vitest';
import { planNodeBench } from '../../../harness/bench/node/bench.ts';
import type { NodeMachine, NodeModelSpec } from '../../../harness/bench/node/machine.ts';
import { nodeMachine } from '../../../native/node.ts';
import { SMALL } from './support.ts';

function machineOrNull(): NodeMachine | null {
  try {
    return nodeMachine();
  } catch {
    return null;
  }
}

const machine = machineOrNull();
const withAddon = test.skipIf(machine === null);
if (machine === null) console.warn('SKIPPED: the CUDA addon with the node benchmark is not built');

const SPEC: NodeModelSpec = {
  engine: 'stack',
  experts: 'mxfp4',
  layers: 2,
  gpus: 1,
  sharedRouting: 0,
  maxContext: 64,
  filledContext: null,
  seed: '1',
};

withAddon('says what it has, or why nothing can run, in one line (needs the CUDA addon)', async () => {
  const found = await machine!.describe();
  expect(found.buildDigest).toMatch(/^sha256:[0-9a-f]{64}$/);
  if (found.lack === '') {
    expect(found.gpus[0]!.memory).toBeGreaterThanOrEqual(found.gpus[0]!.freeMemory);
    return;
  }
  expect(found.gpus).toEqual([]);
  // One after the other: a promise that fails while another is awaited is a rejection nobody handles.
  for (const call of [
    () => planNodeBench(machine!, SMALL),
    () => machine!.open(SPEC),
    () => machine!.readCeiling!(1),
    () => machine!.collectives!(2),
  ]) {
    await expect(call()).rejects.toMatchObject({
      name: 'EnvironmentError',
      message: expect.stringMatching(/^[^\n]+$/),
    });
  }
});

withAddon('an all-reduce is between two GPUs or more (needs the CUDA addon)', async () => {
  for (const gpus of [1, 9]) {
    await expect(machine!.collectives!(gpus)).rejects.toMatchObject({
      name: 'InputError',
      message: expect.stringMatching(/gpus must be 2 to 8/),
    });
  }
});

withAddon('refuses what no engine can be, before it looks for a GPU (needs the CUDA addon)', async () => {
  for (const [change, text] of [
    [{ layers: 0 }, /spec\.layers must be 1 to 4096/],
    [{ gpus: 99 }, /spec\.gpus must be 1 to 64/],
    [{ seed: '-1' }, /spec\.seed must be an unsigned 64-bit integer/],
    [{ maxContext: 1.5 }, /spec\.maxContext/],
  ] as const) {
    await expect(machine!.open({ ...SPEC, ...change })).rejects.toMatchObject({
      name: 'InputError',
      message: expect.stringMatching(text),
    });
  }
});
