/** Fixture files: the committed ones are what their recipes write, a strict validator takes them, broken ones get one line. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { fixtureFiles } from '../../../harness/fixtures/make.ts';
import { checkFixture, type Fixture, fixtureSchemaText, readFixture } from '../../../harness/oracle/fixture.ts';
import { FIXTURES, fixture, PLAIN, ROOT } from './support.ts';

test.each(fixtureFiles())('$file is what its recipe writes (node dist/scripts/write-fixtures.js)', ({ file, text }) => {
  expect(readFileSync(join(FIXTURES, file), 'utf8')).toBe(text);
  expect(JSON.parse(text)).toEqual(checkFixture(JSON.parse(text)));
});

test('no file lies there without a recipe', () => {
  const files = readdirSync(FIXTURES).filter((file) => file.endsWith('.json'));
  expect(files.sort()).toEqual(
    fixtureFiles()
      .map(({ file }) => file)
      .sort(),
  );
});

test('the committed schema is what the definition says, and takes every fixture', () => {
  expect(readFileSync(join(ROOT, 'schemas/fixture.schema.json'), 'utf8')).toBe(fixtureSchemaText());
  const valid = new Ajv2020({ strict: true, allErrors: true, strictTuples: false }).compile(
    JSON.parse(fixtureSchemaText()),
  );
  for (const { file, text } of fixtureFiles()) {
    expect(valid(JSON.parse(text)), `${file}: ${JSON.stringify(valid.errors)}`).toBe(true);
  }
  expect(valid({ ...fixture('e1'), extra: 1 })).toBe(false);
  expect(valid({ ...fixture('e1'), format: 'kilotoken/fixture@2' })).toBe(false);
});

/** A copy of a small valid fixture with one thing changed. */
function broken(change: (data: Record<string, unknown> & { decoding: Record<string, unknown> }) => void): unknown {
  const data = structuredClone(fixture('limit')) as unknown as Record<string, unknown> & {
    decoding: Record<string, unknown>;
  };
  change(data);
  return data;
}

function row(data: Record<string, unknown>, table: 'target' | 'draft'): number[] {
  return table === 'target' ? (data.target as number[][])[1]! : (data.draft as number[][][])[1]![2]!;
}

