/**
 * The rows of the catalogue that the oracle's registry does not hold: faults of metrics, of loaders and of models. What
 * nothing can run yet is listed by name in every result, so that the table never looks more complete than it is.
 */
export interface CatalogueRow {
  readonly id: string;
  readonly title: string;
}

/** Metrics and engine flags. */
const METRICS: readonly CatalogueRow[] = [
  { id: 'H01', title: 'acceptance length counts tokens after the stop' },
  { id: 'H02', title: 'accepted drafts are counted short' },
  { id: 'H03', title: 'a streamed chunk is counted as a token' },
  { id: 'H04', title: 'synthetic acceptance is left on' },
];

/** Filters that are wrong in plain decoding as well, so that on against off shows nothing. */
const SHARED: readonly CatalogueRow[] = [
  { id: 'B1 temperature', title: 'temperature is ignored, speculation on or off' },
  { id: 'B2 top-p', title: 'top-p is ignored, speculation on or off' },
];

/** Faults between a checkpoint and its logits, and of the draft model. They have no number in the catalogue. */
const MODELS: readonly CatalogueRow[] = [
  { id: 'tap', title: 'draft taps are read one layer off' },
  { id: 'mask row', title: 'the embedding row of the mask token is not overridden' },
  { id: 'rope', title: 'rotary embedding over the full head dimension' },
  { id: 'value scale', title: 'the attention value scale is dropped' },
  { id: 'sink dropped', title: 'the attention sink is dropped on sliding layers' },
  { id: 'sink global', title: 'the attention sink is added on global layers' },
  { id: 'qkv order', title: 'fused QKV is read as all Q, all K, all V' },
  { id: 'scale row', title: 'FP8 scale rows of fused QKV do not restart at each group' },
  { id: 'nibble', title: 'MXFP4 nibbles are swapped' },
  { id: 'scale bias', title: 'the MXFP4 scale exponent has a bias of 126 or 128' },
  { id: 'swiglu', title: 'SwiGLU is clamped' },
  { id: 'router bias', title: 'the correction bias enters the router weights' },
  { id: 'top-k norm', title: 'router weights of the chosen experts are not normalised' },
  { id: 'causal block', title: 'the draft attends causally within its block' },
  { id: 'anchor', title: "the draft's context includes the anchor" },
];

export const OUTSIDE_REGISTRY: readonly CatalogueRow[] = [...METRICS, ...SHARED, ...MODELS];
