/** The verdicts of a run, from its rows. One question each; the words are the house's. */
import type { SessionTrace, StoredRun } from '../bundle/reader.ts';
import type { Arm, FaultRow, PhasePlan } from '../bundle/rows.ts';
import { percent } from '../percent.ts';
import { sessionCount, sessionName } from '../plan.ts';
import { upperBoundWithoutEvent } from '../stats/proportion.ts';
import { checkBooks } from '../verify/books.ts';
import { comparability, type LosslessPair } from '../verify/comparability.ts';
import { compareOutputs, describeDifference, generatedTokens } from '../verify/equality.ts';
import { type LawSample, testLaw } from '../verify/law.ts';
import { decodingName, scenariosOf } from './figures.ts';
import type { Verdict, Warning } from './schema.ts';
import { distinct, engineWarnings, promptWarnings } from './warnings.ts';

/** Confidence with which an equality test states what it would have caught. */
const CONFIDENCE = 0.999;

export function judge(run: StoredRun, brokenFigures: readonly string[]): Verdict[] {
  return [
    endedVerdict(run),
    booksVerdict(run, brokenFigures),
    ...run.manifest.plan.phases.flatMap((phase) => {
      if (phase.test === 'equality') return [equalityVerdict(run, phase)];
      if (phase.test === 'law') return [lawVerdict(run, phase)];
      return [];
    }),
  ];
}

function base(run: StoredRun, phases: readonly PhasePlan[]): Pick<Verdict, 'engines' | 'scenarios' | 'warnings'> {
  const engines = [...new Set(phases.flatMap((phase) => [phase.plain, phase.speculative]))];
  return {
    engines,
    scenarios: [...new Set(phases.flatMap((phase) => scenariosOf(run, phase)))],
    warnings: distinct(engines.flatMap((name) => engineWarnings(run.manifest.engines[name]!, run.manifest.model))),
  };
}

const FAILURES: readonly FaultRow['kind'][] = ['threw', 'hung', 'malformed', 'overran'];

function endedVerdict(run: StoredRun): Verdict {
  const { plan } = run.manifest;
  const due = plan.phases.reduce((sum, phase) => sum + sessionCount(phase), 0);
  const traces = [...run.sessions.values()];
  const failed = traces.filter((trace) => trace.fault !== null && FAILURES.includes(trace.fault.kind));
  const ended = traces.filter((trace) => trace.fault === null && trace.rounds.at(-1)?.finish != null);
  const first = failed[0];
  return {
    id: 'sessions',
    question: 'Did every session run to its end?',
    outcome: first !== undefined ? 'refuted' : ended.length < due ? 'inconclusive' : 'consistent',
    evidence:
      first === undefined
        ? `${ended.length} of ${due} sessions ended by a stop token or at their limit.`
        : `${failed.length} of ${due} sessions failed; first ${first.row.session} ${first.fault!.kind}: ${first.fault!.message}.`,
    wouldHaveCaught: 'any session that throws, hangs, overruns its limit or returns a malformed round',
    n: traces.length,
    of: 'sessions',
    ...base(run, plan.phases),
  };
}

function booksVerdict(run: StoredRun, brokenFigures: readonly string[]): Verdict {
  const violations = [...run.sessions.values()]
    .filter((trace) => run.manifest.status === 'complete' || trace.rounds.at(-1)?.finish != null)
    .flatMap((trace) => checkBooks(trace, run.manifest.engines[trace.row.engine]!));
  const rounds = [...run.sessions.values()].reduce((n, trace) => n + trace.rounds.length, 0);
  const first = violations[0];
  const found = [
    ...(first === undefined ? [] : [`session ${first.session}, round ${first.round ?? 'none'}: ${first.text}`]),
    ...brokenFigures,
  ];
  return {
    id: 'books',
    question: 'Do the counts, tokens, ends and clocks of every round add up?',
    outcome: found.length > 0 ? 'internally inconsistent' : rounds === 0 ? 'inconclusive' : 'consistent',
    evidence:
      found.length > 0
        ? `${violations.length + brokenFigures.length} contradictions; first: ${found[0]}.`
        : `${rounds} rounds checked; 1 + the sum of survivals equals the acceptance length in every row.`,
    wouldHaveCaught:
      'any token after a stop or over the limit, any accepted draft that was not emitted, any block larger than declared, any round said to take longer than the harness waited',
    n: rounds,
    of: 'rounds',
    ...base(run, run.manifest.plan.phases),
  };
}

