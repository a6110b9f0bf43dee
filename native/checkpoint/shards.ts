/**
 * All tensors of a checkpoint folder: the shards its index names, each read and checked, or the single file without an index.
 * The index is held to what the shards really contain: every listed tensor must lie in the shard it is listed under.
 */
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { InputError, quote } from '../errors.ts';
import { fileExists, isPlainObject, parseJson, readWhole } from './files.ts';
import { readShardHeader } from './safetensors.ts';
import type { TensorMap, TensorRecord } from './types.ts';

const MAX_INDEX_BYTES = 256_000_000;

export interface Shards {
  readonly tensors: TensorMap;
  /** Shard paths in index order (order of first mention). */
  readonly files: readonly string[];
}

/** All tensors in `directory`. Throws InputError naming the file, or the folder where no file can be named. */
export async function readShards(directory: string): Promise<Shards> {
  const indexName = await findIndex(directory);
  if (indexName === null) return readSingleFile(directory);

  const at = (name: string) => path.join(directory, name);
  const listing = await readIndex(at(indexName));
  const shardNames = [...new Set(listing.values())];
  const owners = new Map<string, string>();
  const found = new Map<string, TensorRecord>();
  for (const shard of shardNames) {
    for (const [name, record] of await readShardHeader(at(shard))) {
      const other = owners.get(name);
      if (other !== undefined) {
        throw new InputError(`${at(shard)}: tensor ${quote(name)} is also in ${other}`);
      }
      owners.set(name, shard);
      found.set(name, record);
    }
  }
  const tensors = new Map<string, TensorRecord>();
  for (const [name, shard] of listing) {
    const owner = owners.get(name);
    if (owner !== shard) {
      const place = owner === undefined ? 'no shard holds it' : `it is in ${quote(owner)}`;
      throw new InputError(`${at(indexName)}: tensor ${quote(name)} is listed in ${quote(shard)}, but ${place}`);
    }
    tensors.set(name, found.get(name)!);
  }
  return { tensors, files: shardNames.map(at) };
}

async function listNames(directory: string, ending: string): Promise<string[]> {
  try {
    return (await readdir(directory)).filter((name) => name.endsWith(ending)).sort();
  } catch {
    throw new InputError(`${directory}: cannot be listed`);
  }
}

async function findIndex(directory: string): Promise<string | null> {
  const usual = 'model.safetensors.index.json';
  if (await fileExists(path.join(directory, usual))) return usual;
  const candidates = await listNames(directory, '.safetensors.index.json');
  if (candidates.length > 1) throw new InputError(`${directory}: more than one index: ${quote(candidates.join(', '))}`);
  return candidates[0] ?? null;
}

async function readSingleFile(directory: string): Promise<Shards> {
  const names = await listNames(directory, '.safetensors');
  const [name] = names;
  if (name === undefined) throw new InputError(`${directory}: no safetensors file and no index`);
  if (names.length > 1) {
    throw new InputError(`${directory}: ${names.length} safetensors files but no index (model.safetensors.index.json)`);
  }
  const file = path.join(directory, name);
  return { tensors: await readShardHeader(file), files: [file] };
}

/** Tensor name -> shard file name, in the index's order. */
async function readIndex(file: string): Promise<Map<string, string>> {
  const json = parseJson(await readWhole(file, MAX_INDEX_BYTES), file);
  if (!isPlainObject(json) || !isPlainObject(json.weight_map)) throw new InputError(`${file}: no weight_map object`);
  const listing = new Map<string, string>();
  for (const [name, shard] of Object.entries(json.weight_map)) {
    if (typeof shard !== 'string' || !/^[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors$/.test(shard)) {
      throw new InputError(
        `${file}: tensor ${quote(name)} names ${quote(String(shard))}, which is not a shard in the same folder`,
      );
    }
    listing.set(name, shard);
  }
  if (listing.size === 0) throw new InputError(`${file}: weight_map is empty`);
  return listing;
}
