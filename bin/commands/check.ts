/**
 * `kilotoken check BUNDLE`: judges a stored run anew, from its rows alone, and names everything that does not follow from them.
 * `kilotoken check --record`: the same of everything that was published.
 */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { checkNodeBundle } from '../../harness/bench/node/check.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { checkEntry, entriesOf, type RecordEntry } from '../../harness/bench/record.ts';
import { type CheckResult, checkBundle } from '../../harness/bundle/check/check.ts';
import { InputError } from '../../harness/engine.ts';
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
      'instead of one bundle: all audits, node benchmarks and kernel benches of a record (default: results)',
    )
    .option('--json', 'print the result as one JSON document')
    .action(async (bundle: string | undefined, options: Options) => {
      if ((bundle === undefined) === (options.record === undefined))
        throw new InputError('name one bundle, or --record for everything that was published');
      if (bundle === undefined) {
        if (options.publicKey !== undefined || options.build !== undefined)
          throw new InputError('--public-key and --build are for a single bundle');
        await checkAll(options.record === true ? join(ROOT, 'results') : String(options.record), options.json === true);
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

async function checkAll(record: string, json: boolean): Promise<void> {
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
  if (json) printJson({ record, entries });
  else
    print(`${intact} of ${entries.length} follow from their raw rows, every figure and verdict of them computed anew.`);
  const worst = (['different', 'unfinished'] as const).find((word) => entries.some(({ outcome }) => outcome === word));
  process.exitCode = CODES[worst ?? 'intact'];
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
