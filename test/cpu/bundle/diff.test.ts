/** Two runs compared: the very first token that differs, what both thought of it, and nothing where nothing differs. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { diffRuns, type RunDiff } from '../../../harness/bundle/diff.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import type { RoundRow } from '../../../harness/bundle/rows.ts';
import { top5 } from '../../../harness/bundle/top5.ts';
import type { Engine, Round } from '../../../harness/engine.ts';
import { forge } from '../../support/forger.ts';
import { scriptedAudit, scriptedPrompts } from '../../support/scripted-audit.ts';

let scratch: string;
let run: string;

/** Shows a row of 16 tokens with every committed token: the token itself, then the four behind it, then the rest. */
function withRows(engine: Engine): Engine {
  const shown = (round: Round): Round => ({
    ...round,
    replay: {
      p: round.committed.map((token) => Float64Array.from({ length: 16 }, (_, id) => -1 - ((id - token + 16) % 16))),
      q: [],
      uniforms: [],
    },
  });
  return {
    ...engine,
    open: async (prompt, decoding) => {
      const session = await engine.open(prompt, decoding);
      return {
        step: async () => shown(await session.step()),
        fork: () => session.fork(),
        close: () => session.close(),
      };
    },
  };
}

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-diff-'));
  run = join(scratch, 'run');
  await scriptedAudit({
    directory: run,
    prompts: scriptedPrompts(3),
    plan: { lawSeeds: 2, lawPrompts: 1, tokens: 12, sampledTokens: 4, stopIds: [] },
    change: withRows,
  });
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function diff(a: string, b: string): Promise<RunDiff> {
  return diffRuns(await readRun(a), await readRun(b));
}

describe('diff', () => {
  it('of a run with itself is empty', async () => {
    const result = await diff(run, run);
    expect(result).toMatchObject({ same: true, conditions: [], verdicts: [], figures: [] });
    expect(result.tokens).toMatchObject({ differing: 0, onlyA: 0, onlyB: 0, otherRounds: 0 });
    expect(result.tokens.sessions).toBeGreaterThan(10);
  });

  it('names the first differing token, its context, and the likeliest tokens on both sides', async () => {
    const session = 'greedy/plain/coding-1/0';
    const rounds = (rows: RoundRow[]): RoundRow[] => {
      const row = rows.find((entry) => entry.session === session && entry.index === 5)!;
      row.committed[0] = (row.committed[0]! + 1) % 16;
      row.top5 = [top5(Float64Array.from({ length: 16 }, (_, id) => -id))];
      return rows;
    };
    const other = await forge(run, join(scratch, 'other'), { rounds });
    const result = await diff(run, other);
    const trace = (await readRun(run)).sessions.get(session)!;
    const tokens = trace.rounds.flatMap((round) => round.committed);
    expect(result.same).toBe(false);
    expect(result.tokens.differing).toBe(1);
    expect(result.tokens.first[0]).toMatchObject({
      session,
      position: 5,
      a: tokens[5],
      b: (tokens[5]! + 1) % 16,
      context: tokens.slice(0, 5),
    });
    const { a, b } = result.tokens.first[0]!.top5;
    expect(a).toHaveLength(5);
    expect(a![0]).toEqual([tokens[5], -1]);
    expect(b!.map(([token]) => token)).toEqual([0, 1, 2, 3, 4]);
    expect(result.verdicts).toEqual(['greedy: A is consistent, B is refuted']);
    expect(result.figures.length).toBe(0);
  });

  it('tells other rounds with the same tokens, other figures and other conditions', async () => {
    const rounds = (rows: RoundRow[]): RoundRow[] => {
      for (const row of rows) {
        if (row.session !== 'greedy/speculative/chat-0/0' || row.finish === null) continue;
        row.drafted[row.drafted.length - 1] = (row.drafted.at(-1)! + 1) % 16;
      }
      return rows;
    };
    const other = await forge(run, join(scratch, 'drafts'), {
      rounds,
      manifest: (manifest) => {
        manifest.machine.cores = 9;
      },
    });
    const result = await diff(run, other);
    expect(result.tokens).toMatchObject({ differing: 0, otherRounds: 1 });
    expect(result.same).toBe(true);
    expect(result.conditions).toEqual(['machine.cores: A has 1, B has 9']);
  });

  it('counts sessions that only one side has', async () => {
    const other = await forge(run, join(scratch, 'fewer'), {
      sessions: (rows) => rows.slice(0, -1),
      rounds: (rows) => {
        const last = rows.at(-1)!.session;
        return rows.filter((row) => row.session !== last);
      },
      manifest: (manifest) => {
        manifest.status = 'interrupted';
      },
    });
    const result = await diff(run, other);
    expect(result.tokens).toMatchObject({ onlyA: 1, onlyB: 0 });
    expect(result.same).toBe(false);
  });
});

describe('top5', () => {
  it('is the five likeliest, ties by id, impossible tokens left out', () => {
    expect(top5([-3, -1, -1, -Infinity, -2, -5, -4, -0.5])).toEqual([
      [7, -0.5],
      [1, -1],
      [2, -1],
      [4, -2],
      [0, -3],
    ]);
    expect(top5([-Infinity, 0, Number.NaN])).toEqual([[1, 0]]);
  });
});
