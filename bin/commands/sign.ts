/** `kilotoken sign BUNDLE --key key.pem`: an Ed25519 signature over the tree of a sealed bundle. */
import { createPrivateKey, createPublicKey } from 'node:crypto';
import type { Command } from 'commander';
import { signBundle } from '../../harness/bundle/sign.ts';
import { InputError } from '../../harness/engine.ts';
import { bytesOf } from '../../harness/input.ts';
import { runDirectory } from '../support/options.ts';
import { print } from '../support/output.ts';
import { requireUnpublished } from '../support/published.ts';

export function signCommand(program: Command): void {
  program
    .command('sign')
    .argument('<bundle>', 'a sealed run directory', runDirectory)
    .requiredOption('--key <pem>', 'Ed25519 private key, as `openssl genpkey -algorithm ed25519` writes it')
    .description('sign the tree of a bundle; check it with: kilotoken check BUNDLE --public-key PEM')
    .action((bundle: string, options: { key: string }) => {
      const key = readKey(options.key, 'private');
      requireUnpublished(bundle);
      const { root, publicKey } = signBundle(bundle, key);
      print(`Signed ${root} with the key ${publicKey}`);
    });
}

/** A key in PEM form. Throws InputError when the file cannot be read or holds no such key. */
export function readKey(path: string, kind: 'private' | 'public'): string {
  const pem = bytesOf(path).toString('utf8');
  try {
    (kind === 'private' ? createPrivateKey : createPublicKey)(pem);
  } catch {
    throw new InputError(`${path}: is not a ${kind} key in PEM form`);
  }
  return pem;
}
