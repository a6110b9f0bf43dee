/** `kilotoken publish RUN`: copies a publishable run, or the document of a kernel bench, into results/, where CI judges it again. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { publishKernels } from '../../harness/bench/kernels-publish.ts';
import { publishNodeRun } from '../../harness/bench/node/publish.ts';
import { isNodeBundle } from '../../harness/bench/node/reader.ts';
import { publishRun } from '../../harness/bundle/publish.ts';
import { signBundle } from '../../harness/bundle/sign.ts';
import { InputError } from '../../harness/engine.ts';
import { runDirectory } from '../support/options.ts';
import { print } from '../support/output.ts';
import { requireUnpublished } from '../support/published.ts';
import { ROOT } from '../support/repository.ts';
import { readKey } from './sign.ts';

export function publishCommand(program: Command): void {
  program
    .command('publish')
    .argument(
      '<run>',
      'a directory that an audit or a node benchmark wrote, or the file of `bench kernels --json`',
      runDirectory,
    )
    .description('copy a publishable run into the record, rows compressed')
    .option('--to <dir>', 'the record', join(ROOT, 'results'))
    .option('--sign <pem>', 'sign the bundle first, with this Ed25519 private key')
    .action(async (directory: string, options: { to: string; sign?: string }) => {
      if (statSync(directory, { throwIfNoEntry: false })?.isFile()) {
        if (options.sign !== undefined)
          throw new InputError('a kernel bench is one file without a tree: it cannot be signed');
        print(publishKernels(directory, options.to));
        return;
      }
      if (options.sign !== undefined) {
        const key = readKey(options.sign, 'private');
        requireUnpublished(directory);
        signBundle(directory, key);
      }
      print(await (isNodeBundle(directory) ? publishNodeRun : publishRun)(directory, options.to));
    });
}
