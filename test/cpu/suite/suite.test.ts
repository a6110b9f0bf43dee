/** The suite loader: a digest that names the content, limits that cover the file, and one clear line for each kind of damage. */
import { test as prop } from '@fast-check/vitest';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { canonicalJson, sha256 } from '../../../harness/suite/canonical.ts';
import { loadSuites } from '../../../harness/suite/suite.ts';
import { scratch } from './scratch.ts';

const { dir, write } = scratch();
const row = (id: string, content = 'Hello there') => ({ id, tags: ['lang:en'], messages: [{ role: 'user', content }] });
const lines = (...rows: unknown[]) => `${rows.map((value) => JSON.stringify(value)).join('\n')}\n`;

let made = 0;
/** Loads `content` as the chat suite of a root of its own. */
function load(content: string | Uint8Array, options = {}) {
  const root = `root-${made++}`;
  write(`${root}/chat/prompts.jsonl`, content);
  return loadSuites(`${dir}/${root}`, { scenarios: ['chat'], ...options }).then((suites) => suites[0]!);
}

describe('digest', () => {
  const plain = lines(row('a'), row('b'));

  test('has a known value', async () => {
    const suite = await load(lines({ id: 'a', tags: [], messages: [{ role: 'user', content: 'é' }] }));
    expect(suite.digest).toBe(sha256('[{"id":"a","messages":[{"content":"é","role":"user"}],"tags":[]}]'));
    expect(sha256('abc')).toBe('sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  });

  test.each([
    ['CRLF line ends', plain.replaceAll('\n', '\r\n')],
    ['a byte order mark', `\ufeff${plain}`],
    ['no line end at the end', plain.trimEnd()],
    ['blank lines', `\n${plain}\n  \n`],
    [
      'other spacing and key order',
      '{"messages": [{"content": "Hello there", "role": "user"}], "tags": ["lang:en"], "id": "a"}\n'.concat(
        lines(row('b')),
      ),
    ],
  ])('does not depend on %s', async (_, content) => {
    expect((await load(content)).digest).toBe((await load(plain)).digest);
  });

  test.each([
    ['a changed word', lines(row('a'), row('b', 'Hello here'))],
    ['another order', lines(row('b'), row('a'))],
    ['a changed tag', lines(row('a'), { ...row('b'), tags: ['lang:de'] })],
    ['a missing prompt', lines(row('a'))],
  ])('changes with %s', async (_, content) => {
    expect((await load(content)).digest).not.toBe((await load(plain)).digest);
  });
});

test('a limit takes prompts from all over the file and says so in the digest', async () => {
  const content = lines(...Array.from({ length: 10 }, (_, i) => row(`p${i}`)));
  const suite = await load(content, { limit: 4 });
  expect(suite.prompts.map((prompt) => prompt.id)).toEqual(['p0', 'p2', 'p5', 'p7']);
  expect(suite.available).toBe(10);
  expect(suite.digest).not.toBe((await load(content)).digest);
  expect((await load(content, { limit: 99 })).prompts).toHaveLength(10);
  await expect(load(content, { limit: 0 })).rejects.toThrow('whole number from 1');
});

describe('refuses, with file and line', () => {
  const good = JSON.stringify(row('a'));
  const calling = (calls: unknown[], rest: unknown[]) =>
    lines({
      ...row('a'),
      messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: '', tool_calls: calls }, ...rest],
      tools: [{ type: 'function', function: { name: 'f', description: '', parameters: { type: 'object' } } }],
    });
  const call = (id: string, name: string, args: string) => ({
    id,
    type: 'function',
    function: { name, arguments: args },
  });
  const result = (id: string) => ({ role: 'tool', tool_call_id: id, content: 'ok' });

  test.each<[string, string | Uint8Array, RegExp]>([
    [
      'a truncated last line',
      `${good}\n${good.slice(0, 30)}`,
      /prompts\.jsonl:2: is not a JSON object on one line; the file may be cut short/,
    ],
    ['a broken line in the middle', `${good}\n{"id": }\n${good}\n`, /:2: is not a JSON object on one line$/],
    ['an empty file', '', /prompts\.jsonl: holds no rows/],
    ['white space only', '\n \r\n', /holds no rows/],
    ['a JSON array', `[${good}]`, /:1: begins a JSON array/],
    ['a number as a row', '7\n', /:1: Invalid input: expected object/],
    ['a missing field', '{"id":"a","tags":[]}\n', /:1: messages: /],
    ['a wrong type', lines(row('a'), { ...row('b'), tags: 'easy' }), /:2: tags: Invalid input: expected array/],
    ['an unknown key', lines({ ...row('a'), answer: 42 }), /:1: Unrecognized key: "answer"/],
    ['empty content', lines(row('a', '  ')), /:1: messages\[0\]\.content: is empty/],
    ['a lone surrogate', '{"id":"a","tags":[],"messages":[{"role":"user","content":"x\\ud800"}]}\n', /lone surrogate/],
    ['bytes that are not UTF-8', new Uint8Array([0x7b, 0xff, 0x7d]), /is not UTF-8 text/],
    ['gzip', new Uint8Array([0x1f, 0x8b, 8, 0]), /is gzip; unpack it first/],
    ['Parquet', new TextEncoder().encode('PAR1xxxx'), /is Parquet; export it as JSON Lines/],
    ['an id used twice', lines(row('a'), row('b'), row('a')), /:3: id "a" is taken by line 1/],
    ['a tag used twice', lines({ ...row('a'), tags: ['x', 'x'] }), /:1: tags: holds a tag twice/],
    ['an unknown role', lines({ ...row('a'), messages: [{ role: 'developer', content: 'Hi' }] }), /:1: messages\[0\]/],
    [
      'an assistant as the last to speak',
      lines({
        ...row('a'),
        messages: [
          { role: 'user', content: 'Hi' },
          { role: 'assistant', content: 'Hi' },
        ],
      }),
      /last message must be from the user or a tool/,
    ],
    [
      'a system message in the middle',
      lines({
        ...row('a'),
        messages: [
          { role: 'user', content: 'Hi' },
          { role: 'system', content: 'x' },
          { role: 'user', content: 'Hi' },
        ],
      }),
      /system message must come first/,
    ],
    [
      'a tool result without a call',
      lines({ ...row('a'), messages: [{ role: 'user', content: 'Hi' }, result('c1')] }),
      /answers no open tool call: c1/,
    ],
    [
      'a call without its result',
      calling([call('c1', 'f', '{}'), call('c2', 'f', '{}')], [result('c1')]),
      /lack the result of tool call c2/,
    ],
    ['a call of a function that is not offered', calling([call('c1', 'g', '{}')], [result('c1')]), /not offered: g/],
    [
      'arguments that are no object',
      calling([call('c1', 'f', '[1]')], [result('c1')]),
      /arguments: must be the JSON text of one object/,
    ],
  ])('%s', async (_, content, message) => {
    const error = await load(content).then(
      () => null,
      (caught: Error) => caught,
    );
    expect(error?.name).toBe('InputError');
    expect(error?.message).toMatch(message);
    expect(error?.message).not.toContain('\n');
  });

  test('a missing file, a folder in its place, an unknown scenario', async () => {
    await expect(loadSuites(`${dir}/nowhere`)).rejects.toThrow(/coding.prompts\.jsonl: no such file/);
    write('folder/math/prompts.jsonl/x', '');
    await expect(loadSuites(`${dir}/folder`, { scenarios: ['math'] })).rejects.toThrow('is a folder');
    await expect(loadSuites(dir, { scenarios: ['poetry'] })).rejects.toThrow('unknown scenario "poetry"');
  });
});

test('accepts a history with parallel calls', async () => {
  const suite = await load(
    lines({
      id: 'a',
      tags: [],
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'Both, please' },
        {
          role: 'assistant',
          content: '',
          tool_calls: ['c1', 'c2'].map((id) => ({
            id,
            type: 'function',
            function: { name: 'f', arguments: '{"x": 1}' },
          })),
        },
        { role: 'tool', tool_call_id: 'c2', content: '2' },
        { role: 'tool', tool_call_id: 'c1', content: '1' },
      ],
      tools: [{ type: 'function', function: { name: 'f', description: '', parameters: { type: 'object' } } }],
    }),
  );
  expect(suite.prompts[0]!.messages).toHaveLength(5);
});

describe('canonical JSON', () => {
  prop.prop([fc.jsonValue()], { seed: 20260608 })('reads back as the same value, whatever the key order', (value) => {
    const text = canonicalJson(value);
    expect(canonicalJson(JSON.parse(text))).toBe(text);
    expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
    expect(canonicalJson(reversedKeys(value))).toBe(text);
  });

  test('has no form for what JSON cannot hold', () => {
    expect(() => canonicalJson(Number.NaN)).toThrow(TypeError);
    expect(() => canonicalJson([undefined])).toThrow(TypeError);
  });
});

function reversedKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversedKeys);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, member]) => [key, reversedKeys(member)]),
  );
}
