/**
 * The mask sidecar mask_embedding.pt: a torch.save file holding the dictionary {mask_token_id: int, embedding: BF16 or F32 [hidden]}.
 * Its ZIP and its pickle are read by the two restricted readers beside this file; nothing but this dictionary is accepted.
 */
import { InputError } from '../errors.ts';
import { readWhole } from './files.ts';
import { PickledTensor, readPickle } from './pickle.ts';
import { showShape } from './safetensors.ts';
import { readStoredZip } from './zip.ts';

const MAX_SIDECAR_BYTES = 64_000_000;

export interface MaskSidecar {
  readonly maskTokenId: number;
  /** [hidden] */
  readonly embedding: Float32Array;
}

/** Reads and checks the sidecar. Throws InputError naming `file`. */
export async function readMaskSidecar(file: string, hidden: number): Promise<MaskSidecar> {
  return parseMaskSidecar(await readWhole(file, MAX_SIDECAR_BYTES), file, hidden);
}

export function parseMaskSidecar(bytes: Buffer, label: string, hidden: number): MaskSidecar {
  const entries = readStoredZip(bytes, label);
  const pickleName = [...entries.keys()].find((name) => name === 'data.pkl' || name.endsWith('/data.pkl'));
  if (pickleName === undefined) throw new InputError(`${label}: no data.pkl inside; not a torch.save file`);
  const root = pickleName.slice(0, -'data.pkl'.length);
  const order = entries.get(`${root}byteorder`)?.toString('latin1').trim() ?? 'little';
  if (order !== 'little') throw new InputError(`${label}: byte order is not little`);

  const value = readPickle(entries.get(pickleName)!, label);
  if (!(value instanceof Map) || value.size !== 2 || !value.has('mask_token_id') || !value.has('embedding')) {
    throw new InputError(`${label}: expected a dictionary of mask_token_id and embedding`);
  }
  const maskTokenId = value.get('mask_token_id');
  const embedding = value.get('embedding');
  if (typeof maskTokenId !== 'number' || !Number.isSafeInteger(maskTokenId) || maskTokenId < 0) {
    throw new InputError(`${label}: mask_token_id is not a token id`);
  }
  if (!(embedding instanceof PickledTensor)) throw new InputError(`${label}: embedding is not a tensor`);
  return { maskTokenId, embedding: vectorOf(embedding, entries, root, label, hidden) };
}

function vectorOf(
  tensor: PickledTensor,
  entries: ReadonlyMap<string, Buffer>,
  root: string,
  label: string,
  hidden: number,
): Float32Array {
  if (tensor.shape.length !== 1 || tensor.shape[0] !== hidden) {
    throw new InputError(`${label}: embedding: expected shape [${hidden}], found ${showShape(tensor.shape)}`);
  }
  if (tensor.stride.length !== 1 || (tensor.stride[0] !== 1 && hidden > 1))
    throw new InputError(`${label}: embedding is not contiguous`);
  const data = entries.get(`${root}data/${tensor.storage.key}`);
  const itemBytes = tensor.storage.type === 'torch.FloatStorage' ? 4 : 2;
  if (
    data === undefined ||
    data.length !== tensor.storage.elements * itemBytes ||
    tensor.offset + hidden > tensor.storage.elements
  ) {
    throw new InputError(`${label}: embedding's storage is missing or too short`);
  }
  const out = new Float32Array(hidden);
  const bits = new Uint32Array(out.buffer);
  for (let i = 0; i < hidden; i++) {
    const at = (tensor.offset + i) * itemBytes;
    bits[i] = itemBytes === 4 ? data.readUInt32LE(at) : data.readUInt16LE(at) << 16;
  }
  if (!out.every(Number.isFinite))
    throw new InputError(`${label}: embedding holds a value that is not a finite number`);
  return out;
}
