/** `kilotoken check BUNDLE`: judges a stored run anew, from its rows alone, and names everything that does not follow from them. */
import { type Command, Option } from 'commander';
import { checkNodeBundle } from '../../harness/bench/node/check.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { type CheckResult, checkBundle } from '../../harness/bundle/check/check.ts';
import { bytesOf } from '../../harness/input.ts';
import { EXIT } from '../support/exit.ts';
import { paint, print, printJson, table } from '../support/output.ts';
import { readKey } from './sign.ts';

interface Options {
  readonly publicKey?: string;
  readonly build?: string;
  readonly json?: boolean;
}

export function checkCommand(program: Command): void {
  program
    .command('check')
    .argument('<bundle>', 'a directory that an audit or a node benchmark wrote, complete or not')
    .description(
      'recompute every digest, verdict and figure of a run from its rows; exit 0 intact, 1 different, 4 unfinished (its verdicts may be any)',
    )
    .addOption(new Option('--public-key <pem>', 'the bundle must be signed with this Ed25519 key'))
    .option('--build <file>', 'the engines must have been built as this file, byte for byte')
    .option('--json', 'print the result as one JSON document')
    .action(async (bundle: string, options: Options) => {
      const check = isNodeBundle(bundle) ? checkNodeBundle : checkBundle;
      const result = await check(bundle, {
        publicKey: options.publicKey === undefined ? null : readKey(options.publicKey, 'public'),
        build: options.build === undefined ? null : bytesOf(options.build),
      });
      if (options.json) printJson(result);
      else printResult(result);
      process.exitCode = { intact: EXIT.pass, different: EXIT.refuted, unfinished: EXIT.inconclusive }[result.outcome];
    });
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
