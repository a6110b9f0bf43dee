/** The acceptance and speed rows of a report, from the sessions of a phase. */
import type { SessionTrace, StoredRun } from '../bundle/reader.ts';
import type { PhasePlan } from '../bundle/rows.ts';
import { acceptanceIdentities, acceptanceSums } from '../measure/acceptance.ts';
import { lookupAcceptance } from '../measure/ngram.ts';
import { repeatedTokens } from '../measure/repetition.ts';
import { acceptanceSource, type Source } from '../measure/source.ts';
import { type PromptSpeed, pairByPrompt, promptSpeeds, speedupOf } from '../measure/speed.ts';
import { total } from '../stats/averages.ts';
import { bcaInterval, type ClusterStatistic, meanOf, ratioOfSums } from '../stats/bootstrap.ts';
import { generatedTokens } from '../verify/equality.ts';
import type { AcceptanceRow, Interval, Measured, SpeedRow, Warning } from './schema.ts';
import { engineWarnings, lengthWarnings, loadWarnings, promptWarnings, repetitionWarnings } from './warnings.ts';

const LEVEL = 0.95;

export function decodingName(phase: Pick<PhasePlan, 'temperature' | 'topP' | 'topK'>): string {
  if (phase.temperature === 0) return 'greedy';
  const filters = [phase.topP < 1 ? `top-p ${phase.topP}` : '', phase.topK > 0 ? `top-k ${phase.topK}` : ''].filter(
    (text) => text !== '',
  );
  return [`temperature ${phase.temperature}`, ...filters].join(', ');
}

/** Sessions of a phase and arm that ran without a fault, in prompt order of the plan. */
export function tracesOf(run: StoredRun, phase: PhasePlan, arm: SessionTrace['row']['arm']): SessionTrace[] {
  return [...run.sessions.values()].filter(
    (trace) => trace.row.phase === phase.id && trace.row.arm === arm && trace.fault === null,
  );
}

/** Scenarios of a phase, in the order of the suites. */
export function scenariosOf(run: StoredRun, phase: PhasePlan): string[] {
  const present = new Set(phase.prompts.map((id) => run.prompts.get(id)?.scenario));
  return [...new Set([...run.prompts.values()].map((prompt) => prompt.scenario))].filter((name) => present.has(name));
}

export function acceptanceRow(
  run: StoredRun,
  phase: PhasePlan,
  scenario: string,
): { readonly row: AcceptanceRow; readonly broken: string[] } {
  const { manifest } = run;
  const card = manifest.engines[phase.speculative]!;
  const traces = tracesOf(run, phase, 'speculative').filter((trace) => trace.row.scenario === scenario);
  const block = card.blockSize;
  const sums = acceptanceSums(
    traces.map((trace) => ({ prompt: trace.row.prompt, rounds: trace.rounds })),
    block,
  );
  const lookups = traces.map((trace) =>
    lookupAcceptance(run.prompts.get(trace.row.prompt)!.ids, generatedTokens(trace), block),
  );
  const outputs = traces.map(generatedTokens);
  const loops = outputs.map(repeatedTokens);
  const tokens = outputs.map((output) => output.length);
  const looped = total(loops) / Math.max(1, total(tokens));

  const warnings = [
    ...engineWarnings(card, manifest.model),
    ...lengthWarnings(phase),
    ...promptWarnings(sums.prompts),
    ...repetitionWarnings(`${scenario}, ${decodingName(phase)}, rule ${card.rule}`, looped),
  ];
  const rounds = sums.perPrompt.map((prompt) => prompt.rounds);
  const raw = sums.perPrompt.map((prompt) => prompt.raw);
  const kept = sums.perPrompt.map((prompt) => prompt.kept);
  const measure = measurer(run, sums.prompts, 'prompts', warnings);
  const perRound = (values: number[]): number[] => values.map((value, i) => value / rounds[i]!);
  const byLookup = lookups.filter((sum) => sum.rounds > 0);

  return {
    row: {
      engine: phase.speculative,
      scenario,
      decoding: decodingName(phase),
      rule: card.rule,
      blockSize: block,
      prompts: sums.prompts,
      rounds: sums.rounds,
      rawMicro: measure(ratioOfSums(raw, rounds), 'tokens/round'),
      rawMacro: measure(meanOf(perRound(raw)), 'tokens/round'),
      keptMicro: measure(ratioOfSums(kept, rounds), 'tokens/round'),
      keptMacro: measure(meanOf(perRound(kept)), 'tokens/round'),
      survival: [...sums.survival],
      histogram: [...sums.histogram],
      ngramBaseline: measurer(
        run,
        byLookup.length,
        'prompts',
        warnings,
      )(
        ratioOfSums(
          byLookup.map((sum) => sum.tokens),
          byLookup.map((sum) => sum.rounds),
        ),
        'tokens/round',
      ),
      repetition: measurer(run, tokens.length, 'prompts', warnings)(ratioOfSums(loops, tokens), 'share of tokens'),
      published: publishedAcceptance(run, scenario),
      ...(manifest.plan.speed ? { source: sourceOf(traces, block) } : {}),
    },
    broken: acceptanceIdentities(sums, block),
  };
}

