/**
 * Readers of public benchmarks, on rows written for this test in the shape each publisher uses. What a real file holds
 * beyond these keys is ignored by the readers, so the fixtures carry a few such keys too.
 */
import { describe, expect, test } from 'vitest';
import { FORMAT_NAMES, loadExternal } from '../../../harness/suite/external.ts';
import { scratch } from './scratch.ts';

const { write } = scratch();
const lines = (...rows: unknown[]) => `${rows.map((row) => JSON.stringify(row)).join('\n')}\n`;
const first = (text: string) => [{ role: 'user', content: text }];

const HUMANEVAL = lines(
  {
    task_id: 'HumanEval/900',
    prompt: '\ndef twice(x):\n    """Double it."""\n',
    entry_point: 'twice',
    canonical_solution: '    return 2 * x\n',
    test: '',
  },
  {
    task_id: 'HumanEval/901',
    prompt: 'def nil():\n    """None."""\n',
    entry_point: 'nil',
    canonical_solution: '',
    test: '',
  },
);
const GSM8K = lines(
  { question: 'Ida has 2 kites and makes 3 more. How many?', answer: '2 + 3 = <<2+3=5>>5\n#### 5' },
  { question: 'How many legs have 4 crabs?', answer: '#### 40' },
);
const MATH500 = lines({
  problem: 'What is $1+1$?',
  solution: '$\\boxed{2}$',
  answer: '2',
  subject: 'Number Theory',
  level: 1,
  unique_id: 'test/number_theory/9000.json',
});
const MTBENCH = lines(
  { question_id: 981, category: 'writing', turns: ['Praise a spoon.', 'Now a fork.'] },
  { question_id: 982, category: 'coding', turns: ['Print 1.'], reference: ['print(1)'] },
);
const SPECBENCH = lines(
  { question_id: 81, category: 'writing', turns: ['Praise a spoon.', 'Now a fork.'] },
  {
    question_id: 960,
    category: 'translation',
    turns: ['Translate German to English: Guten Tag.'],
    reference: ['Good day.'],
  },
);
const speed = { sub_category: 'short', src_id: 'x_1', source: 'y', difficulty: 'easy', multiturn: false };
const SPEEDBENCH = lines(
  { question_id: 'q1', category: 'coding', turns: ['Sort 3 numbers.'], ...speed },
  {
    question_id: 'q2',
    category: 'Low Entropy',
    turns: ['Say a.', 'Say b.'],
    ...speed,
    multiturn: true,
    difficulty: null,
  },
);
const fn = {
  name: 'geo.area',
  description: 'Area of a shape.',
  parameters: {
    type: 'dict',
    required: ['sides'],
    properties: {
      sides: { type: 'tuple', items: { type: 'float' }, description: 'Lengths' },
      unit: { type: 'String', enum: ['m', 'cm'], default: 'm' },
      type: { type: 'any', description: 'A parameter that is called type' },
      box: { type: 'HashMap', properties: { w: { type: 'long' } } },
    },
  },
};
const BFCL = lines(
  {
    id: 'simple_900',
    question: [
      [
        { role: 'system', content: 'Be exact.' },
        { role: 'user', content: 'Area of 2 by 3?' },
      ],
    ],
    function: [fn],
  },
  {
    id: 'multi_901',
    question: [[{ role: 'user', content: 'One.' }], [{ role: 'user', content: 'Two.' }]],
    function: [],
  },
);
const ALL: [string, string][] = [
  ['humaneval', HUMANEVAL],
  ['gsm8k', GSM8K],
  ['math500', MATH500],
  ['mt-bench', MTBENCH],
  ['spec-bench', SPECBENCH],
  ['speed-bench', SPEEDBENCH],
  ['bfcl', BFCL],
];

