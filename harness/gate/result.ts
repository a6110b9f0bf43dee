/** What a gate concludes: one check a question, in the words of the house, and the exit code that follows from them. */
import type { EngineCard } from '../engine.ts';
import type { Outcome } from '../report/schema.ts';
import type { MeasuredAcceptance } from './acceptance.ts';
import type { Budget, GateName } from './budget.ts';

export const GATE_SCHEMA_ID = 'kilotoken/gate@1';

export interface Check {
  readonly id: string;
  readonly question: string;
  readonly outcome: Outcome;
  readonly evidence: string;
  /** The smallest effect this check would have caught, with numbers; null where it says nothing. */
  readonly wouldHaveCaught: string | null;
  readonly n: number;
  readonly of: string;
  /** Natural logarithm of the largest e-value, where there is one; `Infinity` is written as 1e308. */
  readonly logE: number | null;
  /** Part of the losslessness question: without one such check concluded, nothing was learned of it. */
  readonly decisive: boolean;
  /** Holds the engine against its plain mode or the baseline: where a baseline failed, this refutes nothing. */
  readonly restsOnPlain?: true;
}

export interface GateResult {
  readonly schema: typeof GATE_SCHEMA_ID;
  readonly gate: GateName;
  readonly subject: string;
  readonly card: EngineCard | null;
  readonly baseline: string;
  readonly seed: string;
  /** 0 for the first run of this build under one evidence folder. */
  readonly run: number;
  readonly budget: Budget;
  readonly verdict: 'passed' | 'refuted' | 'inconclusive' | 'interrupted';
  readonly checks: readonly Check[];
  /** Measured on the engine's own sessions; a later run can take it as what to hold. */
  readonly acceptance: MeasuredAcceptance | null;
  readonly tokens: number;
  readonly seconds: number;
}

export function isRefuting({ outcome }: Check): boolean {
  return outcome === 'refuted' || outcome === 'internally inconsistent';
}

export function verdictOf(checks: readonly Check[], interrupted: boolean): GateResult['verdict'] {
  const outcomes = checks.map((check) => check.outcome);
  if (checks.some(isRefuting)) return 'refuted';
  if (interrupted) return 'interrupted';
  const decided = checks.some((check) => check.decisive && check.outcome === 'consistent');
  return outcomes.includes('inconclusive') || !decided ? 'inconclusive' : 'passed';
}

/** The one place that turns a verdict into an exit code. */
export function exitCodeOf(verdict: GateResult['verdict']): number {
  return { passed: 0, refuted: 1, inconclusive: 4, interrupted: 130 }[verdict];
}
