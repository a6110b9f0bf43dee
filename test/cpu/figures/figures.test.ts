/** `check --figures` on a small checkout: it holds, and each thing that can be wrong is broken once and told. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { Command } from 'commander';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { checkCommand } from '../../../bin/commands/check.ts';
import { explain } from '../../../bin/support/exit.ts';
import { checkFigures, type FigureCheck } from '../../../harness/figures/check.ts';
import { FIGURES_LEDGER, type FigureLedger } from '../../../harness/figures/ledger.ts';
import { agrees, find, numbersIn, written } from '../../../harness/figures/prose.ts';
import { Sources } from '../../../harness/figures/sources.ts';
import { altered, type Checkout, makeCheckout, measured, RUN, write } from './support.ts';

let checkout: Checkout;
let judged: Sources;

beforeAll(async () => {
  checkout = await makeCheckout(mkdtempSync(join(tmpdir(), 'kilotoken-figures-')));
  judged = new Sources(join(checkout.root, 'results'));
});

afterAll(() => rmSync(checkout.root, { recursive: true, force: true }));

/** What is told of a text or a ledger with one thing changed. */
async function told(changed: { text?: string; ledger?: unknown }): Promise<string[]> {
  write(checkout, changed);
  const { outcome, figures, findings } = await checkFigures(checkout.root, judged);
  write(checkout);
  const lines = [
    ...figures.filter(({ holds }) => !holds).map((row) => `${row.said} is ${row.recomputed}: ${row.source}`),
    ...findings.map(({ line, text }) => `${line}: ${text}`),
  ];
  expect(outcome).toBe(lines.length === 0 ? 'intact' : 'different');
  return lines;
}

/** The text with words exchanged that stand in it once. */
function exchanged(words: string, others: string): { text: string } {
  expect(checkout.text.split(words)).toHaveLength(2);
  return { text: checkout.text.replace(words, () => others) };
}

/** The ledger with a change to its one part. */
function changedLedger(change: (part: Record<string, unknown>) => void): { ledger: unknown } {
  const ledger = structuredClone(checkout.ledger) as unknown as { parts: Record<string, unknown>[] };
  change(ledger.parts[0]!);
  return { ledger };
}

const figuresOf = (part: Record<string, unknown>): FigureLedger['parts'][number]['figures'][number][] =>
  part.figures as FigureLedger['parts'][number]['figures'][number][];

