/**
 * Whatever JavaScript hands over, the answer is an error or a result, never a crash: a table of wrong requests with the line each
 * gets, arbitrary values at every door of the addon, broken checkpoint plans, wrong receivers, and the garbage collector.
 */
import { once } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Decoding } from '../../../harness/engine.ts';
import {
  addon,
  addonFile,
  callAddon,
  type NativeCheckpoint,
  type NativeModel,
  type NativeSessionOptions,
} from '../../../native/addon.ts';
import { CpuModel } from '../../../native/engines.ts';
import { checkpoint, decode, GREEDY, nativePlan, randomIds, tinyVocabulary, tokensOf } from './checkpoints.ts';

const VOCAB = 6;
const OPTIONS: NativeSessionOptions = { ...GREEDY, blockSize: 4, rule: 'match', replay: false };
let model: CpuModel;
let native: NativeModel;
let plan: NativeCheckpoint;

beforeAll(async () => {
  const directory = await checkpoint('tiny', tinyVocabulary(VOCAB));
  model = await CpuModel.load(directory);
  plan = await nativePlan(directory, 'fp8');
  native = await addon().load(plan);
});
afterAll(async () => {
  native.close();
  await model.close();
});

describe('requests', () => {
  const wrong: [string, readonly number[], Partial<Record<keyof Decoding, unknown>>, RegExp][] = [
    ['an empty prompt', [], {}, /prompt is empty/],
    ['an id beyond the vocabulary', [1, VOCAB], {}, /token id 6 at index 1 is outside 0 \.\. 5/],
    ['a negative id', [-1], {}, /token id -1 at index 0/],
    ['a fraction', [0.5], {}, /prompt\[0\] must be a token id/],
    ['not a number', [Number.NaN], {}, /prompt\[0\] must be a token id/],
    ['a huge id', [1e300], {}, /prompt\[0\] must be a token id/],
    ['a hole', new Array(3), {}, /prompt\[0\] must be a token id/],
    ['a prompt that fills the context', randomIds(1, 64, VOCAB), {}, /64 tokens leaves no room in a context of 64/],
    ['a prompt beyond the context', randomIds(1, 65, VOCAB), {}, /65 ids; at most 64 fit/],
    ['a prompt of four thousand million holes', new Array(2 ** 32 - 1), {}, /4294967295 ids; at most 64 fit/],
    ['a negative temperature', [1], { temperature: -1 }, /temperature must be/],
    ['an infinite temperature', [1], { temperature: Number.POSITIVE_INFINITY }, /temperature must be/],
    ['a temperature that is no number', [1], { temperature: '1' }, /temperature must be a number/],
    ['top-p 0', [1], { topP: 0 }, /top-p must lie in/],
    ['top-p above 1', [1], { topP: 1.5 }, /top-p must lie in/],
    ['top-p NaN', [1], { topP: Number.NaN }, /top-p must lie in/],
    ['a negative top-k', [1], { topK: -1 }, /topK must be an integer/],
    ['a fractional top-k', [1], { topK: 1.5 }, /topK must be an integer/],
    ['no tokens to generate', [1], { maxTokens: 0 }, /max tokens must be at least 1/],
    ['a stop id beyond the vocabulary', [1], { stopIds: [99] }, /token id 99/],
    ['stop ids that are no list', [1], { stopIds: 3 }, /stopIds must be an array/],
    ['a seed that is no number', [1], { seed: 'one' }, /seed must be an unsigned 64-bit integer/],
    ['a negative seed', [1], { seed: '-1' }, /seed must be/],
    ['a seed of 65 bits', [1], { seed: '18446744073709551616' }, /seed must be/],
    ['a seed that is not a string', [1], { seed: 1 }, /seed must be a string/],
    ['an empty seed', [1], { seed: '' }, /seed must be/],
  ];
  test.each(wrong)('%s', async (_, prompt, decoding, message) => {
    const attempt = model.engine().open(prompt, { ...GREEDY, ...decoding } as Decoding);
    await expect(attempt).rejects.toMatchObject({ name: 'InputError', message: expect.stringMatching(message) });
    await expect(attempt).rejects.toMatchObject({ message: expect.not.stringContaining('\n') });
  });

  test('extreme but valid values work', async () => {
    for (const decoding of [
      { ...GREEDY, maxTokens: Number.MAX_SAFE_INTEGER, topK: Number.MAX_SAFE_INTEGER },
      { ...GREEDY, temperature: 5e-324, topP: Number.MIN_VALUE, seed: '0' },
      { ...GREEDY, temperature: 1e308, topK: 1, seed: '18446744073709551615' },
    ]) {
      for (const rule of ['match', 'reject', 'coupled'] as const) {
        expect(
          tokensOf(await decode(model.engine({ rule }), [0], { ...decoding, stopIds: [] })).length,
        ).toBeGreaterThan(0);
      }
    }
  });

  test('a vanishing temperature is greedy', async () => {
    const greedy = tokensOf(await decode(model.engine(), [1, 2, 3], GREEDY));
    const cold = { ...GREEDY, temperature: 1e-300 };
    for (const rule of ['match', 'reject', 'coupled'] as const) {
      expect(tokensOf(await decode(model.engine({ rule }), [1, 2, 3], cold))).toEqual(greedy);
    }
  });

  test('blocks and rules', () => {
    for (const blockSize of [0, 9, 1.5, -1, Number.NaN])
      expect(() => model.engine({ blockSize })).toThrow(/block size/);
    expect(() => model.engine({ rule: 'guess' as 'match' })).toThrow(/unknown rule "guess"/);
  });

  test('a checkpoint without a draft decodes plainly only', async () => {
    const plain = await CpuModel.load(await checkpoint('no-draft', { ...tinyVocabulary(VOCAB), draft: false }));
    expect(plain.engine().card).toMatchObject({ blockSize: 1, draftDigest: 'none' });
    expect(tokensOf(await decode(plain.engine(), [1], GREEDY)).length).toBe(GREEDY.maxTokens);
    expect(() => plain.engine({ blockSize: 2 })).toThrow(/no draft/);
    await expect(plain.draftCases([[1]], 1)).rejects.toMatchObject({
      name: 'InputError',
      message: 'case 0: the checkpoint has no draft',
    });
    await plain.close();
  });

  test('cases to score and to draft from', async () => {
    const bad: [number[][], RegExp][] = [
      [[[1], []], /case 1: .*empty/],
      [[[VOCAB]], /case 0: token id 6/],
      [[randomIds(1, 65, VOCAB)], /case 0: .*64/],
    ];
    for (const [cases, message] of bad) {
      await expect(model.scoreCases(cases, 3)).rejects.toMatchObject({
        name: 'InputError',
        message: expect.stringMatching(message),
      });
      await expect(model.draftCases(cases, 3)).rejects.toMatchObject({
        name: 'InputError',
        message: expect.stringMatching(message),
      });
    }
    await expect(model.scoreCases([[1]], -1)).rejects.toMatchObject({ name: 'InputError' });
    expect((await model.scoreCases([[1]], 1e9))[0]!.topIds[0]!.length).toBe(VOCAB);
    expect(await model.scoreCases([], 3)).toEqual([]);
    expect((await model.scoreCases([randomIds(1, 64, VOCAB)], 0))[0]!.nextLogprobs.length).toBe(63);
    await expect(model.draftCases([randomIds(1, 58, VOCAB)], 1)).rejects.toMatchObject({
      message: expect.stringMatching(/no room/),
    });
    expect((await model.draftCases([[1]], 2))[0]).toMatchObject({ anchor: 0 });
  });
});

