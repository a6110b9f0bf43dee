/**
 * The target model in binary64, from the published description: hybrid attention with partial rotation, sinks and value scale, a
 * dense first layer, a sigmoid router with a selection-only bias, SwiGLU experts. One token row at a time, keys and values in plain
 * lists. Binary32 enters nowhere but in the activation quantisation; the KV cache rounds to BF16 as the engines' does.
 */
import { roundToBf16 } from '../formats.ts';
import { type Activations, add, apply, attend, concat, heads, rmsNorm, rotate, swiglu } from './ops.ts';
import type { Weights } from './weights.ts';

interface LayerShape {
  readonly sliding: boolean;
  readonly sparse: boolean;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vHeadDim: number;
  readonly rotaryDim: number;
  readonly theta: number;
  readonly window: number;
}

/** [position][kvHead] */
interface LayerCache {
  keys: Float64Array[][];
  values: Float64Array[][];
}

export interface TargetRow {
  /** [vocab] */
  readonly logits: Float64Array;
  /** Residual stream after each layer, before the final norm: [layer][hidden]. */
  readonly taps: readonly Float64Array[];
  /** Chosen experts per layer, ascending; empty for dense layers. */
  readonly experts: readonly (readonly number[])[];
}

export class OracleTarget {
  readonly weights: Weights;
  readonly activations: Activations;
  /** A key or value as the cache keeps it: BF16 with quantised activations, else unrounded. */
  readonly cached: (value: number) => number;
  readonly layers: readonly LayerShape[];
  readonly hidden: number;
  readonly vocab: number;
  private readonly eps: number;
  private readonly valueScale: number;
  private caches: LayerCache[];

  constructor(weights: Weights, activations: Activations) {
    this.weights = weights;
    this.activations = activations;
    this.cached = activations === 'fp8' ? roundToBf16 : (value) => value;
    this.hidden = weights.number('hidden_size');
    this.vocab = weights.number('vocab_size');
    this.eps = weights.number('layernorm_epsilon', 'rms_norm_eps');
    this.valueScale =
      typeof weights.config.attention_value_scale === 'number' ? weights.config.attention_value_scale : 1;
    this.layers = layerShapes(weights);
    this.caches = this.layers.map(() => ({ keys: [], values: [] }));
  }

  get length(): number {
    return this.caches[0]!.keys.length;
  }

  /** Forget positions from `length` on. */
  crop(length: number): void {
    for (const cache of this.caches) {
      cache.keys.length = length;
      cache.values.length = length;
    }
  }

  embed(id: number): Float64Array {
    const table = this.weights.plainMatrix('model.embed_tokens.weight');
    return table.values.slice(id * this.hidden, (id + 1) * this.hidden);
  }

  /** The head alone, on a row that has had its final norm; also the draft's head. */
  head(row: Float64Array): Float64Array {
    const name = this.weights.config.tie_word_embeddings === true ? 'model.embed_tokens.weight' : 'lm_head.weight';
    return apply(this.weights.plainMatrix(name), row, this.activations);
  }

  /** Appends tokens at the positions that follow and returns one row each. */
  forward(ids: readonly number[]): TargetRow[] {
    return ids.map((id) => {
      const position = this.length;
      let h = this.embed(id);
      const taps: Float64Array[] = [];
      const experts: number[][] = [];
      this.layers.forEach((shape, i) => {
        const base = `model.layers.${i}`;
        const normed = rmsNorm(h, this.weights.vector(`${base}.input_layernorm.weight`), this.eps);
        h = add(h, this.attention(i, shape, normed, position));
        const second = rmsNorm(h, this.weights.vector(`${base}.post_attention_layernorm.weight`), this.eps);
        if (shape.sparse) {
          const chosen = this.route(`${base}.mlp`, second);
          h = add(h, this.mixture(`${base}.mlp`, second, chosen));
          experts.push(chosen.map(([expert]) => expert));
        } else {
          h = add(h, this.ffn(`${base}.mlp`, second));
          experts.push([]);
        }
        taps.push(h);
      });
      const logits = this.head(rmsNorm(h, this.weights.vector('model.norm.weight'), this.eps));
      return { logits, taps, experts };
    });
  }

  private attention(layer: number, shape: LayerShape, x: Float64Array, position: number): Float64Array {
    const base = `model.layers.${layer}.self_attn`;
    const { q, k, v } = this.project(base, shape, x);
    const cache = this.caches[layer]!;
    cache.keys.push(k.map((head) => rotate(head, position, shape.rotaryDim, shape.theta).map(this.cached)));
    cache.values.push(v.map((head) => head.map((value) => this.cached(value * this.valueScale))));

    const first = shape.sliding ? Math.max(0, position - shape.window + 1) : 0;
    const sinks = this.weights.has(`${base}.attention_sink_bias`)
      ? this.weights.vector(`${base}.attention_sink_bias`)
      : null;
    const out = q.map((head, h) => {
      const kv = Math.floor(h / (shape.qHeads / shape.kvHeads));
      return attend(
        rotate(head, position, shape.rotaryDim, shape.theta),
        cache.keys.slice(first).map((row) => row[kv]!),
        cache.values.slice(first).map((row) => row[kv]!),
        sinks === null ? null : sinks[h]!,
      );
    });
    return apply(this.weights.linear(`${base}.o_proj`), concat(out), this.activations);
  }

