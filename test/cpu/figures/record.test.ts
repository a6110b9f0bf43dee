/**
 * What README, LOG and docs quote of the published record is what its raw rows give today. Every run that is quoted is judged once, for all
 * of these tests.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { checkFigures } from '../../../harness/figures/check.ts';
import { FIGURES_LEDGER, figuresSchemaText, readLedger } from '../../../harness/figures/ledger.ts';
import { Sources } from '../../../harness/figures/sources.ts';
import { altered } from './support.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const judged = new Sources(join(ROOT, 'results'));
const { parts } = readLedger(join(ROOT, FIGURES_LEDGER));
const documents = [...new Set(parts.map(({ document }) => document))];

test('every quoted figure is what the raw rows give', async () => {
  const { figures, findings } = await checkFigures(ROOT, judged);
  expect(figures.filter(({ holds }) => !holds)).toEqual([]);
  expect(findings).toEqual([]);
});

test('every number of the findings of the README has to be accounted for', () => {
  const readme = parts.find(({ document }) => document === 'README.md')!;
  expect(readme.complete).toContainEqual({ from: 'And this is what it found:', to: 'The runs are under' });
});

test('each of them is told when it is one off in its last place, and so is a number that nothing covers', async () => {
  const copy = mkdtempSync(join(tmpdir(), 'kilotoken-figures-'));
  try {
    for (const name of [FIGURES_LEDGER, ...documents]) {
      mkdirSync(dirname(join(copy, name)), { recursive: true });
      cpSync(join(ROOT, name), join(copy, name));
    }
    for (const name of documents) {
      const text = altered(
        readFileSync(join(ROOT, name), 'utf8'),
        parts.filter(({ document }) => document === name),
      );
      writeFileSync(join(copy, name), text.replace('And this is what it found:', '$& 17 things.'));
    }
    const { figures, findings } = await checkFigures(copy, judged);
    expect(figures.filter(({ holds }) => holds)).toEqual([]);
    expect(figures.length).toBe(parts.flatMap((part) => part.figures.flatMap(({ from = [] }) => from)).length);
    expect(findings.filter(({ text }) => text.includes('[17] things'))).toHaveLength(1);
  } finally {
    rmSync(copy, { recursive: true });
  }
});

test('the committed schema of the ledger is that of the code', () => {
  expect(readFileSync(join(ROOT, 'schemas/figures.schema.json'), 'utf8')).toBe(figuresSchemaText());
});
