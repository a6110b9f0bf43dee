/** The order of the test files: every listed one exists, and comes in front of those that are not. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { LONG, turn } from '../../support/longest-first.ts';

const at = (name: string): string => fileURLToPath(new URL(`../../${name}.test.ts`, import.meta.url));

test('every file of the list is there, once', () => {
  expect(LONG.filter((name) => !existsSync(at(name)))).toEqual([]);
  expect(new Set(LONG).size).toBe(LONG.length);
});

test('listed files have their turn in the order of the list, others behind them', () => {
  expect(LONG.map((name) => turn(at(name)))).toEqual(LONG.map((_, i) => i));
  expect(turn(at('cpu/site/tokens'))).toBe(LONG.length);
});
