/**
 * The built page, judged by what a reader gets: every number of the report is there and right, nothing is fetched, nothing
 * runs, nothing from the report becomes markup. Where chromium is installed the page is also opened from disk.
 *
 * One file, one build after another: builds share Astro's caches.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Measured, Report } from '../../harness/report/schema.ts';
import { sampleBench } from '../support/bench-kernels.ts';
import { all, byId, descendants, type Element, parseHtml, textOf } from '../support/html.ts';
import { sampleReport } from '../support/sample-report.ts';
import { buildSite, type SiteBuild, siteWorkshop } from '../support/site-build.ts';

const BUILD_LIMIT = 180_000;
const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) =>
  existsSync(p),
);
if (!CHROMIUM)
  console.warn('SKIPPED: the page was not opened in a browser, for no chromium is installed (apt: chromium)');

const home = siteWorkshop();
afterAll(() => rmSync(home, { recursive: true, force: true }));

function publish(runs: string, name: string, report: Report): string {
  const folder = join(home, runs, name);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'report.json');
  writeFileSync(path, JSON.stringify(report, null, 2));
  return path;
}

const sample = sampleReport();
const measurement = sample.measurement!;
const ledger = JSON.parse(readFileSync(new URL('../../suites/claims.json', import.meta.url), 'utf8')) as {
  id: string;
  claim: string;
  source: string;
  sourceUrlOrPlace: string;
  stated: string[];
  unstated: string[];
}[];
/** The sample, with claims of the real ledger among its own. */
const report: Report = {
  ...sample,
  claims: [
    ...sample.claims,
    ...ledger.slice(0, 3).map(({ id, claim, source }) => ({
      id,
      claim,
      source,
      outcome: 'not yet measured' as const,
      finding: 'Needs the real size.',
    })),
  ],
};
let built: SiteBuild;
let page: Element;

beforeAll(async () => {
  built = await buildSite(publish('runs', 'sample', report), join(home, 'page-one'));
  expect(built.code, built.output).toBe(0);
  page = parseHtml(built.html);
}, BUILD_LIMIT);

/** The cell of a table, found as a reader finds it: group, row and column heads. */
function cellAt(table: string, group: string, row: string, column: string): Element {
  const element = byId(page, table);
  const columns = all(all(element, 'thead')[0] ?? element, 'th').map(textOf);
  const body = all(element, 'tbody').find((b) => textOf(all(b, 'th')[0] ?? '') === group);
  if (!body) return expect.fail(`${table}: no group ${group}`);
  const line = all(body, 'tr').find((tr) => textOf(headOf(tr)) === row);
  if (!line) return expect.fail(`${table}, ${group}: no row ${row}`);
  const index = columns.findIndex((text) => text === column || text.startsWith(`${column} (`));
  if (index < 0) return expect.fail(`${table}: no column ${column}`);
  return all(line, 'td')[index - 1] ?? expect.fail('no cell');
}

/** A row's head without the letters of its notes. */
function headOf(tr: Element): Element {
  const [head] = all(tr, 'th');
  if (!head) return expect.fail('a row without a head');
  return { ...head, children: head.children.filter((c) => typeof c === 'string' || c.name !== 'sup') };
}

/** The printed number is the measured one, rounded; the full value, the interval and n are at hand. */
function expectNumber(cell: Element, m: Measured): void {
  if (m.state !== 'measured') {
    expect(textOf(cell)).toMatch(/^not yet measured/);
    expect(all(cell, 'data')).toHaveLength(0);
    return;
  }
  const [data] = all(cell, 'data');
  if (!data) expect.fail(`no number in "${textOf(cell)}"`);
  expect(Number(data.attributes.get('value'))).toBe(m.value);
  expectRounded(textOf(data), m.value);
  const title = data.attributes.get('title') ?? '';
  expect(title).toContain(`${m.value} ${m.unit}`);
  expect(title).toContain(`n = ${m.n} ${m.of}`);
  const shown = all(cell, 'span').map(textOf);
  if (m.interval) {
    expect(title).toContain(`${m.interval.low} to ${m.interval.high} (${m.interval.method})`);
    const [low = '', high = ''] = (shown[0] ?? '').split('\u2013');
    expectRounded(low, m.interval.low);
    expectRounded(high, m.interval.high);
  } else {
    expect(shown).toEqual([]);
  }
}

