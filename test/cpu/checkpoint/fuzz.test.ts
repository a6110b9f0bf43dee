/**
 * Random damage never crashes, hangs or allocates beyond the file: for any bytes the readers either succeed or throw InputError with
 * one line. Seeds are fixed; a failure prints seed and path.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseConfig } from '../../../native/checkpoint/config.ts';
import { readPickle } from '../../../native/checkpoint/pickle.ts';
import { parseHeader, readShardHeader } from '../../../native/checkpoint/safetensors.ts';
import { parseMaskSidecar } from '../../../native/checkpoint/torch_pt.ts';
import { InputError } from '../../../native/errors.ts';
import { BASE_CONFIG, type Config } from '../../support/synthetic-checkpoint.ts';
import { encodeShard } from '../../support/write-safetensors.ts';
import { maskPickle, maskSidecarBytes } from '../../support/write-torch.ts';

const SEED = 987654;
const settings = (numRuns: number) => ({ seed: SEED, numRuns });

let root: string;
beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'kilotoken-fuzz-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** How it ended; throws when it ended in any other way than it may. */
function outcome(run: () => unknown): 'accepted' | 'refused' {
  try {
    run();
    return 'accepted';
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    const { message } = error as InputError;
    expect(message).not.toContain('\n');
    expect(message.length).toBeLessThan(600);
    return 'refused';
  }
}

type Damage = { readonly at: number; readonly byte: number };
const damages = (max: number) =>
  fc.array(fc.record({ at: fc.nat(max - 1), byte: fc.nat(255) }), { minLength: 1, maxLength: 6 });

function damaged(bytes: Buffer, changes: readonly Damage[]): Buffer {
  const copy = Buffer.from(bytes);
  for (const { at, byte } of changes) copy[at % copy.length] = byte;
  return copy;
}

const SHARD = encodeShard([
  { name: 'a.weight', dtype: 'BF16', shape: [4, 8], data: new Uint8Array(64) },
  { name: 'b.weight', dtype: 'F8_E4M3', shape: [16], data: new Uint8Array(16) },
  { name: 'b.weight_scale_inv', dtype: 'F32', shape: [1, 1], data: new Uint8Array(4) },
]);
const HEADER = SHARD.subarray(8, 8 + Number(SHARD.readBigUInt64LE(0)));

describe(`safetensors, seed ${SEED}`, () => {
  test('the undamaged header is accepted', () => {
    expect(parseHeader(HEADER, 84, 'x').size).toBe(3);
  });

  test('bytes replaced in the header', () => {
    const counts = { accepted: 0, refused: 0 };
    fc.assert(
      fc.property(damages(HEADER.length), (changes) => {
        counts[outcome(() => parseHeader(damaged(HEADER, changes), 84, 'x'))] += 1;
      }),
      settings(3000),
    );
    expect(counts.refused).toBeGreaterThan(2000);
  });

  test('whatever is accepted covers the data exactly once', () => {
    fc.assert(
      fc.property(damages(HEADER.length), fc.nat(200), (changes, dataBytes) => {
        let tensors: ReturnType<typeof parseHeader> | null = null;
        outcome(() => {
          tensors = parseHeader(damaged(HEADER, changes), dataBytes, 'x');
        });
        if (tensors === null) return;
        const total = [...(tensors as Map<string, { bytes: number }>).values()].reduce(
          (sum, tensor) => sum + tensor.bytes,
          0,
        );
        expect(total).toBe(dataBytes);
      }),
      settings(2000),
    );
  });

  test('arbitrary JSON as a header', () => {
    fc.assert(
      fc.property(fc.json(), (json) => {
        outcome(() => parseHeader(Buffer.from(json), 84, 'x'));
      }),
      settings(1500),
    );
  });

  test('files cut at every length and with every damaged length field', async () => {
    const file = path.join(root, 'cut.safetensors');
    for (let length = 0; length < SHARD.length; length += 1) {
      await writeFile(file, SHARD.subarray(0, length));
      await expect(readShardHeader(file)).rejects.toThrow(InputError);
    }
    const before = process.memoryUsage().rss;
    for (let bit = 0; bit < 64; bit++) {
      const bytes = Buffer.from(SHARD);
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      await writeFile(file, bytes);
      await expect(readShardHeader(file)).rejects.toThrow(InputError);
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20);
  });

  test('a header that nests deeply', () => {
    expect(outcome(() => parseHeader(Buffer.from(`{"a":${'['.repeat(200_000)}${']'.repeat(200_000)}}`), 84, 'x'))).toBe(
      'refused',
    );
    expect(outcome(() => parseHeader(Buffer.from(`{"a":${'['.repeat(200_000)}`), 84, 'x'))).toBe('refused');
  });

  test('names of prototypes are ordinary names', () => {
    const header =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
    expect([...parseHeader(Buffer.from(header), 2, 'x').keys()]).toEqual(['__proto__', 'constructor']);
    expect(
      outcome(() => parseHeader(Buffer.from('{"a":{"dtype":"toString","shape":[1],"data_offsets":[0,1]}}'), 1, 'x')),
    ).toBe('refused');
  });
});

