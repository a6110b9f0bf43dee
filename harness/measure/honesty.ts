/**
 * What a measurement would look like if it were not honest: acceptance that is forced, requests that are answered from a cache. Each
 * test says what it looked at and whether it found something; none proves that there is nothing.
 */

import { total } from '../stats/averages.ts';
import { chiSquareSurvival } from '../stats/chisquare.ts';
import { studentQuantile } from '../stats/student.ts';
import type { TimedSession } from './rows.ts';

export interface Finding {
  readonly outcome: 'clear' | 'found' | 'not checked';
  readonly evidence: string;
}

const LEAST_SESSIONS = 8;
const LEAST_ROUNDS = 400;
/** Two-sided error rate of the test of dispersion. */
const DISPERSION_ALPHA = 1e-3;

export interface AcceptedCounts {
  readonly prompt: string;
  /** Accepted drafts of each decode round. */
  readonly accepted: readonly number[];
}

/**
 * Text differs from prompt to prompt, so acceptance does too, by more than chance within a prompt explains. Forced acceptance does
 * not. Compares the spread of per-prompt means with the spread within prompts: chi-square with prompts - 1 degrees of freedom
 * if rounds were alike in all prompts. Found when rounds never vary, or when prompts do not differ.
 */
export function forcedAcceptance(prompts: readonly AcceptedCounts[]): Finding {
  const used = prompts.filter((prompt) => prompt.accepted.length >= 2);
  const rounds = used.reduce((sum, prompt) => sum + prompt.accepted.length, 0);
  if (used.length < LEAST_SESSIONS || rounds < LEAST_ROUNDS) {
    return {
      outcome: 'not checked',
      evidence: `${used.length} prompts with ${rounds} rounds; at least ${LEAST_SESSIONS} with ${LEAST_ROUNDS} are needed`,
    };
  }
  const mean = used.reduce((sum, prompt) => sum + total(prompt.accepted), 0) / rounds;
  let within = 0;
  let betweenPrompts = 0;
  for (const { accepted } of used) {
    const own = total(accepted) / accepted.length;
    within += accepted.reduce((sum, a) => sum + (a - own) ** 2, 0);
    betweenPrompts += accepted.length * (own - mean) ** 2;
  }
  const variance = within / (rounds - used.length);
  const df = used.length - 1;
  if (variance === 0) {
    const told = `every one of ${rounds} rounds of ${used.length} prompts`;
    return betweenPrompts === 0
      ? { outcome: 'found', evidence: `${told} accepted exactly ${mean} drafts` }
      : { outcome: 'found', evidence: `${told} accepted what all others of its prompt accepted` };
  }
  const statistic = betweenPrompts / variance;
  const p = chiSquareSurvival(statistic, df);
  const text = `acceptance of ${used.length} prompts varies ${(statistic / df).toFixed(2)} times as much as chance within them explains (${rounds} rounds, p ${p.toPrecision(2)})`;
  return p > DISPERSION_ALPHA
    ? {
        outcome: 'found',
        evidence: `${text}: prompts do not differ, as if acceptance were drawn without regard to the text`,
      }
    : { outcome: 'clear', evidence: text };
}

/** A repetition that is faster, or accepted better, by more than this share is a sign of a cache. */
const REPEAT_GAIN = 0.1;
const LEAST_PROBES = 4;

/**
 * Probe prompts, each sent several times in a row: the first time against the later ones, by prompt. Found when the whole 95 % interval
 * of the ratio lies beyond 10 %.
 */
export function repeatedRequests(probes: readonly TimedSession[]): Finding {
  const byPrompt = new Map<string, { fresh: TimedSession | null; again: TimedSession[] }>();
  for (const row of probes) {
    if (row.fault !== null || row.atNs.length < 2) continue;
    const key = `${row.segment} ${row.cell} ${row.prompt}`;
    const entry = byPrompt.get(key) ?? { fresh: null, again: [] };
    byPrompt.set(key, entry);
    if (row.pass === 0) entry.fresh = row;
    else entry.again.push(row);
  }
  const pairs = [...byPrompt.values()].flatMap(({ fresh, again }) =>
    fresh === null || again.length === 0 ? [] : [{ fresh, again }],
  );
  if (pairs.length < LEAST_PROBES) {
    return {
      outcome: 'not checked',
      evidence: `${pairs.length} prompts were sent again; at least ${LEAST_PROBES} are needed`,
    };
  }
  const tests = [
    { name: 'time to the first token', of: (row: TimedSession) => row.atNs[0]!, gain: 'low' },
    { name: 'step time', of: stepOf, gain: 'low' },
    { name: 'acceptance length', of: lengthOf, gain: 'high' },
  ] as const;
  const results = tests.map(({ name, of, gain }) => {
    const logs = pairs.map(({ fresh, again }) => Math.log(total(again.map(of)) / again.length / of(fresh)));
    const { mean, half } = studentMean(logs);
    const [low, high] = [Math.exp(mean - half), Math.exp(mean + half)];
    const found = gain === 'low' ? high < 1 - REPEAT_GAIN : low > 1 + REPEAT_GAIN;
    return { found, text: `${name} ${Math.exp(mean).toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]` };
  });
  return {
    outcome: results.some((result) => result.found) ? 'found' : 'clear',
    evidence: `${pairs.length} prompts sent again at once, repeated over first: ${results.map((result) => result.text).join('; ')} (95 % intervals)`,
  };
}

function stepOf(row: TimedSession): number {
  return total(row.stepNs.slice(1)) / (row.stepNs.length - 1);
}

function lengthOf(row: TimedSession): number {
  return 1 + total(row.accepted.slice(1)) / (row.accepted.length - 1);
}

function studentMean(values: readonly number[]): { readonly mean: number; readonly half: number } {
  const mean = total(values) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const error = Math.sqrt(squares / (values.length - 1) / values.length);
  return { mean, half: studentQuantile(0.975, values.length - 1) * error };
}