/** The call must return, throw or reject; its promise, if any, is waited for. */
async function survives(call: () => unknown): Promise<void> {
  try {
    await call();
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
  }
}

const anything = fc.anything({
  withBigInt: true,
  withDate: true,
  withMap: true,
  withSparseArray: true,
  withTypedArray: true,
  withNullPrototype: true,
});

describe('arbitrary values', () => {
  test('at every function (seed 5001)', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anything, { maxLength: 4 }), async (values) => {
        const call = (owner: object, name: string) =>
          survives(() => (owner as Record<string, (...a: unknown[]) => unknown>)[name]!(...values));
        for (const name of ['load', 'instructionSets']) await call(addon(), name);
        for (const name of ['open', 'score', 'draft']) await call(native, name);
      }),
      { seed: 5001, numRuns: 200 },
    );
  });

  test('as one field of an otherwise good request (seed 5002)', async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...Object.keys(OPTIONS)), anything, async (field, value) => {
        await survives(() => {
          const session = native.open([1, 2], { ...OPTIONS, maxTokens: 3, [field]: value } as NativeSessionOptions);
          return session.step().then(() => session.close());
        });
      }),
      { seed: 5002, numRuns: 400 },
    );
  });

  test('as a number of a checkpoint plan (seed 5003)', async () => {
    const numbers = fc.oneof(
      fc.constantFrom(
        0,
        1,
        2,
        3,
        7,
        63,
        127,
        128,
        1e9,
        2 ** 31,
        2 ** 32,
        2 ** 53,
        1e300,
        -1,
        0.5,
        Number.NaN,
        Number.POSITIVE_INFINITY,
      ),
      anything,
    );
    const paths: string[][] = [
      ...[
        'hidden',
        'vocab',
        'eps',
        'valueScale',
        'experts',
        'topK',
        'normTopK',
        'routedScale',
        'maxContext',
        'headTensor',
        'layers',
        'tensors',
        'draft',
        'activations',
        'instructionSet',
      ].map((name) => [name]),
      ...['qHeads', 'kvHeads', 'headDim', 'vHeadDim', 'rotaryDim', 'ropeTheta', 'window', 'sink', 'fusedGroups'].map(
        (name) => ['layers', '1', 'attention', name],
      ),
      ['layers', '1', 'ffn', 'kind'],
      ['layers', '1', 'ffn', 'width'],
      ...[
        'layers',
        'qHeads',
        'kvHeads',
        'headDim',
        'vHeadDim',
        'rotaryDim',
        'ropeTheta',
        'window',
        'sink',
        'eps',
        'valueScale',
        'ffnWidth',
        'blockSize',
        'targetLayerIds',
        'maskTokenId',
        'maskEmbedding',
        'tensors',
      ].map((name) => ['draft', name]),
      ...['name', 'dtype', 'shape', 'file', 'offset', 'bytes'].flatMap((name) => [
        ['tensors', '3', name],
        ['draft', 'tensors', '2', name],
      ]),
    ];
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...paths), numbers, async (path, value) => {
        const broken = structuredClone(plan) as unknown as Record<string, unknown>;
        let at = broken;
        for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
        at[path.at(-1)!] = value;
        await survives(async () => {
          const loaded = await addon().load(broken as unknown as NativeCheckpoint);
          try {
            await loaded.score([1, 2, 3], 2, 8);
            await loaded.draft([1, 2, 3], 2);
          } finally {
            loaded.close();
          }
        });
      }),
      { seed: 5003, numRuns: 400 },
    );
  });

  test('tensors that lie about themselves get a line that names them', async () => {
    const lies: [
      string,
      (record: { dtype: string; shape: number[]; file: string; offset: number; bytes: number }) => void,
      RegExp,
    ][] = [
      [
        'missing file',
        (record) => {
          record.file = '/nonexistent';
        },
        /cannot be read/,
      ],
      [
        'beyond the file',
        (record) => {
          record.offset = 2 ** 50;
        },
        /beyond the end/,
      ],
      [
        'a shape of another size',
        (record) => {
          record.shape = [1, 1];
        },
        /has shape \[1, 1\], expected/,
      ],
      [
        'another byte count',
        (record) => {
          record.bytes += 2;
        },
        /bytes, expected/,
      ],
      [
        'another dtype',
        (record) => {
          record.dtype = 'I64';
        },
        /expected BF16/,
      ],
    ];
    for (const [, lie, message] of lies) {
      const broken = structuredClone(plan) as NativeCheckpoint;
      lie(broken.tensors.find((record) => record.name === 'model.norm.weight')! as never);
      const error = callAddon(() => addon().load(broken));
      await expect(error).rejects.toMatchObject({
        name: 'InputError',
        message: expect.stringMatching(/^tensor model\.norm\.weight/),
      });
      await expect(error).rejects.toMatchObject({ message: expect.stringMatching(message) });
    }
    const missing = { ...plan, tensors: plan.tensors.filter((record) => record.name !== 'model.norm.weight') };
    await expect(addon().load(missing)).rejects.toMatchObject({ message: 'tensor model.norm.weight is missing' });
  });
});

