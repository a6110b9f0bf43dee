/**
 * What a checked checkpoint is to an engine: the plan of every layer, and where each tensor lies on disk. Nothing here has
 * been read into memory but headers, configs and the mask sidecar; shapes, dtypes and scale shapes have all been checked.
 */

/** Tensor element types of the safetensors format that this reader knows, with their size in bits. */
export const DTYPE_BITS = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type DType = keyof typeof DTYPE_BITS;

export interface TensorRecord {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Path of the shard. */
  readonly file: string;
  /** First byte of the data, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

export type TensorMap = ReadonlyMap<string, TensorRecord>;

/** How the weight of a linear is stored. `fp8`: E4M3 + F32 scale per 128x128; `mxfp4`: E2M1 + E8M0 per 32 along k. */
export type LinearFormat = 'fp8' | 'mxfp4' | 'bf16' | 'f32';

export interface AttentionPlan {
  readonly kind: 'global' | 'sliding';
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vHeadDim: number;
  /** The first `rotaryDim` of `headDim` dimensions are rotated (NeoX halves); even. */
  readonly rotaryDim: number;
  readonly ropeTheta: number;
  /** Visible iff 0 <= queryPosition - keyPosition < window; 0 = no limit. */
  readonly window: number;
  /** A learned logit per query head, without a value, joins the softmax. */
  readonly sink: boolean;
  /** Groups of the fused qkv weight, each [Q | K | V] with its own FP8 scale rows; 0 = separate q, k and v. */
  readonly fusedGroups: number;
}

export interface LayerPlan {
  readonly attention: AttentionPlan;
  /** `width`: rows of gate and up (of one expert when `moe`). */
  readonly ffn: { readonly kind: 'dense' | 'moe'; readonly width: number };
}

/** The DFlash draft: its own layers, the target's embedding and head. */
export interface DraftPlan {
  readonly layers: number;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vHeadDim: number;
  readonly rotaryDim: number;
  readonly ropeTheta: number;
  /** Context visible iff queryPosition - keyPosition < window; 0 = no limit. */
  readonly window: number;
  readonly sink: boolean;
  readonly eps: number;
  readonly valueScale: number;
  readonly ffnWidth: number;
  /** Anchor and masks together. */
  readonly blockSize: number;
  /** Target layers whose output residual stream feeds `fc`, in order of concatenation. */
  readonly targetLayerIds: readonly number[];
  readonly maskTokenId: number;
  /** [hidden]; replaces the embedding row of `maskTokenId` in the draft's input. */
  readonly maskEmbedding: Float32Array;
  readonly tensors: TensorMap;
}

export interface Checkpoint {
  readonly directory: string;
  readonly architecture: string;
  readonly hidden: number;
  readonly vocab: number;
  readonly eps: number;
  readonly valueScale: number;
  /** Routed experts per mixture layer and how many a token uses; 0 when every layer is dense. */
  readonly experts: number;
  readonly topK: number;
  readonly normTopK: boolean;
  readonly routedScale: number;
  readonly maxContext: number;
  readonly layers: readonly LayerPlan[];
  /** `model.embed_tokens.weight` when the head is tied to the embedding, else `lm_head.weight`. */
  readonly headTensor: string;
  readonly activationsDefault: 'fp8' | 'bf16';
  readonly eosIds: readonly number[];
  /** Stored formats, as they enter the numerics id: distinct ones joined by `+`, `none` without any. */
  readonly formats: { readonly experts: string; readonly linears: string; readonly rest: string };
  readonly tensors: TensorMap;
  readonly draft: DraftPlan | null;
  /** `sha256:<hex>` over the shards' bytes, one after the other in index order. Reads everything. */
  weightsDigest(): Promise<string>;
  /** The same over the draft's shards and its mask sidecar; `none` without a draft. */
  draftDigest(): Promise<string>;
}