test('every format has a fixture, and is told apart by its shape', async () => {
  expect(ALL.map(([name]) => name).sort()).toEqual([...FORMAT_NAMES].sort());
  for (const [name, content] of ALL) {
    expect((await loadExternal(write(`${name}.jsonl`, content))).scenario).toBe(name);
    expect(
      (await loadExternal(write(`${name}-crlf.jsonl`, `\ufeff${content.replaceAll('\n', '\r\n')}`))).scenario,
    ).toBe(name);
  }
});

describe('prompts', () => {
  test('humaneval: the stub in a fence', async () => {
    const { prompts, notes } = await loadExternal(write('h.jsonl', HUMANEVAL));
    expect(prompts[0]!.id).toBe('HumanEval/900');
    expect(prompts[0]!.messages).toEqual(
      first('Complete the following Python function.\n```python\ndef twice(x):\n    """Double it."""\n```'),
    );
    expect(notes).toHaveLength(1);
  });

  test('gsm8k and math500: the question and the line that asks for a boxed answer', async () => {
    const gsm = await loadExternal(write('g.jsonl', GSM8K));
    expect(gsm.prompts.map((prompt) => prompt.id)).toEqual(['gsm8k-1', 'gsm8k-2']);
    expect(gsm.prompts[1]!.messages[0]!.content).toMatch(
      /^How many legs have 4 crabs\?\nPlease reason .*\\boxed\{\}\.$/,
    );
    const math = await loadExternal(write('m.jsonl', MATH500));
    expect(math.prompts[0]).toMatchObject({
      id: 'test/number_theory/9000.json',
      tags: ['lang:en', 'subject:number-theory', 'level:1'],
    });
    expect(JSON.stringify([gsm, math])).not.toContain('####');
  });

  test('mt-bench and spec-bench: the first turn, and a note on the others', async () => {
    const mt = await loadExternal(write('mt.jsonl', MTBENCH));
    expect(mt.prompts[0]).toEqual({
      id: 'mt-bench-981',
      tags: ['category:writing'],
      messages: first('Praise a spoon.'),
    });
    expect(mt.notes).toEqual(['Only the first turn is asked; 1 of the rows have more.']);
    const spec = await loadExternal(write('sb.jsonl', SPECBENCH), { category: 'translation' });
    expect(spec).toMatchObject({
      scenario: 'spec-bench/translation',
      available: 1,
      prompts: [{ id: 'spec-bench-960' }],
    });
  });

  test('speed-bench: turns as published, messages as prepared', async () => {
    const published = await loadExternal(write('sp.jsonl', SPEEDBENCH));
    expect(published.prompts[1]).toEqual({
      id: 'q2',
      tags: ['category:low-entropy', 'sub_category:short'],
      messages: first('Say a.'),
    });
    const prepared = SPEEDBENCH.split('\n')
      .filter(Boolean)
      .map((line) => {
        const { turns, ...row } = JSON.parse(line);
        return { ...row, messages: turns.map((content: string) => ({ role: 'user', content })) };
      });
    expect((await loadExternal(write('spm.jsonl', lines(...prepared)))).digest).toBe(published.digest);
    expect((await loadExternal(write('sp.jsonl', SPEEDBENCH), { category: 'Low Entropy' })).prompts).toHaveLength(1);
  });

  test('bfcl: functions as tools, types as JSON Schema has them', async () => {
    const { prompts, notes } = await loadExternal(write('b.json', BFCL));
    expect(prompts[0]!.messages.map((message) => message.role)).toEqual(['system', 'user']);
    expect(prompts[0]!.tools).toEqual([
      {
        type: 'function',
        function: {
          name: 'geo_area',
          description: 'Area of a shape.',
          parameters: {
            type: 'object',
            required: ['sides'],
            properties: {
              sides: { type: 'array', items: { type: 'number' }, description: 'Lengths' },
              unit: { type: 'string', enum: ['m', 'cm'], default: 'm' },
              type: { description: 'A parameter that is called type' },
              box: { type: 'object', properties: { w: { type: 'integer' } } },
            },
          },
        },
      },
    ]);
    expect(prompts[1]).toEqual({ id: 'multi_901', tags: [], messages: first('One.') });
    expect(notes[1]).toBe('Only the first turn is asked; 1 of the rows have more.');
  });

  test('bfcl: functions of the classes a row names, less those it holds back', async () => {
    const row = {
      id: 'multi_902',
      question: first('Go.').map((message) => [message]),
      involved_classes: ['MathAPI'],
      excluded_function: ['sub'],
      missed_function: { '1': ['mul'] },
    };
    const path = write('bfcl/BFCL_v4_multi_turn_x.json', lines(row));
    await expect(loadExternal(path)).rejects.toThrow(
      /:1: names the class MathAPI, whose functions should lie in .*math_api\.json/,
    );
    write(
      'bfcl/multi_turn_func_doc/math_api.json',
      lines(
        ...['add', 'sub', 'mul'].map((name) => ({
          name,
          description: '',
          parameters: { type: 'dict', properties: {} },
        })),
      ),
    );
    const suite = await loadExternal(path);
    expect(suite.prompts[0]!.tools!.map((tool) => tool.function.name)).toEqual(['add']);
  });
});

