/**
 * The node benchmark on real GPUs, small: two layers at full width, a few hundred tokens. What it finds must be a sound machine. Without
 * the CUDA addon, a GPU or 24 GB of its memory every test is counted as skipped. The group of collectives
 * ran in a published run (results/node/20261121T134242Z-f959827), not yet from here.
 */
import { describe, expect, test } from 'vitest';
import { benchNode } from '../../harness/bench/node/bench.ts';
import { checkNodeBundle } from '../../harness/bench/node/check.ts';
import type { NodeDescription, NodeMachine } from '../../harness/bench/node/machine.ts';
import { untoldProvenance } from '../../harness/bundle/provenance.ts';
import { nodeMachine } from '../../native/node.ts';
import { SMALL, withFolder } from '../cpu/node/support.ts';

const LEAST_BYTES = 24e9;

async function found(): Promise<{ machine: NodeMachine; description: NodeDescription } | string> {
  try {
    const machine = nodeMachine();
    const description = await machine.describe();
    if (description.lack !== '') return description.lack;
    return description.gpus[0]!.freeMemory < LEAST_BYTES ? 'too little memory is free' : { machine, description };
  } catch (error) {
    return (error as Error).message;
  }
}
const here = await found();
const missing = typeof here === 'string' ? here : null;

describe.skipIf(missing !== null)(`bench node, ${missing === null ? 'on this machine' : `SKIPPED: ${missing}`}`, () => {
  test.each([1, 2, 4, 8])(
    'two layers on %d GPUs: every verdict consistent, the bundle intact',
    async (gpus) => {
      if (typeof here === 'string') return;
      if (gpus > here.description.gpus.length) return console.warn(`SKIPPED: there are no ${gpus} GPUs`);
      await withFolder(async (folder) => {
        const directory = `${folder}/run`;
        const { report, status } = await benchNode({
          machine: here.machine,
          options: {
            ...SMALL,
            gpus,
            layers: 2,
            groups: ['headline', 'lossless', 'ablation', 'layers', 'routing', 'collectives'],
          },
          about: {
            id: 'test',
            startedAt: new Date().toISOString(),
            command: 'test',
            commit: 'unknown',
            dirty: false,
            machine: { cpu: '', cores: 1, memoryGiB: 1, os: '', node: '', gpus: [] },
          },
          provenance: () => untoldProvenance('a test'),
          directory,
          telemetryHz: 10,
          signal: new AbortController().signal,
          now: () => process.hrtime.bigint(),
          progress: () => {},
        });
        expect(status).toBe('complete');
        // Where the driver hides processes nobody can be seen to be alone; elsewhere it must be so.
        const hidden = report.verdicts.find(({ id, outcome }) => id === 'alone' && outcome === 'not testable here');
        if (hidden !== undefined) console.warn(`alone: ${hidden.evidence}`);
        const others = report.verdicts.filter((verdict) => verdict !== hidden);
        expect(others.filter(({ outcome }) => outcome !== 'consistent')).toEqual([]);
        const { findings } = await checkNodeBundle(directory, { publicKey: null, build: null });
        expect(findings).toEqual([]);
      });
    },
    300_000,
  );
});
