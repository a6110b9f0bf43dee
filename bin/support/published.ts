/** Published runs are never written to again: which directory is one, and a copy of a run to work on. */
import { cpSync, existsSync, realpathSync } from 'node:fs';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { compareDocuments } from '../../harness/bundle/check/documents.ts';
import { makeFolder, onDisk } from '../../harness/bundle/disk.ts';
import { InputError } from '../../harness/engine.ts';
import { jsonOf } from '../../harness/input.ts';
import { PAGE_FOLDER } from './page.ts';
import { ROOT } from './repository.ts';

const RECORD = join(ROOT, 'results');

/** Whether a path lies in results/, by whatever name it is called; also one that does not exist yet. */
export function isPublished(path: string): boolean {
  return existsSync(RECORD) && real(path).startsWith(real(RECORD) + sep);
}

function real(path: string): string {
  const full = resolve(path);
  if (existsSync(full)) return realpathSync(full);
  return full === dirname(full) ? full : join(real(dirname(full)), basename(full));
}

/** A signature is a file of the run, so it comes before publishing. Throws InputError. */
export function requireUnpublished(directory: string): void {
  if (isPublished(directory))
    throw new InputError(`${directory} is published, and results/ is append-only: sign a run before it is published`);
}

/** Refuses a published run of which `report` is not what stands there. Throws InputError. */
export function requireSameReport(directory: string, report: object): void {
  const path = join(directory, 'report.json');
  const stored = existsSync(path) ? jsonOf(path) : {};
  const [first] = compareDocuments(stored, JSON.parse(JSON.stringify(report)));
  if (first === undefined) return;
  throw new InputError(
    `${directory} is published, and its report.json would change (${first.path} says ${first.stored}, the rows give ` +
      `${first.computed}); results/ is append-only: --out DIR writes the new report into a copy`,
  );
}

/** The run without its page, in a folder of its own. Throws InputError or EnvironmentError. */
export function copyRun(directory: string, out: string): void {
  if (!existsSync(join(directory, 'manifest.json')))
    throw new InputError(`${directory} holds no run: there is no manifest.json`);
  if (existsSync(out)) throw new InputError(`--out ${out}: it exists already; name a new folder`);
  if (isPublished(out)) throw new InputError(`--out ${out}: results/ takes runs by \`kilotoken publish\` alone`);
  if (`${real(out)}${sep}`.startsWith(real(directory) + sep))
    throw new InputError(`--out ${out}: it lies in the run that is copied`);
  makeFolder(dirname(resolve(out)));
  const page = join(directory, PAGE_FOLDER);
  onDisk(out, () => cpSync(directory, out, { recursive: true, filter: (from) => from !== page }));
}