describe('refuses, with file and line', () => {
  const bad = (text: string) => text.trimEnd().concat('\n');
  test.each<[string, string, string, RegExp]>([
    [
      'humaneval',
      'a stub that is a number',
      bad(HUMANEVAL).replace(/"prompt":"def nil.*?","entry/, '"prompt":7,"entry'),
      /:2: prompt: Invalid input: expected string/,
    ],
    [
      'gsm8k',
      'a truncated line',
      GSM8K.slice(0, -15),
      /:2: is not a JSON object on one line; the file may be cut short/,
    ],
    ['math500', 'an empty problem', MATH500.replace('What is $1+1$?', ''), /:1: problem: Too small/],
    [
      'mt-bench',
      'turns that are no list',
      MTBENCH.replace('["Print 1."]', '"Print 1."'),
      /:2: turns: Invalid input: expected array/,
    ],
    ['spec-bench', 'no turns at all', SPECBENCH.replace(/\["Translate[^\]]*\]/, '[]'), /:2: turns: Too small/],
    [
      'speed-bench',
      'a row that still waits for its text',
      SPEEDBENCH.replace(
        'Sort 3 numbers.',
        'FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE USING SPECDEC_BENCH',
      ),
      /:1: still holds a placeholder/,
    ],
    [
      'bfcl',
      'a first turn without messages',
      BFCL.replace('[[{"role":"user","content":"One."}]', '[[]'),
      /:2: the first turn holds no message/,
    ],
  ])('%s: %s', async (format, _, content, message) => {
    expect(ALL.find(([name]) => name === format)![1]).not.toBe(content);
    const error = await loadExternal(write(`bad-${format}.jsonl`, content), { format }).then(
      () => null,
      (caught: Error) => caught,
    );
    expect(error?.name).toBe('InputError');
    expect(error?.message).toMatch(message);
    expect(error?.message).not.toContain('\n');
  });

  test('rows of no known shape, a wrong or unknown format, an id twice, a category that is not there', async () => {
    await expect(loadExternal(write('x.jsonl', '{"text": "hi"}\n'))).rejects.toThrow(
      'no known shape; name the format (one of humaneval',
    );
    await expect(loadExternal(write('x.jsonl', '{"text": "hi"}\n'), { format: 'gsm8k' })).rejects.toThrow(
      /x\.jsonl:1: question/,
    );
    await expect(loadExternal(write('g.jsonl', GSM8K), { format: 'mmlu' })).rejects.toThrow('unknown format "mmlu"');
    await expect(loadExternal(write('m2.jsonl', MATH500 + MATH500))).rejects.toThrow(
      /m2\.jsonl:2: id "test.*" is taken by line 1/,
    );
    await expect(loadExternal(write('mt.jsonl', MTBENCH), { category: 'poetry' })).rejects.toThrow(
      'there are category:writing, category:coding',
    );
    await expect(loadExternal(write('none.jsonl', ''))).rejects.toThrow('holds no rows');
  });
});
