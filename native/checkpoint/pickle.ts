/**
 * A pickle reader that can build plain values and torch tensors and nothing else. Pickle is a program: a file may name any
 * function and call it. Here the only callable names are the two a saved tensor needs, and they build records, so an untrusted file
 * can at worst be refused. Opcodes: those of protocol 2 that torch.save emits. Source: CPython's pickletools; torch/_utils.py.
 */
import { InputError, quote } from '../errors.ts';

/** A tensor still on its storage: `key` names the ZIP entry `data/<key>`. Offsets and sizes in elements. */
export class PickledTensor {
  readonly storage: PickledStorage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly stride: readonly number[];

  constructor(storage: PickledStorage, offset: number, shape: readonly number[], stride: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.stride = stride;
  }
}

class PickledStorage {
  readonly type: string;
  readonly key: string;
  readonly elements: number;

  constructor(type: string, key: string, elements: number) {
    this.type = type;
    this.key = key;
    this.elements = elements;
  }
}

class PickledName {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

const MARK = Symbol('mark');
const REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2';
const ORDERED_DICT = 'collections.OrderedDict';
const STORAGES = ['torch.BFloat16Storage', 'torch.FloatStorage'];

type Value = PickledValue | PickledStorage | PickledName | typeof MARK;
export type PickledValue =
  | null
  | boolean
  | number
  | string
  | PickledTensor
  | PickledValue[]
  | Map<string, PickledValue>;

/** Runs the pickle and returns its value. Throws InputError for anything beyond the above. */
export function readPickle(bytes: Buffer, label: string): PickledValue {
  return new PickleReader(bytes, label).run();
}

class PickleReader {
  private readonly bytes: Buffer;
  private readonly label: string;
  private readonly stack: Value[] = [];
  private readonly memo = new Map<number, Value>();
  private at = 0;

  constructor(bytes: Buffer, label: string) {
    this.bytes = bytes;
    this.label = label;
  }

  run(): PickledValue {
    for (;;) {
      const opcode = this.byte();
      if (opcode === 0x2e) break; // STOP
      const value = this.execute(opcode);
      if (value !== undefined) this.stack.push(value);
    }
    const value = this.pop();
    if (this.stack.length !== 0) this.refuse('leaves values on its stack');
    return this.plain(value);
  }

  /** The value an opcode pushes, or undefined if it pushes none. */
  private execute(opcode: number): Value | undefined {
    switch (opcode) {
      case 0x80: // PROTO
        return this.checkProtocol(this.byte());
      case 0x7d: // EMPTY_DICT
        return new Map();
      case 0x29: // EMPTY_TUPLE
        return [];
      case 0x28: // MARK
        return MARK;
      case 0x4e: // NONE
        return null;
      case 0x88: // NEWTRUE
        return true;
      case 0x89: // NEWFALSE
        return false;
      case 0x4b: // BININT1
        return this.byte();
      case 0x4d: // BININT2
        return this.take(2).readUInt16LE(0);
      case 0x4a: // BININT
        return this.take(4).readInt32LE(0);
      case 0x8a: // LONG1
        return this.longInteger();
      case 0x58: // BINUNICODE
        return this.take(this.take(4).readUInt32LE(0)).toString('utf8');
      case 0x63: // GLOBAL
        return this.name();
      case 0x71: // BINPUT
        return this.remember(this.byte());
      case 0x72: // LONG_BINPUT
        return this.remember(this.take(4).readUInt32LE(0));
      case 0x68: // BINGET
        return this.recall(this.byte());
      case 0x6a: // LONG_BINGET
        return this.recall(this.take(4).readUInt32LE(0));
      case 0x74: // TUPLE
        return this.popToMark();
      case 0x85: // TUPLE1
        return this.popMany(1);
      case 0x86: // TUPLE2
        return this.popMany(2);
      case 0x87: // TUPLE3
        return this.popMany(3);
      case 0x51: // BINPERSID
        return this.storage(this.pop());
      case 0x52: // REDUCE
        return this.call();
      case 0x73: // SETITEM
        return this.setItems(this.popMany(2));
      case 0x75: // SETITEMS
        return this.setItems(this.popToMark());
      default:
        return this.refuse(`uses opcode 0x${opcode.toString(16).padStart(2, '0')}`);
    }
  }

