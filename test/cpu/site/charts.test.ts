/** Charts as SVG text: the data is in them, hostile names stay text, and nothing depends on what was drawn before. */
import { describe, expect, test } from 'vitest';
import type { AcceptanceRow } from '../../../harness/report/schema.ts';
import { acceptanceChart, histogramChart, speedChart, survivalChart } from '../../../site/src/lib/charts.ts';
import { all, descendants, parseHtml, textOf } from '../../support/html.ts';
import { sampleReport } from '../../support/sample-report.ts';

const { acceptance, speed } = sampleReport();
const HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>';

const texts = (svg: string): string[] => all(parseHtml(svg), 'text').map(textOf);

test('acceptance: every scenario and decoding is labelled, and every interval drawn', async () => {
  const { wide, narrow } = await acceptanceChart(acceptance);
  for (const scenario of ['coding', 'math', 'agent', 'chat']) {
    expect(texts(wide)).toContain(scenario);
    expect(texts(narrow)).toContain(scenario);
  }
  expect(texts(wide)).toContain('temperature 1, coupled');
  // One rule mark a row; the grid, ticks and axis lines are drawn in other colours.
  const intervals = all(parseHtml(wide), 'line').filter((line) => line.attributes.get('stroke') === 'var(--series-1)');
  expect(intervals).toHaveLength(acceptance.length);
});

test('acceptance: the drawn length is the measured one', async () => {
  const [row] = acceptance as [AcceptanceRow];
  const at = async (value: number): Promise<string[]> => {
    const rawMicro = { ...row.rawMicro, value } as AcceptanceRow['rawMicro'];
    const { wide } = await acceptanceChart([{ ...row, rawMicro }]);
    return all(parseHtml(wide), 'path')
      .filter((path) => path.attributes.get('fill') === 'var(--series-1)')
      .map((path) => /translate\(([\d.]+)/.exec(path.attributes.get('transform') ?? '')?.[1] ?? '');
  };
  const [one] = (await at(1)).map(Number);
  const [eight] = (await at(8)).map(Number);
  const [middle] = (await at(4.5)).map(Number);
  expect(one).toBe(0);
  expect(middle).toBeCloseTo((eight ?? 0) / 2, 6);
});

test('speed: the speed-up stands at its bar, a loss like a gain', async () => {
  const { wide } = await speedChart(speed);
  expect(texts(wide)).toContain('0.91\u00d7');
  expect(texts(wide)).toContain('2.20\u00d7');
});

test('what was not measured is not drawn', async () => {
  const gap = speed.map((row) => ({
    ...row,
    decodeTokensPerSecond: { state: 'not yet measured', reason: 'x' } as const,
  }));
  const { wide } = await speedChart(gap);
  expect(wide).not.toMatch(/NaN|undefined|Infinity/);
  expect(texts(wide).filter((text) => text.includes('\u00d7'))).toEqual([]);
});

test('colours come from the tokens only, so that every chart follows the scheme', async () => {
  const drawings = [
    await acceptanceChart(acceptance),
    await survivalChart(acceptance),
    await histogramChart(acceptance, 1000),
    await speedChart(speed),
  ];
  for (const { wide, narrow } of drawings) {
    const painted = descendants(parseHtml(wide + narrow)).flatMap((e) => [
      e.attributes.get('fill'),
      e.attributes.get('stroke'),
    ]);
    const fixed = painted.filter((c) => c !== undefined && !/^(none|transparent|var\(--[a-z0-9-]+\))$/.test(c));
    expect([...new Set(fixed)]).toEqual([]);
  }
});

describe('names from a report', () => {
  test('cannot leave their text', async () => {
    const rows = acceptance.map((row) => ({ ...row, scenario: HOSTILE, decoding: HOSTILE }));
    for (const { wide, narrow } of [
      await acceptanceChart(rows),
      await survivalChart(rows),
      await histogramChart(rows, 9),
    ]) {
      const names = new Set(descendants(parseHtml(wide + narrow)).map((e) => e.name));
      expect([...names].sort()).toEqual(['g', 'line', 'path', 'svg', 'text', 'tspan'].filter((n) => names.has(n)));
    }
  });

  test('are data, never an expression', async () => {
    const rows = acceptance.map((row) => ({ ...row, scenario: "datum['x']+1", decoding: '{{7*7}}' }));
    expect(texts((await acceptanceChart(rows)).wide)).toContain("datum['x']+1");
  });
});

test('a chart is the same whatever was drawn before it', async () => {
  const first = await survivalChart(acceptance);
  await speedChart(speed);
  expect(await survivalChart(acceptance)).toEqual(first);
});

test('axes count in plain numbers', async () => {
  const fast = speed.map((r) =>
    r.decodeTokensPerSecond.state === 'measured'
      ? { ...r, decodeTokensPerSecond: { ...r.decodeTokensPerSecond, value: 1070, interval: null } }
      : r,
  );
  expect(texts((await speedChart(speed)).wide)).toEqual(expect.arrayContaining(['0', '100', '200', '300', '400']));
  expect(texts((await speedChart(fast)).wide)).toEqual(expect.arrayContaining(['0', '200', '1,000', '1,200']));
  expect(texts((await histogramChart(acceptance, 627)).wide)).toEqual(expect.arrayContaining(['0', '200', '600']));
});
