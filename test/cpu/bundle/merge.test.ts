/** Shards of one plan, merged, give the run that one machine would have given; what is no shard of it is refused. */
import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { judgeDirectory } from '../../../harness/audit.ts';
import { diffRuns } from '../../../harness/bundle/diff.ts';
import { mergeShards } from '../../../harness/bundle/merge.ts';
import { readRun } from '../../../harness/bundle/reader.ts';
import type { ManifestV2, RoundRow } from '../../../harness/bundle/rows.ts';
import { cellsOf, parseShard } from '../../../harness/bundle/shards.ts';
import { sealBundle } from '../../../harness/bundle/tree.ts';
import { editDocument, readDocument } from '../../support/bundle-files.ts';
import { check, checksOf, forge } from '../../support/forger.ts';
import { scriptedAudit, scriptedPrompts } from '../../support/scripted-audit.ts';

const N = 3;
let scratch: string;
const shards: string[] = [];
let whole: string;
let merged: string;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-merge-'));
  const options = { prompts: scriptedPrompts(6), plan: { lawSeeds: 40, tokens: 12, sampledTokens: 6 } };
  whole = join(scratch, 'whole');
  await scriptedAudit({ directory: whole, ...options });
  for (let index = 1; index <= N; index++) {
    const directory = join(scratch, `shard-${index}`);
    shards.push(directory);
    await scriptedAudit({
      directory,
      ...options,
      input: { shard: { index, of: N }, startedAt: new Date(1e12 * index) },
    });
  }
  merged = join(scratch, 'merged');
  // Any order will do.
  await mergeShards([shards[2]!, shards[0]!, shards[1]!], merged, 'test');
  await judgeDirectory(merged);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('shards', () => {
  it('deal out every cell once, to each shard its part of every phase', async () => {
    const { plan } = (await readRun(whole)).manifest;
    const parts = [1, 2, 3].map((index) => cellsOf(plan, { index, of: 3 }));
    const all = parts.flatMap((part) => [...part]);
    expect(new Set(all)).toEqual(cellsOf(plan, null));
    expect(all.length).toBe(cellsOf(plan, null).size);
    for (const part of parts) expect(new Set([...part].map((cell) => cell.split('/')[0]))).toContain('greedy');
    expect(parseShard('2/3')).toEqual({ index: 2, of: 3 });
    for (const bad of ['0/3', '4/3', '1', '1/0', 'a/b', '1/2/3', '-1/2'])
      expect(() => parseShard(bad)).toThrow(/no shard/);
  });

  it('alone are unfinished, not different', async () => {
    for (const shard of shards) {
      const result = await check(shard);
      expect(checksOf(result)).toEqual([]);
      expect(result.outcome).toBe('unfinished');
    }
  });
});

describe('merged', () => {
  it('the run is intact, complete, and has the tokens and verdicts of the run in one piece', async () => {
    const result = await check(merged);
    expect(result.findings.filter((finding) => finding.level !== 'note')).toEqual([]);
    expect(result).toMatchObject({ outcome: 'intact', status: 'complete' });
    const [a, b] = [await readRun(whole), await readRun(merged)];
    const diff = diffRuns(a, b);
    expect(diff.tokens).toMatchObject({ onlyA: 0, onlyB: 0, differing: 0, otherRounds: 0, sessions: a.sessions.size });
    expect(diff.verdicts).toEqual([]);
    expect(b.manifest.parts!.map((part) => part.shard.index)).toEqual([1, 2, 3]);
    expect(b.manifest.seconds).toBeCloseTo(
      b.manifest.parts!.reduce((sum, part) => sum + part.seconds, 0),
      9,
    );
  });

  it('is checked as closely as any run', async () => {
    const rounds = (rows: RoundRow[]): RoundRow[] => rows.map((row) => ({ ...row, t_ns: row.t_ns! / 2 }));
    expect(checksOf(await check(await forge(merged, join(scratch, 'half'), { rounds })))).toContain('clocks');
    const manifest = (document: ManifestV2): void => {
      document.parts![1]!.id = 'another';
    };
    expect(checksOf(await check(await forge(merged, join(scratch, 'part'), { manifest })))).toContain('events');
    expect((await check(await forge(merged, join(scratch, 'same'), {}))).outcome).toBe('intact');
  });
});

describe('refused', () => {
  const out = (): string => join(scratch, 'out');
  const refused = async (directories: readonly string[], message: RegExp): Promise<void> => {
    await expect(mergeShards(directories, out(), 'test')).rejects.toThrow(message);
    expect(existsSync(join(out(), 'manifest.json'))).toBe(false);
    expect(existsSync(join(out(), 'rounds.jsonl.gz'))).toBe(false);
  };
  /** A changed copy of shard 2, sealed again. */
  const changed = async (name: string, change: (manifest: ManifestV2) => void): Promise<string> => {
    const copy = join(scratch, name);
    cpSync(shards[1]!, copy, { recursive: true });
    editDocument(copy, 'manifest.json', change);
    await sealBundle(copy);
    return copy;
  };

  it('a missing shard, one given twice, a whole run, a place that is taken', async () => {
    await refused([shards[0]!, shards[1]!], /of 3 shards 3 is missing/);
    await refused([shards[0]!], /of 3 shards 2, 3 are missing/);
    await refused([...shards, shards[0]!], /shard 1 of 3 was given twice/);
    await refused([whole], /is no shard/);
    await expect(mergeShards(shards, merged, 'test')).rejects.toThrow(/already holds a run/);
  });

  it('a shard that is unfinished, unsealed or was changed', async () => {
    const interrupted = await changed('interrupted', (manifest) => {
      manifest.status = 'interrupted';
    });
    await refused([shards[0]!, interrupted, shards[2]!], /is interrupted; run shard 2 again/);
    const open = join(scratch, 'open');
    cpSync(shards[1]!, open, { recursive: true });
    rmSync(join(open, 'tree.json'));
    await refused([shards[0]!, open, shards[2]!], /is not sealed/);
    cpSync(join(shards[1]!, 'tree.json'), join(open, 'tree.json'));
    editDocument<ManifestV2>(open, 'manifest.json', (manifest) => {
      manifest.title = 'changed';
    });
    await refused([shards[0]!, open, shards[2]!], /manifest\.json is not the file that was sealed/);
  });

  it.each<[string, (manifest: ManifestV2) => void, RegExp]>([
    ['commit', (manifest) => void Object.assign(manifest, { commit: '1111111' }), /another commit/],
    ['machine', (manifest) => void Object.assign(manifest.machine, { cpu: 'another' }), /another machine/],
    [
      'engines',
      (manifest) => void Object.assign(Object.values(manifest.engines)[0]!, { device: 'x' }),
      /another engines/,
    ],
    ['cells', (manifest) => void Object.assign(manifest.shard!, { index: 3 }), /belongs to another shard/],
  ])('a shard of another run: other %s', async (name, change, message) => {
    const copy = await changed(`other-${name}`, change);
    const index = readDocument<ManifestV2>(copy, 'manifest.json').shard!.index;
    const others = shards.filter((_, i) => i + 1 !== index);
    // With the index of shard 3 it comes in the place of that shard; shard 2 is then its twin.
    await refused([...others, copy], message);
  });
});
