/**
 * Copies a finished, publishable run into the record: the JSON documents as they are, the rows gzipped. The record is append-only;
 * a run that is there already is refused.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { InputError } from '../engine.ts';
import { buildReport } from '../report/build.ts';
import { readRun } from './reader.ts';
import { ROW_FILES } from './writer.ts';

/** The folder it was copied to. Throws InputError when the run is damaged, unfinished, not publishable or there already. */
export async function publishRun(directory: string, record: string): Promise<string> {
  const stored = await readRun(directory);
  const { run } = buildReport(stored);
  if (stored.manifest.status !== 'complete') throw new InputError(`${directory} is a run that did not finish`);
  if (!run.publishable)
    throw new InputError(`${directory} cannot be published: ${run.notPublishableBecause.join('; ')}`);
  const to = join(record, run.id);
  if (existsSync(to)) throw new InputError(`${to} is there already; the record is append-only`);
  mkdirSync(to, { recursive: true });
  for (const name of ROW_FILES) {
    const packed = join(directory, `${name}.gz`);
    const bytes = existsSync(packed)
      ? readFileSync(packed)
      : gzipSync(readFileSync(join(directory, name)), { level: 9 });
    writeFileSync(join(to, `${name}.gz`), bytes);
  }
  for (const name of ['manifest.json', 'verdicts.json', 'report.json'])
    copyFileSync(join(directory, name), join(to, name));
  return to;
}
