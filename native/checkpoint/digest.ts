/**
 * The identity of a set of weights: SHA-256 over the bytes of its files, one after the other in the given order (so that
 * `cat shard1 shard2 | sha256sum` gives the same). Streams; a file is never held whole.
 */
import { createHash } from 'node:crypto';
import { InputError } from '../errors.ts';
import { withFile } from './files.ts';

const CHUNK_BYTES = 4 << 20;

export async function digestFiles(files: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  for (const file of files) {
    await withFile(file, async (handle, size) => {
      let position = 0;
      while (position < size) {
        const { bytesRead } = await handle.read(buffer, 0, CHUNK_BYTES, position);
        if (bytesRead === 0) throw new InputError(`${file}: truncated while it was read`);
        hash.update(buffer.subarray(0, bytesRead));
        position += bytesRead;
      }
    });
  }
  return `sha256:${hash.digest('hex')}`;
}
