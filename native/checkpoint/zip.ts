/**
 * The few facts of the ZIP format that a torch.save file uses: stored (uncompressed) entries found through the central directory.
 * Sizes come from there, because torch writes its local headers with a data descriptor and zero sizes. Anything else (compression,
 * encryption, ZIP64 sizes, several disks) is refused. Source: PKWARE APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
 */
import { InputError, quote } from '../errors.ts';

const END_SIGNATURE = 0x06054b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const END_BYTES = 22;
const CENTRAL_BYTES = 46;
const LOCAL_BYTES = 30;

/** Entry name -> its bytes (views into `file`). Throws InputError. */
export function readStoredZip(file: Buffer, label: string): Map<string, Buffer> {
  const end = findEnd(file, label);
  const count = file.readUInt16LE(end + 10);
  const directoryStart = file.readUInt32LE(end + 16);
  if (
    file.readUInt16LE(end + 4) !== 0 ||
    file.readUInt16LE(end + 8) !== count ||
    count === 0xffff ||
    directoryStart === 0xffffffff
  ) {
    throw new InputError(`${label}: a ZIP of several disks or of ZIP64 size`);
  }
  const entries = new Map<string, Buffer>();
  let at = directoryStart;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL_BYTES > end || file.readUInt32LE(at) !== CENTRAL_SIGNATURE) {
      throw new InputError(`${label}: broken ZIP directory`);
    }
    const flags = file.readUInt16LE(at + 8);
    const method = file.readUInt16LE(at + 10);
    const packed = file.readUInt32LE(at + 20);
    const size = file.readUInt32LE(at + 24);
    const nameBytes = file.readUInt16LE(at + 28);
    const nextEntry = at + CENTRAL_BYTES + nameBytes + file.readUInt16LE(at + 30) + file.readUInt16LE(at + 32);
    if (nextEntry > end) throw new InputError(`${label}: broken ZIP directory`);
    const name = file.toString('utf8', at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameBytes);
    if (method !== 0 || (flags & 1) !== 0 || packed !== size) {
      throw new InputError(`${label}: ZIP entry ${quote(name)} is compressed or encrypted; torch.save stores plainly`);
    }
    if (entries.has(name)) throw new InputError(`${label}: ZIP entry ${quote(name)} appears twice`);
    entries.set(name, entryBytes(file, file.readUInt32LE(at + 42), size, name, label));
    at = nextEntry;
  }
  return entries;
}

function findEnd(file: Buffer, label: string): number {
  const lowest = Math.max(0, file.length - END_BYTES - 0xffff);
  for (let at = file.length - END_BYTES; at >= lowest; at--) {
    if (file.readUInt32LE(at) === END_SIGNATURE) return at;
  }
  throw new InputError(`${label}: not a torch.save file (no ZIP directory; truncated, or the format before torch 1.6)`);
}

function entryBytes(file: Buffer, header: number, size: number, name: string, label: string): Buffer {
  const broken = () => new InputError(`${label}: ZIP entry ${quote(name)} lies outside the file`);
  if (header + LOCAL_BYTES > file.length || file.readUInt32LE(header) !== LOCAL_SIGNATURE) throw broken();
  const start = header + LOCAL_BYTES + file.readUInt16LE(header + 26) + file.readUInt16LE(header + 28);
  if (start + size > file.length) throw broken();
  return file.subarray(start, start + size);
}
