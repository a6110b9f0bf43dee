/**
 * A report on pro-synthetic cannot be mistaken for one on a real model: whatever figure and verdict it holds says so itself, no published figure stands
 * beside one, every claim is answered as what it is, and the tables of the terminal name it. The rows are a scripted audit's; the manifest names the slice.
 */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';
import { modelKind } from '../../../bin/support/model.ts';
import { printSummary } from '../../../bin/support/summary.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import { buildReport } from '../../../harness/report/build.ts';
import type { Report } from '../../../harness/report/schema.ts';
import { loadClaims } from '../../../harness/suite/claims.ts';
import { SMALL_PLAN, scriptedAudit, scriptedPrompts, withDirectory } from '../../support/scripted-audit.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const SLICE = { layers: 2, rank: 0, ranks: 8, seed: '1', experts: 'fp8', maxContext: 512 } as const;

const run = await withDirectory(async (directory) => {
  const speed = {
    ...SMALL_PLAN.speed,
    economics: { ...SMALL_PLAN.speed.economics, price: { speculative: 3, plain: 1 } },
  };
  await scriptedAudit({
    directory: path.join(directory, 'run'),
    prompts: scriptedPrompts(12).map((prompt, i) => ({ ...prompt, tags: [`lang:${i % 4 === 0 ? 'zh' : 'en'}`] })),
    plan: { lawSeeds: 20, speed },
    input: { ledger: await loadClaims(path.join(ROOT, 'suites/claims.json')) },
  });
  return readRun(path.join(directory, 'run'));
});
const judged = (model: Report['model']): Report => buildReport({ ...run, manifest: { ...run.manifest, model } });
const report = judged(modelKind('', SLICE));

/** Every object of the report with the place it stands at. */
function* objects(value: unknown, at = 'report'): Generator<[string, Record<string, unknown>]> {
  if (value === null || typeof value !== 'object') return;
  if (!Array.isArray(value)) yield [at, value as Record<string, unknown>];
  for (const [key, inside] of Object.entries(value)) yield* objects(inside, `${at}.${key}`);
}
const codes = (warnings: unknown): string[] => (warnings as { code: string }[]).map(({ code }) => code);

test('every figure and every verdict carries the warning, and it has the word', () => {
  const figures = [...objects(report)].filter(([, value]) => value.state === 'measured');
  expect(figures.length).toBeGreaterThan(50);
  expect(
    figures.filter(([, { warnings }]) => !codes(warnings).includes('synthetic-weights')).map(([at]) => at),
  ).toEqual([]);
  const bare = report.verdicts.filter(({ warnings }) => !codes(warnings).includes('synthetic-weights'));
  expect(bare.map(({ id }) => id)).toEqual([]);
  const texts = report.warnings.filter(({ code }) => code === 'synthetic-weights').map(({ text }) => text);
  expect(texts).toEqual([expect.stringMatching(/^Synthetic weights: /)]);
  expect(report.model).toMatchObject({ kind: 'pro-synthetic', name: 'pro-synthetic:layers=2,rank=0/8,experts=fp8' });
});

test('nano is what lies in its folder, not what has a like name', () => {
  const kind = (folder: string) => modelKind(path.join(ROOT, folder)).kind;
  expect(['checkpoints/nano/fp4', 'checkpoints/nano-other/fp4', 'checkpoints/nanofp4'].map(kind)).toEqual([
    'nano',
    'real',
    'real',
  ]);
});

test('no published figure stands beside one of it', () => {
  expect(report.acceptance.length).toBeGreaterThan(0);
  expect(report.acceptance.map(({ published }) => published)).toEqual(report.acceptance.map(() => null));
  // A trained model is shown beside them.
  expect(judged(run.manifest.model).acceptance.some(({ published }) => published !== null)).toBe(true);
});

test('every claim is answered as what this is, and no acceptance of it is told', () => {
  expect(report.claims.length).toBeGreaterThan(10);
  for (const { finding, outcome } of report.claims) {
    expect(finding).toContain(
      'pro-synthetic:layers=2,rank=0/8,experts=fp8 (a slice of its shape with synthetic weights)',
    );
    expect(['not testable here', 'not yet measured']).toContain(outcome);
  }
  expect(JSON.stringify(report.claims)).not.toContain('tokens a round');
});

test('the terminal says it above every table', () => {
  const lines: string[] = [];
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
  try {
    printSummary(report);
  } finally {
    write.mockRestore();
  }
  const heads = lines
    .join('')
    .split('\n')
    .filter((line) => /^(\S\[1m)?(Acceptance length|Decode speed|Speed by)/.test(line));
  expect(heads).toHaveLength(3);
  for (const line of heads) expect(line).toContain('synthetic weights');
});
