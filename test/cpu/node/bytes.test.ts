/**
 * The bundle of a node benchmark: every flipped byte (of a long file every fifth), dropped or exchanged row and file is noticed; and what a forger changes who makes
 * every digest anew is noticed as far as the rows contradict it. The control is the bundle before and after, which is intact.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeNodeReport } from '../../../harness/bench/node/bench.ts';
import { checkNodeBundle } from '../../../harness/bench/node/check.ts';
import { publishNodeRun } from '../../../harness/bench/node/publish.ts';
import {
  type GenerationRow,
  NODE_ROW_FILES,
  type NodeManifest,
  type NodeRoundRow,
  type TraceRow,
} from '../../../harness/bench/node/rows.ts';
import { tokensDigest } from '../../../harness/bundle/digests.ts';
import { compareTrees, readTree, sealBundle, type Tree, treeOf } from '../../../harness/bundle/tree.ts';
import { InputError } from '../../../harness/engine.ts';
import { canonicalJson, sha256 } from '../../../harness/suite/canonical.ts';
import { editDocument, rowsOf, rowsText, writeRows, writeRowsText } from '../../support/bundle-files.ts';
import { fakeBench } from './support.ts';

let scratch: string;
let run: string;
let sealed: Tree;
let copies = 0;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-node-bytes-'));
  run = join(scratch, 'run');
  const options = {
    groups: ['headline' as const, 'lossless' as const, 'block' as const, 'layers' as const],
    losslessTokens: 40,
    repeats: 2,
    tokens: { headline: 32, sweep: 24, plain: 24, reference: 24 },
  };
  await fakeBench({ directory: run, fake: { gpus: 1 }, options: { ...options, layers: 3 } });
  sealed = await treeOf(run);
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const check = (directory: string) => checkNodeBundle(directory, { publicKey: null, build: null });
const checks = async (directory: string): Promise<string[]> =>
  [
    ...new Set(
      (await check(directory)).findings.filter(({ level }) => level === 'difference').map((found) => found.check),
    ),
  ].sort();

function copy(): string {
  const to = join(scratch, `copy-${copies++}`);
  cpSync(run, to, { recursive: true });
  return to;
}

/** Says of the bytes of one file what the tree says; the other files are as they were sealed. */
function seal(name: string, bytes: Uint8Array): string[] {
  try {
    const tree = readTree(run)!;
    const files = sealed.files.map((file) =>
      file.path === name ? { path: name, sha256: sha256(bytes), bytes: bytes.length } : file,
    );
    return compareTrees(tree, { ...sealed, files });
  } catch (error) {
    if (error instanceof InputError) return [error.message];
    throw error;
  }
}

/** Makes every digest of a changed bundle anew, as a forger would: rows, plan, counters, report, tree. */
async function forge(directory: string): Promise<void> {
  forgeDigests(directory);
  rmSync(join(directory, 'report.json'));
  await writeNodeReport(directory);
  await sealBundle(directory);
}

function forgeDigests(directory: string): void {
  const plan = readFileSync(join(directory, 'plan.json'));
  const generations = rowsOf<GenerationRow>(directory, 'generations.jsonl');
  const rounds = rowsOf<NodeRoundRow>(directory, 'rounds.jsonl');
  const events = rowsOf<Record<string, unknown>>(directory, 'events.jsonl');
  const end = events.find((row) => row.kind === 'run-end')!;
  end.generations = generations.length;
  end.rounds = rounds.length;
  end.tokens = generations.reduce((sum, row) => sum + row.tokens, 0);
  writeRows(directory, 'events.jsonl', events);
  const files = NODE_ROW_FILES.map((path) => {
    const text = rowsText(directory, path);
    return { path, sha256: sha256(text), bytes: Buffer.byteLength(text), rows: text.split('\n').length - 1 };
  });
  const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as NodeManifest;
  writeFileSync(
    join(directory, 'manifest.json'),
    `${JSON.stringify({ ...manifest, planDigest: sha256(plan), files }, null, 2)}\n`,
  );
}

type Change = (rounds: NodeRoundRow[], generations: GenerationRow[], traces: TraceRow[]) => void;

