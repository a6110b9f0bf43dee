/** `kilotoken segment`: what `audit` starts in a fresh process to time one arm. Not for people: the job comes on stdin. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { InputError } from '../../harness/engine.ts';
import { surroundings } from '../../harness/measure/campaign.ts';
import { startForeignLoad } from '../../harness/measure/load.ts';
import { runSegment } from '../../harness/measure/timed.ts';
import { EXIT } from '../support/exit.ts';
import { onInterrupt } from '../support/interrupt.ts';
import { loadModel } from '../support/model.ts';
import { print } from '../support/output.ts';
import type { SegmentOrder } from '../support/segments.ts';

export function segmentCommand(program: Command): void {
  program.command('segment', { hidden: true }).action(async () => {
    const { job, checkpoint, activations, engine, model: synthetic, blockSize, origin } = readOrder();
    const model = await loadModel(checkpoint, activations ?? undefined, engine, synthetic ?? undefined);
    const { signal, restore } = onInterrupt();
    const load = startForeignLoad();
    try {
      await runSegment(job, {
        engine: model.engine({ rule: job.plan.rule, blockSize }),
        now: process.hrtime.bigint,
        origin: BigInt(origin),
        freshProcess: true,
        signal,
        sink: (row) => print(JSON.stringify(row)),
        surroundings: () => surroundings(load),
      });
    } finally {
      restore();
      await model.close();
    }
    if (signal.aborted) process.exitCode = EXIT.interrupted;
  });
}

function readOrder(): SegmentOrder {
  try {
    return JSON.parse(readFileSync(0, 'utf8')) as SegmentOrder;
  } catch {
    throw new InputError('segment is started by audit and takes its job from stdin');
  }
}
