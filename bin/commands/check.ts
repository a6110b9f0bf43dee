/**
 * `kilotoken check BUNDLE`: judges a stored run anew, from its rows alone, and names everything that does not follow from them.
 * `kilotoken check --record`: the same of everything that was published.
 * `kilotoken check --figures`: what the documents quote of it, recomputed.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { checkNodeBundle } from '../../harness/bench/node/check.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { checkEntry, entriesOf, type RecordEntry } from '../../harness/bench/record.ts';
import { type CheckResult, checkBundle } from '../../harness/bundle/check/check.ts';
import { InputError } from '../../harness/engine.ts';
import { checkFigures, type FigureCheck, type FigureRow } from '../../harness/figures/check.ts';
import { FIGURES_LEDGER } from '../../harness/figures/ledger.ts';
import { bytesOf } from '../../harness/input.ts';
import { EXIT } from '../support/exit.ts';
import { runDirectory } from '../support/options.ts';
import { paint, print, printJson, table } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';
import { readKey } from './sign.ts';

interface Options {
  readonly publicKey?: string;
  readonly build?: string;
  readonly record?: string | true;
  readonly figures?: string | true;
  readonly all?: boolean;
  readonly json?: boolean;
}

export function checkCommand(program: Command): void {
  program
    .command('check')
    .argument('[bundle]', 'a directory that an audit or a node benchmark wrote, complete or not', runDirectory)
    .description(
      'recompute every digest, verdict and figure of a run from its rows; exit 0 intact, 1 different, 4 unfinished (its verdicts may be any)',
    )
    .addOption(new Option('--public-key <pem>', 'the bundle must be signed with this Ed25519 key'))
    .option('--build <file>', 'the engines must have been built as this file, byte for byte')
    .option(
      '--record [dir]',
      'instead of one bundle: all audits, node benchmarks and kernel benches of a record (default: results, and the figures that the documents quote of it)',
    )
    .option(
      '--figures [checkout]',
      'instead of one bundle: every figure that README, LOG and docs quote, recomputed from the raw rows of the record; exit 0 all hold, 1 one does not',
    )
    .option('--all', 'with --figures: list those that hold too')
    .option('--json', 'print the result as one JSON document')
    .action(async (bundle: string | undefined, options: Options) => {
      if ([bundle, options.record, options.figures].filter((what) => what !== undefined).length !== 1)
        throw new InputError('name one bundle, or --record for everything that was published, or --figures');
      if (bundle === undefined) {
        if (options.publicKey !== undefined || options.build !== undefined)
          throw new InputError('--public-key and --build are for a single bundle');
        if (options.record !== undefined) await checkRecord(options.record, options.json === true);
        else await checkQuoted(options.figures === true ? ROOT : String(options.figures), options);
        return;
      }
      const check = isNodeBundle(bundle) ? checkNodeBundle : checkBundle;
      const result = await check(bundle, {
        publicKey: options.publicKey === undefined ? null : readKey(options.publicKey, 'public'),
        build: options.build === undefined ? null : bytesOf(options.build),
      });
      if (options.json) printJson(result);
      else printResult(result);
      process.exitCode = CODES[result.outcome];
    });
}

const CODES = { intact: EXIT.pass, different: EXIT.refuted, unfinished: EXIT.inconclusive } as const;

async function checkRecord(where: string | true, json: boolean): Promise<void> {
  const record = where === true ? join(ROOT, 'results') : where;
  const entries: RecordEntry[] = [];
  for (const known of entriesOf(record)) {
    const entry = await checkEntry(record, known);
    entries.push(entry);
    if (json) continue;
    print(
      `${paint(entry.outcome === 'intact' ? 'green' : 'red', entry.outcome.padEnd(10))}  ${entry.kind} ${entry.path}`,
    );
    for (const finding of entry.findings) print(`            ${finding}`);
  }
  const intact = entries.filter(({ outcome }) => outcome === 'intact').length;
  // The documents quote this repository's own record and no other; an archive for a GPU host has none.
  const figures = where === true && existsSync(join(ROOT, FIGURES_LEDGER)) ? await checkFigures(ROOT) : null;
  if (json) printJson({ record, entries, ...(figures === null ? {} : { figures }) });
  else {
    print(`${intact} of ${entries.length} follow from their raw rows, every figure and verdict of them computed anew.`);
    if (figures !== null) printFigures(figures, false);
  }
  const outcomes = [...entries, ...(figures === null ? [] : [figures])].map(({ outcome }) => outcome);
  process.exitCode = CODES[(['different', 'unfinished'] as const).find((word) => outcomes.includes(word)) ?? 'intact'];
}

async function checkQuoted(checkout: string, options: Options): Promise<void> {
  const result = await checkFigures(checkout);
  if (options.json) printJson(result);
  else printFigures(result, options.all === true);
  process.exitCode = CODES[result.outcome];
}

/** All that does not hold in one go: what is said beside what the rows give, so that prose can be brought up to a new run. */
function printFigures({ figures, findings, outcome }: FigureCheck, all: boolean): void {
  const shown = figures.filter(({ holds }) => all || !holds);
  if (shown.length > 0) {
    const heads = ['', 'place', 'said', 'rows give', 'in full', 'words', 'from'];
    const line = (row: FigureRow): string[] => [
      row.holds ? 'holds' : 'stale',
      `${row.document}:${row.line}`,
      row.said,
      row.recomputed ?? '-',
      row.value === null ? '-' : String(Number(row.value.toPrecision(7))),
      row.words,
      row.source,
    ];
    print(table([heads, ...shown.map(line)], [2, 3, 4]));
  }
  for (const { document, line, text } of findings)
    print(`${paint('red', 'finding')}  ${line === null ? document : `${document}:${line}`}: ${text}`);
  const hold = figures.filter(({ holds }) => holds).length;
  const documents = new Set(figures.map(({ document }) => document)).size;
  print(`${hold} of ${figures.length} figures that ${documents} documents quote are what the raw rows give.`);
  if (outcome === 'different')
    print(
      `${figures.length - hold} stale, ${findings.length} findings. What is quoted, and from where: ${FIGURES_LEDGER}.`,
    );
}

function printResult(result: CheckResult): void {
  const style = { difference: 'red', doubt: 'yellow', note: 'dim' } as const;
  for (const { level, check, text } of result.findings) print(`${paint(style[level], level)}  ${check}: ${text}`);
  if (result.verdicts.length > 0) {
    if (result.findings.length > 0) print('');
    print(paint('bold', 'Verdicts, from the rows'));
    print(table(result.verdicts.map(({ id, outcome, evidence }) => [id, outcome, evidence])));
  }
  print('');
  print(`Run ${result.run} (${result.schema}, ${result.status}): ${result.sessions} sessions, ${result.rounds} rounds`);
  print(`Tree: ${result.root ?? 'none'}. Signed by: ${result.signedBy ?? 'nobody'}`);
  const words = {
    intact: 'Intact: everything it says follows from its rows.',
    different: `Different: ${result.differences} of the things it says do not hold.`,
    unfinished: 'Unfinished: what is there holds, but it is not all.',
  };
  print(words[result.outcome]);
}
