/**
 * The engine on the shipped nano checkpoints against golden rows made by code this project did not write: transformers' MiMo-V2-Flash
 * classes in binary32 on the dequantised weights, activations unquantised. Neither side rounds anything but its binary32 sums, so every
 * log-probability must agree within 2^-10: sums of up to 1,024 terms (2^-24 each, growing as the root of their number) through some forty
 * products in a row leave well under that, and any fault of layout, order or formula is far above it (see the twin).
 * The draft's rows come from the recipe's own PyTorch draft, as their metadata says.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { CpuModel } from '../../../native/engines.ts';

const NANO = fileURLToPath(new URL('../../../checkpoints/nano/', import.meta.url));

/** Tensors of a golden file as plain numbers. */
function golden(name: string): { ids: number[][]; positions: number[][]; logits: Float64Array[][] } {
  const file = readFileSync(`${NANO}golden/${name}.safetensors`);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const integers = (tensor: string): number[] => {
    const { data_offsets: at } = header[tensor]!;
    return Array.from({ length: (at[1] - at[0]) / 8 }, (_, i) =>
      Number(file.readBigInt64LE(8 + headerBytes + at[0] + 8 * i)),
    );
  };
  const rows = (tensor: string): Float64Array[] => {
    const { data_offsets: at, shape } = header[tensor]!;
    return Array.from({ length: shape[0]! }, (_, r) =>
      Float64Array.from({ length: shape[1]! }, (_, c) =>
        file.readFloatLE(8 + headerBytes + at[0] + 4 * (r * shape[1]! + c)),
      ),
    );
  };
  const cases = Object.keys(header).filter((key) => key.startsWith('ids.')).length;
  const all = <T>(read: (tensor: string) => T, kind: string) =>
    Array.from({ length: cases }, (_, i) => read(`${kind}.${i}`));
  const positions = 'positions.0' in header ? all(integers, 'positions') : [];
  return { ids: all(integers, 'ids'), positions, logits: all(rows, 'logits') };
}

/** Largest difference of a row of log-probabilities. */
function compare(ids: readonly number[], logprobs: readonly number[], logits: Float64Array): number {
  const max = Math.max(...logits);
  const mass = max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
  return Math.max(...ids.map((id, k) => Math.abs(logprobs[k]! - (logits[id]! - mass))));
}

interface Difference {
  readonly name: string;
  readonly largest: number;
}

function judge(rows: readonly Difference[]): void {
  for (const row of rows) expect(row.largest, row.name).toBeLessThan(2 ** -10);
}

test.each(['fp8', 'fp4'])('the target, %s', async (name) => {
  const { ids, positions, logits } = golden(name);
  const model = await CpuModel.load(`${NANO}${name}`, { activations: 'bf16' });
  const scored = await model.scoreCases(ids, model.checkpoint.vocab);
  const rows: Difference[] = [];
  for (const [c, at] of positions.entries()) {
    for (const [i, position] of at.entries()) {
      const largest = compare(scored[c]!.topIds[position]!, scored[c]!.topLogprobs[position]!, logits[c]![i]!);
      rows.push({ name: `case ${c}, position ${position}`, largest });
    }
  }
  expect(rows.length).toBe(36);
  judge(rows);
  // The twins: the rows of the positions before are not within the bound, and neither is the engine with quantised activations.
  const shifted = positions.flatMap((at, c) =>
    at.slice(1).map((position, i) => ({
      name: '',
      largest: compare(scored[c]!.topIds[position - 1]!, scored[c]!.topLogprobs[position - 1]!, logits[c]![i + 1]!),
    })),
  );
  expect(() => judge(shifted)).toThrow();
  await model.close();
  const quantised = await CpuModel.load(`${NANO}${name}`, { activations: 'fp8' });
  const other = await quantised.scoreCases(ids, model.checkpoint.vocab);
  const last = positions[0]!.length - 1;
  const position = positions[0]![last]!;
  const largest = compare(other[0]!.topIds[position]!, other[0]!.topLogprobs[position]!, logits[0]![last]!);
  expect(() => judge([{ name: '', largest }])).toThrow();
  await quantised.close();
});

test('the draft', async () => {
  const { ids, logits } = golden('draft');
  const model = await CpuModel.load(`${NANO}fp4`, { activations: 'bf16' });
  const drafted = await model.draftCases(ids, model.checkpoint.vocab);
  const rows = logits.flatMap((block, c) =>
    block.map((row, i) => ({
      name: `case ${c}, row ${i}`,
      largest: compare(drafted[c]!.topIds[i]!, drafted[c]!.topLogprobs[i]!, row),
    })),
  );
  expect(rows.length).toBe(28);
  judge(rows);
  await model.close();
});
