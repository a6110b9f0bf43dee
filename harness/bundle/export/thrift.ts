/** Writes Thrift's compact protocol, as much of it as a Parquet footer needs. Fields must be given in ascending order of their ids. */

const TYPE = { true: 1, false: 2, i32: 5, i64: 6, binary: 8, list: 9, struct: 12 } as const;

export class CompactWriter {
  readonly #bytes: number[] = [];
  readonly #last: number[] = [0];

  i32(id: number, value: number): this {
    this.#field(id, TYPE.i32);
    this.#varint(zigzag(BigInt(value)));
    return this;
  }

  i64(id: number, value: number | bigint): this {
    this.#field(id, TYPE.i64);
    this.#varint(zigzag(BigInt(value)));
    return this;
  }

  string(id: number, text: string): this {
    this.#field(id, TYPE.binary);
    this.#binary(text);
    return this;
  }

  struct(id: number, write: (writer: this) => void): this {
    this.#field(id, TYPE.struct);
    this.#struct(write);
    return this;
  }

  structs<T>(id: number, items: readonly T[], write: (writer: this, item: T) => void): this {
    this.#list(id, TYPE.struct, items.length);
    for (const item of items) this.#struct((writer) => write(writer, item));
    return this;
  }

  i32s(id: number, items: readonly number[]): this {
    this.#list(id, TYPE.i32, items.length);
    for (const item of items) this.#varint(zigzag(BigInt(item)));
    return this;
  }

  strings(id: number, items: readonly string[]): this {
    this.#list(id, TYPE.binary, items.length);
    for (const item of items) this.#binary(item);
    return this;
  }

  /** The outermost struct, ended. */
  finish(): Buffer {
    this.#bytes.push(0);
    return Buffer.from(this.#bytes);
  }

  #struct(write: (writer: this) => void): void {
    this.#last.push(0);
    write(this);
    this.#last.pop();
    this.#bytes.push(0);
  }

  #field(id: number, type: number): void {
    const delta = id - this.#last.at(-1)!;
    this.#last[this.#last.length - 1] = id;
    if (delta > 0 && delta <= 15) this.#bytes.push((delta << 4) | type);
    else {
      this.#bytes.push(type);
      this.#varint(zigzag(BigInt(id)));
    }
  }

  #list(id: number, type: number, size: number): void {
    this.#field(id, TYPE.list);
    if (size < 15) this.#bytes.push((size << 4) | type);
    else {
      this.#bytes.push(0xf0 | type);
      this.#varint(BigInt(size));
    }
  }

  #binary(text: string): void {
    const bytes = Buffer.from(text);
    this.#varint(BigInt(bytes.length));
    for (const byte of bytes) this.#bytes.push(byte);
  }

  #varint(value: bigint): void {
    let rest = value;
    while (rest > 0x7fn) {
      this.#bytes.push(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    this.#bytes.push(Number(rest));
  }
}

function zigzag(value: bigint): bigint {
  return value >= 0n ? value << 1n : (-value << 1n) - 1n;
}
