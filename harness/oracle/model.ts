/**
 * A fixture as the sampler sees it: processed target rows, processed draft rows, and the raw draft row's argmax. Rows
 * are computed once for each (context, penalty state, variant of the decoding) and shared, never changed.
 */
import { type Fixture, logitsOf } from './fixture.ts';
import { argmax, filtered, hasPenalties, type PenaltyState, penalised, type Row, type RowDecoding } from './rows.ts';

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
  readonly #rows = new Map<string, Row>();

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
  }

  /** Index of the context that ends a sequence of at least `order` tokens. */
  contextOf(tokens: readonly number[]): number {
    let index = 0;
    for (let i = tokens.length - this.fixture.order; i < tokens.length; i++) index = index * this.vocab + tokens[i]!;
    return index;
  }

  #cached(key: string, make: () => Row): Row {
    const known = this.#rows.get(key);
    if (known !== undefined) return known;
    const row = make();
    this.#rows.set(key, row);
    return row;
  }

  /** The law of the next token after a context: V probabilities. `generated` counts the output's tokens, V of them. */
  targetRow(context: number, generated: readonly number[], variant: Variant = 'asked'): Row {
    const decoding = this.#decodings[variant];
    const key = `p ${context} ${variant} ${this.penalties ? generated.join() : ''}`;
    return this.#cached(key, () => {
      const seen: PenaltyState = { inPrompt: this.inPrompt, generated };
      return filtered(penalised(this.#target[context]!, decoding, seen), decoding);
    });
  }

  /** The draft's law at a slot 0 .. drafts - 1: temperature, top-k and top-p only. */
  draftRow(context: number, slot: number): Row {
    return this.#cached(`q ${context} ${slot}`, () => filtered(this.#draft[context]![slot]!, this.#decodings.asked));
  }

  /** The same without any filter: the plain softmax of the draft's logits. */
  rawDraftRow(context: number, slot: number): Row {
    return this.#cached(`raw q ${context} ${slot}`, () =>
      filtered(this.#draft[context]![slot]!, { ...this.#decodings.asked, temperature: 1, topK: 0, topP: 1 }),
    );
  }

  /** The draft's most likely token, lowest id on ties. */
  draftArgmax(context: number, slot: number): number {
    return argmax(this.#draft[context]![slot]!);
  }
}
