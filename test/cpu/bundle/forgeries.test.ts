/**
 * Bundles changed by someone who makes every digest, counter, verdict and figure anew (test/support/forger.ts): what the rows say against
 * each other still gives the change away. The control of each is the same handling without the change, which stays intact. At the
 * end: changes that nothing but a signature or the build at hand can show, said as plainly as the others.
 */
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkBundle } from '../../../harness/bundle/check/check.ts';
import { cardDigest } from '../../../harness/bundle/digests.ts';
import { told } from '../../../harness/bundle/provenance.ts';
import type { RoundRow, TimingRow } from '../../../harness/bundle/rows.ts';
import { signBundle } from '../../../harness/bundle/sign.ts';
import type { Engine } from '../../../harness/engine.ts';
import { readDocument, rowsOf, writeRows } from '../../support/bundle-files.ts';
import { CHECK, check, checksOf, type Forgery, forge } from '../../support/forger.ts';
import { scriptedAudit, scriptedPrompts } from '../../support/scripted-audit.ts';

let scratch: string;
let run: string;
let count = 0;

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-forgeries-'));
  run = join(scratch, 'run');
  await scriptedAudit({
    directory: run,
    prompts: scriptedPrompts(20),
    plan: { lawSeeds: 6, lawPrompts: 1, tokens: 16, sampledTokens: 8, stopIds: [] },
    change: real,
  });
});

afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** A scripted engine whose card says its drafts are real, and whose greedy drafts depend on no seed, as real ones do not. */
function real(engine: Engine): Engine {
  return {
    ...engine,
    card: { ...engine.card, syntheticAcceptance: null },
    open: (prompt, decoding) => engine.open(prompt, decoding.temperature === 0 ? { ...decoding, seed: '1' } : decoding),
  };
}

function forged(forgery: Forgery, from = run): Promise<string> {
  return forge(from, join(scratch, `forged-${count++}`), forgery);
}

/** Changes the speculative decode rounds of a phase. */
function speculative(phase: string, change: (row: RoundRow, i: number) => void): (rows: RoundRow[]) => RoundRow[] {
  return (rows) => {
    rows.filter((row) => row.session.startsWith(`${phase}/speculative/`) && row.kind === 'decode').forEach(change);
    return rows;
  };
}

function meanAcceptance(directory: string): number {
  const rows = rowsOf<RoundRow>(directory, 'rounds.jsonl').filter((row) => row.drafted.length > 0);
  return rows.reduce((sum, row) => sum + row.accepted + 1, 0) / rows.length;
}

describe('the controls', () => {
  it('an audit as it was written is intact', async () => {
    const result = await check(run);
    expect(result.findings.filter((finding) => finding.level !== 'note')).toEqual([]);
    expect(result.outcome).toBe('intact');
  });

  it('everything made anew without a change is intact', async () => {
    const result = await check(await forged({ rounds: (rows) => rows }));
    expect(result.findings.filter((finding) => finding.level !== 'note')).toEqual([]);
    expect(result.outcome).toBe('intact');
  });
});

