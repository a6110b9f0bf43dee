/**
 * Identities that the rounds of a node benchmark keep, whatever the machine: what was kept follows from what was accepted, nothing
 * follows the end, the device's clock stays within the harness's, and the counts are those that the plan asks for.
 */
import { collectiveBooks } from './collectives.ts';
import { corruptionSeed, type NodePlan, type PlanCell, taskTokens } from './plan.ts';
import { corrupt } from './profile.ts';
import type { Generation, StoredNodeRun } from './reader.ts';
import { mixtureLayers, PRO } from './shape.ts';

/** The cell of the plan that a generation is of; undefined for one that the plan does not know. */
export function cellOf(plan: NodePlan, { row }: Generation): PlanCell | undefined {
  return plan.cells.find((cell) => cell.id === row.cell);
}

export function tokensOf(generation: Generation): number[] {
  return generation.rounds.flatMap((round) => round.c);
}

/** Plain continuations by `model/context`, of records that ended properly. */
export function recordsOf(run: StoredNodeRun): Map<string, readonly number[]> {
  const records = new Map<string, readonly number[]>();
  for (const generation of run.generations) {
    const cell = cellOf(run.plan, generation);
    if (cell === undefined || generation.row.role !== 'record' || generation.row.fault !== null) continue;
    records.set(textOf(cell), tokensOf(generation));
  }
  return records;
}

/** What a cell decodes: generations of one text give the same tokens. */
export function textOf(cell: PlanCell): string {
  return `${cell.model}/${cell.context}`;
}

/** What does not add up, one line each. */
export function nodeBooks(run: StoredNodeRun): string[] {
  return [...generationBooks(run), ...collectiveBooks(run)];
}

function generationBooks(run: StoredNodeRun): string[] {
  return run.generations.flatMap((generation) => {
    if (generation.row.fault !== null) return [];
    const cell = cellOf(run.plan, generation);
    if (cell === undefined) return [`generation ${generation.row.g} is of no cell of the plan`];
    const broken = booksOf(run.plan, cell, generation);
    return broken.map((text) => `generation ${generation.row.g} (${cell.id}): ${text}`);
  });
}

function booksOf(plan: NodePlan, cell: PlanCell, { row, rounds }: Generation): string[] {
  const broken: string[] = [];
  const model = plan.models.find(({ id }) => id === cell.model)!;
  const due = taskTokens(cell, row);
  if (row.traced > 0 && row.role !== 'traced') broken.push('it was not to be traced');
  if (row.tokens !== due) broken.push(`${row.tokens} tokens, the plan asks for ${due}`);
  const device = rounds.slice(1).reduce((sum, round) => sum + round.ns[0] + round.ns[1], 0);
  // A round that began while the prefill was still on its way out may count from there.
  if (device > row.prefillNs + row.decodeNs)
    broken.push(`the device counts ${device} ns of rounds within ${row.prefillNs + row.decodeNs} ns`);
  let before = 0;
  for (const [i, round] of rounds.entries()) {
    const last = i === rounds.length - 1;
    // Near the end an engine may draft no further than the output goes.
    const least = Math.min(cell.block - 1, Math.max(0, due - before - 1));
    before += round.c.length;
    const say = (text: string): void => void broken.push(`round ${i}: ${text}`);
    if ((round.f !== null) !== last)
      say(last ? 'the last round does not end the output' : 'ends the output, and more follows');
    if (i === 0 && (round.c.length !== 1 || round.d !== 0 || round.a !== 0)) say('a prefill gives one token');
    if (round.a > round.d) say(`${round.a} of ${round.d} drafts accepted`);
    if (round.d > Math.max(0, cell.block - 1)) say(`${round.d} drafts in a block of ${cell.block}`);
    if (round.c.length > round.a + 1 || (round.c.length < round.a + 1 && !last))
      say(`${round.c.length} tokens kept of ${round.a} accepted drafts and one`);
    if (i > 0 && round.d < least) say(`${round.d} drafts, the block is ${cell.block}`);
    if (round.c.some((id) => id >= PRO.vocab)) say('a token outside the vocabulary');
    if (round.e.length !== 0 && round.e.length !== mixtureLayers(model.layers))
      say(`distinct experts of ${round.e.length} layers, the model has ${mixtureLayers(model.layers)}`);
    const most = Math.min(PRO.experts, PRO.expertsPerToken * cell.block);
    if (i > 0 && round.e.some((count) => count < PRO.expertsPerToken || count > most))
      say(`a layer touched fewer than ${PRO.expertsPerToken} or more than ${most} experts`);
  }
  return broken;
}

/** Rounds whose accepted count is not the one that the assumed acceptance gives, of generations whose output is the record's. */
export function acceptanceDifferences(run: StoredNodeRun): { readonly rounds: number; readonly differences: string[] } {
  const records = recordsOf(run);
  const { seed, profiles } = run.plan.input;
  const differences: string[] = [];
  let rounds = 0;
  for (const generation of run.generations) {
    const cell = cellOf(run.plan, generation);
    const profile = profiles.find(({ name }) => name === cell?.profile);
    if (cell === undefined || profile === undefined || generation.row.fault !== null) continue;
    const record = records.get(textOf(cell));
    if (record === undefined || tokensOf(generation).some((id, i) => id !== record[i])) continue;
    const { accepted } = corrupt(record, PRO.vocab, profile, cell.block, corruptionSeed(seed, cell, generation.row));
    const decoded = generation.rounds.slice(1);
    for (const [i, round] of decoded.entries()) {
      rounds += 1;
      // The end of the output may cut what the last round looks at.
      const right = Math.min(accepted[i]!, round.d);
      const fits = i === decoded.length - 1 ? round.c.length <= right + 1 : round.a === right;
      if (!fits)
        differences.push(
          `generation ${generation.row.g} (${cell.id}), round ${i + 1}: ${round.a} accepted, ${accepted[i]} were right`,
        );
    }
  }
  return { rounds, differences };
}
