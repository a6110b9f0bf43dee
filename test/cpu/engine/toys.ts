/**
 * Toys for the engine's tests: the fixtures as tables of logits, random small ones, and the exact laws of plain decoding and of
 * acceptance, by listing every path. Rows come from the oracle of test/support; nothing here shares code with the engine.
 */
import { fileURLToPath } from 'node:url';
import type { Decoding } from '../../../harness/engine.ts';
import { type Fixture, readFixture, runLength } from '../../../harness/oracle/fixture.ts';
import { toyOf as toyOfFixture } from '../../../harness/oracle/toy.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { type ToyTables, tablesOf } from '../../../native/engines.ts';
import { processedRow } from '../../support/oracle/decode.ts';

export interface Toy {
  readonly name: string;
  readonly tables: ToyTables;
  readonly prompt: readonly number[];
  readonly decoding: Omit<Decoding, 'seed'>;
}

const MAX_CONTEXT = 64;

export const fixtureFile = (name: string): string =>
  fileURLToPath(new URL(`../../../harness/fixtures/${name}.json`, import.meta.url));

/** `fixture`: with its rows as the engine holds them. */
export function toyOf(name: string): Toy & { readonly fixture: Fixture } {
  const { toy, fixture } = toyOfFixture(readFixture(fixtureFile(name)));
  const { temperature, topK, topP, stopIds } = fixture.decoding;
  return {
    name,
    fixture,
    tables: { ...tablesOf(toy), maxContext: MAX_CONTEXT },
    prompt: fixture.prompt,
    decoding: { temperature, topK, topP, stopIds, maxTokens: runLength(fixture) },
  };
}

/** Rows of every kind: smooth, with zeros, one-hot, all equal; the draft's is often the target's, or close to it. */
export function randomTables(seed: string, shape: { vocab: number; order: number; block: number }): ToyTables {
  const random = new Random(seed, 1);
  const { vocab, order, block } = shape;
  const row = (): number[] => {
    const kind = random.below(6);
    const one = random.below(vocab);
    return Array.from({ length: vocab }, (_, id) => {
      if (kind === 0) return id === one ? 0.25 : Number.NEGATIVE_INFINITY;
      if (kind === 1) return 0;
      const value = 3 * random.uniform() - 1.5;
      return kind === 2 && id !== one && random.below(2) === 0 ? Number.NEGATIVE_INFINITY : value;
    });
  };
  const contexts = vocab ** order;
  const target = Array.from({ length: contexts }, row);
  const draft = target.flatMap((here) =>
    Array.from({ length: block - 1 }, () => {
      const kind = random.below(3);
      if (kind === 0) return row();
      return kind === 1 ? here : here.map((value) => value + 0.2 * random.uniform());
    }),
  );
  return {
    ...shape,
    maxContext: MAX_CONTEXT,
    targetLogits: Float64Array.from(target.flat()),
    draftLogits: Float64Array.from(draft.flat()),
  };
}

/** The context a sequence ends with: its last m ids in base V, 0 for the missing ones. */
export function contextOf({ vocab, order }: ToyTables, ids: readonly number[]): number {
  let context = 0;
  for (const id of ids.slice(-order)) context = context * vocab + id;
  return context;
}

type Filters = Pick<Decoding, 'temperature' | 'topK' | 'topP'>;

function processed(table: ArrayLike<number>, row: number, vocab: number, filters: Filters): Float64Array {
  const logits = Float64Array.from({ length: vocab }, (_, id) => Math.fround(table[row * vocab + id]!));
  return processedRow(logits, { ...filters, seed: 0n, maxTokens: 0, stopIds: [] });
}

/** What the engine samples from behind `ids`. */
export function targetRow(tables: ToyTables, ids: readonly number[], filters: Filters): Float64Array {
  return processed(tables.targetLogits, contextOf(tables, ids), tables.vocab, filters);
}

/** What the draft of a slot 0 .. block - 2 is sampled from; `ids` ends with the anchor. */
export function draftRow(tables: ToyTables, ids: readonly number[], slot: number, filters: Filters): Float64Array {
  const row = contextOf(tables, ids) * (tables.block - 1) + slot;
  return processed(tables.draftLogits, row, tables.vocab, filters);
}

/** P(emitted tokens), keyed by the tokens joined with commas: every path of plain decoding to its end. */
export function plainLaw({ tables, prompt, decoding }: Toy): Map<string, number> {
  const law = new Map<string, number>();
  const visit = (tokens: readonly number[], mass: number): void => {
    const over = tokens.length === decoding.maxTokens || decoding.stopIds.includes(tokens.at(-1) ?? -1);
    if (over) law.set(tokens.join(), mass);
    else
      targetRow(tables, [...prompt, ...tokens], decoding).forEach((p, id) => {
        if (p > 0) visit([...tokens, id], mass * p);
      });
  };
  visit([], 1);
  return law;
}

/**
 * P(first decode round accepts j drafts | the session has one), j = 0 .. block - 1, under `reject`: over anchors and drafts d,
 * P(accepted >= j) is the sum of the products of min(p_i(d_i), q_i(d_i)), i < j.
 */
export function acceptedLaw({ tables, prompt, decoding }: Toy): number[] {
  const atLeast = new Array<number>(tables.block + 1).fill(0);
  let anchors = 0;
  targetRow(tables, prompt, decoding).forEach((anchorMass, anchor) => {
    if (anchorMass === 0 || decoding.stopIds.includes(anchor)) return;
    anchors += anchorMass;
    const start = [...prompt, anchor];
    const visit = (drafts: readonly number[], mass: number): void => {
      const slot = drafts.length;
      atLeast[slot]! += mass;
      if (slot === tables.block - 1) return;
      const p = targetRow(tables, [...start, ...drafts], decoding);
      draftRow(tables, start, slot, decoding).forEach((q, id) => {
        const both = Math.min(p[id]!, q);
        if (both > 0) visit([...drafts, id], mass * both);
      });
    };
    visit([], anchorMass);
  });
  return Array.from({ length: tables.block }, (_, j) => (atLeast[j]! - atLeast[j + 1]!) / anchors);
}
