/**
 * Parts of a plan that run apart. A cell is one phase with one prompt: both arms and all repeats of it stay together, because they are
 * compared and timed against each other. Cells are numbered in the order of the plan and dealt out in turn, so every shard has
 * its part of every phase and scenario.
 */
import { InputError } from '../engine.ts';
import type { Plan, Shard } from './rows.ts';

/** `i/n`, i from 1 to n. Throws InputError. */
export function parseShard(text: string): Shard {
  const match = /^(\d{1,6})\/(\d{1,6})$/.exec(text);
  const [index, of] = [Number(match?.[1]), Number(match?.[2])];
  if (match === null || !(index >= 1 && index <= of)) {
    throw new InputError(`"${text}" is no shard; write i/n with i from 1 to n, for instance 2/8`);
  }
  return { index, of };
}

export function cellName(phase: string, prompt: string): string {
  return `${phase}/${prompt}`;
}

/** The cells of a shard; all of the plan's without one. */
export function cellsOf(plan: Plan, shard: Shard | null): Set<string> {
  const cells = plan.phases.flatMap((phase) => phase.prompts.map((prompt) => cellName(phase.id, prompt)));
  return new Set(shard === null ? cells : cells.filter((_, i) => i % shard.of === shard.index - 1));
}

/** Which shard of a merged run a cell was run in; empty for a run in one piece. */
export function shardByCell(plan: Plan, parts: readonly { readonly shard: Shard }[] | null): Map<string, number> {
  const shards = new Map<string, number>();
  for (const { shard } of parts ?? []) for (const cell of cellsOf(plan, shard)) shards.set(cell, shard.index);
  return shards;
}
