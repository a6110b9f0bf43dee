/** The ledger beside the report: joined by wording, absent without harm, refused when malformed. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { entryOf, readLedger, unanswered } from '../../../site/src/lib/ledger.ts';

const folder = mkdtempSync(join(tmpdir(), 'kilotoken-ledger-'));
afterAll(() => rmSync(folder, { recursive: true }));

const claims = readLedger(fileURLToPath(new URL('../../../suites/claims.json', import.meta.url)));

test('the repository has a ledger, and before any run nothing in it is measured', () => {
  expect(claims.length).toBeGreaterThan(10);
  expect(new Set(unanswered(claims).map((row) => row.outcome))).toEqual(new Set(['not yet measured']));
});

test('a claim that was reworded since the run does not get the new conditions', () => {
  const [row] = unanswered(claims);
  if (!row) return expect.fail('empty ledger');
  expect(entryOf(row, claims)?.unstated.length).toBeGreaterThan(0);
  expect(entryOf({ ...row, claim: `${row.claim} Perhaps.` }, claims)).toBeNull();
  expect(entryOf({ ...row, id: 'other' }, claims)).toBeNull();
});

test('no file is no ledger; a malformed one is named with its place', () => {
  expect(readLedger(join(folder, 'none.json'))).toEqual([]);
  const path = join(folder, 'claims.json');
  writeFileSync(path, JSON.stringify([{ ...claims[0], stated: 'much' }]));
  expect(() => readLedger(path)).toThrow(`${path} cannot be shown: claims[0].stated: expected a list, got "much"`);
});
