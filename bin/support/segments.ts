/**
 * A segment of a speed measurement in a process of its own: the parent writes the job to the child's stdin as one JSON document, the
 * child answers with one timing row a line on stdout. Both read the same monotonic clock, so rows need no translation.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { SegmentRunner } from '../../harness/measure/campaign.ts';
import { TimingRow } from '../../harness/measure/rows.ts';
import type { SegmentJob } from '../../harness/measure/timed.ts';
import type { SyntheticChoice } from '../../native/engines.ts';
import type { Activations, EngineName } from './model.ts';
import { ROOT } from './repository.ts';

/** How the child is to load the engine; a job of the harness and what the harness does not know. */
export interface SegmentOrder {
  readonly job: SegmentJob;
  readonly checkpoint: string;
  readonly activations: Activations | null;
  readonly engine: EngineName;
  /** In the place of the checkpoint. */
  readonly model: SyntheticChoice | null;
  readonly blockSize: number;
  /** The start of the run on the monotonic clock, nanoseconds, decimal. */
  readonly origin: string;
}

/** @param before awaited in front of each segment */
export function segmentsInChildren(
  engine: Pick<SegmentOrder, 'checkpoint' | 'activations' | 'engine' | 'model'>,
  block: number,
  before: () => Promise<void>,
): SegmentRunner {
  return async (job, host) => {
    await before();
    const arm = job.plan.order[job.segment]!;
    const order: SegmentOrder = {
      job,
      ...engine,
      blockSize: arm === 'plain' ? 1 : block,
      origin: host.origin.toString(),
    };
    const child = spawn(process.execPath, [join(ROOT, 'bin/kilotoken.mjs'), 'segment'], {
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const stop = (): void => void child.kill('SIGTERM');
    host.signal.addEventListener('abort', stop);
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4096);
    });
    const closed = new Promise<number | string | null>((done, fail) => {
      child.once('error', fail);
      child.once('close', (code, signal) => done(code ?? signal));
    });
    // A child that dies before it has read its job is reported by its exit, not by the pipe.
    child.stdin.on('error', () => {});
    child.stdin.end(JSON.stringify(order));
    try {
      for await (const line of createInterface({ input: child.stdout })) host.sink(TimingRow.parse(JSON.parse(line)));
      const code = await closed;
      if (code !== 0 && !host.signal.aborted) {
        const last = said.trim().split('\n').at(-1) ?? '';
        throw new Error(`the process of the segment ended with ${code}${last === '' ? '' : `: ${last}`}`);
      }
    } finally {
      child.kill();
      host.signal.removeEventListener('abort', stop);
    }
  };
}
