/**
 * An Ed25519 signature (RFC 8032) over the root of a bundle's tree. It says that the holder of a key vouched for these very bytes;
 * who holds the key is for the reader to know, who brings the public key with them (`check --public-key`). The key inside
 * signature.json only tells keys apart.
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { canonicalJson } from '../suite/canonical.ts';
import { writeWhole } from './disk.ts';
import { Digest } from './rows.ts';
import { readCanonical, readTree, SIGNATURE_FILE, type Tree } from './tree.ts';

const SIGNATURE_SCHEMA_ID = 'kilotoken/signature@1';

export const Signature = z.strictObject({
  schema: z.literal(SIGNATURE_SCHEMA_ID),
  algorithm: z.literal('Ed25519'),
  /** What is signed: the canonical JSON of {schema, root}. */
  root: Digest,
  /** 32 bytes, hexadecimal. */
  publicKey: z.string().regex(/^[0-9a-f]{64}$/),
  /** 64 bytes, hexadecimal. */
  signature: z.string().regex(/^[0-9a-f]{128}$/),
});
export type Signature = z.infer<typeof Signature>;

/** Signs a sealed bundle with an Ed25519 private key in PEM form. Throws InputError. */
export function signBundle(directory: string, pem: string): Signature {
  const tree = readTree(directory);
  if (tree === null) throw new InputError(`${directory} is not sealed: it has no tree.json`);
  const key = ed25519(() => createPrivateKey(pem), 'private');
  const signature: Signature = {
    schema: SIGNATURE_SCHEMA_ID,
    algorithm: 'Ed25519',
    root: tree.root,
    publicKey: rawPublicKey(createPublicKey(key)),
    signature: sign(null, signed(tree.root), key).toString('hex'),
  };
  writeWhole(join(directory, SIGNATURE_FILE), canonicalJson(signature));
  return signature;
}

/** signature.json; null when there is none. Throws InputError when it is not the canonical form of a signature. */
export function readSignature(directory: string): Signature | null {
  return readCanonical(join(directory, SIGNATURE_FILE), Signature);
}

/** What is wrong with a signature, one line each. `pem`: the key the reader trusts; null: any key will do. */
export function signatureDifferences(signature: Signature, tree: Tree, pem: string | null): string[] {
  const differences: string[] = [];
  if (signature.root !== tree.root) differences.push('signature.json is over another tree');
  const own = publicKeyOf(signature.publicKey);
  if (!verify(null, signed(signature.root), own, Buffer.from(signature.signature, 'hex'))) {
    differences.push('signature.json: the signature does not belong to its root and key');
  }
  if (pem !== null) {
    const trusted = rawPublicKey(ed25519(() => createPublicKey(pem), 'public'));
    if (trusted !== signature.publicKey) {
      differences.push(
        `signature.json was made with the key ${signature.publicKey.slice(0, 16)}..., not with the one given`,
      );
    }
  }
  return differences;
}

function signed(root: string): Buffer {
  return Buffer.from(canonicalJson({ root, schema: SIGNATURE_SCHEMA_ID }));
}

/** The prefix that makes 32 raw bytes a SubjectPublicKeyInfo (RFC 8410, section 4). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');

function publicKeyOf(hex: string): KeyObject {
  const der = Buffer.concat([SPKI_PREFIX, Buffer.from(hex, 'hex')]);
  return createPublicKey({ key: der, format: 'der', type: 'spki' });
}

function rawPublicKey(key: KeyObject): string {
  return key.export({ format: 'der', type: 'spki' }).subarray(SPKI_PREFIX.length).toString('hex');
}

function ed25519(read: () => KeyObject, kind: string): KeyObject {
  let key: KeyObject;
  try {
    key = read();
  } catch {
    throw new InputError(`that is not a ${kind} key in PEM form`);
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw new InputError(`an Ed25519 key is needed, not ${key.asymmetricKeyType}`);
  return key;
}
