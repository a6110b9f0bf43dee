/** Node benchmarks of the record, judged again: every digest, verdict and figure follows from the raw rows, by the code of today. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { NODE_RECORD, publishNodeRun } from '../../../harness/bench/node/publish.ts';
import type { NodeReport } from '../../../harness/bench/node/report.ts';

const RECORD = fileURLToPath(new URL(`../../../results/${NODE_RECORD}/`, import.meta.url));
const runs = existsSync(RECORD)
  ? readdirSync(RECORD).filter((name) => existsSync(path.join(RECORD, name, 'manifest.json')))
  : [];

test(`${runs.length} node benchmarks of the record are intact`, async () => {
  for (const name of runs) {
    const directory = path.join(RECORD, name);
    // To publish is to check: what is not intact, sealed, complete and of known code is refused.
    const record = mkdtempSync(path.join(tmpdir(), 'kilotoken-node-record-'));
    try {
      expect(await publishNodeRun(directory, record)).toBe(path.join(record, NODE_RECORD, name));
      await expect(publishNodeRun(directory, record)).rejects.toThrow(/append-only/);
    } finally {
      rmSync(record, { recursive: true });
    }
  }
});

test('numbers of fewer than 8 GPUs or layers carry their labels, those of 8 have none', () => {
  for (const name of runs) {
    const report = JSON.parse(readFileSync(path.join(RECORD, name, 'report.json'), 'utf8')) as NodeReport;
    for (const cell of report.cells) {
      expect(cell.labels).toContain('synthetic weights');
      expect(cell.labels.includes(`${cell.gpus} of 8 GPUs`)).toBe(cell.gpus < 8);
    }
    for (const target of report.targets) if (report.machine.used < 8) expect(target.outcome).toBe('not yet measured');
  }
});