describe('rows rewritten so that the mean acceptance rises', () => {
  it('accepted counts alone', async () => {
    const forgery = await forged({
      rounds: speculative('greedy', (row) => {
        if (row.accepted < row.drafted.length) row.accepted += 1;
      }),
    });
    expect(meanAcceptance(forgery)).toBeGreaterThan(meanAcceptance(run));
    expect(checksOf(await check(forgery))).toContain('books');
  });

  it('accepted counts and drafts, so that the books of each round add up', async () => {
    const forgery = await forged({
      rounds: speculative('greedy', (row) => {
        if (row.finish !== null || row.accepted === row.drafted.length) return;
        // The correction becomes an accepted draft, and a token of the forger's follows as the bonus.
        row.drafted[row.accepted] = row.committed[row.accepted]!;
        row.accepted += 1;
        row.committed.push(row.drafted[row.accepted] ?? 1);
      }),
    });
    expect(meanAcceptance(forgery)).toBeGreaterThan(meanAcceptance(run));
    const result = await check(forgery);
    expect(result.outcome).toBe('different');
    expect(result.verdicts.find((verdict) => verdict.id === 'greedy')!.outcome).toBe('refuted');
  });

  it('two rounds joined into one, tokens, counters and clocks as they should be', async () => {
    const join2 = (rows: RoundRow[]): RoundRow[] => {
      const out: RoundRow[] = [];
      const last = new Map<string, RoundRow>();
      for (const row of rows) {
        const before = last.get(row.session);
        const fits = (before?.committed.length ?? 8) + row.committed.length <= 8;
        if (row.session.startsWith('greedy/speculative/') && before?.kind === 'decode' && fits) {
          before.drafted = [...before.committed, ...row.drafted].slice(0, 7);
          before.committed.push(...row.committed);
          before.accepted = before.committed.length - 1;
          before.finish = row.finish;
          const end = row.t_ns! + row.wallNs;
          before.wallNs = end - before.t_ns!;
          before.ns = { draft: 0, verify: before.wallNs, total: before.wallNs };
          out.splice(out.indexOf(before), 1);
          out.push(before);
          continue;
        }
        const kept = { ...row, index: before === undefined ? 0 : before.index + 1 };
        last.set(row.session, kept);
        out.push(kept);
      }
      return out;
    };
    const forgery = await forged({ rounds: join2 });
    expect(meanAcceptance(forgery)).toBeGreaterThan(meanAcceptance(run));
    const result = await check(forgery);
    expect(result.outcome).not.toBe('intact');
    // Tokens, books and clocks agree with each other; the same text decoded elsewhere in the run does not.
    expect(checksOf(result, 'doubt').concat(checksOf(result))).toContain('replicas');
  });

  it('drafts behind the cut of the last round, where another session tells how the text goes on', async () => {
    const raise = (row: RoundRow): void => {
      if (row.finish === 'length' && row.committed.length <= row.accepted) row.accepted = row.drafted.length;
    };
    const forgery = await forged({ rounds: speculative('greedy', raise) });
    expect(meanAcceptance(forgery)).toBeGreaterThan(meanAcceptance(run));
    expect(checksOf(await check(forgery))).toContain('continuation');
    // The blind spot: no plain session of phase `match` goes on behind its limit, so what was drafted there is the forger's word.
    const unseen = await forged({ rounds: speculative('match', raise) });
    expect(meanAcceptance(unseen)).toBeGreaterThan(meanAcceptance(run));
    expect((await check(unseen)).outcome).toBe('intact');
  });

  it('counts that were lowered are seen as well', async () => {
    const forgery = await forged({
      rounds: speculative('greedy', (row) => {
        if (row.finish === 'length' && row.committed.length < row.accepted) row.accepted -= 1;
      }),
    });
    expect(meanAcceptance(forgery)).toBeLessThan(meanAcceptance(run));
    expect(checksOf(await check(forgery))).toContain('continuation');
  });
});

