/** Loads a checkpoint behind the seam. The addon is loaded only when a command needs it: `doctor` must run without it. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Manifest } from '../../harness/bundle/rows.ts';
import { InputError } from '../../harness/engine.ts';
import type { CpuModel } from '../../native/engines.ts';
import { note } from './output.ts';
import { ROOT } from './repository.ts';

export type Activations = 'bf16' | 'fp8';

/** Loading that takes longer than this is announced on stderr. */
const QUIET_MS = 1_000;

export async function loadModel(directory: string, activations: Activations | undefined): Promise<CpuModel> {
  if (!existsSync(directory)) throw new InputError(`${directory}: no such checkpoint directory`);
  const announced = setTimeout(() => note(`Loading ${directory} ...`), QUIET_MS);
  try {
    const { CpuModel } = await import('../../native/engines.ts');
    return await CpuModel.load(directory, activations === undefined ? {} : { activations });
  } finally {
    clearTimeout(announced);
  }
}

export const NANO = join(ROOT, 'checkpoints/nano');

/** What to say of the model beside every number. */
export function modelKind(directory: string): Manifest['model'] {
  const inside = resolve(directory);
  if (inside.startsWith(NANO)) {
    return {
      kind: 'nano',
      name: `nano ${inside.slice(NANO.length + 1)}`,
      note: 'A small trained model of the same architecture: what depends on meaning is measured on it, what depends on size is not.',
    };
  }
  return {
    kind: 'real',
    name: directory,
    note: 'A checkpoint the caller named; kilotoken knows its weights by their digest only.',
  };
}
