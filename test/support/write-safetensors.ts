/**
 * Writes safetensors files and their index, for checkpoints made up by tests. Knows the format only; shares nothing with the reader
 * it helps to judge.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';

export interface TensorData {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** The bytes of a shard from a header text and data, header padded with spaces to a multiple of 8. */
export function shardBytes(header: string, data: readonly Uint8Array[]): Buffer {
  const json = Buffer.from(header + ' '.repeat((8 - (Buffer.byteLength(header) % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...data]);
}

export function encodeShard(tensors: readonly TensorData[]): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.length] };
    offset += data.length;
  }
  return shardBytes(
    JSON.stringify(header),
    tensors.map((tensor) => tensor.data),
  );
}

/** `shards` files with an index; one shard is written as model.safetensors without an index. */
export async function writeShards(
  directory: string,
  tensors: readonly TensorData[],
  shards: number,
  stem = 'model',
): Promise<void> {
  if (shards === 1) {
    await writeFile(path.join(directory, `${stem}.safetensors`), encodeShard(tensors));
    return;
  }
  const weightMap: Record<string, string> = {};
  const perShard = Math.ceil(tensors.length / shards);
  const number = (n: number) => String(n).padStart(5, '0');
  for (let i = 0; i < shards; i++) {
    const file = `${stem}-${number(i + 1)}-of-${number(shards)}.safetensors`;
    const part = tensors.slice(i * perShard, (i + 1) * perShard);
    for (const tensor of part) weightMap[tensor.name] = file;
    await writeFile(path.join(directory, file), encodeShard(part));
  }
  const total = tensors.reduce((sum, tensor) => sum + tensor.data.length, 0);
  const index = { metadata: { total_size: total }, weight_map: weightMap };
  await writeFile(path.join(directory, `${stem}.safetensors.index.json`), JSON.stringify(index, null, 2));
}
