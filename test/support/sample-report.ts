/**
 * A SYNTHETIC report for tests of the page. Every number in it is made up; none was measured. It is consistent with itself
 * (averages follow from histograms) and holds what is awkward to print: losses, gaps, warnings, several decodings.
 */
import type {
  AcceptanceRow,
  Figure,
  Measured,
  Measurement,
  Report,
  SpeedCell,
  SpeedRow,
  Warning,
} from '../../harness/report/schema.ts';

const SCENARIOS = ['coding', 'math', 'agent', 'chat'] as const;
const PUBLISHED: Readonly<Record<string, number>> = { coding: 6.3, math: 5.56, agent: 4.29 };
const SOURCE = 'vendor announcement, 8 June 2026';
const METHOD = 'BCa bootstrap by prompt, 2000 resamples, seed 1';
const DECODINGS = [
  { decoding: 'greedy', rule: 'match', strength: 0 },
  { decoding: 'temperature 1', rule: 'match', strength: -0.07 },
  { decoding: 'temperature 1', rule: 'coupled', strength: -0.05 },
  { decoding: 'temperature 1', rule: 'reject', strength: -0.03 },
] as const;
const KEEP: Readonly<Record<string, number>> = { coding: 0.9, math: 0.86, agent: 0.82, chat: 0.55 };

const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;

function measured(value: number, unit: string, halfWidth: number | null, warnings: Warning[] = []): Measured {
  const interval =
    halfWidth === null ? null : { low: value - halfWidth, high: value + 1.1 * halfWidth, level: 0.95, method: METHOD };
  return { state: 'measured', value, unit, interval, n: 64, of: 'prompts', warnings };
}

const missing = (reason: string): Measured => ({ state: 'not yet measured', reason });

function acceptanceRow(scenario: string, d: (typeof DECODINGS)[number]): AcceptanceRow {
  const keep = (KEEP[scenario] ?? 0.5) + d.strength;
  const rounds = 1200;
  const survival = Array.from({ length: 7 }, (_, i) => keep ** (i + 1));
  const reached = [1, ...survival, 0];
  const histogram = Array.from({ length: 8 }, (_, a) =>
    Math.round(rounds * ((reached[a] ?? 0) - (reached[a + 1] ?? 0))),
  );
  const raw = 1 + survival.reduce((sum, s) => sum + s, 0);
  const repetitive: Warning[] =
    scenario === 'math' && d.decoding === 'greedy'
      ? [{ code: 'repetitive-output', text: '11 of 64 outputs end in a verbatim loop' }]
      : [];
  const unit = 'tokens/round';
  return {
    engine: `sample/${d.rule}-b8`,
    scenario,
    decoding: d.decoding,
    rule: d.rule,
    blockSize: 8,
    prompts: 64,
    rounds,
    rawMicro: measured(raw, unit, 0.17, repetitive),
    rawMacro: measured(raw + 0.04321, unit, 0.18),
    keptMicro: measured(raw - 0.05123, unit, 0.16),
    keptMacro: measured(raw - 0.01987, unit, 0.17),
    survival,
    histogram,
    ngramBaseline:
      scenario === 'chat' ? missing('outputs too short for a lookup') : measured(1.3127 + keep / 3, unit, 0.05),
    repetition: measured(scenario === 'math' ? 0.17231 : 0.00417, 'share of tokens', 0.003),
    published: PUBLISHED[scenario] === undefined ? null : { value: PUBLISHED[scenario], source: SOURCE },
  };
}

function speedRows(scenario: string, d: (typeof DECODINGS)[number]): SpeedRow[] {
  const off = 171.38;
  const times = scenario === 'chat' ? 0.9134 : 1.4 + 2 * ((KEEP[scenario] ?? 0) + d.strength - 0.5);
  const shared = { scenario, decoding: d.decoding, rule: d.rule };
  const short: Warning[] = [{ code: 'short-run', text: '31 s measured; 600 s are wanted' }];
  return [
    {
      ...shared,
      engine: `sample/${d.rule}-b1`,
      speculation: false,
      blockSize: 1,
      decodeTokensPerSecond: measured(off, 'tokens/s', 2.3, short),
      stepMs: measured(1000 / off, 'ms', 0.08),
      prefillTokensPerSecond: measured(1312.77, 'tokens/s', null),
      speedup: missing('this row is the baseline'),
    },
    {
      ...shared,
      engine: `sample/${d.rule}-b8`,
      speculation: true,
      blockSize: 8,
      decodeTokensPerSecond: measured(off * times, 'tokens/s', 6.1, short),
      stepMs: measured(14.1377, 'ms', 0.31),
      prefillTokensPerSecond: measured(1298.02, 'tokens/s', null),
      speedup: measured(times, 'x', 0.0441),
    },
  ];
}

