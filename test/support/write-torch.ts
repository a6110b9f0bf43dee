/**
 * Writes mask_embedding.pt the way torch.save does: a ZIP of stored entries (local headers with a data descriptor and zero sizes,
 * data aligned to 64 bytes by an extra field) around a protocol-2 pickle of {mask_token_id: int, embedding: tensor}.
 */
import { writeFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { toBf16 } from './formats.ts';

/** Pickle opcodes by their names in CPython's pickletools. */
const op = {
  proto: Buffer.from([0x80, 2]),
  emptyDict: Buffer.from('}'),
  mark: Buffer.from('('),
  tuple: Buffer.from('t'),
  tuple1: Buffer.from([0x85]),
  emptyTuple: Buffer.from(')'),
  persistentId: Buffer.from('Q'),
  reduce: Buffer.from('R'),
  setItems: Buffer.from('u'),
  newFalse: Buffer.from([0x89]),
  stop: Buffer.from('.'),
  put: (slot: number) => Buffer.from([0x71, slot]),
  text: (text: string) => {
    const length = Buffer.alloc(5);
    length[0] = 0x58;
    length.writeUInt32LE(Buffer.byteLength(text), 1);
    return Buffer.concat([length, Buffer.from(text)]);
  },
  integer: (value: number) => {
    const bytes = Buffer.alloc(5);
    bytes[0] = 0x4a;
    bytes.writeInt32LE(value, 1);
    return bytes;
  },
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
};

export type MaskDType = 'BF16' | 'F32';

export function maskPickle(maskTokenId: number, hidden: number, dtype: MaskDType): Buffer {
  return Buffer.concat([
    op.proto,
    op.emptyDict,
    op.put(0),
    op.mark,
    op.text('mask_token_id'),
    op.put(1),
    op.integer(maskTokenId),
    op.text('embedding'),
    op.put(2),
    op.global('torch._utils', '_rebuild_tensor_v2'),
    op.put(3),
    op.mark,
    op.mark,
    op.text('storage'),
    op.put(4),
    op.global('torch', dtype === 'BF16' ? 'BFloat16Storage' : 'FloatStorage'),
    op.put(5),
    op.text('0'),
    op.put(6),
    op.text('cpu'),
    op.put(7),
    op.integer(hidden),
    op.tuple,
    op.put(8),
    op.persistentId,
    op.integer(0),
    op.integer(hidden),
    op.tuple1,
    op.put(9),
    op.integer(1),
    op.tuple1,
    op.put(10),
    op.newFalse,
    op.global('collections', 'OrderedDict'),
    op.put(11),
    op.emptyTuple,
    op.reduce,
    op.put(12),
    op.tuple,
    op.put(13),
    op.reduce,
    op.put(14),
    op.setItems,
    op.stop,
  ]);
}

/** A ZIP as torch writes it. */
export function torchZip(entries: readonly (readonly [string, Buffer])[]): Buffer {
  const flags = 0x0808; // UTF-8 names, sizes in a data descriptor
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, data] of entries) {
    const nameBytes = Buffer.from(name);
    const unpadded = offset + 30 + nameBytes.length + 4;
    const padding = Buffer.alloc((64 - (unpadded % 64)) % 64, 'Z');
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(flags, 6);
    local.writeUInt16LE(nameBytes.length, 26);
    local.writeUInt16LE(4 + padding.length, 28);
    const extra = Buffer.alloc(4);
    extra.write('FB', 0, 'latin1');
    extra.writeUInt16LE(padding.length, 2);
    const descriptor = Buffer.alloc(16);
    descriptor.writeUInt32LE(0x08074b50, 0);
    descriptor.writeUInt32LE(crc32(data), 4);
    descriptor.writeUInt32LE(data.length, 8);
    descriptor.writeUInt32LE(data.length, 12);

    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(flags, 8);
    central.writeUInt32LE(crc32(data), 16);
    central.writeUInt32LE(data.length, 20);
    central.writeUInt32LE(data.length, 24);
    central.writeUInt16LE(nameBytes.length, 28);
    central.writeUInt32LE(offset, 42);
    directory.push(central, nameBytes);

    const entry = Buffer.concat([local, nameBytes, extra, padding, data, descriptor]);
    parts.push(entry);
    offset += entry.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}

export function maskSidecarBytes(maskTokenId: number, embedding: ArrayLike<number>, dtype: MaskDType = 'BF16'): Buffer {
  const itemBytes = dtype === 'BF16' ? 2 : 4;
  const data = Buffer.alloc(embedding.length * itemBytes);
  for (let i = 0; i < embedding.length; i++) {
    if (dtype === 'BF16') data.writeUInt16LE(toBf16(embedding[i]!), 2 * i);
    else data.writeFloatLE(embedding[i]!, 4 * i);
  }
  return torchZip([
    ['mask_embedding/data.pkl', maskPickle(maskTokenId, embedding.length, dtype)],
    ['mask_embedding/byteorder', Buffer.from('little')],
    ['mask_embedding/data/0', data],
    ['mask_embedding/version', Buffer.from('3\n')],
  ]);
}

export async function writeMaskSidecar(
  file: string,
  maskTokenId: number,
  embedding: ArrayLike<number>,
  dtype: MaskDType = 'BF16',
): Promise<void> {
  await writeFile(file, maskSidecarBytes(maskTokenId, embedding, dtype));
}
