/** Short gates over the Markov chain, and plug-ins written to a scratch folder. */

import { type MarkovOptions, markovSource } from '../../../harness/engines/markov.ts';
import type { EngineSource } from '../../../harness/engines/plugin.ts';
import type { Budget } from '../../../harness/gate/budget.ts';
import { type GateInput, runGate } from '../../../harness/gate/gate.ts';
import type { Check, GateResult } from '../../../harness/gate/result.ts';
import type { Random } from '../../../harness/stats/philox.ts';

export const CHAIN: MarkovOptions = { weights: '5', vocabSize: 6, blockSize: 4 };

export const SMALL: Partial<Budget> = {
  prompts: 6,
  equalityPrompts: 6,
  equalityTokens: 16,
  rowPositions: 16,
  lawTokens: 12_000,
  toyTokens: 4_000,
  toyEqualitySessions: 12,
};

export function gate(source: EngineSource, over: Partial<GateInput> = {}): Promise<GateResult> {
  return runGate({
    source,
    baseline: null,
    gate: 'pr',
    budget: SMALL,
    prompts: null,
    seed: '1',
    stepMs: 2_000,
    rowTolerance: 1e-6,
    record: null,
    signal: new AbortController().signal,
    progress: () => {},
    ...over,
  });
}

export function gateOf(chain: Partial<MarkovOptions>, over: Partial<GateInput> = {}): Promise<GateResult> {
  return gate(markovSource({ ...CHAIN, ...chain }), over);
}

export function find(result: GateResult, id: string): Check {
  const check = result.checks.find((one) => one.id === id);
  if (check === undefined) throw new Error(`no check ${id} among ${result.checks.map((one) => one.id).join(', ')}`);
  return check;
}

/** Ids of the checks that refuted, in order. */
export function refutations(result: GateResult): string[] {
  return result.checks
    .filter((one) => one.outcome === 'refuted' || one.outcome === 'internally inconsistent')
    .map((one) => one.id);
}

/** One outcome of a probability row. */
export function outcomeOf(random: Random, row: ArrayLike<number>): number {
  let left = random.uniform();
  for (let x = 0; x < row.length; x++) {
    left -= row[x]!;
    if (left < 0) return x;
  }
  return 0;
}
