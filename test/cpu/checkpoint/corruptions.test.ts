/**
 * Every way we know to break a checkpoint is refused with one line that names the file or the tensor, and the unbroken
 * checkpoint it starts from is accepted: the same folder, one fault apart.
 */
import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../../native/checkpoint/index.ts';
import { CpuModel } from '../../../native/engines.ts';
import { InputError } from '../../../native/errors.ts';
import { CORRUPTIONS } from '../../support/corrupt.ts';
import { writeSyntheticCheckpoint } from '../../support/synthetic-checkpoint.ts';

let root: string;
let good: string;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'kilotoken-corrupt-'));
  good = path.join(root, 'good');
  await writeSyntheticCheckpoint(good, { seed: 11, experts: 'mxfp4' });
});

afterAll(() => rm(root, { recursive: true, force: true }));

async function failure(run: () => Promise<unknown>): Promise<unknown> {
  try {
    await run();
  } catch (error) {
    return error;
  }
  return null;
}

function expectOneLine(error: unknown, mentions: RegExp): void {
  expect(error).toBeInstanceOf(InputError);
  const { message, name } = error as InputError;
  expect(name).toBe('InputError');
  expect(message).not.toContain('\n');
  expect(message.length).toBeLessThan(400);
  expect(message).toMatch(mentions);
}

test('the unbroken checkpoint loads', async () => {
  const model = await CpuModel.load(good);
  expect(model.checkpoint.draft?.blockSize).toBe(8);
  await model.close();
});

describe('broken on purpose', () => {
  test.each(CORRUPTIONS.map((corruption) => [corruption.name, corruption] as const))('%s', async (name, corruption) => {
    const directory = path.join(root, name.replaceAll(/\W+/g, '-'));
    await cp(good, directory, { recursive: true });
    await corruption.apply(directory);
    const opened = await failure(() => openCheckpoint(directory));
    if (!corruption.inValues) expect((opened as Error).message).toContain(directory);
    if (corruption.inValues) {
      expect(opened).toBeNull();
      expectOneLine(await failure(() => CpuModel.load(directory)), corruption.mentions);
    } else {
      expectOneLine(opened, corruption.mentions);
    }
    await rm(directory, { recursive: true });
  });

  test('names are unique', () => {
    expect(new Set(CORRUPTIONS.map((corruption) => corruption.name)).size).toBe(CORRUPTIONS.length);
  });
});

test('a directory that does not exist, and a file in its place', async () => {
  expectOneLine(await failure(() => openCheckpoint(path.join(root, 'nowhere'))), /nowhere.*not found/);
  expectOneLine(await failure(() => openCheckpoint(path.join(good, 'config.json'))), /config\.json.*not a directory/);
});

test('a folder that is no checkpoint: the whole path, and what was expected', async () => {
  const empty = path.join(root, 'empty');
  await mkdir(empty);
  const message = await failure(() => openCheckpoint(empty));
  expectOneLine(message, /not found; a checkpoint is a folder with config\.json and safetensors files$/);
  expect(String(message)).toContain(path.join(empty, 'config.json'));
  expectOneLine(await failure(() => openCheckpoint(root)), /safetensors files, for instance \S*\/good$/);
  expectOneLine(
    await failure(() => openCheckpoint(path.join(good, 'dflash'))),
    /dflash\/config\.json: this is a draft; name the folder of its target/,
  );
});
