/**
 * A checkpoint read for the oracle: config.json as written, every tensor dequantised to binary64 on first use. Deliberately its own
 * reader, sharing no line with native/checkpoint: it trusts its input and knows only the published layout.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BF16_VALUES, E2M1_VALUES, E4M3_VALUES, e8m0Value } from '../formats.ts';

interface Raw {
  readonly dtype: string;
  readonly shape: number[];
  readonly data: Buffer;
}

/** Rows x cols, row-major, exact. `quantised`: stored as FP8 or MXFP4, so its input is quantised in fp8 mode. */
export interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float64Array;
  readonly quantised: boolean;
}

export type Json = Record<string, unknown>;

export class Weights {
  readonly config: Json;
  private readonly raw = new Map<string, Raw>();
  private readonly matrices = new Map<string, Matrix>();

  constructor(directory: string) {
    this.config = JSON.parse(readFileSync(path.join(directory, 'config.json'), 'utf8')) as Json;
    for (const name of readdirSync(directory).filter((file) => file.endsWith('.safetensors'))) {
      const bytes = readFileSync(path.join(directory, name));
      const start = 8 + Number(bytes.readBigUInt64LE(0));
      const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >;
      for (const [tensor, entry] of Object.entries(header)) {
        if (tensor === '__metadata__') continue;
        const [begin, end] = entry.data_offsets;
        this.raw.set(tensor, {
          dtype: entry.dtype,
          shape: entry.shape,
          data: bytes.subarray(start + begin, start + end),
        });
      }
    }
  }

  has(name: string): boolean {
    return this.raw.has(name);
  }

  /** A number of config.json, or of the first field present. */
  number(...names: string[]): number {
    for (const name of names) {
      const value = this.config[name];
      if (typeof value === 'number') return value;
    }
    throw new Error(`oracle: config has no ${names.join(' or ')}`);
  }

  vector(name: string): Float64Array {
    return plainValues(this.find(name));
  }

  plainMatrix(name: string): Matrix {
    return this.cached(name, () => {
      const raw = this.find(name);
      return { rows: raw.shape[0]!, cols: raw.shape[1]!, values: plainValues(raw), quantised: false };
    });
  }

  /** @param groups equal groups of rows whose FP8 scale rows restart */
  linear(base: string, groups = 1): Matrix {
    return this.cached(base, () => {
      const weight = this.find(`${base}.weight`);
      const rows = weight.shape[0]!;
      if (weight.dtype === 'F8_E4M3') {
        const cols = weight.shape[1]!;
        const scales = plainValues(this.find(`${base}.weight_scale_inv`));
        const scaleCols = Math.ceil(cols / 128);
        const groupRows = rows / groups;
        const values = new Float64Array(rows * cols);
        for (let r = 0; r < rows; r++) {
          const group = Math.floor(r / groupRows);
          const scaleRow = group * Math.ceil(groupRows / 128) + Math.floor((r - group * groupRows) / 128);
          for (let c = 0; c < cols; c++) {
            values[r * cols + c] =
              E4M3_VALUES[weight.data[r * cols + c]!]! * scales[scaleRow * scaleCols + Math.floor(c / 128)]!;
          }
        }
        return { rows, cols, values, quantised: true };
      }
      if (weight.dtype === 'U8') {
        const cols = weight.shape[1]! * 2;
        const scales = this.find(`${base}.weight_scale`).data;
        const values = new Float64Array(rows * cols);
        for (let i = 0; i < values.length; i++) {
          const byte = weight.data[i >> 1]!;
          const code = i % 2 === 0 ? byte & 15 : byte >> 4;
          values[i] = E2M1_VALUES[code]! * e8m0Value(scales[Math.floor(i / 32)]!);
        }
        return { rows, cols, values, quantised: true };
      }
      return { rows, cols: weight.shape[1]!, values: plainValues(weight), quantised: false };
    });
  }

  private cached(name: string, make: () => Matrix): Matrix {
    let matrix = this.matrices.get(name);
    if (matrix === undefined) {
      matrix = make();
      this.matrices.set(name, matrix);
    }
    return matrix;
  }

  private find(name: string): Raw {
    const raw = this.raw.get(name);
    if (raw === undefined) throw new Error(`oracle: no tensor ${name}`);
    return raw;
  }
}

function plainValues(raw: Raw): Float64Array {
  const { data, dtype } = raw;
  if (dtype === 'BF16')
    return Float64Array.from({ length: data.length / 2 }, (_, i) => BF16_VALUES[data.readUInt16LE(2 * i)]!);
  if (dtype === 'F32') return Float64Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(4 * i));
  throw new Error(`oracle: dtype ${dtype}`);
}
