/** Copies a finished, sealed node benchmark into the record, byte for byte. The record is append-only. */
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { compareTrees, readTree, SIGNATURE_FILE, TREE_FILE, treeOf } from '../../bundle/tree.ts';
import { InputError } from '../../engine.ts';
import { checkNodeBundle } from './check.ts';
import { readNodeManifest } from './reader.ts';

/** Node benchmarks lie in a folder of their own inside the record. */
export const NODE_RECORD = 'node';

/**
 * The folder it was copied to. Throws InputError when the run is damaged, unfinished, not publishable or there already; also when its
 * report is not what the code of today makes of its rows, for so it would be judged in the record.
 */
export async function publishNodeRun(directory: string, record: string): Promise<string> {
  const manifest = readNodeManifest(directory);
  const to = join(record, NODE_RECORD, manifest.id);
  if (existsSync(to)) throw new InputError(`${to} is there already; the record is append-only`);
  const tree = readTree(directory);
  if (tree === null) throw new InputError(`${directory} is not sealed: it has no tree.json`);
  const changed = compareTrees(tree, await treeOf(directory));
  if (changed.length > 0) throw new InputError(`${directory} is not the bundle that was sealed: ${changed[0]}`);
  const { findings, verdicts } = await checkNodeBundle(directory, { publicKey: null, build: null });
  // That a run did not end is said in words of its own.
  const differences = findings.filter(({ level, check }) => level !== 'note' && check !== 'status');
  const reasons = [
    ...(manifest.status === 'complete' ? [] : [`the run is ${manifest.status}`]),
    ...(manifest.dirty ? ['the code had uncommitted changes'] : []),
    ...(manifest.commit === 'unknown' ? ['the commit is unknown'] : []),
    ...differences.slice(0, 1).map(({ check, text }) => `${check}: ${text}`),
    ...(differences.some(({ check }) => check === 'documents') ? ['`kilotoken report` writes the report anew'] : []),
    ...verdicts
      .filter((verdict) => verdict.id === 'alone' && verdict.outcome === 'refuted')
      .map((verdict) => `the run was not alone on its GPUs: ${verdict.evidence}`),
  ];
  if (reasons.length > 0) throw new InputError(`${directory} cannot be published: ${reasons.join('; ')}`);
  mkdirSync(to, { recursive: true });
  for (const { path } of tree.files) copyFileSync(join(directory, path), join(to, path));
  for (const name of [TREE_FILE, SIGNATURE_FILE])
    if (existsSync(join(directory, name))) copyFileSync(join(directory, name), join(to, name));
  return to;
}
