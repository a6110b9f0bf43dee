/**
 * The 1.02 T shape in bytes: what a step must read and what a GPU must hold. Widths are those of core/synthetic.h (a test holds the two
 * together). Convention of every "bytes a step": each weight of the node once, in its stored format, whatever copies an engine keeps
 * on several GPUs or reads twice; so a share of the read ceiling can be too low, never too high.
 */
import type { ExpertFormat } from './machine.ts';

export const PRO = {
  layers: 70,
  hidden: 6144,
  qHeads: 128,
  kvHeads: 8,
  headDim: 192,
  valueDim: 128,
  window: 128,
  experts: 384,
  expertsPerToken: 8,
  expertWidth: 2048,
  denseWidth: 16384,
  vocab: 152576,
  draftLayers: 5,
  draftHeadDim: 128,
  draftWidth: 16384,
  draftTaps: 5,
  draftWindow: 1024,
} as const;

/** Layers that attend to the whole context; a slice of N layers has the first N. */
const GLOBAL_LAYERS = [0, 7, 15, 23, 31, 39, 47, 55, 62, 69];

export function globalLayers(layers: number): number {
  return GLOBAL_LAYERS.filter((layer) => layer < layers).length;
}

/** Mixture layers: all but the first. */
export function mixtureLayers(layers: number): number {
  return Math.max(0, layers - 1);
}

/** An FP8 matrix with a 32-bit scale for 128 x 128. */
function fp8(rows: number, cols: number, scaleRows = Math.ceil(rows / 128)): number {
  return rows * cols + scaleRows * Math.ceil(cols / 128) * 4;
}

const GROUP_ROWS = (PRO.qHeads / PRO.kvHeads) * PRO.headDim + PRO.headDim + PRO.valueDim;
// Scale blocks start anew in each key/value group.
const QKV = fp8(PRO.kvHeads * GROUP_ROWS, PRO.hidden, PRO.kvHeads * Math.ceil(GROUP_ROWS / 128));
const O = PRO.hidden * PRO.qHeads * PRO.valueDim * 2;
const DENSE = 2 * fp8(PRO.denseWidth, PRO.hidden) + fp8(PRO.hidden, PRO.denseWidth);
const ROUTER = PRO.experts * PRO.hidden * 4;
const HEAD = PRO.vocab * PRO.hidden * 2;
const EMBEDDING = HEAD;
const DRAFT_FC = PRO.hidden * PRO.draftTaps * PRO.hidden * 2;
const DRAFT_LAYER =
  2 * PRO.hidden * (2 * PRO.qHeads * PRO.draftHeadDim + 2 * PRO.kvHeads * PRO.draftHeadDim + 3 * PRO.draftWidth);

/** Keys and values of one position of one layer, BF16. */
const KV = PRO.kvHeads * (PRO.headDim + PRO.valueDim) * 2;
const KV_DRAFT = PRO.kvHeads * 2 * PRO.draftHeadDim * 2;

/** One expert of one layer: gate, up and down. MXFP4: 4 bits a weight and a byte of scale for 32. */
export function expertBytes(format: ExpertFormat): number {
  const weights = 3 * PRO.hidden * PRO.expertWidth;
  return format === 'mxfp4'
    ? weights / 2 + weights / 32
    : 2 * fp8(PRO.expertWidth, PRO.hidden) + fp8(PRO.hidden, PRO.expertWidth);
}

export interface StepBytes {
  /** Weights of the target that every step reads. */
  readonly fixed: number;
  /** Of the draft, the output matrix a second time included; 0 for plain decoding. */
  readonly draft: number;
  readonly experts: number;
  /** Keys and values, of target and draft. */
  readonly kv: number;
  readonly total: number;
}

/** Of the whole node. `distinct`: distinct experts a mixture layer, mean; `context`: positions in the cache, mean. */
export function stepBytes(step: {
  readonly layers: number;
  readonly experts: ExpertFormat;
  readonly speculation: boolean;
  readonly distinct: number;
  readonly context: number;
}): StepBytes {
  const { layers, context } = step;
  const mixture = mixtureLayers(layers);
  const fixed = layers * (QKV + O) + DENSE + mixture * ROUTER + HEAD;
  const draft = step.speculation ? DRAFT_FC + PRO.draftLayers * DRAFT_LAYER + HEAD : 0;
  const experts = mixture * step.distinct * expertBytes(step.experts);
  const kv = kvBytes(layers, context, context) + (step.speculation ? draftKvBytes(context) : 0);
  return { fixed, draft, experts, kv, total: fixed + draft + experts + kv };
}

/** Keys and values in BF16: all of `context` in global layers, at most a window of `kept` in the others. */
function kvBytes(layers: number, context: number, kept: number): number {
  const global = globalLayers(layers);
  return KV * (global * context + (layers - global) * Math.min(PRO.window, kept));
}

function draftKvBytes(context: number): number {
  return PRO.draftLayers * KV_DRAFT * Math.min(PRO.draftWindow, context);
}

/** Room for activations, instruction lists and what the driver keeps, and for a library of collectives: allowances, not measurements. */
const WORKSPACE_BYTES = 2 ** 30;
const COLLECTIVES_BYTES = 1.5 * 2 ** 30;

/**
 * What one of `gpus` GPUs holds, estimated: embedding, router and the draft's fc whole, all else divided; the caches of every layer at
 * their full length, windows or not; two expert matrices of a layer on their way into their final form; and room to work. Without a draft it is the plain
 * reference, whose collectives are a library's.
 */
export function gpuBytes(model: {
  readonly layers: number;
  readonly gpus: number;
  readonly experts: ExpertFormat;
  readonly draft: boolean;
  readonly maxContext: number;
}): number {
  const { layers, gpus, maxContext } = model;
  const mixture = mixtureLayers(layers);
  const expertsOfLayer = PRO.experts * expertBytes(model.experts);
  const whole = EMBEDDING + mixture * ROUTER + (model.draft ? DRAFT_FC : 0);
  const divided =
    layers * (QKV + O) +
    DENSE +
    HEAD +
    mixture * expertsOfLayer +
    (model.draft ? PRO.draftLayers * (DRAFT_LAYER + KV_DRAFT * maxContext) : 0) +
    layers * KV * maxContext;
  const staging = mixture > 0 ? (2 / 3) * expertsOfLayer : 0;
  return whole + (divided + staging) / gpus + WORKSPACE_BYTES + (model.draft ? 0 : COLLECTIVES_BYTES);
}

/** The most layers, up to all, whose gpuBytes stay within `free`; 0 when not even two fit. */
export function layersThatFit(model: Omit<Parameters<typeof gpuBytes>[0], 'layers'>, free: number): number {
  for (let layers = PRO.layers; layers >= 2; layers--) if (gpuBytes({ ...model, layers }) <= free) return layers;
  return 0;
}
