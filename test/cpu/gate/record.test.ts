/** The evidence record keeps what was started, adds up what was learned, and cannot be talked out of a refutation. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { markovSource } from '../../../harness/engines/markov.ts';
import type { Budget } from '../../../harness/gate/budget.ts';
import { calibrate } from '../../../harness/gate/calibration.ts';
import { EvidenceRecord } from '../../../harness/gate/evidence.ts';
import { annotations, junit, markdown } from '../../../harness/gate/report.ts';
import { exitCodeOf, type GateResult, verdictOf } from '../../../harness/gate/result.ts';
import { CHAIN, find, gate, gateOf, refutations } from './support.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'kilotoken-evidence-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const lines = () =>
  readFileSync(join(directory, 'evidence.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
const ROWS_ONLY = { uniforms: false, toys: false } as const;
const SHORT: Partial<Budget> = { prompts: 4, equalityPrompts: 4, equalityTokens: 8, lawTokens: 500, rowPositions: 4 };

describe('evidence', () => {
  it('adds up over runs until a small defect is refuted, with new seeds each time', async () => {
    const earned: number[] = [];
    let last: GateResult | null = null;
    for (let run = 0; run < 14; run++) {
      last = await gateOf({ ...ROWS_ONLY, defect: 'M24' }, { record: new EvidenceRecord(directory), budget: SHORT });
      earned.push(find(last, 'law acceptance').logE!);
      expect(last.run).toBe(run);
      if (last.verdict === 'refuted') break;
    }
    expect(last!.verdict).toBe('refuted');
    expect(earned.length).toBeGreaterThan(2); // no single run could have
    const alone = await gateOf({ ...ROWS_ONLY, defect: 'M24' }, { budget: SHORT });
    expect(alone.verdict).toBe('inconclusive');
  });

  it('a refutation stays: running again is not a way to pass', async () => {
    const bad = await gateOf({ defect: 'M03' }, { record: new EvidenceRecord(directory) });
    expect(bad.verdict).toBe('refuted');
    // The same card, now honest: the record cannot tell, and does not forget.
    const again = await gateOf({}, { record: new EvidenceRecord(directory), seed: '77' });
    expect(refutations(again)).toContain('earlier runs');
    expect(again.verdict).toBe('refuted');
    // Another build starts anew.
    const other = await gateOf({ weights: '8' }, { record: new EvidenceRecord(directory) });
    expect(other.verdict).toBe('passed');
  });

  it('runs again, as it was, a run that never ended', async () => {
    const record = new EvidenceRecord(directory);
    const source = markovSource(CHAIN);
    const broken = { ...source, open: source.open };
    await expect(
      gate(broken, {
        record,
        progress: () => {
          throw new Error('the machine went away');
        },
      }),
    ).rejects.toThrow();
    expect(lines().map((line) => line.event)).toEqual(['started']);
    const next = await gateOf({}, { record: new EvidenceRecord(directory), seed: '99' });
    expect([next.run, next.seed]).toEqual([0, '1']);
    const after = await gateOf({}, { record: new EvidenceRecord(directory), seed: '99' });
    expect([after.run, after.seed]).toEqual([1, '99']);
  });

  it('is refused once a line was changed or taken out', async () => {
    await gateOf({ defect: 'M03' }, { record: new EvidenceRecord(directory) });
    await gateOf({}, { record: new EvidenceRecord(directory) });
    const path = join(directory, 'evidence.jsonl');
    const whole = readFileSync(path, 'utf8');
    const each = whole.trimEnd().split('\n');
    expect(each).toHaveLength(4);
    for (const edited of [
      [...each.slice(0, 1), ...each.slice(2)].join('\n'),
      whole.replace('"verdict":"refuted"', '"verdict":"passed"'),
      whole.replace('{', '['),
    ]) {
      writeFileSync(path, edited);
      expect(() => new EvidenceRecord(directory)).toThrow(/line \d/);
    }
  });
});

describe('lines cut off at the end', () => {
  const path = () => join(directory, 'evidence.jsonl');
  const headPath = () => join(directory, 'evidence.head.json');
  const open = (expected?: string) => new EvidenceRecord(directory, expected ?? null);
  const cutTo = (count: number) =>
    writeFileSync(
      path(),
      lines()
        .slice(0, count)
        .map((line) => `${JSON.stringify(line)}\n`)
        .join(''),
    );

  it('a failed run cannot be dropped', async () => {
    await gateOf({ defect: 'M03' }, { record: open() });
    for (const count of [1, 0]) {
      cutTo(count);
      expect(open).toThrow(/cut off at the end/);
    }
    rmSync(path());
    expect(open).toThrow(/cut off at the end/);
  });
  it('nor can its head be taken away, replaced or damaged', async () => {
    const record = open();
    await gateOf({ defect: 'M03' }, { record });
    const head = readFileSync(headPath(), 'utf8');
    rmSync(headPath());
    expect(open).toThrow(/is missing/);
    for (const text of ['{', '{"lines":2}', '{"lines":-1,"last":"none"}']) {
      writeFileSync(headPath(), text);
      expect(open).toThrow(/is damaged/);
    }
    writeFileSync(headPath(), head.replace(record.head, 'sha256:other'));
    expect(open).toThrow(/is not the one/);
    writeFileSync(headPath(), head);
    expect(open().head).toBe(record.head);
  });
  it('a run that was killed between line and head is no cut', async () => {
    await gateOf({}, { record: open() });
    const [first] = lines();
    const { before: _, ...rest } = first;
    expect(rest.event).toBe('started');
    const head = JSON.parse(readFileSync(headPath(), 'utf8'));
    writeFileSync(headPath(), JSON.stringify({ lines: 1, last: lines()[1].before }));
    expect(head.lines).toBe(2);
    expect(open().head).toBe(head.last);
  });
  it('both files put back to an earlier state are seen by who kept the head', async () => {
    await gateOf({}, { record: open() });
    const early = [readFileSync(path(), 'utf8'), readFileSync(headPath(), 'utf8')] as const;
    const record = open();
    await gateOf({ defect: 'M03' }, { record });
    const kept = record.head;
    expect(open(kept).head).toBe(kept);
    writeFileSync(path(), early[0]);
    writeFileSync(headPath(), early[1]);
    expect(() => open()).not.toThrow(); // by itself it looks like the earlier state
    expect(() => open(kept)).toThrow(/was cut/);
    rmSync(path());
    rmSync(headPath());
    expect(() => open(kept)).toThrow(/was cut/);
  });
});

describe('no path of the code discards a failed run', () => {
  it('the record has no way to take a line back', () => {
    const text = readFileSync(join(import.meta.dirname, '../../../harness/gate/evidence.ts'), 'utf8');
    expect(text).not.toMatch(/truncate|unlink|rmSync|splice|\.pop\(/);
    expect(text.match(/writeFileSync\(/g)).toHaveLength(1); // the head
  });
  it('a run that an engine breaks off by an error of the machine is still started, and is run again with its own seed', async () => {
    const source = markovSource(CHAIN);
    let steps = 0;
    const failing = {
      ...source,
      open: async (options: { readonly blockSize?: number }) => {
        const engine = await source.open(options);
        return {
          ...engine,
          open: async (...args: Parameters<typeof engine.open>) => {
            if (++steps > 40) throw Object.assign(new Error('no memory'), { name: 'EnvironmentError' });
            return engine.open(...args);
          },
        };
      },
    };
    await expect(gate(failing, { record: new EvidenceRecord(directory), seed: '5' })).rejects.toThrow('no memory');
    const again = await gateOf({}, { record: new EvidenceRecord(directory), seed: '6' });
    expect([again.run, again.seed]).toEqual([0, '5']);
  });
});

describe('verdicts and exit codes', () => {
  const check = (outcome: string, decisive = true) =>
    ({ ...find0, outcome, decisive }) as unknown as GateResult['checks'][number];
  const find0 = { id: 'x', question: '', evidence: '', wouldHaveCaught: null, n: 1, of: '', logE: null };
  it.each([
    [[check('consistent')], false, 'passed', 0],
    [[check('consistent'), check('refuted')], false, 'refuted', 1],
    [[check('internally inconsistent')], true, 'refuted', 1],
    [[check('consistent'), check('inconclusive')], false, 'inconclusive', 4],
    [[check('consistent', false), check('not testable here')], false, 'inconclusive', 4],
    [[], false, 'inconclusive', 4],
    [[check('consistent')], true, 'interrupted', 130],
  ] as const)('%#', (checks, interrupted, verdict, code) => {
    expect(verdictOf([...checks], interrupted)).toBe(verdict);
    expect(exitCodeOf(verdict)).toBe(code);
  });
});

describe('reports', () => {
  it('are well-formed whatever an engine says', async () => {
    const nasty = 'a < b & "c" \u0000\u001b[31m\ud800 ]]> \uffff | `x`\n::error::% end';
    const source = markovSource(CHAIN);
    const result = await gate({
      ...source,
      name: nasty,
      open: async (options: { readonly blockSize?: number }) => {
        const engine = await source.open(options);
        return {
          ...engine,
          card: { ...engine.card, defects: [nasty] },
          score: async () => {
            throw new Error(nasty);
          },
        };
      },
    });
    const xml = junit([result]);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what XML forbids
    expect(xml).not.toMatch(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udfff]/);
    expect(xml.replace(/<[^<>]*>/g, '')).not.toMatch(/[<>]/);
    expect(xml.match(/<testcase /g)).toHaveLength(result.checks.length);
    const count = (name: string): number => Number(new RegExp(`${name}="(\\d+)"`).exec(xml)![1]);
    expect(count('failures')).toBe(xml.match(/<failure /g)!.length);
    expect(count('skipped')).toBe(xml.match(/<skipped /g)!.length);
    for (const line of annotations(result)) expect(line).toMatch(/^::(error|warning) title=[^\n]*::[^\n]*$/);
    const rows = markdown(result)
      .split('\n')
      .filter((line) => line.startsWith('| '));
    for (const row of rows) expect(row.replace(/\\./g, '').match(/\|/g)).toHaveLength(5);
  });
});

describe('calibration', () => {
  it('whole gates on truthful engines: no alarm at 1e-6, at most a twentieth at 0.05 (seed 4)', async () => {
    const result = await calibrate({ runs: 60, seed: '4', tokens: 300, toyTokens: 300, pairs: 12 });
    expect(result.strict.alarms).toBe(0);
    expect(result.otherRefutations).toBe(0);
    expect(result.loose.rate).toBeLessThanOrEqual(0.05);
    expect(result.twoSample.rate).toBeLessThanOrEqual(0.1);
  });

  it('the published calibration holds what it must', () => {
    const path = join(import.meta.dirname, '../../../results/calibration/gate-2.json');
    const { strict, loose, otherRefutations } = JSON.parse(readFileSync(path, 'utf8'));
    expect(strict).toMatchObject({ alpha: 1e-6, alarms: 0 });
    expect(strict.runs).toBeGreaterThanOrEqual(2_000);
    expect(loose.rate).toBeLessThanOrEqual(0.05);
    expect(otherRefutations).toBe(0);
  });
});
