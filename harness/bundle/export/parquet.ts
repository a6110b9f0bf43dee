/**
 * A Parquet file of flat columns: PLAIN encoding, no compression, one page a column and row group (Apache Parquet format 2, as every
 * reader takes it). Optional columns carry definition levels in bit-packed runs. Memory is bounded by one row group.
 */
import { closeSync, openSync } from 'node:fs';
import { onDisk, writeAll } from '../disk.ts';
import { CompactWriter } from './thrift.ts';

export interface ColumnType {
  readonly name: string;
  readonly type: 'int64' | 'double' | 'string' | 'boolean';
  /** Null is allowed. */
  readonly optional?: boolean;
}

export type Cell = number | string | boolean | null;

const PHYSICAL = { boolean: 0, int64: 2, double: 5, string: 6 } as const;
const [PLAIN, RLE] = [0, 3];
const UTF8 = 0;
const MAGIC = Buffer.from('PAR1');
const GROUP_ROWS = 65_536;

interface Chunk {
  readonly offset: number;
  readonly bytes: number;
  readonly values: number;
}

export class ParquetWriter {
  readonly #path: string;
  readonly #columns: readonly ColumnType[];
  readonly #descriptor: number;
  readonly #groups: { readonly rows: number; readonly chunks: Chunk[] }[] = [];
  #cells: Cell[][];
  #offset = 0;
  #rows = 0;

  /** `path` must not exist. Throws EnvironmentError. */
  constructor(path: string, columns: readonly ColumnType[]) {
    this.#path = path;
    this.#columns = columns;
    this.#cells = columns.map(() => []);
    this.#descriptor = onDisk(path, () => openSync(path, 'wx'));
    this.#write(MAGIC);
  }

  /** One cell a column, in their order. Throws TypeError for a cell that is not of its column. */
  append(row: readonly Cell[]): void {
    this.#columns.forEach((column, i) => {
      const cell = row[i];
      if (!fits(column, cell)) throw new TypeError(`${column.name} cannot hold ${JSON.stringify(cell)}`);
      this.#cells[i]!.push(cell as Cell);
    });
    if (this.#cells[0]!.length === GROUP_ROWS) this.#flush();
  }

  close(): void {
    this.#flush();
    const footer = this.#footer();
    const length = Buffer.alloc(4);
    length.writeUInt32LE(footer.length);
    this.#write(Buffer.concat([footer, length, MAGIC]));
    onDisk(this.#path, () => closeSync(this.#descriptor));
  }

  #flush(): void {
    const rows = this.#cells[0]!.length;
    if (rows === 0) return;
    const chunks = this.#columns.map((column, i) => {
      const page = pageOf(column, this.#cells[i]!);
      const chunk = { offset: this.#offset, bytes: page.length, values: rows };
      this.#write(page);
      return chunk;
    });
    this.#groups.push({ rows, chunks });
    this.#rows += rows;
    this.#cells = this.#columns.map(() => []);
  }

  #write(bytes: Buffer): void {
    onDisk(this.#path, () => writeAll(this.#descriptor, bytes));
    this.#offset += bytes.length;
  }

  /** FileMetaData of parquet.thrift. */
  #footer(): Buffer {
    const columns = this.#columns;
    return new CompactWriter()
      .i32(1, 2)
      .structs(2, [null, ...columns], (element, column) => {
        if (column === null) element.string(4, 'rows').i32(5, columns.length);
        else {
          element
            .i32(1, PHYSICAL[column.type])
            .i32(3, column.optional ? 1 : 0)
            .string(4, column.name);
          if (column.type === 'string') element.i32(6, UTF8);
        }
      })
      .i64(3, this.#rows)
      .structs(4, this.#groups, (group, { rows, chunks }) =>
        group
          .structs(1, chunks, (entry, chunk) =>
            entry.i64(2, chunk.offset).struct(3, (meta) => {
              const column = columns[chunks.indexOf(chunk)]!;
              meta
                .i32(1, PHYSICAL[column.type])
                .i32s(2, [PLAIN, RLE])
                .strings(3, [column.name])
                .i32(4, 0)
                .i64(5, chunk.values)
                .i64(6, chunk.bytes)
                .i64(7, chunk.bytes)
                .i64(9, chunk.offset);
            }),
          )
          .i64(
            2,
            chunks.reduce((sum, chunk) => sum + chunk.bytes, 0),
          )
          .i64(3, rows),
      )
      .string(6, 'kilotoken')
      .finish();
  }
}

function fits(column: ColumnType, cell: Cell | undefined): boolean {
  if (cell === null) return column.optional === true;
  switch (column.type) {
    case 'int64':
      return Number.isSafeInteger(cell);
    case 'double':
      return typeof cell === 'number';
    default:
      return typeof cell === column.type;
  }
}

/** PageHeader and page of one column chunk. */
function pageOf(column: ColumnType, cells: readonly Cell[]): Buffer {
  const levels = column.optional ? definitionLevels(cells) : Buffer.alloc(0);
  const present = cells.filter((cell) => cell !== null);
  const data = Buffer.concat([levels, plain(column, present)]);
  const header = new CompactWriter()
    .i32(1, 0)
    .i32(2, data.length)
    .i32(3, data.length)
    .struct(5, (page) => page.i32(1, cells.length).i32(2, PLAIN).i32(3, RLE).i32(4, RLE))
    .finish();
  return Buffer.concat([header, data]);
}

/** One bit-packed run of 1 bit a value, with its length in front. */
function definitionLevels(cells: readonly Cell[]): Buffer {
  const groups = Math.ceil(cells.length / 8);
  const run: number[] = [];
  for (let rest = (groups << 1) | 1; ; rest >>>= 7) {
    run.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
    if (rest <= 0x7f) break;
  }
  const bytes = Buffer.alloc(4 + run.length + groups);
  bytes.writeUInt32LE(run.length + groups, 0);
  bytes.set(run, 4);
  cells.forEach((cell, i) => {
    if (cell !== null) bytes[4 + run.length + (i >> 3)]! |= 1 << (i & 7);
  });
  return bytes;
}

function plain(column: ColumnType, cells: readonly Exclude<Cell, null>[]): Buffer {
  switch (column.type) {
    case 'int64': {
      const bytes = Buffer.alloc(8 * cells.length);
      cells.forEach((cell, i) => void bytes.writeBigInt64LE(BigInt(cell), 8 * i));
      return bytes;
    }
    case 'double': {
      const bytes = Buffer.alloc(8 * cells.length);
      cells.forEach((cell, i) => void bytes.writeDoubleLE(cell as number, 8 * i));
      return bytes;
    }
    case 'boolean': {
      const bytes = Buffer.alloc(Math.ceil(cells.length / 8));
      cells.forEach((cell, i) => {
        if (cell === true) bytes[i >> 3]! |= 1 << (i & 7);
      });
      return bytes;
    }
    case 'string': {
      const parts = cells.flatMap((cell) => {
        const text = Buffer.from(cell as string);
        const length = Buffer.alloc(4);
        length.writeUInt32LE(text.length);
        return [length, text];
      });
      return Buffer.concat(parts);
    }
  }
}
