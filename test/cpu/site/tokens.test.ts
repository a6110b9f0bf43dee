/** Contrast of the page's colours in both schemes: text 4.5:1, marks of charts 3:1 (WCAG 2.2, 1.4.3 and 1.4.11). */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

const css = readFileSync(new URL('../../../site/src/styles/tokens.css', import.meta.url), 'utf8');
const [light = '', dark = ''] = css.split('prefers-color-scheme: dark');

function colours(block: string): Map<string, string> {
  return new Map(
    [...block.matchAll(/--([a-z0-9-]+): (#[0-9a-f]{6});/g)].map(([, name = '', value = '']) => [name, value]),
  );
}

/** Relative luminance, WCAG 2.2. */
function luminance(hex: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((i) => {
    const c = Number.parseInt(hex.slice(i, i + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a: string, b: string): number {
  const [high = 0, low = 0] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
}

const TEXT = ['ink', 'soft', 'link', 'consistent', 'refuted', 'open', 'none'];
const MARKS = [
  'published',
  'neutral',
  'series-1',
  'series-1-soft',
  'series-2',
  'series-3',
  'series-4',
  'series-5',
  'series-6',
];

test('the measure itself: black on white is 21:1', () => {
  expect(contrast('#000000', '#ffffff')).toBeCloseTo(21, 5);
});

describe.each([
  ['light', colours(light)],
  ['dark', colours(dark)],
])('%s', (_scheme, palette) => {
  const of = (name: string): string => palette.get(name) ?? expect.fail(`no colour ${name}`);
  test.each(TEXT)('%s is readable on paper and panel', (name) => {
    expect(contrast(of(name), of('paper'))).toBeGreaterThanOrEqual(4.5);
    expect(contrast(of(name), of('panel'))).toBeGreaterThanOrEqual(4.5);
  });
  test.each(MARKS)('%s is visible on paper', (name) => {
    expect(contrast(of(name), of('paper'))).toBeGreaterThanOrEqual(3);
  });
});
