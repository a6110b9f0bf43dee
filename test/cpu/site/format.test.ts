/** Rounding for display: never more than half a unit of the last digit away, and stable at the edges. */
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { count, decimalsFor, fixed, moment, percent, range, rounded, slug } from '../../../site/src/lib/format.ts';

describe('numbers', () => {
  test.each([
    [0, '0.00'],
    [6.3, '6.30'],
    [0.0042, '0.004'],
    [99.95, '100.0'],
    [171.38, '171'],
    [1312.77, '1,313'],
    [8123456, '8,123,456'],
    [-0.0001, '0.000'],
    [-2.5, '\u22122.50'],
  ])('%d is printed %s', (value, shown) => {
    expect(rounded(value)).toBe(shown);
  });

  property.prop([fc.double({ min: -1e9, max: 1e9, noNaN: true })], { seed: 20260608, numRuns: 2000 })(
    'the printed number reads back within half a unit of its last digit',
    (value) => {
      const back = Number(rounded(value).replaceAll(',', '').replace('\u2212', '-'));
      expect(Math.abs(back - value)).toBeLessThanOrEqual(0.5 * 10 ** -decimalsFor(value) * (1 + 1e-9));
    },
  );

  test('an interval takes a word for its dash where a dash would read as a minus', () => {
    expect(range(5.928, 6.412, 2)).toBe('5.93\u20136.41');
    expect(range(-0.02, 0.31, 2)).toBe('\u22120.02 to 0.31');
  });

  test('counts, levels and grouping', () => {
    expect(count(999)).toBe('999');
    expect(count(1000)).toBe('1,000');
    expect(fixed(1234.5678, 3)).toBe('1,234.568');
    expect(percent(0.95)).toBe('95\u00a0%');
    expect(percent(0.999)).toBe('99.9\u00a0%');
  });
});

test('a moment is told in UTC, and what is no date is left alone', () => {
  expect(moment('2026-11-20T23:05:59+01:00')).toBe('20 November 2026, 22:05 UTC');
  expect(moment('yesterday')).toBe('yesterday');
});

test('anchors are words and hyphens only', () => {
  expect(slug('Temperature, top-k, top-p')).toBe('temperature-top-k-top-p');
  expect(slug(' "><b>n')).toBe('b-n');
});