function expectRounded(shown: string, value: number): void {
  expect(shown).toMatch(/^\d{1,3}(,\d{3})*(\.\d+)?$/);
  const decimals = shown.split('.')[1]?.length ?? 0;
  expect(Math.abs(Number(shown.replaceAll(',', '')) - value)).toBeLessThanOrEqual(0.5 * 10 ** -decimals * (1 + 1e-9));
}

describe('the numbers of the report', () => {
  test('verdicts: question, outcome, evidence, what would have been caught, n, engines, scenarios, warnings', () => {
    for (const v of report.verdicts) {
      const entry = byId(page, `verdict-${v.id}`);
      const text = textOf(entry);
      expect(textOf(all(entry, 'h3')[0] ?? '')).toBe(v.question);
      const [word] = all(entry, 'strong');
      expect(textOf(word ?? '').replace(/^\S /, '')).toContain(v.outcome);
      expect(text).toContain(v.evidence);
      if (v.wouldHaveCaught !== null) {
        const reach =
          v.outcome === 'consistent' ? 'Would have been caught' : 'Smallest effect within reach of this test';
        expect(text).toContain(`${reach}: ${v.wouldHaveCaught}`);
      }
      expect(all(entry, 'data').map((d) => d.attributes.get('value'))).toEqual([String(v.n)]);
      for (const name of [...v.engines, ...v.scenarios]) expect(text).toContain(name);
      for (const w of v.warnings) expect(text).toContain(w.text);
      expect(text).toContain('nano, not the 1.02 T model');
    }
  });

  test('acceptance: every average, baseline, repetition and count, in its own row and column', () => {
    for (const row of report.acceptance) {
      const group = `${row.decoding}, ${row.rule}`;
      const at = (head: string): Element => cellAt('acceptance-all', group, head, row.scenario);
      expectNumber(cellAt('acceptance-lengths', 'Measured here: raw, micro', group, row.scenario), row.rawMicro);
      expectNumber(at('raw, micro (tokens/round)'), row.rawMicro);
      expectNumber(at('raw, macro (tokens/round)'), row.rawMacro);
      expectNumber(at('kept, micro (tokens/round)'), row.keptMicro);
      expectNumber(at('kept, macro (tokens/round)'), row.keptMacro);
      expectNumber(at('n-gram baseline (tokens/round)'), row.ngramBaseline);
      expectNumber(at('repetition (share of tokens)'), row.repetition);
      expect(textOf(all(at('prompts'), 'data')[0] ?? '')).toBe(String(row.prompts));
      expect(textOf(all(at('rounds'), 'data')[0] ?? '')).toBe(row.rounds.toLocaleString('en-US'));
    }
  });

  test('acceptance: survival and histogram, position by position', () => {
    for (const row of report.acceptance) {
      const group = `${row.decoding}, ${row.rule}`;
      for (const [table, values, first] of [
        ['acceptance-survival', row.survival, 1],
        ['acceptance-histogram', row.histogram, 0],
      ] as const) {
        for (const [i, value] of values.entries()) {
          const [data] = all(cellAt(table, group, row.scenario, String(i + first)), 'data');
          expect(Number(data?.attributes.get('value'))).toBe(value);
          expectRounded(textOf(data ?? ''), value);
        }
      }
    }
  });

  test('acceptance: the published figures stand in the same table, with their source, as those of another model', () => {
    for (const [scenario, value] of [
      ['coding', '6.30'],
      ['math', '5.56'],
      ['agent', '4.29'],
    ] as const) {
      const cell = cellAt('acceptance-lengths', 'Published, another model', '1.02 T model', scenario);
      expect(textOf(all(cell, 'data')[0] ?? '')).toBe(value);
    }
    expect(textOf(cellAt('acceptance-lengths', 'Published, another model', '1.02 T model', 'chat'))).toBe('none');
    expect(textOf(byId(page, 'acceptance-lengths'))).toContain('published: vendor announcement, 8 June 2026');
  });

  test('speed: every row, losses as plainly as gains', () => {
    for (const row of report.speed) {
      const head = row.speculation ? `${row.decoding}, ${row.rule}, block ${row.blockSize}` : `${row.decoding}, off`;
      const at = (column: string): Element => cellAt('speed-table', row.scenario, head, column);
      expectNumber(at('decode'), row.decodeTokensPerSecond);
      expectNumber(at('step time'), row.stepMs);
      expectNumber(at('prefill'), row.prefillTokensPerSecond);
      if (row.speculation) expectNumber(at('speed-up'), row.speedup);
      else expect(textOf(at('speed-up'))).toBe('baseline');
    }
    expect(textOf(cellAt('speed-table', 'chat', 'greedy, match, block 8', 'speed-up'))).toMatch(/^0\.91/);
  });

  test('measurement: every figure in its arm, with formula and source; nothing where nothing was measured', () => {
    const { cells, comparisons } = measurement;
    for (const cell of cells) {
      const table = byId(page, `definitions-${cell.scenario}`);
      for (const { name, formula, source, figure } of cell.figures) {
        const line = all(table, 'tr').find((tr) => textOf(all(tr, 'th')[0] ?? '').startsWith(name));
        if (!line) return expect.fail(`${cell.id}: no row ${name}`);
        expect(textOf(all(line, 'th')[0] ?? '')).toContain(`${formula}; ${source}`);
        expectNumber(all(line, 'td')[cell.speculation ? 1 : 0] ?? expect.fail('no cell'), figure);
      }
    }
    for (const [i, comparison] of comparisons.entries()) {
      for (const { name, figure } of comparison.figures) {
        const line = all(byId(page, 'comparison'), 'tr').find((tr) => textOf(all(tr, 'th')[0] ?? '').startsWith(name));
        expectNumber(all(line ?? page, 'td')[i] ?? expect.fail('no cell'), figure);
      }
    }
  });

  test('measurement: the kind of run is said first, and labels stand at the numbers they concern', () => {
    const speed = textOf(byId(page, 'speed'));
    expect(speed).toContain(measurement.statement);
    for (const id of ['definitions-coding', 'comparison', 'speed-table']) {
      expect(textOf(byId(page, id))).toMatch(/short run: (timed for about 31 s|31 s measured)/);
    }
    // "assumed" belongs to the price alone, which is alone in its group.
    const table = byId(page, 'definitions-coding');
    const note = all(table, 'li').find((li) => textOf(li).includes('assumed: 2.5 EUR an hour'));
    const mark = textOf(all(note ?? page, 'b')[0] ?? '');
    const marked = all(table, 'tr').filter((tr) => all(tr, 'sup').some((sup) => textOf(sup).includes(mark)));
    expect(marked.map((tr) => textOf(all(tr, 'th')[0] ?? ''))).toEqual([expect.stringMatching(/^What it buys/)]);
  });

  test('measurement: conditions, facets, absent facets, checks', () => {
    const conditions = textOf(byId(page, 'conditions'));
    for (const part of ['31.4', '2,210', '5,381', '3 of 4', 'no verdict', '1.21 of 1.50', 'too short']) {
      expect(conditions).toContain(part);
    }
    for (const row of measurement.facets) {
      const line = all(byId(page, 'facets'), 'tr').find((tr) => textOf(headOf(tr)) === row.value);
      const [data] = all(line ?? page, 'data');
      expect(Number(data?.attributes.get('value'))).toBe(row.rawMicro.state === 'measured' ? row.rawMicro.value : NaN);
      expect(textOf(line ?? '')).toContain(row.rawMicro.state === 'measured' ? `n = ${row.rawMicro.n}` : '');
    }
    for (const { facet, reason } of measurement.absentFacets) {
      expect(textOf(byId(page, 'acceptance'))).toContain(`Not told apart by ${facet}: ${reason}`);
    }
    for (const check of measurement.checks) {
      const entry = textOf(byId(page, `check-${check.id}`));
      for (const part of [check.question, check.outcome, check.evidence]) expect(entry).toContain(part);
    }
  });

  test('a warning stands at the number it touches and is spelled out under the table', () => {
    const cell = cellAt('acceptance-lengths', 'Measured here: raw, micro', 'greedy, match', 'math');
    const [mark] = all(cell, 'a');
    const note = byId(page, (mark?.attributes.get('href') ?? '').slice(1));
    expect(textOf(note)).toContain('repetitive output: 11 of 64 outputs end in a verbatim loop');
    const plain = cellAt('acceptance-lengths', 'Measured here: raw, micro', 'greedy, match', 'coding');
    expect(all(plain, 'a')).toEqual([]);
  });

  test('the kind of model is said beside every table and chart of numbers', () => {
    const blocks = descendants(page).filter((e) => {
      const classes = (e.attributes.get('class') ?? '').split(' ');
      return e.name === 'figure' || classes.includes('table');
    });
    expect(blocks.length).toBeGreaterThanOrEqual(8);
    for (const block of blocks) expect(textOf(block)).toContain('nano: a small trained stand-in, not the 1.02 T model');
  });

  test('conditions: run, machine, engines, suites, files, every digest in full', () => {
    const text = textOf(page);
    const { run, machine } = report;
    for (const fact of [run.id, run.command, run.commit, machine.cpu, machine.os, machine.node])
      expect(text).toContain(fact);
    expect(text).toContain('dirty: uncommitted changes were present');
    for (const reason of run.notPublishableBecause) expect(text).toContain(reason);
    for (const e of report.engines) {
      for (const fact of [e.name, e.weightsDigest, e.draftDigest, e.numerics, e.buildDigest, e.device]) {
        expect(text).toContain(fact);
      }
    }
    for (const s of report.suites) expect(text).toContain(s.digest);
    for (const f of report.files) expect(text).toContain(`${f.sha256} ${f.path}`);
    for (const w of report.warnings) expect(text).toContain(w.text);
  });

  test('the ledger keeps what was not measured as such', () => {
    for (const c of report.claims) {
      const entry = textOf(byId(page, `claim-${c.id}`));
      for (const part of [c.claim, c.outcome, c.finding, c.source]) expect(entry).toContain(part);
    }
  });

  test('the ledger says what the source of a claim states and what it leaves out', () => {
    for (const c of ledger.slice(0, 3)) {
      const entry = textOf(byId(page, `claim-${c.id}`));
      for (const part of [...c.stated, ...c.unstated, c.sourceUrlOrPlace]) expect(entry).toContain(part);
    }
    expect(textOf(byId(page, 'claim-C01'))).not.toContain('Not stated');
  });

  test('report.json lies beside the page, byte for byte', () => {
    const copy = readFileSync(join(built.folder, 'report.json'), 'utf8');
    expect(copy).toBe(readFileSync(join(home, 'runs', 'sample', 'report.json'), 'utf8'));
  });
});