  /** Heads of q, k and v. The fused weight holds one [Q | K | V] per group, groups counted by the global layers' kv heads. */
  private project(base: string, shape: LayerShape, x: Float64Array) {
    if (!this.weights.has(`${base}.qkv_proj.weight`)) {
      const part = (name: string, size: number) =>
        heads(apply(this.weights.linear(`${base}.${name}`), x, this.activations), size);
      return { q: part('q_proj', shape.headDim), k: part('k_proj', shape.headDim), v: part('v_proj', shape.vHeadDim) };
    }
    const groups = this.weights.number('num_key_value_heads');
    const rows = apply(this.weights.linear(`${base}.qkv_proj`, groups), x, this.activations);
    const q: Float64Array[] = [];
    const k: Float64Array[] = [];
    const v: Float64Array[] = [];
    const qRows = (shape.qHeads / groups) * shape.headDim;
    const kRows = (shape.kvHeads / groups) * shape.headDim;
    for (let g = 0; g < groups; g++) {
      const group = rows.slice((g * rows.length) / groups, ((g + 1) * rows.length) / groups);
      q.push(...heads(group.slice(0, qRows), shape.headDim));
      k.push(...heads(group.slice(qRows, qRows + kRows), shape.headDim));
      v.push(...heads(group.slice(qRows + kRows), shape.vHeadDim));
    }
    return { q, k, v };
  }

  private ffn(base: string, x: Float64Array): Float64Array {
    const part = (name: string) => this.weights.linear(`${base}.${name}`);
    const inner = swiglu(apply(part('gate_proj'), x, this.activations), apply(part('up_proj'), x, this.activations));
    return apply(part('down_proj'), inner, this.activations);
  }

  /** [expert, weight] of the chosen experts, ascending by expert. The bias takes part in the choice only. */
  private route(base: string, x: Float64Array): [number, number][] {
    const { config } = this.weights;
    const bias = this.weights.vector(`${base}.gate.e_score_correction_bias`);
    const p = apply(this.weights.plainMatrix(`${base}.gate.weight`), x, this.activations).map(
      (logit) => 1 / (1 + Math.exp(-logit)),
    );
    const order = [...p.keys()].sort((a, b) => p[b]! + bias[b]! - (p[a]! + bias[a]!) || a - b);
    const chosen = order.slice(0, this.weights.number('num_experts_per_tok'));
    const total = chosen.reduce((sum, expert) => sum + p[expert]!, 0) + 1e-20;
    const scale = typeof config.routed_scaling_factor === 'number' ? config.routed_scaling_factor : 1;
    const divisor = config.norm_topk_prob === false ? 1 : total;
    return chosen.sort((a, b) => a - b).map((expert) => [expert, (p[expert]! / divisor) * scale]);
  }

  private mixture(base: string, x: Float64Array, chosen: readonly (readonly [number, number])[]): Float64Array {
    const out = new Float64Array(this.hidden);
    for (const [expert, weight] of chosen) {
      this.ffn(`${base}.experts.${expert}`, x).forEach((value, i) => {
        out[i]! += weight * value;
      });
    }
    return out;
  }
}

function layerShapes(weights: Weights): LayerShape[] {
  const { config } = weights;
  const count = weights.number('num_hidden_layers');
  const types = config.layer_types as string[] | undefined;
  const pattern =
    (config.hybrid_layer_pattern as number[] | undefined) ??
    types?.map((type) => (type === 'sliding_attention' ? 1 : 0));
  const frequency = config.moe_layer_freq as number[] | undefined;
  const factor = typeof config.partial_rotary_factor === 'number' ? config.partial_rotary_factor : 1;
  return Array.from({ length: count }, (_, i) => {
    const sliding = pattern?.[i] === 1;
    const own = (field: string) => (sliding ? weights.number(`swa_${field}`, field) : weights.number(field));
    const headDim = own('head_dim');
    return {
      sliding,
      sparse: frequency === undefined || frequency === null ? i > 0 : frequency[i] === 1,
      qHeads: own('num_attention_heads'),
      kvHeads: own('num_key_value_heads'),
      headDim,
      vHeadDim: own('v_head_dim'),
      rotaryDim: Math.trunc(headDim * factor),
      theta: own('rope_theta'),
      window: sliding ? weights.number('sliding_window', 'sliding_window_size') : 0,
    };
  });
}
