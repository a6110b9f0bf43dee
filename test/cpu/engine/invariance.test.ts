/**
 * Batch invariance, bit by bit: a row's numbers do not depend on how many rows its step carried, on where the step began, on
 * whether the cache was filled by a prefill or token by token or rolled back, or on the vector width of the machine.
 */
import { describe, expect, test } from 'vitest';
import { addon, type NativeModel } from '../../../native/addon.ts';
import { openCheckpoint } from '../../../native/checkpoint/index.ts';
import { CpuModel } from '../../../native/engines.ts';
import { checkpoint, decode, firstDifference, nativePlan, randomIds, SAMPLED, tinyVocabulary } from './checkpoints.ts';

async function nativeModel(
  directory: string,
  activations: 'fp8' | 'bf16',
  instructionSet?: string,
): Promise<NativeModel> {
  const plan = await nativePlan(directory, activations);
  return addon().load(instructionSet === undefined ? plan : { ...plan, instructionSet });
}

/** Every log-probability of every row, one list. */
async function allRows(model: NativeModel, ids: readonly number[], vocab: number, chunk: number): Promise<number[]> {
  const { topIds, topLogprobs } = await model.score(ids, vocab, chunk);
  return topIds.flatMap((row, i) => {
    const out = new Array<number>(vocab);
    row.forEach((id, k) => {
      out[id] = topLogprobs[i]![k]!;
    });
    return out;
  });
}

describe.each(['fp8', 'bf16'] as const)('activations %s', (activations) => {
  test('any number of rows a step', async () => {
    const directory = await checkpoint('mxfp4', { experts: 'mxfp4' });
    const { vocab } = await openCheckpoint(directory);
    const model = await nativeModel(directory, activations);
    const ids = randomIds(5, 61, vocab);
    const single = await allRows(model, ids, vocab, 1);
    for (const chunk of [2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 61, 64]) {
      expect(firstDifference(await allRows(model, ids, vocab, chunk), single), `${chunk} rows a step`).toBeNull();
    }
    // Every position within a step of 8: prefixes of all lengths shift where steps begin.
    for (let length = 1; length <= 17; length++) {
      const rows = await allRows(model, ids.slice(0, length), vocab, 8);
      expect(firstDifference(rows, single.slice(0, length * vocab)), `prefix of ${length}`).toBeNull();
    }
    model.close();
  });

  test('every instruction set of this machine', async () => {
    const directory = await checkpoint('mxfp4', { experts: 'mxfp4' });
    const { vocab } = await openCheckpoint(directory);
    const ids = randomIds(6, 40, vocab);
    const sets = addon().instructionSets();
    expect(sets.length).toBeGreaterThan(0);
    const rows: number[][] = [];
    for (const set of sets) {
      const model = await nativeModel(directory, activations, set);
      rows.push(await allRows(model, ids, vocab, 8));
      rows.push((await model.draft(ids, vocab)).topLogprobs.flat());
      model.close();
    }
    for (let i = 2; i < rows.length; i++) expect(firstDifference(rows[i]!, rows[i % 2]!), sets[i >> 1]).toBeNull();
  });
});

test('rows of verify steps of every size, at every place in the block, are the rows of plain decoding', async () => {
  const vocab = 6;
  const model = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(vocab)));
  const places = new Set<string>();
  for (let i = 0; i < 12; i++) {
    const prompt = randomIds(100 + i, 3 + i, vocab);
    const plain = await decode(model.engine({ blockSize: 1, replay: true }), prompt, SAMPLED);
    const rowAt = plain.map((round) => round.replay!.p[0]!); // [n]: the row that decided the n-th token
    for (let blockSize = 2; blockSize <= 8; blockSize++) {
      let token = 1; // the prefill decided token 0
      for (const round of (await decode(model.engine({ blockSize, replay: true }), prompt, SAMPLED)).slice(1)) {
        expect(round.replay!.p.length).toBe(round.drafted.length + 1);
        // Row r has the same prefix as plain decoding for as long as the drafts before it are what plain decoding emitted.
        for (let r = 0; r <= round.accepted && token + r < rowAt.length; r++) {
          expect(firstDifference(round.replay!.p[r]!, rowAt[token + r]!), `block ${blockSize}, row ${r}`).toBeNull();
          places.add(`${blockSize}:${r}`);
        }
        token += round.committed.length;
      }
    }
  }
  expect(places.size).toBeGreaterThan(30); // of the 35 there are
  await model.close();
});

test('one changed token, or one unit in the last place, is seen', async () => {
  const directory = await checkpoint('mxfp4', { experts: 'mxfp4' });
  const { vocab } = await openCheckpoint(directory);
  const model = await nativeModel(directory, 'fp8');
  const ids = randomIds(5, 30, vocab);
  const rows = await allRows(model, ids, vocab, 8);
  const changed = await allRows(model, [(ids[0]! + 1) % vocab, ...ids.slice(1)], vocab, 8);
  expect(firstDifference(changed.slice(-vocab), rows.slice(-vocab))).not.toBeNull();
  const bits = Float64Array.from(rows);
  const view = new DataView(bits.buffer);
  view.setBigInt64(8 * 77, view.getBigInt64(8 * 77, true) + 1n, true);
  expect(firstDifference(bits, rows)).toMatch(/^\[77\]/);
  model.close();
});