describe('timestamps compressed', () => {
  const half = (row: RoundRow): void => {
    row.wallNs /= 2;
    row.ns = { draft: row.ns.draft / 2, verify: row.ns.verify / 2, total: row.ns.total / 2 };
  };

  const halved = (row: RoundRow): RoundRow => {
    half(row);
    return row;
  };

  it('step times alone', async () => {
    const result = await check(await forged({ rounds: (rows) => rows.map(halved) }));
    expect(checksOf(result)).toContain('clocks');
    expect(result.findings.find((finding) => finding.check === 'clocks')!.text).toMatch(/step times were shortened/);
  });

  it('decode steps of one arm alone', async () => {
    const result = await check(await forged({ rounds: speculative('greedy', half) }));
    expect(result.findings.find((finding) => finding.check === 'clocks')!.text).toMatch(/step times were shortened/);
  });

  it('the clock of the harness below that of the engine', async () => {
    const change = (row: RoundRow): void => {
      row.wallNs /= 2;
    };
    expect(checksOf(await check(await forged({ rounds: speculative('greedy', change) })))).toContain('books');
  });

  it('the whole row, but not the events', async () => {
    const rounds = (rows: RoundRow[]): RoundRow[] => {
      for (const row of rows) {
        half(row);
        row.t_ns! /= 2;
      }
      return rows;
    };
    expect(checksOf(await check(await forged({ rounds })))).toContain('clocks');
  });

  it('rows and events, but not the length of the run', async () => {
    const result = await check(
      await forged({
        rounds: (rows) => rows.map(halved).map((row) => ({ ...row, t_ns: row.t_ns! / 2 })),
        events: (rows) => rows.map((row) => ({ ...row, t_ns: row.t_ns / 2 })),
      }),
    );
    expect(checksOf(result)).toContain('events');
  });

  it('rows, events, length and telemetry: the sensors were then read too fast', async () => {
    const sensed = await withTelemetry();
    expect((await check(sensed)).outcome).toBe('intact');
    const all: Forgery = {
      rounds: (rows) => rows.map(halved).map((row) => ({ ...row, t_ns: row.t_ns! / 2 })),
      events: (rows) => rows.map((row) => ({ ...row, t_ns: row.t_ns / 2 })),
      telemetry: (rows) => rows.map((row) => ({ ...row, t_ns: row.t_ns! / 2 })),
      manifest: (manifest) => {
        manifest.seconds /= 2;
      },
    };
    const result = await check(await forged(all, sensed));
    expect(result.findings.some((finding) => /read .* times a second/.test(finding.text))).toBe(true);
    expect(result.findings.some((finding) => /the power adds up to/.test(finding.text))).toBe(true);
    // Thinned out, the readings come at the rate asked for; energy and power still tell two times.
    const thinned: Forgery = { ...all, telemetry: (rows) => all.telemetry!(rows).filter((_, i) => i % 2 === 0) };
    const texts = (await check(await forged(thinned, sensed))).findings.map((finding) => finding.text).join('\n');
    expect(texts).not.toMatch(/times a second/);
    expect(texts).toMatch(/the power adds up to/);
  });

  it('steps of timed sessions alone, and timed sessions that overlap', async () => {
    const shorter = (rows: TimingRow[]): TimingRow[] =>
      rows.map((row) => {
        if (row.kind !== 'session') return row;
        const halves = (values: readonly number[]): number[] => values.map((value) => value / 2);
        const { stepNs, engineNs, draftNs, verifyNs } = row;
        return {
          ...row,
          stepNs: halves(stepNs),
          engineNs: halves(engineNs),
          draftNs: halves(draftNs),
          verifyNs: halves(verifyNs),
        };
      });
    const result = await check(await forged({ timings: shorter }));
    expect(result.findings.find((finding) => finding.check === 'timings')!.text).toMatch(/step times were shortened/);
    const earlier = (rows: TimingRow[]): TimingRow[] =>
      rows.map((row) => (row.kind === 'session' ? { ...row, startNs: Math.max(0, row.startNs - 1e6) } : row));
    expect(checksOf(await check(await forged({ timings: earlier })))).toContain('timings');
    expect((await check(await forged({ timings: (rows) => rows }))).outcome).toBe('intact');
  });

  it('a round that begins before the one in front of it has ended', async () => {
    const rounds = speculative('greedy', (row) => {
      row.t_ns! -= 1e6;
    });
    expect(checksOf(await check(await forged({ rounds })))).toContain('clocks');
  });

  it('a device that took longer than the harness waited', async () => {
    const rounds = speculative('greedy', (row) => {
      row.deviceNs = { draft: 0, verify: row.wallNs * 2, total: row.wallNs * 2 };
    });
    expect(checksOf(await check(await forged({ rounds })))).toContain('clocks');
    const within = speculative('greedy', (row) => {
      row.deviceNs = { draft: 0, verify: row.wallNs * 0.9, total: row.wallNs * 0.9 };
    });
    expect((await check(await forged({ rounds: within }))).outcome).toBe('intact');
  });

  it('a step faster than the stated memory can be read', async () => {
    const stating = (bytes: number): Forgery => ({
      manifest: ({ provenance }) => {
        const no = { value: null, reason: 'not asked' };
        provenance.model.activeWeightBytes = told(bytes);
        provenance.system.gpuMemoryBandwidth = told(4.8e12);
        provenance.system.gpus = told([
          {
            index: 0,
            name: 'NVIDIA H200',
            uuidDigest: no,
            memoryMiB: told(143771),
            vbios: no,
            ecc: no,
            mig: no,
            persistence: no,
            powerCapW: told(700),
            defaultPowerCapW: told(700),
            applicationClocksMhz: no,
            maxClocksMhz: told({ sm: 1980, memory: 3201 }),
            pcie: no,
          },
        ]);
      },
    });
    // 2 ms at 4.8 TB/s are 9.6 GB.
    expect((await check(await forged(stating(9e9)))).outcome).toBe('intact');
    expect(checksOf(await check(await forged(stating(11e9))))).toEqual(['ceilings']);
  });
});

