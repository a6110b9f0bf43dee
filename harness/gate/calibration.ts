/** Whole gate runs on truthful engines, counted: how often does the gate accuse one? (scripts/calibrate.ts, tests) */

import { derivedSeed } from '../bundle/digests.ts';
import { markovSource } from '../engines/markov.ts';
import { clopperPearson } from '../stats/proportion.ts';
import { runGate } from './gate.ts';
import { adjustedInFamily } from './law-checks.ts';

export interface CalibrationOptions {
  readonly runs: number;
  readonly seed: string;
  /** Tokens of the law test of each run. */
  readonly tokens: number;
  /** Tokens of toys of each run. */
  readonly toyTokens: number;
  /** Runs, on top, of the two-sample design. */
  readonly pairs: number;
}

export interface AlarmRate {
  readonly alpha: number;
  readonly alarms: number;
  readonly runs: number;
  readonly rate: number;
  /** Clopper-Pearson, 95 %. */
  readonly interval: { readonly low: number; readonly high: number };
}

export interface Calibration {
  readonly schema: 'kilotoken/calibration@1';
  readonly options: CalibrationOptions;
  readonly engine: string;
  readonly strict: AlarmRate;
  readonly loose: AlarmRate;
  /** The same for the two-sample design. */
  readonly twoSample: AlarmRate;
  /** Runs that any other check refuted; a truthful engine gives none. */
  readonly otherRefutations: number;
  /** Natural logarithm of the largest e-value met. */
  readonly largestLogE: number;
  readonly tokens: number;
  readonly seconds: number;
}

const STRICT = 1e-6;
const LOOSE = 0.05;

export async function calibrate(options: CalibrationOptions): Promise<Calibration> {
  const started = performance.now();
  const ps: number[] = [];
  const pairPs: number[] = [];
  let otherRefutations = 0;
  let largestLogE = 0;
  let tokens = 0;
  for (let run = 0; run < options.runs + options.pairs; run++) {
    const rows = run < options.runs;
    const seed = derivedSeed(options.seed, `calibration ${run}`);
    const result = await runGate({
      // Chains of many shapes: vocabulary 2 .. 9, block 2 .. 8.
      source: markovSource({
        weights: seed,
        vocabSize: 2 + (run % 8),
        blockSize: 2 + (run % 7),
        replay: rows,
        scores: rows,
        toys: rows,
        // Without a stated generator the uniforms are tested for their law.
        uniforms: run % 3 !== 0,
      }),
      baseline: null,
      gate: 'pr',
      budget: {
        prompts: 4,
        equalityPrompts: 2,
        equalityTokens: 8,
        lawTokens: options.tokens,
        toyTokens: options.toyTokens,
        toyEqualitySessions: 6,
        lawSessionTokens: 32,
        rowPositions: 4,
        twoSampleSessions: 256,
      },
      prompts: null,
      seed,
      stepMs: 10_000,
      rowTolerance: 1e-6,
      record: null,
      signal: new AbortController().signal,
      progress: () => {},
    });
    const laws = result.checks.filter((check) => check.logE !== null);
    const adjusted = adjustedInFamily(laws.map((check) => Math.min(1, Math.exp(-check.logE!))));
    (rows ? ps : pairPs).push(Math.min(1, ...adjusted));
    largestLogE = Math.max(largestLogE, ...laws.map((check) => check.logE!));
    tokens += result.tokens;
    const other = result.checks.some(
      (check) => check.logE === null && ['refuted', 'internally inconsistent'].includes(check.outcome),
    );
    if (other) otherRefutations += 1;
  }
  return {
    schema: 'kilotoken/calibration@1',
    options,
    engine: 'markov chain, vocabulary 2 to 9, block 2 to 8, rule reject, a chain and a seed for each run',
    strict: rate(ps, STRICT),
    loose: rate(ps, LOOSE),
    twoSample: rate(pairPs, LOOSE),
    otherRefutations,
    largestLogE,
    tokens,
    seconds: Math.round((performance.now() - started) / 1000),
  };
}

function rate(ps: readonly number[], alpha: number): AlarmRate {
  const alarms = ps.filter((p) => p <= alpha).length;
  const runs = ps.length;
  return { alpha, alarms, runs, rate: runs === 0 ? 0 : alarms / runs, interval: clopperPearson(alarms, runs, 0.95) };
}