export function sourceOf(traces: readonly SessionTrace[], block: number): Source {
  const decode = traces.flatMap((trace) => trace.rounds.filter((round) => round.kind === 'decode'));
  return acceptanceSource(
    decode.map((round) => ({ drafted: round.drafted.length, kept: round.committed.length })),
    block,
  );
}

function publishedAcceptance(run: StoredRun, scenario: string): AcceptanceRow['published'] {
  // Beside a draft that was never trained the figure of one that was compares nothing.
  if (run.manifest.model.kind === 'pro-synthetic') return null;
  const claim = run.manifest.ledger.find(
    (entry) => entry.kind === 'acceptance' && entry.by === 'vendor' && entry.scenario === scenario,
  );
  return claim?.value === undefined ? null : { value: claim.value, source: claim.source };
}

export function speedRows(run: StoredRun, phase: PhasePlan, scenario: string, correct: boolean): SpeedRow[] {
  const { manifest } = run;
  const arms = {
    plain: promptSpeeds(tracesOf(run, phase, 'plain').filter((trace) => trace.row.scenario === scenario)),
    speculative: promptSpeeds(tracesOf(run, phase, 'speculative').filter((trace) => trace.row.scenario === scenario)),
  };
  const both = pairByPrompt(arms.plain, arms.speculative);
  return (['plain', 'speculative'] as const).map((arm) => {
    const name = phase[arm];
    const card = manifest.engines[name]!;
    const speeds = arms[arm];
    const warnings: Warning[] = [
      ...engineWarnings(card, manifest.model),
      ...lengthWarnings(phase),
      ...promptWarnings(speeds.length),
      ...loadWarnings(manifest.foreignCores),
    ];
    if (!correct) {
      warnings.push({
        code: 'no-correctness-verdict',
        text: 'this run has no consistent verdict on the output these timings belong to',
      });
    }
    const measure = measurer(run, speeds.length, 'prompts', warnings);
    const column = (key: Exclude<keyof PromptSpeed, 'prompt'>): number[] => speeds.map((sums) => sums[key]);
    const milliseconds = column('decodeSeconds').map((seconds) => 1000 * seconds);
    return {
      engine: name,
      scenario,
      decoding: decodingName(phase),
      speculation: arm === 'speculative',
      rule: card.rule,
      blockSize: card.blockSize,
      decodeTokensPerSecond: measure(ratioOfSums(column('tokens'), column('decodeSeconds')), 'tokens/s'),
      stepMs: measure(ratioOfSums(milliseconds, column('rounds')), 'ms'),
      prefillTokensPerSecond: measure(ratioOfSums(column('promptTokens'), column('prefillSeconds')), 'tokens/s'),
      speedup:
        arm === 'plain'
          ? { state: 'not yet measured', reason: 'this row is the baseline' }
          : measurer(run, both.plain.length, 'prompts', warnings)(speedupOf(both.plain, both.speculative), 'x'),
    };
  });
}

type Measure = (statistic: ClusterStatistic, unit: string) => Measured;

/** A figure over `n` clusters with its BCa interval; `not yet measured` where there is nothing to divide by. */
export function measurer(run: StoredRun, n: number, of: string, warnings: readonly Warning[]): Measure {
  const { seed, bootstrapResamples: resamples } = run.manifest.plan;
  const all = Uint32Array.from({ length: n }, (_, i) => i);
  return (statistic, unit) => {
    const value = statistic(all);
    if (!Number.isFinite(value)) return { state: 'not yet measured', reason: 'no session of this kind has ended' };
    const ends = bcaInterval(n, statistic, { resamples, level: LEVEL, seed });
    const method = `BCa bootstrap by prompt, ${resamples} resamples, seed ${seed}`;
    const interval: Interval | null = ends === null ? null : { ...ends, level: LEVEL, method };
    return { state: 'measured', value, unit, interval, n, of, warnings: [...warnings] };
  };
}