describe('broken fixtures', () => {
  const cases: readonly (readonly [string, unknown, RegExp])[] = [
    ['no object', 5, /expected object/i],
    ['null', null, /expected object/i],
    [
      'another format',
      broken((d) => {
        d.format = 'kilotoken/fixture@2';
      }),
      /format/,
    ],
    [
      'an unknown field',
      broken((d) => {
        d.temperature = 1;
      }),
      /temperature/,
    ],
    [
      'an unknown decoding field',
      broken((d) => {
        d.decoding.minP = 0.1;
      }),
      /minP/,
    ],
    [
      'a missing field',
      broken((d) => {
        delete d.block;
      }),
      /block/,
    ],
    [
      'NaN in a target row',
      broken((d) => {
        row(d, 'target')[2] = Number.NaN;
      }),
      /target\[1\]\[2\]/,
    ],
    [
      'null in a draft row',
      broken((d) => {
        (row(d, 'draft') as unknown[])[0] = null;
      }),
      /draft\[1\]\[2\]\[0\]/,
    ],
    [
      'infinity',
      broken((d) => {
        row(d, 'target')[0] = Number.POSITIVE_INFINITY;
      }),
      /target\[1\]\[0\]/,
    ],
    ['a negative probability', broken((d) => row(d, 'target').fill(0.5, 0, 3).fill(-0.5, 3)), /\[1\]\[3\].*negative/],
    ['a row that adds up to 0.98', broken((d) => row(d, 'target').splice(0, 4, 0.5, 0.48, 0, 0)), /target\[1\].*0\.98/],
    [
      'a row that is off by 1e-8',
      broken((d) => {
        row(d, 'draft')[0]! += 1e-8;
      }),
      /draft\[1\]\[2\].*1e-9/,
    ],
    ['a row of zeros', broken((d) => row(d, 'draft').fill(0)), /draft\[1\]\[2\]: adds up to 0/],
    ['a short row', broken((d) => row(d, 'target').pop()), /target\[1\]: 3 entries/],
    ['a missing context', broken((d) => (d.target as unknown[]).pop()), /target: 3 entries, vocab\^order needs 4/],
    ['a draft context too many', broken((d) => (d.draft as unknown[]).push([])), /draft: 5 entries/],
    ['a slot too few', broken((d) => (d.draft as unknown[][])[0]!.pop()), /draft\[0\]: 2 entries, block - 1 needs 3/],
    [
      'a prompt id outside',
      broken((d) => {
        d.prompt = [4];
      }),
      /prompt\[0\]: 4 is not below vocab 4/,
    ],
    [
      'an empty prompt',
      broken((d) => {
        d.prompt = [];
      }),
      /prompt/,
    ],
    ['a prompt shorter than the order', { ...fixture('e1'), prompt: [0] }, /order needs at least 2/],
    [
      'a stop id outside',
      broken((d) => {
        d.decoding.stopIds = [9];
      }),
      /stopIds\[0\]: 9/,
    ],
    [
      'a bias on no token',
      broken((d) => {
        d.decoding.logitBias = [{ token: 7, bias: 1 }];
      }),
      /logitBias\[0\]/,
    ],
    ['a logit that could overflow', { ...fixture('logits'), target: [[1e9, 0, 0, 0, 0]] }, /target\[0\]\[0\]/],
    ['a penalty of nothing', { ...fixture('e1'), decoding: { ...PLAIN, repetitionPenalty: 0 } }, /repetitionPenalty/],
    [
      'a fractional token',
      broken((d) => {
        d.prompt = [0.5];
      }),
      /prompt\[0\]/,
    ],
    [
      'a negative temperature',
      broken((d) => {
        d.decoding.temperature = -1;
      }),
      /temperature/,
    ],
    [
      'top-p 0',
      broken((d) => {
        d.decoding.topP = 0;
      }),
      /topP/,
    ],
    [
      'top-p above 1',
      broken((d) => {
        d.decoding.topP = 1.1;
      }),
      /topP/,
    ],
    [
      'top-k above the vocabulary',
      broken((d) => {
        d.decoding.topK = 5;
      }),
      /topK/,
    ],
    [
      'maxTokens 0',
      broken((d) => {
        d.decoding.maxTokens = 0;
      }),
      /maxTokens/,
    ],
    [
      'block 0',
      broken((d) => {
        d.block = 0;
      }),
      /block/,
    ],
    [
      'a run too long to list',
      broken((d) => {
        d.tokens = 9;
      }),
      /too large to enumerate.*262144.*131072/,
    ],
    [
      'a block too long to list',
      broken((d) => {
        d.block = 12;
      }),
      /too large to enumerate.*paths/,
    ],
    [
      'penalties over too many prefixes',
      broken((d) => {
        d.tokens = 8;
        d.decoding.presencePenalty = 1;
      }),
      /too large to enumerate.*paths/,
    ],
  ];

  test.each(cases)('%s', (_name, value, line) => {
    let message = '';
    try {
      checkFixture(value, 'fixture x.json');
    } catch (error) {
      expect((error as Error).name).toBe('InputError');
      message = (error as Error).message;
    }
    expect(message).toMatch(line);
    expect(message.startsWith('fixture x.json: ')).toBe(true);
    expect(message.split('\n').length).toBe(1);
  });

  test('a missing file and a file that is not JSON', () => {
    expect(() => readFixture('/nowhere/at/all.json')).toThrow(/no such file/);
    expect(() => readFixture(join(ROOT, 'README.md'))).toThrow(/not JSON/);
  });
});

test('logits need not add up', () => {
  const data: Fixture = fixture('logits');
  expect(data.target.some((entries) => Math.abs(entries.reduce((a, b) => a + b, 0) - 1) > 0.1)).toBe(true);
});