describe('a bundle of a defect build with the flag removed', () => {
  const strip: Forgery['manifest'] = (manifest) => {
    for (const card of Object.values(manifest.engines)) card.defects = [];
  };
  const digestsOf = (directory: string): Record<string, string> =>
    Object.fromEntries(
      Object.entries(readDocument<{ engines: Record<string, never> }>(directory, 'manifest.json').engines).map(
        ([name, card]) => [name, cardDigest({ ...(card as object), defects: [] } as never)],
      ),
    );
  let defect: string;

  beforeAll(async () => {
    defect = join(scratch, 'defect');
    await scriptedAudit({
      directory: defect,
      plan: { lawSeeds: 4, lawPrompts: 1, tokens: 8, sampledTokens: 8 },
      change: (engine) => ({
        ...engine,
        card: { ...engine.card, defects: ['M05'], buildDigest: `sha256:${'d'.repeat(64)}` },
      }),
    });
  });

  it('says so itself while the flag is there', async () => {
    const result = await check(defect);
    expect(result.outcome).toBe('intact');
    const report = readDocument<{ run: { publishable: boolean } }>(defect, 'report.json');
    expect(report.run.publishable).toBe(false);
  });

  it('from the cards', async () => {
    expect(checksOf(await check(await forged({ manifest: strip }, defect)))).toContain('cards');
  });

  it('from cards and plan', async () => {
    const plan: Forgery['plan'] = (document) => {
      document.engines = digestsOf(defect);
    };
    expect(checksOf(await check(await forged({ manifest: strip, plan }, defect)))).toEqual(['plan']);
  });

  it('from cards, plan and every session row: no digest is left to tell', async () => {
    const digests = digestsOf(defect);
    const everything: Forgery = {
      manifest: strip,
      plan: (document) => {
        document.engines = digests;
      },
      sessions: (rows) => rows.map((row) => ({ ...row, engineDigest: digests[row.engine]! })),
    };
    const forgery = await forged(everything, defect);
    // Said plainly in docs/bundle.md: from the bundle alone this cannot be seen ...
    expect((await check(forgery)).outcome).toBe('intact');
    // ... but with the build that is said to have run it can,
    const build = Buffer.from('the normal build');
    expect(checksOf(await checkBundle(forgery, { ...CHECK, build }))).toEqual(['build']);
    // ... and a signature made before does not fit.
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    const before = await forged({}, defect);
    signBundle(before, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
    expect((await checkBundle(before, { ...CHECK, publicKey: pem })).outcome).toBe('intact');
    const signed = await forged(everything, before);
    expect(checksOf(await checkBundle(signed, { ...CHECK, publicKey: pem }))).toEqual(['signature']);
  });

  it('a build that is none of the binaries, or a defect chosen by the environment', async () => {
    const binaries: Forgery['manifest'] = (manifest) => {
      manifest.provenance.code.binaries = told([{ name: 'addon', sha256: `sha256:${'a'.repeat(64)}`, bytes: 1 }]);
    };
    expect(checksOf(await check(await forged({ manifest: binaries }, defect)))).toEqual(['cards']);
    const chosen: Forgery['manifest'] = (manifest) => {
      manifest.provenance.environment.KILOTOKEN_DEFECT = 'M05';
    };
    expect(checksOf(await check(await forged({ manifest: chosen })))).toEqual(['cards']);
    expect((await check(await forged({ manifest: chosen }, defect))).outcome).toBe('intact');
  });
});

describe('other changes with every digest made anew', () => {
  it('an edited verdict, and an edited figure', async () => {
    const verdict = await forged({ keep: [] });
    const path = join(verdict, 'verdicts.json');
    const document = readDocument<{ verdicts: { outcome: string }[] }>(verdict, 'verdicts.json');
    document.verdicts[0]!.outcome = 'refuted';
    writeFileSync(path, `${JSON.stringify(document, null, 2)}\n`);
    const resealed = await forged({ keep: ['documents'] }, verdict);
    const result = await check(resealed);
    expect(checksOf(result)).toEqual(['documents']);
    expect(result.findings.find((finding) => finding.check === 'documents')!.text).toMatch(
      /verdicts\.json: verdicts\[0\]\.outcome says "refuted", the rows give "consistent"/,
    );
  });

  it('a session dropped, a session added, two sessions exchanged', async () => {
    const [first] = rowsOf<{ session: string }>(run, 'sessions.jsonl');
    const dropped = await forged({
      sessions: (rows) => rows.slice(1),
      rounds: (rows) => rows.filter((row) => row.session !== first!.session),
    });
    expect(checksOf(await check(dropped))).toContain('plan');
    const added = await forged({ sessions: (rows) => [...rows, { ...rows[0]!, session: 'greedy/plain/none/0' }] });
    expect(checksOf(await check(added))).toContain('plan');
    const exchanged = await forged({ sessions: (rows) => [rows[1]!, rows[0]!, ...rows.slice(2)] });
    expect(checksOf(await check(exchanged))).toContain('plan');
  });

  it('other decoding parameters than the plan calls for', async () => {
    const sessions: Forgery['sessions'] = (rows) => {
      rows[0]!.decoding.temperature = 0.5;
      return rows;
    };
    expect(checksOf(await check(await forged({ sessions })))).toContain('plan');
  });

  it('a row dropped while the counters stay', async () => {
    const counted = await forged({ rounds: (rows) => rows.filter((row) => row.index < 2), keep: ['counters'] });
    expect(checksOf(await check(counted))).toContain('counters');
  });

  it('a manifest of another run', async () => {
    const other = join(scratch, 'other');
    await scriptedAudit({
      directory: other,
      prompts: scriptedPrompts(20),
      plan: { lawSeeds: 6, lawPrompts: 1, tokens: 16, sampledTokens: 8, stopIds: [] },
      change: real,
      input: { startedAt: new Date(1e12) },
    });
    const swapped = await forged({
      manifest: (manifest) => void Object.assign(manifest, readDocument(other, 'manifest.json')),
      keep: ['head'],
    });
    expect(checksOf(await check(swapped))).toEqual(['events']);
  });
});

/** The run with a sensor read ten times a second: 100 W, counted and integrated alike. */
async function withTelemetry(): Promise<string> {
  const seconds = readDocument<{ seconds: number }>(run, 'manifest.json').seconds;
  const to = await forged({});
  const rows = Array.from({ length: Math.floor(seconds * 10) }, (_, i) => ({
    t_ns: i * 1e8,
    source: 'test',
    power_w: 100,
    energy_j: i * 10,
  }));
  expect(rows.length).toBeGreaterThan(100);
  writeRows(to, 'telemetry.jsonl', rows);
  const manifest: Forgery['manifest'] = ({ provenance }) => {
    provenance.telemetryHz = told(10);
  };
  return forged({ manifest }, to);
}