describe(`mask sidecar, seed ${SEED}`, () => {
  const sidecar = maskSidecarBytes(
    202,
    Float64Array.from({ length: 16 }, (_, i) => i / 8),
  );

  test('the undamaged sidecar is accepted, in both dtypes', () => {
    const expected = Float32Array.from({ length: 16 }, (_, i) => i / 8);
    expect(parseMaskSidecar(sidecar, 'mask', 16)).toEqual({ maskTokenId: 202, embedding: expected });
    expect(parseMaskSidecar(maskSidecarBytes(7, expected, 'F32'), 'mask', 16)).toEqual({
      maskTokenId: 7,
      embedding: expected,
    });
  });

  test('bytes replaced anywhere; cut anywhere', () => {
    fc.assert(
      fc.property(damages(sidecar.length), (changes) => {
        outcome(() => parseMaskSidecar(damaged(sidecar, changes), 'mask', 16));
      }),
      settings(4000),
    );
    for (let length = 0; length < sidecar.length; length++) {
      expect(outcome(() => parseMaskSidecar(sidecar.subarray(0, length), 'mask', 16))).toBe('refused');
    }
  });

  test('damaged and arbitrary pickles', () => {
    const pickle = maskPickle(202, 16, 'BF16');
    fc.assert(
      fc.property(damages(pickle.length), (changes) => {
        outcome(() => readPickle(damaged(pickle, changes), 'mask'));
      }),
      settings(4000),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        outcome(() => readPickle(Buffer.from([0x80, 2, ...bytes]), 'mask'));
      }),
      settings(4000),
    );
  });

  test.each([
    ['os.system', Buffer.from('\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.', 'latin1')],
    ['builtins.eval', Buffer.from('\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.', 'latin1')],
    ['torch.load', Buffer.from('\x80\x02ctorch\nload\n.', 'latin1')],
  ])('a pickle that names %s', (name, pickle) => {
    expect(() => readPickle(pickle, 'mask')).toThrow(`names "${name}"`);
  });

  test.each([
    ['BUILD', 'b'],
    ['INST', 'i'],
    ['OBJ', 'o'],
    ['NEWOBJ', '\x81'],
    ['STACK_GLOBAL', '\x93'],
    ['EXT1', '\x82'],
  ])('opcode %s is refused', (_name, opcode) => {
    expect(() => readPickle(Buffer.from(`\x80\x02}}${opcode}.`, 'latin1'), 'mask')).toThrow(/uses opcode/);
  });
});

describe(`config, seed ${SEED}`, () => {
  const fields = Object.keys(BASE_CONFIG);
  const anything = fc.oneof(
    fc.constantFrom<unknown>(null, -1, 0, 0.5, 1e300, '', 'silu', true, false, [], {}, [1], [[1]], 2 ** 53),
    fc.jsonValue(),
  );

  test('any field replaced by anything', () => {
    fc.assert(
      fc.property(fc.constantFrom(...fields), anything, (field, value) => {
        outcome(() => parseConfig({ ...BASE_CONFIG, [field]: value }));
      }),
      settings(4000),
    );
  });

  test('arbitrary JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (json) => {
        expect(outcome(() => parseConfig(json))).toBe('refused');
      }),
      settings(500),
    );
  });

  test('every field removed on its own', () => {
    const required = fields.filter((field) => {
      const config: Config = { ...BASE_CONFIG };
      delete config[field];
      return outcome(() => parseConfig(config)) === 'refused';
    });
    expect(required.sort()).toEqual([
      'architectures',
      'head_dim',
      'hidden_size',
      'intermediate_size',
      'layernorm_epsilon',
      'max_position_embeddings',
      'moe_intermediate_size',
      'n_routed_experts',
      'num_attention_heads',
      'num_experts_per_tok',
      'num_hidden_layers',
      'num_key_value_heads',
      'rope_theta',
      'sliding_window',
      'vocab_size',
    ]);
  });
});
