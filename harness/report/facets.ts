/** Acceptance by facet of the prompts: one row for each value and decoding, and a reason for every facet the prompts do not tell. */
import type { StoredRun } from '../bundle/reader.ts';
import type { PhasePlan } from '../bundle/rows.ts';
import { acceptanceSums } from '../measure/acceptance.ts';
import { FACETS, splitByFacet } from '../measure/facets.ts';
import { ratioOfSums } from '../stats/bootstrap.ts';
import { decodingName, measurer, sourceOf, tracesOf } from './figures.ts';
import type { FacetRow, Measurement } from './schema.ts';
import { engineWarnings, lengthWarnings, promptWarnings } from './warnings.ts';

export function facetRows(run: StoredRun): { rows: FacetRow[]; absent: Measurement['absentFacets'] } {
  const phases = run.manifest.plan.phases.filter((phase) => phase.test === 'equality');
  const rows: FacetRow[] = [];
  const absent = new Map<string, string>();
  for (const facet of FACETS) {
    for (const phase of phases) {
      const prompts = phase.prompts.flatMap((id) => {
        const prompt = run.prompts.get(id);
        return prompt === undefined ? [] : [{ id, tags: prompt.tags, tokens: prompt.ids.length }];
      });
      const split = splitByFacet(facet, prompts);
      if ('absent' in split) absent.set(facet, split.absent);
      else for (const { value, prompts: ids } of split.values) rows.push(facetRow(run, phase, facet, value, ids));
    }
  }
  // Temperature is a property of the phase: one row each over all its prompts, so that decodings stand beside each other.
  if (new Set(phases.map((phase) => phase.temperature)).size < 2) {
    absent.set('temperature', 'this run decodes at one temperature only');
  } else {
    for (const phase of phases) {
      const value = phase.temperature === 0 ? '0 (greedy)' : String(phase.temperature);
      rows.push(facetRow(run, phase, 'temperature', value, phase.prompts));
    }
  }
  return { rows, absent: [...absent].map(([facet, reason]) => ({ facet, reason })) };
}

function facetRow(
  run: StoredRun,
  phase: PhasePlan,
  facet: FacetRow['facet'],
  value: string,
  ids: readonly string[],
): FacetRow {
  const card = run.manifest.engines[phase.speculative]!;
  const wanted = new Set(ids);
  const traces = tracesOf(run, phase, 'speculative').filter((trace) => wanted.has(trace.row.prompt));
  const sums = acceptanceSums(
    traces.map((trace) => ({ prompt: trace.row.prompt, rounds: trace.rounds })),
    card.blockSize,
  );
  const warnings = [
    ...engineWarnings(card, run.manifest.model),
    ...lengthWarnings(phase),
    ...promptWarnings(sums.prompts),
  ];
  const rounds = sums.perPrompt.map((prompt) => prompt.rounds);
  const measure = measurer(run, sums.prompts, 'prompts', warnings);
  const of = (key: 'raw' | 'kept') =>
    measure(
      ratioOfSums(
        sums.perPrompt.map((prompt) => prompt[key]),
        rounds,
      ),
      'tokens/round',
    );
  return {
    engine: phase.speculative,
    rule: phase.rule,
    decoding: decodingName(phase),
    facet,
    value,
    prompts: sums.prompts,
    rounds: sums.rounds,
    rawMicro: of('raw'),
    keptMicro: of('kept'),
    source: sourceOf(traces, card.blockSize),
  };
}