const SHORT: Warning = { code: 'short-run', text: 'timed for about 31 s; a headline asks for 600 s' };
const STEADY: Warning = { code: 'not-steady', text: '1 of 4 processes were timed before they were steady' };
const ASSUMED: Warning = { code: 'assumed', text: "2.5 EUR an hour is the caller's own figure" };

function speedFigures(speculation: boolean, chat: boolean, warnings: Warning[]): Figure[] {
  const rate = speculation ? (chat ? 156.54 : 377.04) : 171.38;
  const figure = (id: string, name: string, formula: string, source: Figure['source'], value: Measured): Figure => ({
    id,
    name,
    formula,
    source,
    figure: value,
  });
  return [
    figure(
      'decode-tps',
      'Decode tokens per second',
      '(N − n₁) / (t_m − t₁), pooled over requests',
      'trace',
      measured(rate, 'tokens/s', 4.7, warnings),
    ),
    figure(
      'ttft',
      'Time to first token',
      't₁ − t_s, mean over requests',
      'request',
      measured(83.21, 'ms', 2.2, warnings),
    ),
    figure(
      'step',
      'Step time',
      'mean of a verify step, clock of the harness',
      'trace',
      measured(14.14, 'ms', 0.3, warnings),
    ),
    figure(
      'device-step',
      'Step time on the device',
      "mean of a verify step, the device's clock",
      'trace',
      missing('the engine has no clock on a device'),
    ),
    figure(
      'price-per-million',
      'Price of a million tokens at 2.5 EUR an hour',
      'price an hour / tokens an hour end to end, this concurrency',
      'inferred',
      measured(2500 / 3.6 / rate, 'EUR per million tokens', 0.21, [...warnings, ASSUMED]),
    ),
  ];
}

function speedCell(scenario: string, speculation: boolean): SpeedCell {
  const warnings = speculation ? [SHORT, STEADY] : [SHORT];
  const chat = scenario === 'chat';
  return {
    id: `${scenario}/c1/${speculation ? 'speculative' : 'plain'}`,
    engine: speculation ? 'sample/match-b8' : 'sample/match-b1',
    scenario,
    concurrency: 1,
    decoding: 'greedy',
    speculation,
    rule: 'match',
    blockSize: speculation ? 8 : 1,
    headline: false,
    window: {
      seconds: 31.412,
      longestSeconds: 8.013,
      processes: 4,
      freshProcesses: true,
      sessions: 96,
      rounds: 2210,
      tokens: 5381,
      prompts: 12,
    },
    warmup: {
      criterion: 'mean step times of the last 5 windows of 2 s within 1 % of their mean, or 30 s',
      steady: speculation ? 3 : 4,
      of: 4,
    },
    correctness: chat
      ? { outcome: 'no verdict', evidence: 'no phase of this run judges this decoding' }
      : { outcome: 'consistent', evidence: 'greedy: consistent; timed-output: consistent; timings: consistent' },
    identity: {
      tokensPerSecond: 377.04,
      acceptanceLength: 5.33,
      stepMs: 14.14,
      residual: 0.00231,
      tolerance: 0.02,
      holds: true,
    },
    peak: chat ? null : { seconds: 1, ratio: 1.21, most: 1.5, holds: true },
    invalidBecause: [],
    warnings,
    figures: speedFigures(speculation, chat, warnings),
  };
}

