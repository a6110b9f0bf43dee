/**
 * Copies a finished, publishable run into the record, byte for byte, so that its tree and its signature stay what they are. Rows
 * of the first schema, stored plain, are gzipped. The record is append-only; a run that is there already is refused.
 */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { InputError } from '../engine.ts';
import { buildReport } from '../report/build.ts';
import { makeFolder, onDisk } from './disk.ts';
import { readManifest, readRun, rowFilesOf } from './reader.ts';
import { rowPath } from './row-reader.ts';
import type { Manifest } from './rows.ts';
import { compareTrees, readTree, SIGNATURE_FILE, TREE_FILE, type Tree, treeOf } from './tree.ts';

/** The folder it was copied to. Throws InputError when the run is damaged, unfinished, not publishable or there already; EnvironmentError where nothing can be written. */
export async function publishRun(directory: string, record: string): Promise<string> {
  const to = join(record, readManifest(directory).id);
  if (existsSync(to)) throw new InputError(`${to} is there already; the record is append-only`);
  const stored = await readRun(directory);
  const { run } = buildReport(stored);
  if (stored.manifest.status !== 'complete') throw new InputError(`${directory} is a run that did not finish`);
  if (stored.manifest.shard !== null) {
    throw new InputError(`${directory} is one shard of a run; merge its shards first`);
  }
  if (!run.publishable)
    throw new InputError(`${directory} cannot be published: ${run.notPublishableBecause.join('; ')}`);
  const tree = readTree(directory);
  if (tree === null) {
    if (existsSync(join(directory, 'plan.json')))
      throw new InputError(`${directory} is not sealed: it has no tree.json`);
  } else {
    const differences = compareTrees(tree, await treeOf(directory));
    if (differences.length > 0)
      throw new InputError(`${directory} is not the bundle that was sealed: ${differences[0]}`);
  }
  makeFolder(to);
  onDisk(to, () => copy(directory, to, stored.manifest, tree));
  return to;
}

function copy(directory: string, to: string, manifest: Manifest, tree: Tree | null): void {
  if (tree !== null) {
    for (const { path } of tree.files) copyFileSync(join(directory, path), join(to, path));
    for (const name of [TREE_FILE, SIGNATURE_FILE]) {
      if (existsSync(join(directory, name))) copyFileSync(join(directory, name), join(to, name));
    }
    return;
  }
  for (const name of rowFilesOf(manifest)) {
    const path = rowPath(directory, name)!;
    const bytes = path.endsWith('.gz') ? readFileSync(path) : gzipSync(readFileSync(path), { level: 9 });
    writeFileSync(join(to, `${name}.gz`), bytes);
  }
  for (const name of ['manifest.json', 'verdicts.json', 'report.json'])
    copyFileSync(join(directory, name), join(to, name));
}
