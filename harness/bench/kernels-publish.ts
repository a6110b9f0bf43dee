/** Copies a kernel bench into the record, byte for byte. The record is append-only. */
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../engine.ts';
import { jsonOf } from '../input.ts';
import { checkBenchKernels, readBenchKernels } from './kernels-check.ts';

/** Kernel benches lie in a folder of their own inside the record. */
export const KERNELS_RECORD = 'bench';

/** The file it was copied to. Throws InputError for what is no kernel bench, does not follow from its samples, is of unknown code, or is there already. */
export function publishKernels(path: string, record: string): string {
  const document = readBenchKernels(jsonOf(path), `${path}: no kernel bench`);
  const reasons = [
    ...checkBenchKernels(document),
    ...(document.dirty ? ['the code had uncommitted changes'] : []),
    ...(document.commit === 'unknown' ? ['the commit is unknown'] : []),
  ];
  if (reasons.length > 0) throw new InputError(`${path} cannot be published: ${reasons.join('; ')}`);
  const folder = join(record, KERNELS_RECORD);
  const time = document.made.replace(/[-:]/g, '').replace(/\.\d+/, '');
  const to = join(folder, `${time}-${document.commit.slice(0, 7)}.json`);
  if (existsSync(to)) throw new InputError(`${to} is there already; the record is append-only`);
  mkdirSync(folder, { recursive: true });
  copyFileSync(path, to);
  return to;
}