/** A change of rows after which everything else is made to fit. */
async function forged(change: Change): Promise<string[]> {
  const directory = copy();
  const rounds = rowsOf<NodeRoundRow>(directory, 'rounds.jsonl');
  const generations = rowsOf<GenerationRow>(directory, 'generations.jsonl');
  const traces = rowsOf<TraceRow>(directory, 'traces.jsonl');
  change(rounds, generations, traces);
  writeRows(directory, 'rounds.jsonl', rounds);
  writeRows(directory, 'generations.jsonl', generations);
  writeRows(directory, 'traces.jsonl', traces);
  await forge(directory);
  return checks(directory);
}

/** Counts of a generation as its rounds have them now. */
function recount(generations: GenerationRow[], rounds: readonly NodeRoundRow[]): void {
  for (const [i, row] of generations.entries()) {
    const tokens = rounds.filter(({ g }) => g === row.g).flatMap(({ c }) => c);
    const count = rounds.filter(({ g }) => g === row.g).length;
    generations[i] = { ...row, rounds: count, tokens: tokens.length, tokensDigest: tokensDigest(tokens) };
  }
}

describe('bytes', () => {
  it('has an intact bundle around it', async () => {
    const result = await check(run);
    expect(result.findings).toEqual([]);
    expect(result.outcome).toBe('intact');
    expect(result.rounds).toBeGreaterThan(100);
  });

  it('flipped bytes of every file are seen by the tree', () => {
    for (const name of readdirSync(run)) {
      const bytes = readFileSync(join(run, name));
      const stride = bytes.length > 32_768 ? 5 : 1;
      for (let offset = 0; offset < bytes.length; offset += stride) {
        bytes[offset]! ^= 1 << (offset % 8);
        if (name === 'tree.json') writeFileSync(join(run, name), bytes);
        const seen = seal(name, bytes).length > 0;
        bytes[offset]! ^= 1 << (offset % 8);
        if (name === 'tree.json') writeFileSync(join(run, name), bytes);
        if (!seen) throw new Error(`bit ${offset % 8} of byte ${offset} of ${name} goes unseen`);
      }
      expect(seal(name, bytes)).toEqual([]);
    }
  });

  it('and through the whole check, which survives what the change made of the file', async () => {
    const files = readdirSync(run).map((name) => ({ name, size: readFileSync(join(run, name)).length }));
    const place = fc
      .constantFrom(...files)
      .chain(({ name, size }) => fc.record({ name: fc.constant(name), offset: fc.nat(size - 1), bit: fc.nat(7) }));
    await fc.assert(
      fc.asyncProperty(place, async ({ name, offset, bit }) => {
        const path = join(run, name);
        const bytes = readFileSync(path);
        bytes[offset]! ^= 1 << bit;
        writeFileSync(path, bytes);
        try {
          const outcome = await check(run).then(
            (result) => result.outcome,
            (error: Error) => error.name,
          );
          expect(['different', 'InputError']).toContain(outcome);
        } finally {
          bytes[offset]! ^= 1 << bit;
          writeFileSync(path, bytes);
        }
      }),
      { seed: 8, numRuns: 60 },
    );
    expect((await check(run)).outcome).toBe('intact');
  });

  it('a missing, an added and an exchanged file', async () => {
    for (const name of readdirSync(run)) {
      const directory = copy();
      rmSync(join(directory, name));
      const result = await check(directory);
      if (name === 'tree.json') expect(result.outcome).toBe('unfinished');
      else expect([name, result.outcome]).toEqual([name, 'different']);
    }
    const directory = copy();
    writeFileSync(join(directory, 'notes.txt'), 'x');
    expect(await checks(directory)).toEqual(['tree']);
  });
});

describe('rows', () => {
  it('every dropped row and every pair of exchanged rows is named, with and without the tree', async () => {
    const directory = copy();
    let seen = 0;
    for (const name of NODE_ROW_FILES) {
      const rows = rowsText(run, name).split('\n').slice(0, -1);
      // A dense sample of the long files: the first, the last and every seventh row.
      const places = rows
        .map((_, i) => i)
        .filter((i) => rows.length < 40 || i < 3 || i > rows.length - 4 || i % 7 === 0);
      for (const i of places) {
        const dropped = rows.filter((_, k) => k !== i);
        const exchanged = rows.map((row, k) => (k === i ? rows[i + 1]! : k === i + 1 ? rows[i]! : row));
        for (const changed of i + 1 < rows.length && rows[i] !== rows[i + 1] ? [dropped, exchanged] : [dropped]) {
          writeRowsText(directory, name, changed.map((row) => `${row}\n`).join(''));
          expect(compareTrees(readTree(directory)!, await treeOf(directory)).join()).toContain(`${name}.gz`);
          if (seen % 9 === 0) {
            const bare = copy();
            writeRowsText(bare, name, changed.map((row) => `${row}\n`).join(''));
            rmSync(join(bare, 'tree.json'));
            expect([name, i, (await check(bare)).outcome]).toEqual([name, i, 'different']);
            rmSync(bare, { recursive: true });
          }
          seen += 1;
        }
      }
      writeFileSync(join(directory, `${name}.gz`), readFileSync(join(run, `${name}.gz`)));
    }
    expect(seen).toBeGreaterThan(150);
    expect((await check(directory)).outcome).toBe('intact');
  });
});