describe('the document', () => {
  test('runs nothing', () => {
    expect(all(page, 'script')).toEqual([]);
    const handlers = descendants(page).flatMap((e) => [...e.attributes.keys()].filter((name) => name.startsWith('on')));
    expect(handlers).toEqual([]);
    expect(built.html).not.toMatch(/javascript:/i);
  });

  test('asks nobody for anything: no address but its own anchors, its data icon and the report beside it', () => {
    const fetching = [
      'src',
      'srcset',
      'href',
      'xlink:href',
      'action',
      'formaction',
      'poster',
      'data',
      'background',
      'ping',
    ];
    const addresses = descendants(page).flatMap((e) =>
      fetching.map((name) => e.attributes.get(name)).filter((v) => v !== undefined),
    );
    const others = addresses.filter((a) => !/^#[\w-]+$/.test(a) && a !== 'data:,' && a !== 'report.json');
    expect(others).toEqual([]);
    const css = all(page, 'style').map(textOf).join('\n');
    expect(css).toContain('--paper');
    expect(css).not.toMatch(/@import|url\(|@font-face/);
  });

  test('forbids it too: a policy that allows styles and a data icon, nothing else', () => {
    const policy = all(page, 'meta').find((m) => m.attributes.get('http-equiv') === 'Content-Security-Policy');
    expect(policy?.attributes.get('content')).toBe(
      "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
    );
    const head = all(page, 'head')[0];
    const names = (head?.children ?? []).flatMap((c) => (typeof c === 'string' ? [] : [c.name]));
    expect(names.indexOf('meta')).toBeLessThan(names.indexOf('style'));
  });

  test('every link inside the page has its place, and every id is used once', () => {
    const ids = descendants(page).flatMap((e) => e.attributes.get('id') ?? []);
    expect(new Set(ids).size).toBe(ids.length);
    const targets = all(page, 'a').map((a) => a.attributes.get('href') ?? '');
    for (const target of targets.filter((t) => t.startsWith('#'))) expect(ids).toContain(target.slice(1));
  });

  test('can be walked by headings and landmarks', () => {
    const levels = descendants(page).flatMap((e) => (/^h[1-6]$/.test(e.name) ? [Number(e.name[1])] : []));
    expect(levels.filter((level) => level === 1)).toHaveLength(1);
    for (const [i, level] of levels.entries()) expect(level - (levels[i - 1] ?? level)).toBeLessThanOrEqual(1);
    for (const name of ['header', 'main', 'footer', 'nav']) expect(all(page, name).length).toBeGreaterThanOrEqual(1);
    expect(all(page, 'html')[0]?.attributes.get('lang')).toBe('en');
  });

  test('tables have heads with a scope and a name; charts have a name that leads to their table', () => {
    const tables = all(page, 'table');
    expect(tables.length).toBeGreaterThanOrEqual(6);
    for (const table of tables) {
      expect(table.attributes.get('aria-labelledby') ?? table.attributes.get('aria-label')).toBeTruthy();
      for (const th of all(table, 'th')) expect(th.attributes.get('scope')).toMatch(/^(col|row|rowgroup)$/);
      for (const tr of all(table, 'tr')) expect(all(tr, 'th').length).toBeGreaterThanOrEqual(1);
    }
    const charts = descendants(page).filter((e) => e.attributes.get('role') === 'img');
    expect(charts.length).toBe(3 + 4);
    for (const chart of charts)
      expect(chart.attributes.get('aria-label')).toMatch(/^Chart: .+ Its numbers are in the table .+\.$/);
  });

  test('explains every outcome, warning and measure in its glossary', () => {
    const terms = all(byId(page, 'glossary'), 'h4').map((h) => textOf(h).toLowerCase());
    for (const term of [
      'consistent',
      'refuted',
      'inconclusive',
      'not testable here',
      'internally inconsistent',
      'not yet measured',
      'lossless',
      'fidelity',
      'acceptance length',
      'raw and kept',
      'micro and macro',
      'bonus token',
      'block',
      'verify step',
      'match',
      'reject',
      'coupled',
      'survival',
      'n-gram baseline',
      'repetition',
      'decode tokens per second',
      'step time',
      'speed-up',
      'nano',
      'pro-synthetic',
      'real',
      'bca bootstrap by prompt',
      'short run',
      'few prompts',
      'synthetic weights',
      'synthetic acceptance',
      'defects compiled in',
      'foreign load',
      'no correctness verdict',
      'dirty tree',
      'repetitive output',
    ]) {
      expect(terms).toContain(term);
    }
  });
});

describe('other inputs', () => {
  test('of a folder of runs the newest is shown, and each has a page', {
    timeout: BUILD_LIMIT,
  }, async () => {
    publish('many', 'newest', report);
    publish('many', 'older', {
      ...report,
      run: { ...report.run, id: 'older', title: 'Older', startedAt: '2025-01-01T00:00:00Z' },
    });
    const again = await buildSite(join(home, 'many'), join(home, 'page-two'));
    expect(again.code, again.output).toBe(0);
    const several = parseHtml(again.html);
    for (const id of ['verdicts', 'acceptance', 'speed', 'run', 'claims', 'glossary', 'files'])
      expect(textOf(byId(several, id)), id).toBe(textOf(byId(page, id)));
    expect(readFileSync(join(again.folder, 'report.json'), 'utf8')).toBe(
      readFileSync(join(home, 'many', 'newest', 'report.json'), 'utf8'),
    );
    // The question and its answer come first.
    expect(textOf(all(several, 'h1')[0]!)).toMatch(/past 1,000 tokens per second, losslessly\?$/);
    expect(textOf(all(several, 'header')[0]!)).toContain('Neither confirmed nor refuted so far.');
    expect(textOf(byId(several, 'found-speed-1000'))).toContain('not yet measured');
    expect(textOf(byId(several, 'newest'))).toContain(report.run.title);
    const levels = descendants(several).flatMap((e) => (/^h[1-6]$/.test(e.name) ? [Number(e.name[1])] : []));
    for (const [i, level] of levels.entries()) expect(level - (levels[i - 1] ?? level)).toBeLessThanOrEqual(1);
    // Every run has a page of its own, and the list says what it is of, the newest first.
    const rows = all(byId(several, 'audits'), 'tr').slice(1);
    expect(rows.map((tr) => all(tr, 'a')[0]!.attributes.get('href'))).toEqual([
      `audit/${report.run.id}.html`,
      'audit/older.html',
    ]);
    expect(textOf(rows[1]!)).toContain('sample-nano');
    const older = readFileSync(join(again.folder, 'audit', 'older.html'), 'utf8');
    expect(older).not.toMatch(/<script|https?:\/\/(?!www\.w3\.org)/);
    const own = parseHtml(older);
    expect(textOf(all(own, 'h1')[0]!)).toBe('Older');
    expect(textOf(byId(own, 'verdicts'))).toBe(textOf(byId(page, 'verdicts')));
    expect(all(own, 'a').map((a) => a.attributes.get('href'))).toEqual(
      expect.arrayContaining(['../index.html', 'older.json']),
    );
    expect(JSON.parse(readFileSync(join(again.folder, 'audit', 'older.json'), 'utf8'))).toMatchObject({
      run: { title: 'Older' },
    });
    const ids = descendants(own).flatMap((e) => e.attributes.get('id') ?? []);
    for (const link of all(own, 'a').map((a) => a.attributes.get('href') ?? ''))
      if (link.startsWith('#')) expect(ids).toContain(link.slice(1));
  });

  test('texts of a report stay texts, wherever they are put', { timeout: BUILD_LIMIT }, async () => {
    const attack = `"'><script>alert(1)</script><img src=x onerror=alert(1)></style><svg onload=alert(1)>&lt;b&gt;`;
    const hostile = JSON.parse(JSON.stringify(report), (key, value) => {
      const structural = ['schema', 'state', 'outcome', 'code', 'kind', 'mode'].includes(key);
      const word = ['trace', 'request', 'counter', 'inferred', 'language', 'context'].includes(value);
      return typeof value === 'string' && !structural && !word ? `${value} ${attack}` : value;
    }) as Report;
    const { code, output, html } = await buildSite(publish('hostile', 'run', hostile), join(home, 'page-three'));
    expect(code, output).toBe(0);
    const attacked = parseHtml(html);
    const names = (root: Element): string[] => [...new Set(descendants(root).map((e) => e.name))].sort();
    expect(names(attacked).filter((name) => !names(page).includes(name))).toEqual([]);
    expect(all(attacked, 'style').length).toBe(all(page, 'style').length);
    const handlers = descendants(attacked).flatMap((e) =>
      [...e.attributes.keys()].filter((name) => /^on|^src$/.test(name)),
    );
    expect(handlers).toEqual([]);
    expect(textOf(all(attacked, 'h1')[0] ?? '')).toBe(hostile.run.title);
    expect(textOf(all(attacked, 'title')[0] ?? '')).toBe(`kilotoken: ${hostile.run.title}`);
  });

  test('a malformed report fails the build with one clear line', { timeout: BUILD_LIMIT }, async () => {
    const path = join(home, 'bad', 'report.json');
    mkdirSync(join(home, 'bad'));
    writeFileSync(path, JSON.stringify({ ...report, verdicts: [{ ...report.verdicts[0], n: 'many' }] }));
    const { code, output, html } = await buildSite(path, join(home, 'page-four'));
    expect(code).not.toBe(0);
    expect(output).toContain(`${path} cannot be shown: report.verdicts[0].n: expected a whole number, got "many"`);
    expect(html).toBe('');
  });

  test('without any run the page says so and shows no number', { timeout: BUILD_LIMIT }, async () => {
    mkdirSync(join(home, 'none'));
    const { code, output, html } = await buildSite(join(home, 'none'), join(home, 'page-five'));
    expect(code, output).toBe(0);
    const empty = parseHtml(html);
    expect(textOf(all(empty, 'h1')[0] ?? '')).toBe('No run has been published.');
    expect(all(empty, 'data')).toEqual([]);
    expect(all(empty, 'table')).toEqual([]);
    for (const c of ledger) expect(textOf(byId(empty, `claim-${c.id}`))).toContain('not yet measured');
    expect(all(byId(empty, 'glossary'), 'h4').length).toBeGreaterThan(30);
    const links = all(empty, 'a').map((a) => a.attributes.get('href') ?? '');
    for (const link of links)
      expect(
        descendants(empty).some((e) => e.attributes.get('id') === link.slice(1)),
        link,
      ).toBe(true);
  });
});

describe.skipIf(!CHROMIUM)('opened from disk in chromium, scripts off', () => {
  let browser: Browser;
  const seen: { requests: string[]; console: string[] } = { requests: [], console: [] };

  beforeAll(async () => {
    const quiet = [
      'disable-gpu',
      'disable-quic',
      'no-first-run',
      'disable-background-networking',
      'disable-component-update',
      'disable-sync',
    ];
    browser = await chromium.launch({
      executablePath: CHROMIUM ?? '',
      args: ['no-sandbox', ...quiet].map((a) => `--${a}`),
    });
  }, BUILD_LIMIT);
  afterAll(() => browser?.close());

  async function open(width: number, colorScheme: 'light' | 'dark'): Promise<Page> {
    const context = await browser.newContext({
      viewport: { width, height: 800 },
      colorScheme,
      javaScriptEnabled: false,
    });
    const tab = await context.newPage();
    tab.on('request', (r) => seen.requests.push(r.url()));
    tab.on('console', (m) => seen.console.push(m.text()));
    await tab.goto(pathToFileURL(join(built.folder, 'index.html')).href);
    return tab;
  }

  test.each([320, 375, 768, 1280])(
    '%d px: nothing runs out of the page, one drawing of each chart shows',
    { timeout: BUILD_LIMIT },
    async (width) => {
      const tab = await open(width, 'light');
      const main = await tab.locator('main').boundingBox();
      expect(main?.width).toBeLessThanOrEqual(width);
      const figures = tab.locator('figure');
      for (let i = 0; i < (await figures.count()); i++) {
        const figure = figures.nth(i);
        const drawings = await figure.locator('.drawing').count();
        const visible = figure.locator('svg.marks:visible');
        expect(await visible.count()).toBe(drawings);
        const box = await visible.first().boundingBox();
        expect((box?.x ?? 0) + (box?.width ?? Number.POSITIVE_INFINITY)).toBeLessThanOrEqual(width);
      }
      for (const heading of await tab.locator('h1, h2, h3').all()) {
        const box = await heading.boundingBox();
        if (box) expect(box.x + box.width).toBeLessThanOrEqual(width);
      }
      await tab.context().close();
    },
  );

  test('dark: paper, ink and charts follow the scheme', { timeout: BUILD_LIMIT }, async () => {
    const shots: Buffer[] = [];
    for (const scheme of ['light', 'dark'] as const) {
      const tab = await open(1280, scheme);
      shots.push(await tab.locator('figure').first().screenshot());
      await tab.context().close();
    }
    expect(shots[0]?.equals(shots[1] ?? Buffer.alloc(0))).toBe(false);
  });

  test('paper: the tables that are folded on screen are printed', { timeout: BUILD_LIMIT }, async () => {
    const tab = await open(1280, 'dark');
    const folded = tab.locator('#acceptance-survival td').first();
    expect(await folded.isVisible()).toBe(false);
    await tab.emulateMedia({ media: 'print', colorScheme: 'dark' });
    expect(await folded.isVisible()).toBe(true);
    await tab.context().close();
  });

  test('no request but for the page itself, and a silent console', () => {
    expect([...new Set(seen.requests)].map((url) => url.split('/').at(-1))).toEqual(['index.html']);
    expect(seen.console).toEqual([]);
  });
});

describe('node and kernel benchmarks', () => {
  test('each has a page of its own, parts stand together on one, and the index names them', {
    timeout: BUILD_LIMIT,
  }, async () => {
    const nodes = join(home, 'nodes');
    const kernels = join(home, 'kernels');
    mkdirSync(nodes, { recursive: true });
    mkdirSync(kernels, { recursive: true });
    const { fakeBench } = await import('../cpu/node/support.ts');
    await fakeBench({ directory: join(nodes, 'one') });
    const about = { id: 'alone', startedAt: '2026-11-22T00:00:00.000Z', commit: 'c0ffee0123' };
    await fakeBench({ directory: join(nodes, 'two'), about, options: { groups: ['collectives'] } });
    writeFileSync(join(kernels, 'k.json'), JSON.stringify(sampleBench()));
    process.env.KILOTOKEN_NODE = nodes;
    process.env.KILOTOKEN_KERNELS = kernels;
    try {
      const site = await buildSite(join(home, 'runs'), join(home, 'page-node'));
      expect(site.code, site.output).toBe(0);
      const read = (path: string): Element => {
        const html = readFileSync(join(site.folder, path), 'utf8');
        expect(html).not.toMatch(/<script|https?:\/\/(?!www\.w3\.org)/);
        const root = parseHtml(html);
        const ids = descendants(root).flatMap((e) => e.attributes.get('id') ?? []);
        expect(new Set(ids).size).toBe(ids.length);
        for (const link of all(root, 'a').map((a) => a.attributes.get('href') ?? ''))
          if (link.startsWith('#')) expect(ids).toContain(link.slice(1));
        return root;
      };
      const links = all(byId(parseHtml(site.html), 'node'), 'a').map((link) => link.attributes.get('href') ?? '');
      expect(links.filter((link) => !link.startsWith('#'))).toEqual(['node.html', 'node/alone.html', 'node/test.html']);
      const own = read('node/test.html');
      for (const id of ['cells-headline', 'cells-ablation', 'cells-context', 'cells-block', 'cells-gpus']) {
        const text = textOf(byId(own, id));
        expect(text).toContain('synthetic weights');
        expect(text).toContain('4 of 8 GPUs');
      }
      expect(textOf(byId(own, 'targets'))).toContain('8 GPUs: not yet measured');
      expect(textOf(byId(own, 'targets-table')).match(/not yet measured/g)).toHaveLength(8);
      expect(textOf(byId(own, 'projections-table'))).toContain('projection');
      expect(textOf(byId(own, 'projections-table'))).toContain('tokens a round / (mean step x');
      expect(textOf(byId(own, 'exposed-table'))).toContain('4 of 8 GPUs');
      expect(textOf(byId(own, 'collectives-table'))).toContain('NCCL');
      expect(all(own, 'svg').length).toBeGreaterThan(0);
      // A part alone says what it is not, and has no empty tables.
      const alone = read('node/alone.html');
      expect(textOf(byId(alone, 'absent'))).toMatch(/not asked for: headline; .*block size/);
      expect(textOf(byId(alone, 'collectives'))).toContain('4 of 8 GPUs');
      expect(descendants(alone).some((e) => e.attributes.get('id') === 'cells-headline')).toBe(false);
      // Each part names its own bundle and commit.
      const parts = read('node.html');
      expect(textOf(byId(parts, 'collectives'))).toContain('Bundle alone');
      expect(textOf(byId(parts, 'collectives'))).toMatch(/commit c0ffee0.*Also in test/s);
      expect(textOf(byId(parts, 'context'))).toContain('4 x Fake GPU, 66 layers. Bundle test');
      expect(textOf(byId(parts, 'context'))).toContain('131,072 positions');
      const bench = read('kernels/k.html');
      expect(textOf(byId(bench, 'operations-table'))).toMatch(/QKV, FP8.*peer: two, graph.*1\.60/s);
      expect(textOf(byId(bench, 'peers'))).toContain('Left out');
      expect(textOf(byId(bench, 'layer-table'))).toContain('1.25');
    } finally {
      delete process.env.KILOTOKEN_NODE;
      delete process.env.KILOTOKEN_KERNELS;
    }
  });

  test('beside a single report there is none', () => {
    for (const name of ['node', 'node.html', 'kernels', 'audit'])
      expect(existsSync(join(built.folder, name)), name).toBe(false);
  });
});