function measurement(): Measurement {
  return {
    mode: 'short',
    statement:
      'Short run: a headline would ask for 600 s a cell, 31.4 s were timed, in 4 processes by turns (off, on, on, off).',
    cells: ['coding', 'chat'].flatMap((scenario) => [speedCell(scenario, false), speedCell(scenario, true)]),
    comparisons: ['coding', 'chat'].map((scenario) => ({
      scenario,
      concurrency: 1,
      decoding: 'greedy',
      rule: 'match',
      figures: [
        {
          id: 'speedup',
          name: 'Speed-up',
          formula: 'decode tokens per second, on / off',
          source: 'trace' as const,
          figure: measured(scenario === 'chat' ? 0.9134 : 2.2001, 'x', 0.05, [SHORT, STEADY]),
        },
        {
          id: 'tries-1000',
          name: 'Tries of 1000 tokens within one of the baseline',
          formula: 'floor(time of the task, off / time of the task, on), one after another',
          source: 'inferred' as const,
          figure: measured(scenario === 'chat' ? 0 : 2, 'tries', null, [SHORT, STEADY]),
        },
      ],
    })),
    facets: (['language', 'context'] as const).flatMap((facet) =>
      (facet === 'language' ? ['en', 'zh'] : ['1 to 64 tokens', '65 to 256 tokens']).map((value, i) => ({
        engine: 'sample/match-b8',
        rule: 'match',
        decoding: 'greedy',
        facet,
        value,
        prompts: 60 - 55 * i,
        rounds: 3000 - 2800 * i,
        rawMicro: measured(
          5.2 - 1.9 * i,
          'tokens/round',
          0.4,
          i === 0 ? [] : [{ code: 'few-prompts', text: '5 prompts; an interval by prompt wants 30' }],
        ),
        keptMicro: measured(5.1 - 1.9 * i, 'tokens/round', 0.4),
        source: 'trace' as const,
      })),
    ),
    absentFacets: [{ facet: 'thinking', reason: 'no prompt of this run has a tag thinking:on or thinking:off' }],
    checks: [
      {
        id: 'synthetic-acceptance',
        question: 'Does an engine or a set variable say that acceptance is forced or assumed?',
        outcome: 'clear',
        evidence: 'no card of an engine says so, and no variable that is known for it is set',
      },
      {
        id: 'foreign-load',
        question: 'Did other processes use the processor while it was timed?',
        outcome: 'found',
        evidence: 'at most 1.31 cores were busy with others in any of 4 segments; 0.1 are allowed',
      },
      {
        id: 'foreign-gpu',
        question: 'Did another program hold a GPU?',
        outcome: 'not checked',
        evidence: 'no GPU, or no tool that tells',
      },
    ],
    telemetry: [
      { source: '/proc/stat', devices: 1, readings: 1431, hz: 9.98, quantities: ['cpu_load', 'utilisation'] },
    ],
  };
}

const engine = {
  weightsDigest: digest('a'),
  draftDigest: digest('b'),
  numerics: 'experts=mxfp4;linears=fp8-128x128;act=fp8-1x128;kv=bf16;rest=bf16;sum=fp32',
  device: 'sample processor',
  topology: '1 process, 2 threads',
  tensorParallel: 1,
  buildDigest: digest('c'),
  vocabSize: 1024,
  maxContext: 2048,
  defects: [],
  syntheticAcceptance: null,
};

