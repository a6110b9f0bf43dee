/**
 * A strict reader of safetensors headers: 8 bytes little-endian header length, a JSON header, then the data. Reads headers only.
 * Source: the format section of the safetensors README (huggingface/safetensors): header of at most 100 MB, no duplicate keys, byte
 * ranges within the data, without overlaps and without holes. Everything the format leaves open to abuse is an InputError.
 */
import type { FileHandle } from 'node:fs/promises';
import { InputError, quote } from '../errors.ts';
import { isPlainObject, parseJson, readExactly, withFile } from './files.ts';
import { DTYPE_BITS, type DType, type TensorRecord } from './types.ts';

const MAX_HEADER_BYTES = 100_000_000;
const MAX_RANK = 8;

/** The tensors of one shard by name. Throws InputError. */
export async function readShardHeader(file: string): Promise<Map<string, TensorRecord>> {
  return withFile(file, async (handle, size) => {
    const header = await readHeaderBytes(handle, size, file);
    return parseHeader(header, size - 8 - header.length, file);
  });
}

async function readHeaderBytes(handle: FileHandle, size: number, file: string): Promise<Buffer> {
  if (size < 8) throw new InputError(`${file}: truncated, ${size} bytes cannot hold a safetensors header`);
  const prefix = await readExactly(handle, 0, 8, file);
  const length = prefix.readBigUInt64LE(0);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new InputError(`${file}: header of ${length} bytes, more than the ${MAX_HEADER_BYTES} the format allows`);
  }
  if (length > BigInt(size - 8)) {
    throw new InputError(`${file}: truncated, the header should have ${length} bytes but the file has ${size}`);
  }
  return readExactly(handle, 8, Number(length), file);
}

/**
 * @param header the JSON bytes
 * @param dataBytes bytes after the header, to the end of the file
 */
export function parseHeader(header: Uint8Array, dataBytes: number, file: string): Map<string, TensorRecord> {
  if (header[0] !== 0x7b) throw new InputError(`${file}: the header does not begin with "{"`);
  const json = parseJson(header, `${file}: header`);
  if (!isPlainObject(json)) throw new InputError(`${file}: the header is not a JSON object`);

  const dataStart = 8 + header.length;
  const tensors = new Map<string, TensorRecord>();
  for (const [name, entry] of Object.entries(json)) {
    if (name === '__metadata__') checkMetadata(entry, file);
    else tensors.set(name, parseEntry(name, entry, dataStart, dataBytes, file));
  }
  checkContiguous(tensors, dataStart, dataBytes, file);
  return tensors;
}

function checkMetadata(entry: unknown, file: string): void {
  if (!isPlainObject(entry) || !Object.values(entry).every((value) => typeof value === 'string')) {
    throw new InputError(`${file}: __metadata__ is not a map of strings`);
  }
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function parseEntry(name: string, entry: unknown, dataStart: number, dataBytes: number, file: string): TensorRecord {
  const where = `${file}: tensor ${quote(name)}`;
  if (name === '') throw new InputError(`${file}: a tensor has an empty name`);
  if (!isPlainObject(entry)) throw new InputError(`${where}: its entry is not an object`);
  const fields = Object.keys(entry);
  if (fields.length !== 3 || !('dtype' in entry) || !('shape' in entry) || !('data_offsets' in entry)) {
    throw new InputError(
      `${where}: expected the fields dtype, shape and data_offsets, found ${quote(fields.join(', '))}`,
    );
  }
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BITS, dtype)) {
    throw new InputError(`${where}: unknown dtype ${quote(String(dtype))}`);
  }
  if (!Array.isArray(shape) || !shape.every(isSize) || shape.length > MAX_RANK) {
    throw new InputError(`${where}: its shape is not a list of at most ${MAX_RANK} sizes`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) {
    throw new InputError(`${where}: data_offsets is not a pair of byte offsets`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw new InputError(`${where}: data_offsets [${begin}, ${end}] end before they begin`);
  if (end > dataBytes) {
    throw new InputError(
      `${where}: data_offsets [${begin}, ${end}] reach beyond the file's ${dataBytes} data bytes (truncated?)`,
    );
  }
  const elements = (shape as number[]).reduce((product, size) => product * size, 1);
  const expected = (elements * DTYPE_BITS[dtype as DType]) / 8;
  if (expected !== end - begin) {
    throw new InputError(
      `${where}: ${dtype} ${showShape(shape)} needs ${expected} bytes, data_offsets give ${end - begin}`,
    );
  }
  return { name, dtype: dtype as DType, shape: shape as number[], file, offset: dataStart + begin, bytes: end - begin };
}

function checkContiguous(
  tensors: ReadonlyMap<string, TensorRecord>,
  dataStart: number,
  dataBytes: number,
  file: string,
): void {
  const byOffset = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let next = dataStart;
  let previous = '';
  for (const tensor of byOffset) {
    if (tensor.offset < next) {
      throw new InputError(`${file}: tensor ${quote(tensor.name)} overlaps tensor ${quote(previous)}`);
    }
    if (tensor.offset > next) {
      throw new InputError(`${file}: ${tensor.offset - next} unused bytes before tensor ${quote(tensor.name)}`);
    }
    next = tensor.offset + tensor.bytes;
    previous = tensor.name;
  }
  const unused = dataStart + dataBytes - next;
  if (unused > 0) throw new InputError(`${file}: ${unused} unused bytes after the last tensor`);
}

export function showShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}