  private checkProtocol(protocol: number): undefined {
    if (protocol < 2 || protocol > 3) this.refuse(`uses protocol ${protocol}`);
  }

  private refuse(what: string): never {
    throw new InputError(`${this.label}: the pickle ${what}, which a saved dictionary of tensors does not need`);
  }

  private take(count: number): Buffer {
    if (this.at + count > this.bytes.length) throw new InputError(`${this.label}: the pickle ends early`);
    const taken = this.bytes.subarray(this.at, this.at + count);
    this.at += count;
    return taken;
  }

  private byte(): number {
    return this.take(1)[0]!;
  }

  private pop(): Value {
    const value = this.stack.pop();
    if (value === undefined || value === MARK)
      throw new InputError(`${this.label}: the pickle takes from an empty stack`);
    return value;
  }

  private popMany(count: number): PickledValue[] {
    const values: Value[] = [];
    for (let i = 0; i < count; i++) values.unshift(this.pop());
    return values as PickledValue[];
  }

  private popToMark(): PickledValue[] {
    const mark = this.stack.lastIndexOf(MARK);
    if (mark < 0) throw new InputError(`${this.label}: the pickle closes a tuple it never opened`);
    const values = this.stack.splice(mark).slice(1);
    return values as PickledValue[];
  }

  private remember(slot: number): undefined {
    const top = this.pop();
    this.memo.set(slot, top);
    this.stack.push(top);
  }

  private recall(slot: number): Value {
    const value = this.memo.get(slot);
    if (value === undefined) throw new InputError(`${this.label}: the pickle recalls a value it never stored`);
    return value;
  }

  private longInteger(): number {
    const digits = this.take(this.byte());
    if (digits.length > 6) this.refuse('holds an integer beyond 48 bits');
    return digits.length === 0 ? 0 : digits.readIntLE(0, digits.length);
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) throw new InputError(`${this.label}: the pickle ends early`);
    const text = this.bytes.toString('latin1', this.at, end);
    this.at = end + 1;
    return text;
  }

  private name(): PickledName {
    const name = `${this.line()}.${this.line()}`;
    if (name !== REBUILD_TENSOR && name !== ORDERED_DICT && !STORAGES.includes(name))
      this.refuse(`names ${quote(name)}`);
    return new PickledName(name);
  }

  /** ('storage', type, key, device, elements) */
  private storage(id: Value): PickledStorage {
    if (!Array.isArray(id) || id.length !== 5 || id[0] !== 'storage')
      return this.refuse('has an unknown persistent id');
    const [, type, key, , elements] = id as Value[];
    if (
      !(type instanceof PickledName) ||
      !STORAGES.includes(type.name) ||
      typeof key !== 'string' ||
      !isCount(elements)
    ) {
      return this.refuse('has an unknown persistent id');
    }
    return new PickledStorage(type.name, key, elements);
  }

  private call(): Value {
    const args = this.pop();
    const callee = this.pop();
    if (!(callee instanceof PickledName) || !Array.isArray(args))
      return this.refuse('calls something that is not a function');
    if (callee.name === ORDERED_DICT && args.length === 0) return new Map();
    if (callee.name !== REBUILD_TENSOR) return this.refuse(`calls ${quote(callee.name)}`);
    const [storage, offset, shape, stride] = args as Value[];
    if (!(storage instanceof PickledStorage) || !isCount(offset) || !isCounts(shape) || !isCounts(stride)) {
      return this.refuse('rebuilds a tensor from unknown arguments');
    }
    return new PickledTensor(storage, offset, shape, stride);
  }

  private setItems(items: PickledValue[]): undefined {
    const target = this.stack.at(-1);
    if (!(target instanceof Map) || items.length % 2 !== 0)
      return this.refuse('sets items of something that is not a dictionary');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== 'string') return this.refuse('has a dictionary key that is not a string');
      target.set(key, this.plain(items[i + 1] as Value));
    }
  }

  private plain(value: Value): PickledValue {
    if (value instanceof PickledName || value instanceof PickledStorage || value === MARK)
      return this.refuse('holds a bare name');
    return value;
  }
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isCount);
}
