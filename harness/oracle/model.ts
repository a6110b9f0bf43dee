/**
 * A fixture as the sampler sees it: processed target rows, processed draft rows, and the raw draft row's argmax. Rows
 * are computed once for each (context, penalty state, variant of the decoding) and shared, never changed.
 */
import { type Fixture, logitsOf } from './fixture.ts';
import { argmax, filtered, hasPenalties, penalised, type Row, type RowDecoding } from './rows.ts';

/** The decoding as asked, or one with a single step left out: what the defects of logits processing read. */
export type Variant = 'asked' | 'without temperature' | 'without top-p' | 'without bias';

export class Model {
  readonly fixture: Fixture;
  readonly vocab: number;
  /** Drafts a round proposes: block - 1. */
  readonly drafts: number;
  readonly greedy: boolean;
  readonly penalties: boolean;
  readonly inPrompt: readonly boolean[];
  readonly #decodings: Readonly<Record<Variant, RowDecoding>>;
  readonly #target: readonly Row[];
  readonly #draft: readonly (readonly Row[])[];
  readonly #draftRows: readonly (readonly Row[])[];
  readonly #states = new Map<string, number>();
  readonly #targetRows: Readonly<Record<Variant, Map<number, Row>>> = {
    asked: new Map(),
    'without temperature': new Map(),
    'without top-p': new Map(),
    'without bias': new Map(),
  };

  constructor(fixture: Fixture) {
    const { decoding, vocab } = fixture;
    this.fixture = fixture;
    this.vocab = vocab;
    this.drafts = fixture.block - 1;
    this.greedy = decoding.temperature === 0;
    this.penalties = hasPenalties(decoding);
    this.inPrompt = Array.from({ length: vocab }, (_, id) => fixture.prompt.includes(id));
    this.#decodings = {
      asked: decoding,
      'without temperature': { ...decoding, temperature: 1 },
      'without top-p': { ...decoding, topP: 1 },
      'without bias': { ...decoding, logitBias: [] },
    };
    this.#target = fixture.target.map((row) => logitsOf(fixture, row));
    this.#draft = fixture.draft.map((slots) => slots.map((row) => logitsOf(fixture, row)));
    this.#draftRows = this.#draft.map((slots) => slots.map((row) => filtered(row, decoding)));
  }

  /** Index of the context that ends a sequence of at least `order` tokens. */
  contextOf(tokens: readonly number[]): number {
    let index = 0;
    for (let i = tokens.length - this.fixture.order; i < tokens.length; i++) index = index * this.vocab + tokens[i]!;
    return index;
  }

  /** The law of the next token after a context: V probabilities. `generated` counts the output's tokens, V of them. */
  targetRow(context: number, generated: readonly number[], variant: Variant = 'asked'): Row {
    const key = this.penalties ? context + this.#target.length * this.#stateOf(generated) : context;
    const rows = this.#targetRows[variant];
    let row = rows.get(key);
    if (row === undefined) {
      const decoding = this.#decodings[variant];
      row = filtered(penalised(this.#target[context]!, decoding, { inPrompt: this.inPrompt, generated }), decoding);
      rows.set(key, row);
    }
    return row;
  }

  /** Penalty states by the order they were first met. */
  #stateOf(generated: readonly number[]): number {
    const key = generated.join();
    let index = this.#states.get(key);
    if (index === undefined) {
      index = this.#states.size;
      this.#states.set(key, index);
    }
    return index;
  }

  /** The draft's law at a slot 0 .. drafts - 1: temperature, top-k and top-p only. */
  draftRow(context: number, slot: number): Row {
    return this.#draftRows[context]![slot]!;
  }

  /** The same without any filter: the plain softmax of the draft's logits. */
  rawDraftRow(context: number, slot: number): Row {
    return filtered(this.#draft[context]![slot]!, { ...this.#decodings.asked, temperature: 1, topK: 0, topP: 1 });
  }

  /** The draft's most likely token, lowest id on ties. */
  draftArgmax(context: number, slot: number): number {
    return argmax(this.#draft[context]![slot]!);
  }
}
