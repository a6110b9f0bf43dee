/** Exports read back by readers that share nothing with the writers, and compared with the rows they came from. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Cell, type ColumnType, ParquetWriter } from '../../../harness/bundle/export/parquet.ts';
import { exportTables } from '../../../harness/bundle/export/tables.ts';
import { vllmResult } from '../../../harness/bundle/export/vllm.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import { readParquet } from '../../support/parquet.ts';
import { STEP_NS, scriptedAudit, withDirectory } from '../../support/scripted-audit.ts';

const COLUMNS: readonly ColumnType[] = [
  { name: 'whole', type: 'int64' },
  { name: 'real', type: 'double', optional: true },
  { name: 'text', type: 'string' },
  { name: 'maybe', type: 'string', optional: true },
  { name: 'yes', type: 'boolean', optional: true },
];

describe('Parquet', () => {
  it('holds what was appended, whatever it was', async () => {
    await withDirectory(async (directory) => {
      const row = fc.tuple(
        fc.maxSafeInteger(),
        fc.option(fc.double({ noNaN: true })),
        fc.string({ unit: 'grapheme' }),
        fc.option(fc.string()),
        fc.option(fc.boolean()),
      );
      let n = 0;
      fc.assert(
        fc.property(fc.array(row, { maxLength: 60 }), (rows) => {
          const path = join(directory, `${n++}.parquet`);
          const writer = new ParquetWriter(path, COLUMNS);
          for (const cells of rows) writer.append(cells as Cell[]);
          writer.close();
          const table = readParquet(path);
          expect(table.rows).toBe(rows.length);
          COLUMNS.forEach((column, i) => {
            expect(table.columns[column.name]).toEqual(rows.map((cells) => cells[i]));
          });
        }),
        { seed: 11, numRuns: 150 },
      );
    });
  });

  it('goes on into further row groups', async () => {
    await withDirectory(async (directory) => {
      const path = join(directory, 'many.parquet');
      const writer = new ParquetWriter(path, COLUMNS.slice(0, 2));
      for (let i = 0; i < 70_000; i++) writer.append([i, i % 3 === 0 ? null : i / 7]);
      writer.close();
      const table = readParquet(path);
      expect([table.rows, table.groups]).toEqual([70_000, 2]);
      expect(table.columns.whole![69_999]).toBe(69_999);
      expect(table.columns.real!.slice(0, 3)).toEqual([null, 1 / 7, 2 / 7]);
    });
  });

  it('refuses a cell that is not of its column', async () => {
    await withDirectory(async (directory) => {
      const writer = new ParquetWriter(join(directory, 'x.parquet'), COLUMNS);
      for (const bad of [
        [1.5, 1, 'a', null, null],
        [1, 1, null, null, null],
        [1, 'x', 'a', null, null],
        [1, 1, 'a', null, 1],
        [1, 1, 'a', null],
      ]) {
        expect(() => writer.append(bad as Cell[])).toThrow(TypeError);
      }
      expect(() => new ParquetWriter(join(directory, 'x.parquet'), COLUMNS)).toThrow(/it exists already/);
    });
  });
});

describe('a run', () => {
  it('as tables has every round and every token', async () => {
    await withDirectory(async (directory) => {
      const path = join(directory, 'run');
      await scriptedAudit({ directory: path, plan: { lawSeeds: 3 } });
      const run = await readRun(path);
      const [rounds, tokens] = exportTables(run, join(directory, 'tables')).map(readParquet);
      const traces = [...run.sessions.values()];
      const all = traces.flatMap((trace) => trace.rounds);
      expect(rounds!.rows).toBe(all.length);
      expect(rounds!.columns.accepted).toEqual(all.map((round) => round.accepted));
      expect(rounds!.columns.wall_ns).toEqual(all.map((round) => round.wallNs));
      expect(rounds!.columns.finish).toEqual(all.map((round) => round.finish));
      expect(rounds!.columns.device_ns).toEqual(all.map(() => null));
      expect(tokens!.columns.token).toEqual(all.flatMap((round) => round.committed));
      expect(tokens!.columns.session!.at(-1)).toBe(traces.at(-1)!.row.session);
      const accepted = all.reduce((sum, round) => sum + Math.min(round.accepted, round.committed.length), 0);
      expect(tokens!.columns.accepted_draft!.filter(Boolean).length).toBe(accepted);
    });
  });

  it("under vLLM's names has vLLM's figures", async () => {
    await withDirectory(async (directory) => {
      const path = join(directory, 'run');
      await scriptedAudit({ directory: path, plan: { lawSeeds: 3 } });
      const run = await readRun(path);
      const of = (arm: 'plain' | 'speculative') => vllmResult(run, { phase: 'greedy', cell: null, arm });
      const plain = of('plain') as Record<string, number>;
      const spec = of('speculative') as Record<string, number> & { itls: number[][]; output_lens: number[] };
      // The scripted steps are exact: 40 ms to the first token, then 2 ms a token.
      expect(plain.mean_ttft_ms).toBeCloseTo(STEP_NS.prefill / 1e6, 9);
      expect(plain.mean_tpot_ms).toBeCloseTo(STEP_NS.plain / 1e6, 9);
      expect(plain.p99_itl_ms).toBeCloseTo(STEP_NS.plain / 1e6, 9);
      expect(plain.std_itl_ms).toBeCloseTo(0, 6);
      expect(plain).not.toHaveProperty('spec_decode_num_drafts');
      expect(spec.median_itl_ms).toBeCloseTo(STEP_NS.speculative / 1e6, 9);
      expect(spec.completed).toBe(run.manifest.plan.phases[0]!.prompts.length);
      const rounds = [...run.sessions.values()]
        .filter(({ row }) => row.phase === 'greedy' && row.arm === 'speculative')
        .flatMap((trace) => trace.rounds)
        .filter((round) => round.drafted.length > 0);
      const accepted = rounds.reduce((sum, round) => sum + round.accepted, 0);
      expect(spec.spec_decode_num_drafts).toBe(rounds.length);
      expect(spec.spec_decode_acceptance_length).toBeCloseTo(1 + accepted / rounds.length, 12);
      expect(spec.itls.flat().length).toBe(rounds.length);
      expect(spec.output_lens.reduce((a, b) => a + b, 0)).toBe(spec.total_output_tokens);
      expect(spec.output_throughput).toBeCloseTo(spec.total_output_tokens! / spec.duration!, 9);
      expect(() => vllmResult(run, { phase: 'none', cell: null, arm: 'plain' })).toThrow(
        /no phase "none"; it has greedy/,
      );
      expect(() => vllmResult(run, { phase: null, cell: 'none', arm: 'plain' })).toThrow(/timed no cell "none"/);
      expect(existsSync(join(directory, 'tables'))).toBe(false);
    });
  });
});
