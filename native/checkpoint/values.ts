/**
 * One pass over the data of every tensor, refusing codes that are not numbers: E4M3's NaN, E8M0's NaN, and infinities or NaN in BF16
 * and F32. One such code would turn every logit into NaN without any other sign. Streams in chunks.
 */
import { InputError, quote } from '../errors.ts';
import { shortName, withFile } from './files.ts';
import type { TensorMap, TensorRecord } from './types.ts';

const CHUNK_BYTES = 4 << 20;

/** Index of the first bad element of a chunk, or -1. */
type Scan = (chunk: Buffer) => number;

/** Throws InputError naming the first tensor and element that is not a number. */
export async function checkTensorValues(tensors: TensorMap, prefix: string): Promise<void> {
  const byFile = new Map<string, TensorRecord[]>();
  for (const tensor of tensors.values()) {
    const group = byFile.get(tensor.file);
    if (group === undefined) byFile.set(tensor.file, [tensor]);
    else group.push(tensor);
  }
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  for (const [file, group] of byFile) {
    const label = prefix + shortName(file);
    await withFile(file, label, async (handle) => {
      for (const tensor of group) {
        const scan = scanFor(tensor);
        if (scan === null) continue;
        for (let done = 0; done < tensor.bytes; ) {
          const want = Math.min(CHUNK_BYTES, tensor.bytes - done);
          const { bytesRead } = await handle.read(buffer, 0, want, tensor.offset + done);
          if (bytesRead < want) throw new InputError(`${label}: truncated while it was read`);
          const bad = scan(buffer.subarray(0, want));
          if (bad >= 0) {
            const element = (done * 8) / bitsOf(tensor) + bad;
            throw new InputError(`${label}: tensor ${quote(tensor.name)}: element ${element} is not a finite number`);
          }
          done += want;
        }
      }
    });
  }
}

function bitsOf(tensor: TensorRecord): number {
  return tensor.dtype === 'F32' ? 32 : tensor.dtype === 'BF16' ? 16 : 8;
}

/** U8 weights are pairs of E2M1 codes, all of them numbers; U8 scales are E8M0. */
function scanFor(tensor: TensorRecord): Scan | null {
  switch (tensor.dtype) {
    case 'F8_E4M3':
      return (chunk) => chunk.findIndex((code) => (code & 0x7f) === 0x7f);
    case 'U8':
      return tensor.name.endsWith('.weight_scale') ? (chunk) => chunk.indexOf(0xff) : null;
    case 'BF16':
      return (chunk) => {
        for (let i = 0; i + 1 < chunk.length; i += 2) if ((chunk.readUInt16LE(i) & 0x7f80) === 0x7f80) return i / 2;
        return -1;
      };
    case 'F32':
      return (chunk) => {
        for (let i = 0; i + 3 < chunk.length; i += 4)
          if ((chunk.readUInt32LE(i) & 0x7f800000) === 0x7f800000) return i / 4;
        return -1;
      };
    default:
      return null;
  }
}