describe('a checkout', () => {
  it('holds: every figure follows, every number is covered', async () => {
    expect(await told({})).toEqual([]);
    const { figures } = await checkFigures(checkout.root, judged);
    expect(figures).toHaveLength(9);
    const speed = measured(checkout.report.cells[0]!.figures, 'tokens-per-second');
    expect(figures[1]).toMatchObject({ said: speed.toFixed(1), value: speed, line: 7, holds: true });
    expect(figures[1]!.source).toBe(`${RUN} > cells > headline/coding > figures > tokens-per-second`);
  });

  it('tells every figure that is one off in its last place, all in one go', async () => {
    const { figures } = await checkFigures(checkout.root, judged);
    const text = altered(checkout.text, checkout.ledger.parts);
    const lines = await told({ text });
    expect(lines).toHaveLength(figures.length);
    for (const [i, { said, source }] of figures.entries())
      expect(lines[i]).toContain(` is ${said.toLowerCase()}: ${source}`);
  });

  it('tells words that are gone, and how far they are there', async () => {
    expect(await told(exchanged('GPUs decode', 'GPUs may decode'))).toEqual([
      expect.stringMatching(/^7: the words "{} GPUs decode .*" are not in it, but for "{} GPUs"$/),
      ...[/\[Four\]/, /tokens/, /eight/].map((words) => expect.stringMatching(words)),
    ]);
    expect(await told(exchanged('(FP8, 128K)', '(FP8)'))).toEqual(['null: the words "128K" are not in it']);
    expect(await told(exchanged('## Else', '## Then'))).toEqual([expect.stringContaining('the words "## Else"')]);
  });

  it('tells words that stand twice', async () => {
    const lines = await told({ text: `${checkout.text}\nNo token of 7 differs.\n` });
    expect(lines[0]).toMatch(/: "No token of [\d,]+ differs": stands in lines 10, 14, not in one$/);
  });

  it.each([
    ['digits', 'Slower than ever', 'Slower than ever, by 3', '[3]'],
    ['a word', 'Slower than ever', 'Slower than seven', '[seven]'],
    ['digits in words that an entry quotes', 'in 2 lines', 'in 2 lines of 3', '[3]'],
  ])('tells a number that nothing covers: %s', async (_, words, others, number) => {
    const lines = await told(exchanged(words, others));
    expect(lines.some((line) => line.includes('covers the number in') && line.includes(number))).toBe(true);
  });

  it('lets numbers outside the complete range be', async () => {
    expect(await told(exchanged('3 rooms', '4 rooms'))).toEqual([]);
  });

  it('tells names that the record does not hold', async () => {
    expect(await told(exchanged(`\`${RUN.slice(5)}\``, '`20260102T000000Z-c0ffee0`'))).toEqual([
      expect.stringMatching(/^9: "`20260102T000000Z-c0ffee0`": the record holds nothing of that name$/),
      expect.stringContaining('covers the number'),
    ]);
  });

  it.each<[string, (part: Record<string, unknown>) => void, RegExp]>([
    [
      'a run that is not there',
      (part) => Object.assign(part, { runs: { run: 'node/gone' } }),
      /: the record holds no node\/gone$/,
    ],
    [
      'a path that leads nowhere',
      (part) => Object.assign(figuresOf(part)[3]!, { from: ['run > verdicts > lost > n'] }),
      /: node\/.* has no "lost" where run > verdicts > lost > n asks for it$/,
    ],
    [
      'what was not measured',
      (part) => Object.assign(figuresOf(part)[3]!, { from: ['run > comparisons > reference'] }),
      /is not yet measured: /,
    ],
    [
      'what is no number',
      (part) => Object.assign(figuresOf(part)[3]!, { from: ['run > machine > gpu'] }),
      /run > machine > gpu is no number$/,
    ],
    [
      'several values for one figure',
      (part) => Object.assign(figuresOf(part)[3]!, { from: ['run > cells > * > layers'] }),
      / are 4 values, not one$/,
    ],
    [
      'values that should be the same',
      (part) => Object.assign(figuresOf(part)[3]!, { from: [{ same: ['run > verdicts > * > n'] }] }),
      /same.* are .* and /,
    ],
    [
      'a verdict that is not consistent',
      (part) => Object.assign(figuresOf(part)[3]!, { consistent: ['run > verdicts > launches'] }),
      /: "No token of .* differs": .* > verdicts > launches is not testable here: /,
    ],
    [
      'what should be less and is not',
      (part) => Object.assign(figuresOf(part)[5]!, { below: [7, 7] }),
      /: "Slower than ever": 7 is 7, no less than 7, 7$/,
    ],
    [
      'a log that is not there',
      (part) => Object.assign(figuresOf(part)[4]!, { from: [2, { log: 'gpu/gone.txt', line: 'x' }] }),
      /: the record holds no gpu\/gone.txt$/,
    ],
    [
      'lines that no log has',
      (part) =>
        Object.assign(figuresOf(part)[5]!, {
          below: [{ most: [{ log: 'gpu/checks-c0ffee0.txt', line: '(\\d+) mistakes' }] }, 1],
        }),
      /checks-c0ffee0\.txt has no number in /,
    ],
  ])('tells %s', async (_, change, line) => {
    expect(await told(changedLedger(change))).toContainEqual(expect.stringMatching(line));
  });

  it.each<[string, unknown, RegExp]>([
    ['no list of parts', {}, /figures\.json: parts: /],
    [
      'too few expressions',
      changedLedgerLater((part) => figuresOf(part)[0]!.from!.pop()),
      /needs an expression for each/,
    ],
    [
      'words that rest on nothing',
      changedLedgerLater((part) => figuresOf(part).push({ quote: 'Slower' })),
      /says of nothing what it rests on/,
    ],
    [
      'an operation that there is none of',
      changedLedgerLater((part) => Object.assign(figuresOf(part)[3]!, { from: [{ mean: ['run'] }] })),
      /parts\[0\]\.figures\[3\]\.from\[0\]/,
    ],
    [
      'what is no pattern',
      changedLedgerLater((part) => Object.assign(figuresOf(part)[3]!, { from: [{ log: 'gpu/a.txt', line: '(' }] })),
      /parts\[0\]\.figures\[3\]\.from\[0\]/,
    ],
    [
      'another document',
      changedLedgerLater((part) => Object.assign(part, { document: 'LOST.md' })),
      /there is no LOST\.md/,
    ],
  ])('refuses a ledger with %s', async (_, ledger, message) => {
    write(checkout, { ledger: typeof ledger === 'function' ? ledger() : ledger });
    await expect(checkFigures(checkout.root, judged)).rejects.toThrow(
      expect.objectContaining({ name: 'InputError', message: expect.stringMatching(message) }),
    );
    write(checkout);
  });

  describe('with a record that was altered', () => {
    async function withCopy(alter: (run: string) => void): Promise<FigureCheck> {
      const copy = mkdtempSync(join(tmpdir(), 'kilotoken-figures-'));
      try {
        cpSync(checkout.root, copy, { recursive: true });
        alter(join(copy, 'results', RUN));
        return await checkFigures(copy);
      } finally {
        rmSync(copy, { recursive: true, force: true });
      }
    }

    it('tells a row that is another, and the figure that then follows', async () => {
      const { outcome, figures, findings } = await withCopy((run) => {
        const path = join(run, 'generations.jsonl.gz');
        const rows = gunzipSync(readFileSync(path)).toString('utf8').trimEnd().split('\n');
        const at = rows.findIndex((row) => row.includes('"headline/coding"') && row.includes('"timed"'));
        rows[at] = rows[at]!.replace(/"decodeNs":(\d+)/, (_, ns) => `"decodeNs":${Math.round(Number(ns) / 2)}`);
        writeFileSync(path, gzipSync(`${rows.join('\n')}\n`));
      });
      expect(outcome).toBe('different');
      const stale = figures.filter(({ holds }) => !holds).map(({ source }) => source);
      expect(stale).toContain(`${RUN} > cells > headline/coding > figures > tokens-per-second`);
      expect(findings).toEqual([
        {
          document: `results/${RUN}`,
          line: null,
          text: expect.stringMatching(/not those .*generations\.jsonl is not/),
        },
      ]);
    });

    it('takes no figure from the stored report', async () => {
      const { outcome } = await withCopy((run) => writeFileSync(join(run, 'report.json'), '{}'));
      expect(outcome).toBe('intact');
    });

    it('tells a run that did not end, and rows that cannot be read', async () => {
      const running = await withCopy((run) => {
        const path = join(run, 'manifest.json');
        writeFileSync(path, readFileSync(path, 'utf8').replace('"status": "complete"', '"status": "running"'));
      });
      expect(running.findings.map(({ text }) => text)).toContainEqual(expect.stringContaining('the run is running'));
      const broken = await withCopy((run) => writeFileSync(join(run, 'rounds.jsonl.gz'), 'no rows'));
      expect(broken.figures[0]).toMatchObject({ said: 'Four', value: null, recomputed: null, holds: false });
      expect(broken.findings[0]!.text).toMatch(/"Four": .*rounds\.jsonl/);
    });
  });
});

