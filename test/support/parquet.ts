/**
 * Reads back the Parquet files that are written here, by the format's own documents and with nothing of the writer: Thrift compact
 * protocol into maps by field id, PLAIN pages, definition levels as RLE/bit-packed hybrids of either kind.
 */
import { readFileSync } from 'node:fs';

type Thrift = number | bigint | boolean | string | Thrift[] | Map<number, Thrift>;

class Compact {
  readonly bytes: Buffer;
  at: number;

  constructor(bytes: Buffer, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  struct(): Map<number, Thrift> {
    const fields = new Map<number, Thrift>();
    let id = 0;
    for (;;) {
      const head = this.bytes.readUInt8(this.at++);
      if (head === 0) return fields;
      const delta = head >> 4;
      id = delta === 0 ? Number(this.zigzag()) : id + delta;
      fields.set(id, this.value(head & 15));
    }
  }

  value(type: number): Thrift {
    if (type === 1 || type === 2) return type === 1;
    if (type === 5) return Number(this.zigzag());
    if (type === 6) return this.zigzag();
    if (type === 8) {
      const length = Number(this.varint());
      this.at += length;
      return this.bytes.toString('utf8', this.at - length, this.at);
    }
    if (type === 9) {
      const head = this.bytes.readUInt8(this.at++);
      const size = head >> 4 === 15 ? Number(this.varint()) : head >> 4;
      return Array.from({ length: size }, () => this.value(head & 15));
    }
    if (type === 12) return this.struct();
    throw new Error(`thrift type ${type}`);
  }

  varint(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.bytes.readUInt8(this.at++);
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  }

  zigzag(): bigint {
    const value = this.varint();
    return value % 2n === 0n ? value / 2n : -(value + 1n) / 2n;
  }
}

export interface ParquetTable {
  readonly rows: number;
  readonly groups: number;
  readonly columns: Record<string, (number | string | boolean | null)[]>;
}

export function readParquet(path: string): ParquetTable {
  const bytes = readFileSync(path);
  for (const at of [0, bytes.length - 4]) {
    if (bytes.toString('latin1', at, at + 4) !== 'PAR1') throw new Error('no PAR1');
  }
  const length = bytes.readUInt32LE(bytes.length - 8);
  const start = bytes.length - 8 - length;
  const reader = new Compact(bytes, start);
  const meta = reader.struct();
  if (reader.at !== bytes.length - 8) throw new Error('the footer has another length');
  const [root, ...schema] = meta.get(2) as Map<number, Thrift>[];
  if (root!.get(5) !== schema.length) throw new Error('the root has another number of columns');
  const columns: ParquetTable['columns'] = {};
  for (const element of schema) columns[element.get(4) as string] = [];
  const groups = meta.get(4) as Map<number, Thrift>[];
  let position = 4;
  for (const group of groups) {
    const chunks = group.get(1) as Map<number, Thrift>[];
    chunks.forEach((chunk, i) => {
      const column = chunk.get(3) as Map<number, Thrift>;
      const name = schema[i]!.get(4) as string;
      if ((column.get(3) as string[])[0] !== name) throw new Error('a chunk of another column');
      if (column.get(1) !== schema[i]!.get(1) || column.get(4) !== 0) throw new Error('type or codec');
      if (Number(column.get(9)) !== position) throw new Error('pages do not lie one behind another');
      const page = new Compact(bytes, position);
      const header = page.struct();
      const data = header.get(5) as Map<number, Thrift>;
      const size = header.get(3) as number;
      const values = pageValues(
        bytes.subarray(page.at, page.at + size),
        data.get(1) as number,
        schema[i]!.get(1) as number,
        schema[i]!.get(3) === 1,
      );
      columns[name]!.push(...values);
      position = page.at + size;
      if (Number(column.get(7)) !== position - Number(column.get(9))) throw new Error('a chunk has another size');
    });
  }
  if (position !== start) throw new Error('there are bytes between the pages and the footer');
  return { rows: Number(meta.get(3)), groups: groups.length, columns };
}

function pageValues(
  data: Buffer,
  count: number,
  type: number,
  optional: boolean,
): (number | string | boolean | null)[] {
  let at = 0;
  let defined = new Array<boolean>(count).fill(true);
  if (optional) {
    const length = data.readUInt32LE(0);
    defined = levels(data.subarray(4, 4 + length), count);
    at = 4 + length;
  }
  let bit = 0;
  const values = defined.map((there) => {
    if (!there) return null;
    if (type === 0) {
      const value = (data.readUInt8(at + (bit >> 3)) >> (bit & 7)) & 1;
      bit += 1;
      return value === 1;
    }
    if (type === 2 || type === 5) {
      at += 8;
      return type === 2 ? Number(data.readBigInt64LE(at - 8)) : data.readDoubleLE(at - 8);
    }
    const length = data.readUInt32LE(at);
    at += 4 + length;
    return data.toString('utf8', at - length, at);
  });
  if (at + Math.ceil(bit / 8) !== data.length) throw new Error('a page has bytes left over');
  return values;
}

function levels(bytes: Buffer, count: number): boolean[] {
  const out: boolean[] = [];
  const reader = new Compact(bytes, 0);
  while (out.length < count) {
    const head = Number(reader.varint());
    if (head % 2 === 1) {
      for (let i = 0; i < (head >> 1) * 8; i++)
        out.push(((bytes.readUInt8(reader.at + (i >> 3)) >> (i & 7)) & 1) === 1);
      reader.at += head >> 1;
    } else {
      for (let i = 0; i < head >> 1; i++) out.push(bytes.readUInt8(reader.at) === 1);
      reader.at += 1;
    }
  }
  return out.slice(0, count);
}