export function sampleReport(): Report {
  return {
    $schema: './report.schema.json',
    schema: 'kilotoken/report@2',
    run: {
      id: 'synthetic-sample',
      title: 'Synthetic sample: made-up numbers that test the page',
      startedAt: '2026-01-02T03:04:05.000Z',
      seconds: 143.271,
      command: 'npx kilotoken audit --suites coding,math,agent,chat --seed 1',
      seed: '1',
      commit: '0123456789abcdef0123456789abcdef01234567',
      dirty: true,
      publishable: false,
      notPublishableBecause: ['every number is made up', 'the tree was dirty'],
    },
    machine: { cpu: 'Sample CPU', cores: 2, memoryGiB: 7.756, os: 'Sample OS 1.0', node: 'v20.20.2', gpus: [] },
    model: { kind: 'nano', name: 'sample-nano', note: 'A synthetic sample; no model was run.' },
    engines: [
      { ...engine, name: 'sample/match-b8', blockSize: 8, rule: 'match' },
      { ...engine, name: 'sample/match-b1', draftDigest: 'none', blockSize: 1, rule: 'match' },
    ],
    suites: SCENARIOS.map((scenario, i) => ({
      scenario,
      prompts: 64,
      promptTokens: 5120 + 317 * i,
      digest: digest(String(i)),
    })),
    verdicts: [
      {
        id: 'greedy-equality',
        question: 'Greedy output with speculation equals greedy output without it.',
        outcome: 'consistent',
        evidence: '256 prompts compared token by token; no difference in 40,960 tokens.',
        wouldHaveCaught:
          'one differing token in 40,960; by prompt, a fault that touches 1.2 % of prompts, with 95 % confidence',
        n: 40960,
        of: 'tokens',
        engines: ['sample/match-b8', 'sample/match-b1'],
        scenarios: [...SCENARIOS],
        warnings: [],
      },
      {
        id: 'match-equality',
        question: 'At temperature 1, output under rule match equals plain output under the same seed.',
        outcome: 'refuted',
        evidence: 'coding-017 differs first at token 93: plain 411, speculative 40. 3 of 256 prompts differ.',
        wouldHaveCaught: null,
        n: 38112,
        of: 'tokens',
        engines: ['sample/match-b8', 'sample/match-b1'],
        scenarios: [...SCENARIOS],
        warnings: [],
      },
      {
        id: 'reject-law',
        question: 'Under rule reject the output has the law of plain sampling.',
        outcome: 'inconclusive',
        evidence: 'e-value 1.8 after 2,113 rounds; the threshold for rejection is 1,000,000.',
        wouldHaveCaught: 'a total variation of 0.04 per token',
        n: 2113,
        of: 'rounds',
        engines: ['sample/match-b8'],
        scenarios: ['coding', 'chat'],
        warnings: [{ code: 'few-prompts', text: '16 prompts; 64 are wanted' }],
      },
      {
        id: 'fidelity',
        question: 'FP4 experts stay within the stated margin of FP8 experts.',
        outcome: 'not testable here',
        evidence: 'This sample holds no FP8 engine.',
        wouldHaveCaught: null,
        n: 0,
        of: 'prompts',
        engines: [],
        scenarios: [],
        warnings: [],
      },
      {
        id: 'triangle',
        question: 'Acceptance length, step time and decode speed of each row agree with one another.',
        outcome: 'internally inconsistent',
        evidence: 'math, greedy: 5.21 tokens per step over 14.14 ms give 368 tokens/s; 391 are reported.',
        wouldHaveCaught: null,
        n: 16,
        of: 'rows',
        engines: ['sample/match-b8'],
        scenarios: ['math'],
        warnings: [],
      },
    ],
    acceptance: DECODINGS.flatMap((d) => SCENARIOS.map((scenario) => acceptanceRow(scenario, d))),
    speed: SCENARIOS.flatMap((scenario) => DECODINGS.slice(0, 2).flatMap((d) => speedRows(scenario, d))),
    measurement: measurement(),
    claims: [
      {
        id: 'C01',
        claim: 'Decoding runs at more than 1,000 tokens per second on a 1.02 T model.',
        source: SOURCE,
        outcome: 'not yet measured',
        finding: 'Needs the 1.02 T shape on an 8-GPU node.',
      },
      {
        id: 'C02',
        claim: 'A peak of 3,451 tokens per second was seen.',
        source: 'a reviewer’s video',
        outcome: 'internally inconsistent',
        finding: 'At acceptance 6.30 and a mean of 1,000 tokens/s, a block of 8 cannot exceed 1,270 tokens/s.',
      },
      {
        id: 'C07',
        claim: 'Speculation is lossless through rejection sampling.',
        source: SOURCE,
        outcome: 'refuted',
        finding: 'In this synthetic sample 3 of 256 prompts differ.',
      },
    ],
    warnings: [
      { code: 'dirty-tree', text: 'the source tree had uncommitted changes' },
      { code: 'short-run', text: 'speed rows measured 31 s each; 600 s are wanted' },
    ],
    files: [
      { path: 'manifest.json', sha256: 'd'.repeat(64), bytes: 4821 },
      { path: 'rounds.jsonl', sha256: 'e'.repeat(64), bytes: 8123456 },
      { path: 'verdicts.json', sha256: 'f'.repeat(64), bytes: 6004 },
    ],
  };
}