describe('with every digest made anew', () => {
  it('an unchanged bundle is intact', async () => {
    expect(await forged(() => {})).toEqual([]);
  });

  it('a dropped round does not add up', async () => {
    expect(await forged((rounds) => void rounds.splice(20, 1)).catch((error: Error) => error.name)).toEqual(
      'InputError',
    );
    const seen = await forged((rounds, generations) => {
      const last = rounds.findIndex((row, i) => row.g === 2 && rounds[i + 1]?.g !== 2);
      rounds.splice(last, 1);
      recount(generations, rounds);
    });
    expect(seen).toEqual(['books']);
  });

  it('a token that is not the one its generation counted', async () => {
    const directory = copy();
    const rounds = rowsOf<NodeRoundRow>(directory, 'rounds.jsonl');
    rounds[25]!.c[0]! ^= 1;
    writeRows(directory, 'rounds.jsonl', rounds);
    forgeDigests(directory);
    await sealBundle(directory);
    expect((await check(directory)).findings.map(({ text }) => text)).toContain(
      `generation ${rounds[25]!.g} does not have the rounds it counts`,
    );
  });

  it('a trace that its generation counted', async () => {
    const directory = copy();
    const traces = rowsOf<TraceRow>(directory, 'traces.jsonl');
    const [dropped] = traces.splice(1, 1);
    writeRows(directory, 'traces.jsonl', traces);
    forgeDigests(directory);
    await sealBundle(directory);
    expect((await check(directory)).findings.map(({ text }) => text)).toContain(
      `generation ${dropped!.g} does not have the traces it counts`,
    );
  });

  it('a dropped repeat, a cell that looks bad, is missing from the plan', async () => {
    const seen = await forged((rounds, generations, traces) => {
      const g = generations.find((row) => row.cell === 'headline/agent' && row.role === 'timed')!.g;
      const kept = rounds.filter((row) => row.g !== g).map((row) => ({ ...row, g: row.g > g ? row.g - 1 : row.g }));
      rounds.splice(0, rounds.length, ...kept);
      for (const row of traces) if (row.g > g) row.g -= 1;
      const left = generations.filter((row) => row.g !== g).map((row, i) => ({ ...row, g: i }));
      generations.splice(0, generations.length, ...left);
    });
    expect(seen).toEqual(['plan']);
  });

  it('two exchanged generations, a longer output, a token of no vocabulary', async () => {
    const exchanged = await forged((_, generations) => {
      const [a, b] = [generations[6]!, generations[7]!];
      generations[6] = { ...b, g: 6, rounds: a.rounds, tokens: a.tokens, tokensDigest: a.tokensDigest };
      generations[7] = { ...a, g: 7, rounds: b.rounds, tokens: b.tokens, tokensDigest: b.tokensDigest };
    });
    expect(exchanged).toContain('plan');
    const longer = await forged((rounds, generations) => {
      const round = rounds.find((row) => row.g === 3 && row.i === 2)!;
      round.c.push(7);
      recount(generations, rounds);
    });
    expect(longer).toEqual(['books']);
    const foreign = await forged((rounds, generations) => {
      rounds[30]!.c[0] = 200_000;
      recount(generations, rounds);
    });
    expect(foreign).toEqual(['books']);
  });

  it('acceptance raised in a round at the cost of the next is refuted by the verdict, not by the books', async () => {
    const directory = copy();
    const rounds = rowsOf<NodeRoundRow>(directory, 'rounds.jsonl');
    const generations = rowsOf<GenerationRow>(directory, 'generations.jsonl');
    const at = rounds.findIndex((row, i) => {
      const [second, third] = [rounds[i + 1], rounds[i + 2]];
      return row.d === 7 && row.a < 6 && second?.g === row.g && second.a > 0 && third?.g === row.g;
    });
    const [first, second] = [rounds[at]!, rounds[at + 1]!];
    first.c.push(second.c.shift()!);
    first.a += 1;
    second.a -= 1;
    writeRows(directory, 'rounds.jsonl', rounds);
    writeRows(directory, 'generations.jsonl', generations);
    await forge(directory);
    const result = await check(directory);
    expect(result.findings).toEqual([]);
    expect(result.verdicts.filter(({ outcome }) => outcome === 'refuted').map(({ id }) => id)).toContain('acceptance');
  });

  it('more accepted than drafted, more kept than accepted, drafts beyond the block, ends in the middle', async () => {
    const change = (edit: (round: NodeRoundRow) => void): Promise<string[]> =>
      forged((rounds, generations) => {
        const at = rounds.findIndex((row, i) => row.d === 7 && row.a === 3 && row.i > 0 && rounds[i + 1]?.g === row.g);
        edit(rounds[at]!);
        recount(generations, rounds);
      });
    expect(await change((round) => void Object.assign(round, { d: 2 }))).toEqual(['books']);
    expect(await change((round) => void Object.assign(round, { d: 8 }))).toEqual(['books']);
    expect(await change((round) => void Object.assign(round, { a: 2 }))).toEqual(['books']);
    expect(await change((round) => void Object.assign(round, { a: 4 }))).toEqual(['books']);
    expect(await change((round) => void Object.assign(round, { f: 'length' }))).toEqual(['books']);
    expect(await change((round) => void round.e.pop())).toEqual(['books']);
    expect(await change((round) => void round.e.fill(65))).toEqual(['books']);
    expect(await change((round) => void round.e.fill(7))).toEqual(['books']);
  });

  it('generations that overlap, device time beyond the clock, a run that ended before its rows', async () => {
    const overlapping = await forged((_, generations) => {
      generations[5] = { ...generations[5]!, t_ns: generations[4]!.t_ns };
    });
    expect(overlapping).toEqual(['clocks']);
    const beyond = await forged((rounds) => {
      for (const row of rounds) if (row.g === 4) row.ns = [row.ns[0], row.ns[1] * 5];
    });
    expect(beyond).toEqual(['books']);
    const late = await forged((_, generations) => {
      const last = generations.at(-1)!;
      generations[generations.length - 1] = { ...last, decodeNs: last.decodeNs * 1e6 };
    });
    expect(late).toEqual(['clocks']);
  });

  it('a step faster than the memory of the data sheet', async () => {
    const directory = copy();
    editDocument<NodeManifest>(directory, 'manifest.json', (manifest) => {
      manifest.provenance.system.gpuMemoryBandwidth = { value: 1e12 };
    });
    const result = await check(directory);
    expect(result.findings.map((found) => found.check)).toContain('ceilings');
    expect(result.findings.map((found) => found.text).join()).toMatch(
      /its bytes need [\d.]+ ms at the data sheet's rate/,
    );
  });

  it('a figure in the report, a plan, a head', async () => {
    const report = copy();
    const text = readFileSync(join(report, 'report.json'), 'utf8').replace('"must": 1100', '"must": 900');
    writeFileSync(join(report, 'report.json'), text);
    await sealBundle(report);
    expect(await checks(report)).toEqual(['documents']);

    const plan = copy();
    const other = JSON.parse(readFileSync(join(plan, 'plan.json'), 'utf8'));
    other.cells[1].tokens -= 1;
    writeFileSync(join(plan, 'plan.json'), canonicalJson(other));
    await forge(plan);
    expect(await checks(plan)).toEqual(['books', 'events']);

    const head = copy();
    editDocument<NodeManifest>(head, 'manifest.json', (manifest) => {
      manifest.gpus[0]!.name = 'NVIDIA H200';
    });
    await forge(head);
    expect(await checks(head)).toEqual(['events']);
  });

  it('a build and a key that were asked for', async () => {
    const asked = await checkNodeBundle(run, { publicKey: null, build: Buffer.from('another') });
    expect(asked.findings.map((found) => found.check)).toEqual(['build']);
    const same = await checkNodeBundle(run, { publicKey: null, build: Buffer.from('fake') });
    expect(same.outcome).toBe('intact');
  });
});

describe('publication', () => {
  it('refuses an unknown commit and a damaged bundle', async () => {
    await expect(publishNodeRun(run, join(scratch, 'record'))).rejects.toThrow(/the commit is unknown/);
  });
});
