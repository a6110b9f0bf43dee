/** `kilotoken merge OUT SHARD...`: joins the shards that any scheduler ran into one run and judges it. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { judgeDirectory } from '../../harness/audit.ts';
import { mergeShards } from '../../harness/bundle/merge.ts';
import { exitCodeOf } from '../../harness/report/build.ts';
import { listOf, runDirectory } from '../support/options.ts';
import { print, printJson } from '../support/output.ts';
import { printSummary } from '../support/summary.ts';

export function mergeCommand(program: Command): void {
  program
    .command('merge')
    .argument('<out>', 'run directory to create')
    .argument('<shards...>', 'directories that audits with --shard i/n wrote, in any order', listOf(runDirectory))
    .description(
      'join the shards of one plan into one run; refuses shards that are missing, unfinished or of other runs',
    )
    .option('--json', 'print the report as one JSON document')
    .action(async (out: string, shards: string[], options: { json?: boolean }) => {
      const directory = resolve(out);
      await mergeShards(shards, directory, `kilotoken merge <out> <${shards.length} shards>`);
      const report = await judgeDirectory(directory);
      if (options.json) printJson(report);
      else {
        printSummary(report);
        print(`Run: ${directory}`);
      }
      process.exitCode = exitCodeOf(report.verdicts);
    });
}
