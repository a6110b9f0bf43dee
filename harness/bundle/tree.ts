/**
 * The sha256 tree of a bundle: `tree.json` lists every file as it is stored, in the order of names, and the root is the sha256 of
 * that list in canonical form. The root names the bundle; a signature is over the root. `page/` is made from the report and lies
 * outside, as do `tree.json` and `signature.json` themselves.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { canonicalJson } from '../suite/canonical.ts';
import { digestOf } from './digests.ts';
import { writeWhole } from './disk.ts';
import { validated } from './row-reader.ts';
import { Digest } from './rows.ts';

const TREE_SCHEMA_ID = 'kilotoken/tree@1';
export const TREE_FILE = 'tree.json';
export const SIGNATURE_FILE = 'signature.json';
const OUTSIDE = new Set([TREE_FILE, SIGNATURE_FILE, 'page']);

export const TreeFile = z.strictObject({ path: z.string().min(1), sha256: Digest, bytes: z.int().nonnegative() });
export const Tree = z.strictObject({
  schema: z.literal(TREE_SCHEMA_ID),
  files: z.array(TreeFile).min(1),
  root: Digest,
});
export type TreeFile = z.infer<typeof TreeFile>;
export type Tree = z.infer<typeof Tree>;

/** The files of a bundle as they lie there, in the order of their names. */
export async function treeOf(directory: string): Promise<Tree> {
  const names = readdirSync(directory).filter((name) => !OUTSIDE.has(name) && !name.endsWith('.partial'));
  const files: TreeFile[] = [];
  for (const path of names.sort()) files.push({ path, ...(await describe(join(directory, path))) });
  return { schema: TREE_SCHEMA_ID, files, root: digestOf(files) };
}

/** Writes tree.json, in canonical form, byte for byte. Throws EnvironmentError. */
export async function sealBundle(directory: string): Promise<Tree> {
  const tree = await treeOf(directory);
  writeWhole(join(directory, TREE_FILE), canonicalJson(tree));
  return tree;
}

/** A document whose bytes are the canonical form of what they say; null when the file is not there. Throws InputError for any other bytes. */
export function readCanonical<T>(path: string, schema: z.ZodType<T>): T | null {
  if (!existsSync(path)) return null;
  const bytes = readFileSync(path);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch {
    throw new InputError(`${path} is not JSON`);
  }
  const document = validated(schema, value, path);
  if (!bytes.equals(Buffer.from(canonicalJson(document)))) throw new InputError(`${path} is not in canonical form`);
  return document;
}

/** tree.json as stored; null when there is none. Throws InputError when it is not the canonical form of a tree. */
export function readTree(directory: string): Tree | null {
  return readCanonical(join(directory, TREE_FILE), Tree);
}

/** What differs between the tree and the files, one line each; empty when nothing does. */
export function compareTrees(stored: Tree, found: Tree): string[] {
  const differences: string[] = [];
  if (digestOf(stored.files) !== stored.root) {
    differences.push(`${TREE_FILE}: the root is not the sha256 of the list of files`);
  }
  const order = stored.files.map((file) => file.path);
  if (order.some((path, i) => i > 0 && path <= order[i - 1]!)) {
    differences.push(`${TREE_FILE}: the files do not stand in the order of their names`);
  }
  const there = new Map(found.files.map((file) => [file.path, file]));
  for (const file of stored.files) {
    const other = there.get(file.path);
    there.delete(file.path);
    if (other === undefined) differences.push(`${file.path} is missing`);
    else if (other.sha256 !== file.sha256) {
      const size = other.bytes === file.bytes ? '' : ` (${other.bytes} bytes, ${file.bytes} were sealed)`;
      differences.push(`${file.path} is not the file that was sealed: its sha256 differs${size}`);
    } else if (other.bytes !== file.bytes) differences.push(`${file.path}: its size is not the one that was sealed`);
  }
  for (const path of there.keys()) differences.push(`${path} is not part of the bundle`);
  return differences;
}

async function describe(path: string): Promise<Pick<TreeFile, 'sha256' | 'bytes'>> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 256 * 1024 })) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
  }
  return { sha256: `sha256:${hash.digest('hex')}`, bytes };
}
