/**
 * The rows of the catalogue that the oracle's registry does not hold: faults of metrics, of loaders and of models; and which rows
 * the C++ engine can have compiled in, so that a run without that build can say what it left out. Tests hold both lists against
 * the build's own.
 */
export interface CatalogueRow {
  readonly id: string;
  readonly title: string;
}

/** Metrics. */
export const METRIC_ROWS: readonly CatalogueRow[] = [
  { id: 'H01', title: 'acceptance length counts tokens after the stop' },
  { id: 'H02', title: 'accepted drafts are counted short' },
  { id: 'H03', title: 'a streamed chunk is counted as a token' },
];

/** Filters that are wrong in plain decoding as well, so that on against off shows nothing. */
export const SHARED_ROWS: readonly CatalogueRow[] = [
  { id: 'B1 temperature', title: 'temperature is ignored, speculation on or off' },
  { id: 'B2 top-p', title: 'top-p is ignored, speculation on or off' },
];

/** A slice one row too long in the decode loop; it has no number in the catalogue. */
export const LOOP_ROWS: readonly CatalogueRow[] = [
  { id: 'anchor', title: "the draft's context includes the anchor's place" },
];

/** Faults between a checkpoint and its logits, and of the draft model. They have no number in the catalogue. */
export const NETWORK_ROWS: readonly (CatalogueRow & { readonly target: boolean })[] = [
  { id: 'tap', title: 'draft taps are read one layer early', target: false },
  { id: 'mask row', title: 'the embedding row of the mask token is not overridden', target: false },
  { id: 'rope draft', title: "rotary embedding over the draft's full head dimension", target: false },
  { id: 'value scale draft', title: "the draft's attention value scale is dropped", target: false },
  { id: 'sink dropped draft', title: "the draft's attention sinks are dropped", target: false },
  { id: 'causal block', title: 'the draft attends causally within its block', target: false },
  { id: 'rope', title: "rotary embedding over the target's full head dimension", target: true },
  { id: 'value scale', title: "the target's attention value scale is dropped", target: true },
  { id: 'sink dropped', title: 'the attention sink is dropped on sliding layers', target: true },
  { id: 'sink global', title: 'an attention sink of logit 0 is added on global layers', target: true },
  { id: 'qkv order', title: 'fused QKV is read as all Q, all K, all V', target: true },
  { id: 'scale row', title: 'FP8 scale rows of fused QKV do not restart at each group', target: true },
  { id: 'nibble', title: 'MXFP4 nibbles are swapped', target: true },
  { id: 'scale bias 126', title: 'the MXFP4 scale exponent has a bias of 126', target: true },
  { id: 'scale bias 128', title: 'the MXFP4 scale exponent has a bias of 128', target: true },
  { id: 'swiglu', title: 'SwiGLU is clamped at 7', target: true },
  { id: 'router bias', title: 'the correction bias enters the router weights', target: true },
  { id: 'top-k norm', title: 'router weights of the chosen experts are not normalised', target: true },
];

export const OUTSIDE_REGISTRY: readonly CatalogueRow[] = [
  ...METRIC_ROWS,
  ...SHARED_ROWS,
  ...LOOP_ROWS,
  ...NETWORK_ROWS,
];

/** Rows of the registry that the C++ loop has no place for, and why. */
export const NOT_IN_LOOP: Readonly<Record<string, string>> = {
  M17: 'a session of the C++ engine holds no other request',
  M31: 'its residual is drawn by inverse CDF, not with noise',
  M33: 'its drafts are drawn by inverse CDF, not with noise',
  M36: 'it has no penalties',
  M36b: 'it has no penalties',
  M39: 'it refuses rows that are not numbers',
  M40: 'it has one rank',
  M41: 'it has no logit bias',
  M42: 'it preempts nothing',
  G01: 'a toy has no layers; "tap" is the same defect in a draft network',
};