describe('objects', () => {
  test('constructors, receivers and subclasses', async () => {
    const session = native.open([1], OPTIONS);
    for (const instance of [native, session] as object[]) {
      const Class = instance.constructor as new (...values: unknown[]) => object;
      expect(() => new Class()).toThrow(TypeError);
      expect(() => new Class(native, session, 1)).toThrow(TypeError);
      expect(() => (Class as unknown as () => void)()).toThrow();
      expect(() => new (class extends Class {})()).toThrow(TypeError);
      const other = instance === native ? session : native;
      for (const name of ['open', 'score', 'draft', 'step', 'fork', 'close']) {
        const method = (Class.prototype as Record<string, unknown>)[name];
        if (typeof method !== 'function') continue;
        for (const receiver of [other, {}, null, undefined, 1, Object.create(instance), new Proxy(instance, {})]) {
          await survives(() => Reflect.apply(method, receiver, [[1], OPTIONS, 1]));
        }
      }
    }
    expect((await session.step()).committed.length).toBe(1);
    session.close();
  });

  test('a model may be collected while its sessions live, and sessions while they step', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const open = async () => {
      const own = await addon().load(plan);
      const session = own.open(randomIds(5, 40, VOCAB), OPTIONS);
      void own.score(randomIds(5, 60, VOCAB), 2, 8); // a worker that outlives every reference
      return session;
    };
    const session = await open();
    const abandoned = (await open()).step();
    for (let i = 0; i < 10; i++) {
      collect();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await abandoned).committed.length).toBe(1);
    const rounds = [await session.step(), await session.step()];
    const expected = await decode(model.engine({ blockSize: 4 }), randomIds(5, 40, VOCAB), GREEDY);
    expect(rounds.flatMap((round) => round.committed)).toEqual(
      expected.slice(0, 2).flatMap((round) => round.committed),
    );
    session.close();
  });

  test('a thread may be terminated while its sessions step', async () => {
    // As plain JavaScript: a worker thread loads no TypeScript.
    const body = `
      const { workerData: { file, plan, ids, options }, parentPort } = require('node:worker_threads');
      const work = async () => {
        const model = await require(file).load(plan);
        for (;;) {
          const sessions = [0, 1, 2].map(() => model.open(ids, options));
          parentPort.postMessage('stepping');
          await Promise.all([...sessions.map((session) => session.step()), model.score(ids, 2, 8)]);
        }
      };
      work();
    `;
    const workerData = { file: addonFile(), plan, ids: randomIds(5, 60, VOCAB), options: OPTIONS };
    for (let i = 0; i < 12; i++) {
      const worker = new Worker(body, { eval: true, workerData });
      await once(worker, 'message');
      if (i % 2 === 1) await once(worker, 'message');
      await worker.terminate();
    }
  });
});
