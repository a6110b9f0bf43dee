/** `kilotoken publish RUNDIR`: copies a publishable run into results/, where CI judges it again. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { publishNodeRun } from '../../harness/bench/node/publish.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { publishRun } from '../../harness/bundle/publish.ts';
import { signBundle } from '../../harness/bundle/sign.ts';
import { print } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';
import { readKey } from './sign.ts';

export function publishCommand(program: Command): void {
  program
    .command('publish')
    .argument('<rundir>', 'a directory that an audit or a node benchmark wrote')
    .description('copy a publishable run into the record, rows compressed')
    .option('--to <dir>', 'the record', join(ROOT, 'results'))
    .option('--sign <pem>', 'sign the bundle first, with this Ed25519 private key')
    .action(async (directory: string, options: { to: string; sign?: string }) => {
      if (options.sign !== undefined) signBundle(directory, readKey(options.sign, 'private'));
      print(await (isNodeBundle(directory) ? publishNodeRun : publishRun)(directory, options.to));
    });
}