/** For tables that are made before there is a checkout. */
function changedLedgerLater(change: (part: Record<string, unknown>) => void): () => unknown {
  return () => changedLedger(change).ledger;
}

describe('the command', () => {
  async function kilotoken(...args: string[]): Promise<{ code: unknown; out: string; err: string }> {
    let out = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += String(text);
      return true;
    });
    process.exitCode = 0;
    const root = new Command('kilotoken').exitOverride();
    checkCommand(root);
    try {
      await root.parseAsync(['node', 'kilotoken', 'check', ...args]);
      return { code: process.exitCode, out, err: '' };
    } catch (error) {
      const { code, text } = explain(error);
      return { code, out, err: text };
    } finally {
      vi.restoreAllMocks();
      process.exitCode = undefined;
    }
  }

  it('ends with 0 and one line where all holds, and lists all where that is asked for', async () => {
    const line = '9 of 9 figures that 1 documents quote are what the raw rows give.\n';
    expect(await kilotoken('--figures', checkout.root)).toEqual({ code: 0, out: line, err: '' });
    const { out } = await kilotoken('--figures', checkout.root, '--all');
    expect(out.split('\n')).toHaveLength(1 + 9 + 2);
    expect(out).toMatch(/holds +FOUND\.md:7 .*\[Four\] GPUs decode/);
  });

  it('ends with 1 and says said beside recomputed where something is stale', async () => {
    write(checkout, exchanged('1,234 checks', '1,235 checks'));
    const { code, out } = await kilotoken('--figures', checkout.root);
    const json = await kilotoken('--figures', checkout.root, '--json');
    write(checkout);
    expect(code).toBe(1);
    expect(out).toMatch(
      /\nstale +FOUND\.md:10 +1,235 +1,234 +1234 +.*\[1,235\] checks .*sum\(gpu\/checks-c0ffee0\.txt/,
    );
    expect(out).toContain('1 stale, 0 findings');
    expect(json.code).toBe(1);
    const { figures } = JSON.parse(json.out) as FigureCheck;
    expect(figures.filter(({ holds }) => !holds)).toMatchObject([{ said: '1,235', recomputed: '1,234', value: 1234 }]);
  });

  it('ends with 2 for a ledger that is none, for a folder without one, and beside another question', async () => {
    write(checkout, { ledger: { parts: [] } });
    expect((await kilotoken('--figures', checkout.root)).code).toBe(2);
    write(checkout);
    const nothing = await kilotoken('--figures', join(checkout.root, 'results'));
    expect(nothing).toMatchObject({ code: 2, err: expect.stringContaining(`${FIGURES_LEDGER}: no such file`) });
    expect(await kilotoken('--figures', '--record')).toMatchObject({ code: 2 });
  });
});

