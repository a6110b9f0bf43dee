/**
 * The whole record judged again: audits, node benchmarks and kernel benches of a folder such as results/, each from its raw rows alone.
 * What else lies there (tables of mutants, calibration, logs) has no rows and is not judged.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type CheckResult, checkBundle } from '../bundle/check/check.ts';
import { requirePlainFiles } from '../bundle/plain-files.ts';
import { InputError } from '../engine.ts';
import { jsonOf } from '../input.ts';
import { checkBenchKernels, readBenchKernels } from './kernels-check.ts';
import { KERNELS_RECORD } from './kernels-publish.ts';
import { checkNodeBundle } from './node/check.ts';
import { NODE_RECORD } from './node/publish.ts';
import { isNodeBundle } from './node/reader.ts';

export interface RecordEntry {
  /** Within the record. */
  readonly path: string;
  readonly kind: 'audit' | 'node benchmark' | 'kernel bench';
  readonly outcome: CheckResult['outcome'];
  /** Differences and doubts, one line each. */
  readonly findings: readonly string[];
}

/** What the record holds, in order of kind and name. Throws InputError where there is nothing. */
export function entriesOf(record: string): Pick<RecordEntry, 'path' | 'kind'>[] {
  if (!statSync(record, { throwIfNoEntry: false })?.isDirectory()) throw new InputError(`${record}: no such folder`);
  const bundles = (folder: string): string[] =>
    names(join(record, folder))
      // One whose manifest is gone is no less a part of the record.
      .filter((name) => ['manifest.json', 'tree.json'].some((file) => existsSync(join(record, folder, name, file))))
      .map((name) => join(folder, name));
  const found = [
    ...bundles('').map((path) => ({ path, kind: 'audit' as const })),
    ...bundles(NODE_RECORD).map((path) => ({ path, kind: 'node benchmark' as const })),
    ...names(join(record, KERNELS_RECORD))
      .filter((name) => name.endsWith('.json'))
      .map((name) => ({ path: join(KERNELS_RECORD, name), kind: 'kernel bench' as const })),
  ];
  if (found.length === 0) throw new InputError(`${record} holds no published run`);
  if (found.some(({ path, kind }) => kind === 'audit' && isNodeBundle(join(record, path))))
    throw new InputError(`${record} is the part of a record with its node benchmarks; name the folder above it`);
  return found;
}

function names(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).sort() : [];
}

/** Judges one entry. What cannot even be read is different, not an error. */
export async function checkEntry(
  record: string,
  { path, kind }: Pick<RecordEntry, 'path' | 'kind'>,
): Promise<RecordEntry> {
  const full = join(record, path);
  try {
    if (kind === 'kernel bench') {
      const findings = checkBenchKernels(readBenchKernels(jsonOf(full)));
      return { path, kind, outcome: findings.length === 0 ? 'intact' : 'different', findings };
    }
    requirePlainFiles(full);
    const check = kind === 'audit' ? checkBundle : checkNodeBundle;
    const { outcome, findings } = await check(full, { publicKey: null, build: null });
    const said = findings.filter(({ level }) => level !== 'note');
    return { path, kind, outcome, findings: said.map((finding) => `${finding.check}: ${finding.text}`) };
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { path, kind, outcome: 'different', findings: [error.message] };
  }
}
