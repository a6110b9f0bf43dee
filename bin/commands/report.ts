/** `kilotoken report RUNDIR`: judges the stored rows again and rebuilds the page. A published run is read and never written to. */
import type { Command } from 'commander';
import { judgeDirectory, reportOf } from '../../harness/audit.ts';
import { judgeNodeDirectory, nodeReportOf } from '../../harness/bench/node/bench.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { exitCodeOf } from '../../harness/report/build.ts';
import { runDirectory } from '../support/options.ts';
import { note, print, printJson } from '../support/output.ts';
import { buildPage } from '../support/page.ts';
import { copyRun, isPublished, requireSameReport } from '../support/published.ts';
import { printSummary } from '../support/summary.ts';
import { printNodeReport } from './bench/node-summary.ts';

interface Options {
  readonly json?: boolean;
  readonly page: boolean;
  readonly out?: string;
}

export function reportCommand(program: Command): void {
  program
    .command('report')
    .argument('<rundir>', 'a directory that an audit or a node benchmark wrote', runDirectory)
    .description('rebuild verdicts, report and (of an audit) page of a run from its rows')
    .option('--out <dir>', 'judge a copy of the run in a new folder, for instance of a published one')
    .option('--json', 'print the report as one JSON document')
    .option('--no-page', 'do not build the page')
    .action(run);
}

async function run(rundir: string, options: Options): Promise<void> {
  if (options.out !== undefined) copyRun(rundir, options.out);
  const directory = options.out ?? rundir;
  const published = isPublished(directory);
  const say = options.json ? note : print;
  let builds = options.page;
  if (isNodeBundle(directory)) {
    const report = await (published ? nodeReportOf : judgeNodeDirectory)(directory);
    if (published) requireSameReport(directory, report);
    if (options.json) printJson(report);
    else printNodeReport(report);
    builds = false;
    process.exitCode = exitCodeOf(report.verdicts);
  } else {
    const report = await (published ? reportOf : judgeDirectory)(directory);
    if (published) requireSameReport(directory, report);
    if (options.json) printJson(report);
    else printSummary(report);
    process.exitCode = exitCodeOf(report.verdicts);
  }
  if (published && builds) say('No page: a published run is not written to. --out DIR builds it in a copy.');
  else if (builds) say(`Page: ${await buildPage(directory)}`);
}
