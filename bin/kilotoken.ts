/**
 * The command line, and with the files below it the one place that knows both sides: the harness, which judges engines,
 * and the engines of this repository.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, CommanderError } from 'commander';
import { auditCommand } from './commands/audit.ts';
import { benchCommand } from './commands/bench.ts';
import { checkCommand } from './commands/check.ts';
import { diffCommand } from './commands/diff.ts';
import { doctorCommand } from './commands/doctor.ts';
import { draftCommand } from './commands/draft.ts';
import { enumerateCommand } from './commands/enumerate.ts';
import { exportCommand } from './commands/export.ts';
import { generateCommand } from './commands/generate.ts';
import { mergeCommand } from './commands/merge.ts';
import { mutantsCommand } from './commands/mutants.ts';
import { overheadCommand } from './commands/overhead.ts';
import { publishCommand } from './commands/publish.ts';
import { reportCommand } from './commands/report.ts';
import { schemaCommand } from './commands/schema.ts';
import { scoreCommand } from './commands/score.ts';
import { segmentCommand } from './commands/segment.ts';
import { signCommand } from './commands/sign.ts';
import { verifyCommand } from './commands/verify.ts';
import { EXIT, explain } from './support/exit.ts';
import { note } from './support/output.ts';
import { ROOT } from './support/repository.ts';

const HELP = `
Examples:
  $ kilotoken audit                                    audit the nano model and build the page
  $ kilotoken generate --prompt "Reverse a list in Python" --stats
  $ kilotoken score --checkpoint DIR --tokens cases.json --top-k 10 --json
  $ kilotoken doctor

Exit codes: 0 pass, 1 refuted, 2 usage or bad input, 3 the machine lacks something, 4 inconclusive,
70 a fault of kilotoken, 130 interrupted (what was recorded is kept and marked).`;

function program(): Command {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const root = new Command('kilotoken')
    .description('Audits speculative decoding: is it lossless, how much does it accept, how fast is it.')
    .version(version)
    .addHelpText('after', HELP)
    .exitOverride();
  auditCommand(root);
  verifyCommand(root);
  benchCommand(root);
  enumerateCommand(root);
  mutantsCommand(root);
  generateCommand(root);
  scoreCommand(root);
  draftCommand(root);
  doctorCommand(root);
  reportCommand(root);
  checkCommand(root);
  overheadCommand(root);
  segmentCommand(root);
  diffCommand(root);
  mergeCommand(root);
  exportCommand(root);
  signCommand(root);
  publishCommand(root);
  schemaCommand(root);
  return root;
}

export async function main(argv: readonly string[]): Promise<void> {
  // A reader that has seen enough (`| head`) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    process.exit(error.code === 'EPIPE' ? EXIT.pass : EXIT.internal);
  });
  try {
    await program().parseAsync([...argv]);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? EXIT.pass : EXIT.input;
    } else {
      const { code, text } = explain(error);
      note(text);
      process.exitCode = code;
    }
  }
  // An engine that never answered would keep the process alive; what is printed is flushed first.
  process.stdout.write('', () => process.exit());
}
