/**
 * The DFlash draft in binary64: taps of verified tokens become keys and values in every draft layer; a block of the anchor and
 * masks attends to them and to itself, in both directions. Source: arXiv 2602.06036 and the published MiMo-V2.5 draft configs.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { BF16_VALUES } from '../formats.ts';
import { add, apply, attend, concat, heads, rmsNorm, rotate, swiglu } from './ops.ts';
import type { OracleTarget } from './target.ts';
import { Weights } from './weights.ts';

interface DFlashConfig {
  readonly target_layer_ids: number[];
  readonly mask_token_id: number;
  readonly block_size: number;
  readonly use_swa?: boolean;
  readonly swa_window_size?: number;
  readonly attention_value_scale?: number;
}

export class OracleDraft {
  readonly blockSize: number;
  readonly tapLayers: readonly number[];
  private readonly weights: Weights;
  private readonly target: OracleTarget;
  private readonly dflash: DFlashConfig;
  private readonly maskEmbedding: Float64Array;
  /** [layer][position][kvHead], all positions before the anchor */
  private readonly keys: Float64Array[][][];
  private readonly values: Float64Array[][][];

  constructor(directory: string, target: OracleTarget) {
    this.weights = new Weights(path.join(directory, 'dflash'));
    this.target = target;
    this.dflash = this.weights.config.dflash_config as DFlashConfig;
    this.blockSize = this.dflash.block_size;
    this.tapLayers = this.dflash.target_layer_ids;
    this.maskEmbedding = maskEmbedding(path.join(directory, 'dflash', 'mask_embedding.pt'), target.hidden);
    const layers = Array.from({ length: this.weights.number('num_hidden_layers') });
    this.keys = layers.map(() => []);
    this.values = layers.map(() => []);
  }

  get contextLength(): number {
    return this.keys[0]!.length;
  }

  private get headDim(): number {
    return this.weights.number('head_dim');
  }

  private get eps(): number {
    return this.weights.number('rms_norm_eps');
  }

  private apply(name: string, x: Float64Array): Float64Array {
    return apply(this.weights.plainMatrix(name), x, 'bf16');
  }

  private norm(name: string, x: Float64Array): Float64Array {
    return rmsNorm(x, this.weights.vector(name), this.eps);
  }

  private rotated(head: Float64Array, position: number): Float64Array {
    const rotaryDim = Math.trunc(this.headDim * this.weights.number('partial_rotary_factor'));
    return rotate(head, position, rotaryDim, this.weights.number('rope_theta'));
  }

  private key(layer: number, x: Float64Array, position: number): Float64Array[] {
    const base = `layers.${layer}.self_attn`;
    return heads(this.apply(`${base}.k_proj.weight`, x), this.headDim).map((head) =>
      this.rotated(this.norm(`${base}.k_norm.weight`, head), position).map(this.target.cached),
    );
  }

  private value(layer: number, x: Float64Array): Float64Array[] {
    const scale = this.dflash.attention_value_scale ?? 1;
    const size = this.weights.number('v_head_dim', 'head_dim');
    const row = this.apply(`layers.${layer}.self_attn.v_proj.weight`, x);
    return heads(row, size).map((head) => head.map((value) => this.target.cached(value * scale)));
  }

  /** Appends the taps ([target layer][hidden]) of the next verified token. */
  append(taps: readonly Float64Array[]): void {
    const position = this.contextLength;
    const fused = this.apply('fc.weight', concat(this.tapLayers.map((layer) => taps[layer]!)));
    const c = this.norm('hidden_norm.weight', fused);
    this.keys.forEach((positions, layer) => {
      positions.push(this.key(layer, c, position));
      this.values[layer]!.push(this.value(layer, c));
    });
  }

  /** Logits of rows 1 .. size-1 for a block whose anchor stands right after the context. */
  propose(anchor: number, size = this.blockSize): Float64Array[] {
    const start = this.contextLength;
    let rows = Array.from({ length: size }, (_, i) => this.embed(i === 0 ? anchor : this.dflash.mask_token_id));
    for (let layer = 0; layer < this.keys.length; layer++) rows = this.layer(layer, rows, start);
    return rows.slice(1).map((row) => this.target.head(this.norm('norm.weight', row)));
  }

  private embed(id: number): Float64Array {
    return id === this.dflash.mask_token_id ? this.maskEmbedding.slice() : this.target.embed(id);
  }

  private layer(layer: number, rows: readonly Float64Array[], start: number): Float64Array[] {
    const base = `layers.${layer}`;
    const attention = `${base}.self_attn`;
    const normed = rows.map((row) => this.norm(`${base}.input_layernorm.weight`, row));
    const blockKeys = normed.map((row, i) => this.key(layer, row, start + i));
    const blockValues = normed.map((row) => this.value(layer, row));
    const sinkName = `${attention}.attention_sink_bias`;
    const sinks = this.weights.has(sinkName) ? this.weights.vector(sinkName) : null;
    const share = this.weights.number('num_attention_heads') / this.weights.number('num_key_value_heads');

    return rows.map((row, i) => {
      const position = start + i;
      const first = this.firstVisible(position);
      const keys = [...this.keys[layer]!.slice(first), ...blockKeys];
      const values = [...this.values[layer]!.slice(first), ...blockValues];
      const queries = heads(this.apply(`${attention}.q_proj.weight`, normed[i]!), this.headDim);
      const out = queries.map((head, h) => {
        const kv = Math.floor(h / share);
        const query = this.rotated(this.norm(`${attention}.q_norm.weight`, head), position);
        return attend(
          query,
          keys.map((k) => k[kv]!),
          values.map((v) => v[kv]!),
          sinks === null ? null : sinks[h]!,
        );
      });
      const middle = add(row, this.apply(`${attention}.o_proj.weight`, concat(out)));
      const second = this.norm(`${base}.post_attention_layernorm.weight`, middle);
      const inner = swiglu(
        this.apply(`${base}.mlp.gate_proj.weight`, second),
        this.apply(`${base}.mlp.up_proj.weight`, second),
      );
      return add(middle, this.apply(`${base}.mlp.down_proj.weight`, inner));
    });
  }

  /** Context position p is seen by a query iff query - p < window. The block itself is always seen. */
  private firstVisible(position: number): number {
    if (this.dflash.use_swa !== true) return 0;
    const window = this.dflash.swa_window_size ?? this.weights.number('sliding_window');
    return Math.max(0, position - window + 1);
  }
}

/** The only BF16 or F32 run of exactly `hidden` values among the sidecar's stored entries: the entry named data/0. */
function maskEmbedding(file: string, hidden: number): Float64Array {
  const bytes = readFileSync(file);
  const end = bytes.lastIndexOf(Buffer.from([0x50, 0x4b, 0x05, 0x06]));
  let at = bytes.readUInt32LE(end + 16);
  for (let i = 0; i < bytes.readUInt16LE(end + 10); i++) {
    const nameLength = bytes.readUInt16LE(at + 28);
    const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
    if (name.endsWith('/data/0')) {
      const local = bytes.readUInt32LE(at + 42);
      const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
      const itemBytes = bytes.readUInt32LE(at + 24) / hidden;
      return Float64Array.from({ length: hidden }, (_, k) =>
        itemBytes === 2 ? BF16_VALUES[bytes.readUInt16LE(start + 2 * k)]! : bytes.readFloatLE(start + 4 * k),
      );
    }
    at += 46 + nameLength + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  }
  throw new Error('oracle: no data/0 in the mask sidecar');
}
