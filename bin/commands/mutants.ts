/**
 * `kilotoken mutants`: every known defect through every layer of the harness that applies, survivors first, then what the pull-request
 * gate alone does not see. Exit code 0 if none survived, every lossless control was kept by the law and seen by the acceptance, and the
 * layers pass what has no defect; 1 if not; 4 if nothing survived and something could not be run.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { InputError } from '../../harness/engine.ts';
import type { DefectBuild } from '../../harness/mutants/build.ts';
import { OUTSIDE_REGISTRY } from '../../harness/mutants/catalogue.ts';
import { runMutants } from '../../harness/mutants/run.ts';
import { Layer, type Look, type MutantRow, type MutantsReport } from '../../harness/mutants/schema.ts';
import { DEFECTS, type Defect } from '../../harness/oracle/defects.ts';
import { readFixture } from '../../harness/oracle/fixture.ts';
import { openDefectBuild } from '../support/defect-build.ts';
import { EXIT } from '../support/exit.ts';
import { outputFile } from '../support/options.ts';
import { note, print, printJson, table, writeOutput } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';

interface Options {
  readonly fixture?: readonly string[];
  readonly only?: readonly string[];
  readonly build: boolean;
  readonly json?: boolean;
  readonly out?: string;
}

/** `registry` stands in for the catalogue of the oracle, `build` for the addon with defects. */
export function mutantsCommand(
  program: Command,
  registry?: readonly Defect[],
  build: () => Promise<DefectBuild | null> = openDefectBuild,
): void {
  program
    .command('mutants')
    .description('every known defect through the layers of the harness: which layers kill it, and what survives')
    .option('--fixture <file...>', 'fixtures to use (default: those of the repository)')
    .option('--only <id...>', 'run these defects alone')
    .option('--no-build', 'leave out what needs the engine with defects compiled in (npm run build:defects)')
    .option('--json', 'print one JSON document')
    .option('--out <file>', 'write the JSON document to a file as well', outputFile)
    .action((options: Options) => run(options, registry, build));
}

async function run(
  options: Options,
  registry: readonly Defect[] | undefined,
  build: () => Promise<DefectBuild | null>,
): Promise<void> {
  const fixtures = (options.fixture ?? ownFixtures()).map(readFixture);
  const known = (registry ?? [...DEFECTS, ...OUTSIDE_REGISTRY]).map(({ id }) => id);
  const unknown = options.only?.find((id) => !known.includes(id));
  if (unknown !== undefined) throw new InputError(`there is no defect "${unknown}"; there are ${known.join(', ')}`);
  const report = await runMutants({
    fixtures,
    build: options.build ? await build() : null,
    progress: progressLine(),
    ...(registry === undefined ? {} : { registry }),
    ...(options.only === undefined ? {} : { only: options.only }),
  });
  process.exitCode = exitCode(report);
  if (options.out !== undefined) writeOutput(options.out, `${JSON.stringify(report, null, 2)}\n`);
  if (options.json) printJson(report);
  else for (const line of lines(report)) print(line);
}

function exitCode({ passed, clean, defects }: MutantsReport): number {
  if (passed) return EXIT.pass;
  const fails = defects.some(({ outcome }) => outcome === 'survived' || outcome === 'control fails');
  return fails || clean.some(({ holds }) => !holds) ? EXIT.refuted : EXIT.inconclusive;
}

/** One line a defect for a terminal that waits; a script is not told. */
const progressLine = (): ((line: string) => void) => (process.stderr.isTTY ? note : () => {});

function ownFixtures(): string[] {
  const folder = join(ROOT, 'harness/fixtures');
  const names = readdirSync(folder).filter((name) => name.endsWith('.json'));
  return names.sort().map((name) => join(folder, name));
}

/** Of the layers of a row, those with an outcome, and of each the n it took. */
function seenBy({ looks }: MutantRow, outcome: Look['outcome']): string {
  const n = (look: Look): string => (look.n === null ? 'exact' : `${look.n} ${look.of ?? ''}`.trimEnd());
  return looks
    .filter((look) => look.outcome === outcome)
    .map((look) => (outcome === 'killed' ? `${look.layer} (${n(look)}, ${look.seconds.toFixed(2)} s)` : look.layer))
    .join('; ');
}

function lines(report: MutantsReport): string[] {
  const { defects, clean, notCovered, seconds } = report;
  const count = (outcome: MutantRow['outcome']): number => defects.filter((row) => row.outcome === outcome).length;
  const byLayer = Layer.options.flatMap((layer) => {
    const kills = defects.filter(({ looks }) =>
      looks.some((look) => look.layer === layer && look.outcome === 'killed'),
    );
    return kills.length === 0 ? [] : [`  ${layer}: ${kills.length}`];
  });
  const unseen = defects.filter(({ gate }) => gate !== 'killed').map(({ id, gate }) => `${id} (${gate})`);
  const head = ['id', 'outcome', 'pr gate', 'seconds', 'defect'];
  const short = (row: MutantRow): string[] => [row.id, row.outcome, row.gate, row.seconds.toFixed(2), row.title];
  return [
    table([head, ...defects.map(short)], [3]),
    '',
    ...defects.flatMap((row) => [
      `${row.id}: ${row.title}`,
      ...(['killed', 'not seen', 'not run'] as const).flatMap((outcome) => {
        const text = seenBy(row, outcome);
        return text === '' ? [] : [`  ${outcome}: ${text}`];
      }),
      ...(row.note === null ? [] : [`  ${row.note}`]),
    ]),
    '',
    'without a defect:',
    ...clean.map(
      ({ layer, holds, measure, seconds: took }) =>
        `  ${layer}: ${holds ? 'holds' : 'FAILS'}, ${measure}, ${took.toFixed(2)} s`,
    ),
    '',
    'defects seen by each layer, whatever else sees them:',
    ...byLayer,
    ...(notCovered.length === 0 ? [] : ['', `left out: ${notCovered.map(({ id }) => id).join(', ')}`]),
    ...(unseen.length === 0 ? [] : ['', `not killed by the pull-request gate alone: ${unseen.join(', ')}`]),
    '',
    `${defects.length} defects: ${count('survived')} survived, ${count('not run')} not run, ${count('killed')} killed; ` +
      `controls: ${count('control holds')} hold, ${count('control fails')} fail; ${notCovered.length} left out; ` +
      `${seconds.toFixed(1)} s`,
  ];
}
