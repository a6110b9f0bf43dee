/** `kilotoken report RUNDIR`: judges the stored rows again and rebuilds the page. */
import type { Command } from 'commander';
import { judgeDirectory } from '../../harness/audit.ts';
import { judgeNodeDirectory } from '../../harness/bench/node/bench.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { exitCodeOf } from '../../harness/report/build.ts';
import { note, print, printJson } from '../support/output.ts';
import { buildPage } from '../support/page.ts';
import { printSummary } from '../support/summary.ts';
import { printNodeReport } from './bench/node-summary.ts';

export function reportCommand(program: Command): void {
  program
    .command('report')
    .argument('<rundir>', 'a directory that an audit or a node benchmark wrote')
    .description('rebuild verdicts, report and (of an audit) page of a run from its rows')
    .option('--json', 'print the report as one JSON document')
    .option('--no-page', 'do not build the page')
    .action(async (directory: string, options: { json?: boolean; page: boolean }) => {
      if (isNodeBundle(directory)) {
        const report = await judgeNodeDirectory(directory);
        if (options.json) printJson(report);
        else printNodeReport(report);
        process.exitCode = exitCodeOf(report.verdicts);
        return;
      }
      const report = await judgeDirectory(directory);
      if (options.json) printJson(report);
      else printSummary(report);
      if (options.page) {
        const line = `Page: ${await buildPage(directory)}`;
        if (options.json) note(line);
        else print(line);
      }
      process.exitCode = exitCodeOf(report.verdicts);
    });
}
