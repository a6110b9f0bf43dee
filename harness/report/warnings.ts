/** Everything that makes a number doubtful, as typed warnings that travel with the number. */
import type { EngineCardRow, Manifest, PhasePlan } from '../bundle/rows.ts';
import type { Warning } from './schema.ts';

/** Output length below which acceptance and speed may not be those of real use. */
const SHORT_TOKENS = 512;
/** Clusters below which a bootstrap interval is not to be trusted. */
const FEW_PROMPTS = 30;
/** Share of tokens in verbatim loops above which acceptance says little. */
const REPETITIVE = 0.2;
/** Cores kept busy by others above which a timing is doubtful. */
export const FOREIGN_CORES = 0.1;

export function engineWarnings(card: EngineCardRow, model: Manifest['model']): Warning[] {
  const warnings: Warning[] = [];
  if (card.syntheticAcceptance !== null) {
    warnings.push({ code: 'synthetic-acceptance', text: `${card.name}: ${card.syntheticAcceptance}` });
  }
  if (card.defects.length > 0) {
    warnings.push({ code: 'defects-compiled-in', text: `${card.name}: ${card.defects.join(', ')}` });
  }
  if (model.kind === 'pro-synthetic') warnings.push({ code: 'synthetic-weights', text: model.note });
  return warnings;
}

export function lengthWarnings(phase: Pick<PhasePlan, 'maxTokens'>): Warning[] {
  if (phase.maxTokens >= SHORT_TOKENS) return [];
  return [
    {
      code: 'short-run',
      text: `at most ${phase.maxTokens} tokens a prompt; ${SHORT_TOKENS} are the least for a headline`,
    },
  ];
}

export function promptWarnings(prompts: number): Warning[] {
  if (prompts >= FEW_PROMPTS) return [];
  return [
    {
      code: 'few-prompts',
      text: `${prompts} ${prompts === 1 ? 'prompt' : 'prompts'}; an interval by prompt wants ${FEW_PROMPTS}`,
    },
  ];
}

/** `of`: whose output, for instance `coding, greedy`. */
export function repetitionWarnings(of: string, share: number): Warning[] {
  if (share <= REPETITIVE) return [];
  const percent = (100 * share).toFixed(0);
  return [
    {
      code: 'repetitive-output',
      text: `${of}: ${percent} % of the tokens lie in verbatim loops, which are easy to draft`,
    },
  ];
}

export function loadWarnings(foreignCores: number | null): Warning[] {
  if (foreignCores === null || foreignCores <= FOREIGN_CORES) return [];
  return [
    { code: 'foreign-load', text: `other processes kept ${foreignCores.toFixed(1)} cores busy during the timing` },
  ];
}

/** Of the segments of a cell: the most that any of them was disturbed. */
export function foreignWarnings(cores: readonly (number | null)[]): Warning[] {
  return loadWarnings(
    cores.reduce<number | null>((most, value) => (value === null ? most : Math.max(most ?? 0, value)), null),
  );
}

/** The same warning once, however many rows it came from. */
export function distinct(warnings: readonly Warning[]): Warning[] {
  const seen = new Map(warnings.map((warning) => [`${warning.code} ${warning.text}`, warning]));
  return [...seen.values()];
}
