/**
 * `kilotoken mutants`: every known defect through the layers of the harness, survivors first. Exit code 0 if none
 * survived, every lossless control was kept by the law and seen by the acceptance, and the layers pass the sampler
 * without a defect; 1 if not.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { InputError } from '../../harness/engine.ts';
import { runMutants } from '../../harness/mutants/run.ts';
import { Layer, type MutantRow, type MutantsReport } from '../../harness/mutants/schema.ts';
import type { Defect } from '../../harness/oracle/defects.ts';
import { readFixture } from '../../harness/oracle/fixture.ts';
import { EXIT } from '../support/exit.ts';
import { note, print, printJson, table } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';

interface Options {
  readonly fixture?: readonly string[];
  readonly json?: boolean;
  readonly out?: string;
}

/** `registry` stands in for the catalogue of the oracle. */
export function mutantsCommand(program: Command, registry?: readonly Defect[]): void {
  program
    .command('mutants')
    .description('every known defect through the layers of the harness: which layer kills it, and what survives')
    .option('--fixture <file...>', 'fixtures to use (default: those of the repository)')
    .option('--json', 'print one JSON document')
    .option('--out <file>', 'write the JSON document to a file as well')
    .action((options: Options) => run(options, registry));
}

async function run(options: Options, registry: readonly Defect[] | undefined): Promise<void> {
  const fixtures = (options.fixture ?? ownFixtures()).map(readFixture);
  const chosen = registry === undefined ? {} : { registry };
  const report = await runMutants({ fixtures, ...chosen, progress: progressLine() });
  process.exitCode = report.passed ? EXIT.pass : EXIT.refuted;
  if (options.out !== undefined) write(options.out, report);
  if (options.json) printJson(report);
  else for (const line of lines(report)) print(line);
}

/** One line a defect for a terminal that waits; a script is not told. */
const progressLine = (): ((line: string) => void) => (process.stderr.isTTY ? note : () => {});

function ownFixtures(): string[] {
  const folder = join(ROOT, 'harness/fixtures');
  const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
  return names.sort().map((name) => join(folder, name));
}

function write(file: string, report: MutantsReport): void {
  try {
    writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  } catch (error) {
    throw new InputError(`cannot write ${file}: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`);
  }
}

function lines(report: MutantsReport): string[] {
  const { defects, clean, notCovered, seconds } = report;
  const count = (outcome: MutantRow['outcome']): number => defects.filter((row) => row.outcome === outcome).length;
  const byLayer = Layer.options.map((layer) => {
    const kills = defects.filter(({ outcome, found }) => outcome === 'killed' && found?.layer === layer).length;
    return `${kills} by ${layer}`;
  });
  const head = ['id', 'outcome', 'by', 'where', 'n', 'seconds', 'measure', 'defect'];
  return [
    table([head, ...defects.map(cells)], [4, 5]),
    '',
    'without a defect:',
    ...clean.map(
      ({ layer, holds, measure, seconds: took }) =>
        `  ${layer}: ${holds ? 'holds' : 'FAILS'}, ${measure}, ${took.toFixed(2)} s`,
    ),
    '',
    'not covered:',
    ...notCovered.map(({ id, title }) => `  ${id}: ${title}`),
    '',
    `${defects.length} defects: ${count('survived')} survived, ${count('killed')} killed (${byLayer.join(', ')}); ` +
      `controls: ${count('control holds')} hold, ${count('control fails')} fail; ${notCovered.length} rows not covered; ` +
      `${seconds.toFixed(1)} s`,
  ];
}

function cells({ id, title, outcome, found, reason, tried, seconds }: MutantRow): string[] {
  const took = seconds.toFixed(2);
  if (found === null) return [id, outcome, '-', '-', '-', took, reason ?? `not seen by ${tried.join(', ')}`, title];
  const n = found.n === null ? 'exact' : `${found.n} ${found.of ?? ''}`.trimEnd();
  return [id, outcome, found.layer, found.where, n, took, found.measure, title];
}
