/**
 * A kernel bench: what is derived from samples, what is refused, and that every figure of the published ones (results/bench) follows from
 * its samples. No GPU is needed.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { checkBenchKernels, readBenchKernels, readPeers } from '../../../harness/bench/kernels-check.ts';
import { deriveFigures, summary } from '../../../harness/bench/kernels-figures.ts';
import { BENCH_KERNELS_SCHEMA_ID, benchKernelsSchemaText } from '../../../harness/bench/kernels-schema.ts';
import { sections } from '../../../harness/bench/kernels-table.ts';
import { sampleBench, sampleRaw } from '../../support/bench-kernels.ts';

const RECORD = fileURLToPath(new URL('../../../results/bench/', import.meta.url));
const published = existsSync(RECORD)
  ? readdirSync(RECORD)
      .filter((name) => name.endsWith('.json'))
      .map((name) => ({
        name,
        document: JSON.parse(readFileSync(path.join(RECORD, name), 'utf8')) as { schema: string },
      }))
      .filter(({ document }) => document.schema === BENCH_KERNELS_SCHEMA_ID)
  : [];

describe('figures', () => {
  const figures = deriveFigures(sampleRaw());

  test('a median and its spread', () => {
    expect(summary([3, 1, 2])).toEqual({ median: 2, least: 1, most: 3, samples: 3 });
    expect(summary([4, 1, 2, 3])).toEqual({ median: 2.5, least: 1, most: 4, samples: 4 });
    expect(() => summary([])).toThrow(RangeError);
  });

  test('the ceiling is the best median rate', () => {
    expect(figures.reads.map(({ gbPerS }) => gbPerS)).toEqual([4e9 / 1010 / 1e3, 5000]);
    expect(figures.ceiling).toEqual({ gbPerS: 5000, ringKib: 64, pageBytes: 16384 });
  });

  test("hops are over partners, of each partner's median", () => {
    expect(figures.hops.carried.partners).toBe(3);
    expect(figures.hops.carried.medianUs).toBeCloseTo(0.6, 12);
    expect(figures.hops.carried.worstUs).toBeCloseTo(0.7, 12);
  });

  test('an operation: time of a call, rate, share, and the fastest peer whose weights are no narrower', () => {
    expect(figures.operations).toEqual([
      {
        op: 'qkv',
        weights: 'fp8',
        experts: null,
        m: 8,
        arrangement: 'stream',
        bytes: 20e6,
        us: { median: 5, least: 4.9, most: 5.1, samples: 3 },
        gbPerS: 4000,
        share: 0.8,
        peer: { peer: 'two', mode: 'graph', us: 8, ratio: 1.6 },
      },
    ]);
  });

  test('when experts were chosen is said of what says it', () => {
    const { operations, ...rest } = sampleRaw();
    const choices = [undefined, null, 'within', 'before'] as const;
    const raw = {
      ...rest,
      operations: choices.map((choice) => ({ ...operations[0]!, ...(choice === undefined ? {} : { choice }) })),
    };
    expect(deriveFigures(raw).operations.map((row) => ('choice' in row ? row.choice : 'not said'))).toEqual([
      'not said',
      null,
      'within',
      'before',
    ]);
  });

  test('a layer is the difference of two slices over the layers between', () => {
    expect(figures.layers).toEqual([
      { m: 8, experts: 60, bytes: 200e6, us: 50, gbPerS: 4000, share: 0.8, timesItsBytes: 1.25 },
    ]);
  });

  test('without layers and peers there are none', () => {
    const alone = deriveFigures({ ...sampleRaw(), layers: null, peers: null });
    expect(alone.layers).toEqual([]);
    expect(alone.peers).toEqual([]);
    expect(alone.operations[0]!.peer).toBeNull();
  });
});

describe('a document', () => {
  test('that stands has no findings, and survives being written', () => {
    const read = readBenchKernels(JSON.parse(JSON.stringify(sampleBench())));
    expect(read).toEqual(sampleBench());
    expect(checkBenchKernels(read)).toEqual([]);
  });

  test.each(Object.keys(sampleBench().figures))('with another figure in %s is caught', (key) => {
    const edited = JSON.parse(JSON.stringify(sampleBench()), (name, value) =>
      typeof value === 'number' && name !== 'samples' ? value * 1.0001 : value,
    );
    const document = sampleBench();
    const changed = { ...document, figures: { ...document.figures, [key]: edited.figures[key] } };
    expect(checkBenchKernels(changed)).toEqual([`figures.${key} does not follow from the samples`]);
  });

  test('with one edited sample is caught', () => {
    const document = sampleBench();
    document.raw.operations[0]!.spanUs[0] = 400;
    expect(checkBenchKernels(document)).toEqual(['figures.operations does not follow from the samples']);
  });

  test('of results beyond their bound, or of weights that fit the cache, is caught', () => {
    const { raw, ...rest } = sampleBench();
    raw.operations[0]!.check.error = 1e-3;
    raw.operations[0]!.copies = 2;
    raw.peers!.rows[0]!.error = 0.5;
    raw.floors.reads[0]!.bytes = 1e9;
    const findings = checkBenchKernels({ ...rest, raw, figures: deriveFigures(raw) });
    expect(findings).toEqual([
      'reads of 32 KB rings, pages of 8192: only 1000000000 bytes',
      'qkv fp8 at 8 rows (stream): error 0.001 beyond 0.0001',
      'qkv fp8 at 8 rows (stream): only 40000000 bytes rotated',
      'one on qkv at 8 rows: error 0.5 beyond 0.01',
    ]);
  });

  test('of a chain whose experts were chosen before, or that says it of none, is caught', () => {
    const { raw, ...rest } = sampleBench();
    const pair = { ...raw.operations[0]!, op: 'expert-pair', weights: 'mxfp4', experts: 60, m: 8 } as const;
    const findings = (choice: 'before' | 'within' | null, arrangement: 'stream' | 'chain', experts: number | null) => {
      const told = { ...raw, operations: [{ ...pair, choice, arrangement, experts }] };
      return checkBenchKernels({ ...rest, raw: told, figures: deriveFigures(told) });
    };
    expect(findings('before', 'stream', 60)).toEqual([]);
    expect(findings('within', 'chain', 60)).toEqual([]);
    expect(findings(null, 'chain', null)).toEqual([]);
    expect(findings('before', 'chain', 60)).toEqual(['expert-pair mxfp4 at 8 rows (chain): experts chosen before']);
    for (const [choice, experts] of [
      [null, 60],
      ['within', null],
    ] as const)
      expect(findings(choice, 'stream', experts)).toEqual([
        'expert-pair mxfp4 at 8 rows (stream): does not say of its experts, and of them alone, when they were chosen',
      ]);
  });

  test('of another shape is refused in one line', () => {
    expect(() => readBenchKernels({ ...sampleBench(), schema: 'other' })).toThrow(/^kernel bench: schema: [^\n]+$/);
    expect(() => readPeers({ ...sampleRaw().peers, rows: [{}] })).toThrow(/^peers: rows\.0\.[^\n]+$/);
  });

  test('prints tables of equal width', () => {
    const all = sections(sampleBench());
    expect(all.map(({ title }) => title.split(/[,; (]/)[0])).toEqual(['Read', 'Floors', 'Operations', 'One', 'Peers']);
    for (const { rows, right } of all) {
      expect(new Set(rows.map((row) => row.length)).size).toBe(1);
      expect(Math.max(...right)).toBeLessThan(rows[0]!.length);
    }
  });

  test('has a JSON Schema', () => {
    expect(JSON.parse(benchKernelsSchemaText())).toMatchObject({
      $id: 'schemas/bench-kernels.schema.json',
      type: 'object',
    });
  });
});

describe('published', () => {
  test.skipIf(published.length === 0)('kernel benches (skipped: results/bench holds none yet)', () => {
    expect(published.length).toBeGreaterThan(0);
  });
  for (const { name, document } of published) {
    test(`${name}: every figure follows from its samples`, () => {
      expect(checkBenchKernels(readBenchKernels(document))).toEqual([]);
    });
  }
});
