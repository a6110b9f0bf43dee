/** `kilotoken overhead`: what the harness itself adds to a round, measured here and now on an engine that does nothing. */
import type { Command } from 'commander';
import { measureOverhead, OVERHEAD_LIMIT } from '../../harness/measure/overhead.ts';
import { EXIT } from '../support/exit.ts';
import { machine } from '../support/machine.ts';
import { listOf, outputFile, wholeNumber } from '../support/options.ts';
import { print, printJson, table, writeOutput } from '../support/output.ts';
import { repositoryState } from '../support/repository.ts';

interface Options {
  readonly sessions: number;
  readonly tokens: number;
  readonly block?: readonly number[];
  readonly json?: boolean;
  readonly out?: string;
}

export function overheadCommand(program: Command): void {
  program
    .command('overhead')
    .description('what the harness itself adds to a round, on an engine that does nothing')
    .option('--sessions <n>', 'sessions that are timed', wholeNumber(1), 200)
    .option('--tokens <n>', 'tokens of a session', wholeNumber(2), 2048)
    .option('--block <n...>', 'block sizes, anchor included', listOf(wholeNumber(1)))
    .option('--json', 'print one JSON document instead of the table')
    .option('--out <file>', 'also write the JSON document to a file', outputFile)
    .action(async (options: Options) => {
      const blocks = options.block ?? [1, 8];
      const rows = [];
      for (const blockSize of blocks) {
        rows.push(await measureOverhead({ sessions: options.sessions, tokens: options.tokens, blockSize }));
      }
      const result = { machine: machine(), ...repositoryState(), limit: OVERHEAD_LIMIT, rows };
      if (options.out !== undefined) writeOutput(options.out, `${JSON.stringify(result, null, 2)}\n`);
      if (options.json) printJson(result);
      else {
        print(`${result.machine.cpu}, ${result.machine.cores} cores; Node ${result.machine.node}`);
        print(
          `Cost of the harness a round, on an engine that answers at once; at most ${OVERHEAD_LIMIT.microseconds} us`,
        );
        print(
          table(
            [
              ['block', 'rounds', 'mean us', 'p50 us', 'p90 us', 'p99 us', ''],
              ...rows.map((row) => [
                String(row.blockSize),
                String(row.rounds),
                row.meanUs.toFixed(2),
                ...[0.5, 0.9, 0.99].map(
                  (p) => row.percentilesUs.find((entry) => entry.p === p)?.value.toFixed(2) ?? '-',
                ),
                row.withinLimit ? 'within the limit' : 'over the limit',
              ]),
            ],
            [0, 1, 2, 3, 4, 5],
          ),
        );
      }
      if (rows.some((row) => !row.withinLimit)) process.exitCode = EXIT.refuted;
    });
}