function equalityVerdict(run: StoredRun, phase: PhasePlan): Verdict {
  const { engines } = run.manifest;
  const shared = base(run, [phase]);
  const question = `${titled(phase)}: does speculation emit the very tokens that plain decoding emits?`;
  const common = { id: phase.id, question, n: phase.prompts.length, of: 'prompts', ...shared };
  const pair = comparability(engines[phase.plain]!, engines[phase.speculative]!);
  if (pair.kind === 'fidelity') {
    return {
      ...common,
      outcome: 'not testable here',
      evidence: `The two engines are a fidelity pair, not one of speculation on and off: ${pair.because.join('; ')}.`,
      wouldHaveCaught: null,
    };
  }
  const side = (prompt: string, arm: Arm): SessionTrace | null =>
    run.sessions.get(sessionName(phase, arm, prompt, 0)) ?? null;
  const result = compareOutputs(
    phase.prompts.map((prompt) => ({
      prompt,
      plain: side(prompt, 'plain'),
      speculative: side(prompt, 'speculative'),
    })),
  );
  const warnings: Warning[] = [...shared.warnings, ...promptWarnings(phase.prompts.length)];
  const first = result.differences[0];
  if (first !== undefined) {
    return {
      ...common,
      warnings,
      outcome: 'refuted',
      evidence: `${result.differences.length} of ${result.prompts} prompts differ; first at ${describeDifference(first)}.`,
      wouldHaveCaught: null,
    };
  }
  if (result.uncompared.length > 0) {
    return {
      ...common,
      warnings,
      outcome: 'inconclusive',
      evidence: `${result.uncompared.length} of ${result.prompts} prompts could not be compared, first ${result.uncompared[0]}; ${result.equalTokens} tokens of the others are equal.`,
      wouldHaveCaught: null,
    };
  }
  return {
    ...common,
    warnings,
    outcome: 'consistent',
    evidence: `${losslessSentence(pair)} ${result.equalTokens} tokens of ${result.prompts} prompts compared, no difference.`,
    wouldHaveCaught: `a fault that changes the output of at least ${percent(upperBoundWithoutEvent(result.prompts, CONFIDENCE))} of prompts like these, with ${percent(CONFIDENCE)} confidence`,
  };
}

/** The only place that writes the word, and only with the evidence for it in hand. */
function losslessSentence(_pair: LosslessPair): string {
  return 'Same weights, same numerics, speculation on against off, so the word is lossless:';
}

function lawVerdict(run: StoredRun, phase: PhasePlan): Verdict {
  const { plan, engines } = run.manifest;
  const shared = base(run, [phase]);
  const question = `${titled(phase)}: does speculation emit the law that plain sampling emits?`;
  const common = { id: phase.id, question, of: 'sessions', ...shared };
  const pair = comparability(engines[phase.plain]!, engines[phase.speculative]!);
  if (pair.kind === 'fidelity') {
    const evidence = `The two engines are a fidelity pair, not one of speculation on and off: ${pair.because.join('; ')}.`;
    return { ...common, n: 0, outcome: 'not testable here', evidence, wouldHaveCaught: null };
  }
  let missing = 0;
  const outputs = (prompt: string, arm: Arm): number[][] =>
    Array.from({ length: phase.repeats }, (_, repeat) => {
      const trace = run.sessions.get(sessionName(phase, arm, prompt, repeat));
      const ended = trace !== undefined && trace.fault === null && trace.rounds.at(-1)?.finish != null;
      if (!ended) missing += 1;
      return ended ? generatedTokens(trace).slice(0, phase.maxTokens) : null;
    }).filter((tokens) => tokens !== null);
  const samples: LawSample[] = phase.prompts.map((prompt) => ({
    prompt,
    plain: outputs(prompt, 'plain'),
    speculative: outputs(prompt, 'speculative'),
  }));
  const law = testLaw(samples, {
    alpha: plan.lawAlpha,
    power: plan.lawPower,
    seed: plan.seed,
  });
  const n = sessionCount(phase) - missing;
  const strongest =
    law.smallest === null
      ? 'no context was reached often enough to test'
      : `smallest p ${law.smallest.p.toPrecision(2)} (${law.smallest.name}, G ${law.smallest.statistic.toFixed(1)} on ${law.smallest.df} df), ${law.smallest.adjusted.toPrecision(2)} after Holm over ${law.tests.length} tests`;
  const method = `First ${phase.maxTokens} tokens of ${n} sessions after ${phase.prompts.length} prompts, conditional on the prefix; alpha ${plan.lawAlpha} family-wise; ${strongest}`;
  const effect =
    law.detectableDistance === null
      ? null
      : `a shift of the law by a total variation distance of ${law.detectableDistance.toFixed(3)} (root mean square over contexts, whatever its direction) with power ${plan.lawPower}`;
  if (law.rejected) {
    return {
      ...common,
      n,
      outcome: 'refuted',
      evidence: `${method}; exact permutation p ${law.permutationP!.toPrecision(2)}.`,
      wouldHaveCaught: null,
    };
  }
  const blind = law.detectableDistance === null || law.detectableDistance > plan.lawLargestBlindEffect;
  if (missing > 0 || blind) {
    const reason =
      missing > 0 ? `${missing} sessions are missing` : `the test would have missed ${effect ?? 'everything'}`;
    return { ...common, n, outcome: 'inconclusive', evidence: `${method}; ${reason}.`, wouldHaveCaught: effect };
  }
  return { ...common, n, outcome: 'consistent', evidence: `${method}.`, wouldHaveCaught: effect };
}

function titled(phase: PhasePlan): string {
  const decoding = decodingName(phase);
  return phase.temperature === 0 ? 'Greedy decoding' : `Rule ${phase.rule} at ${decoding}`;
}