describe('numbers of prose', () => {
  const texts = (text: string): string[] => numbersIn(text).map(({ start, end }) => text.slice(start, end));

  it('are found in digits and words, and not in names', () => {
    expect(texts('Four H200 (FP8, v1.2) of 128K, 1,024.5 times; one of twenty, often. 8x 3.')).toEqual([
      'Four',
      '128',
      '1,024.5',
      'twenty',
      '8',
      '3',
    ]);
  });

  it('agree at the precision in which they are written', () => {
    expect([6.85, 6.849, 6.94].map((value) => agrees('6.9', value))).toEqual([true, false, true]);
    expect([2.5, 3.49, 3.51].map((value) => agrees('three', value))).toEqual([true, true, false]);
    expect([18, 19].map((value) => agrees('Eighteen', value))).toEqual([true, false]);
    expect([109240, 109241].map((value) => agrees('109,240', value))).toEqual([true, false]);
  });

  it('are written as they were', () => {
    expect([written(1234.56, '9.1'), written(1234.56, '9,000'), written(18, 'Four'), written(21, 'four')]).toEqual([
      '1234.6',
      '1,235',
      'eighteen',
      '21',
    ]);
  });

  it('take the place of slots whole', () => {
    const text = 'at 16.35 and 4 of\n  some.';
    expect(find('at {} and {} of some', text)[0]!.slots.map(({ start, end }) => text.slice(start, end))).toEqual([
      '16.35',
      '4',
    ]);
    expect(find('at {}.', 'at 16.35')).toEqual([]);
  });
});
