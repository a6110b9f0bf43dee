/**
 * From a plan to the exact list of tensors a checkpoint must hold: names, permitted dtypes, shapes, and for every linear the
 * scales its storage format needs. Each mismatch is one line that names the tensor, what was expected and what was found.
 * A linear [rows, cols] is stored as one of
 *   fp8    .weight F8_E4M3 [rows, cols] with .weight_scale_inv F32 [ceil(rows/128), ceil(cols/128)]; scale rows restart per group
 *   mxfp4  .weight U8 [rows, cols/2] with .weight_scale U8 [rows, cols/32]; the low nibble holds the even column
 *   bf16, f32  .weight alone
 */
import { InputError, quote } from '../errors.ts';
import type { ModelConfig } from './config.ts';
import { showShape } from './safetensors.ts';
import type { AttentionPlan, DType, LinearFormat, TensorMap } from './types.ts';

const FP8_BLOCK = 128;
const MXFP4_BLOCK = 32;
const PLAIN: readonly DType[] = ['BF16', 'F32'];

/** Ticks expected tensors off against those present. One per folder (target, draft). */
export class LayoutCheck {
  private readonly tensors: TensorMap;
  private readonly directory: string;
  private readonly expected = new Set<string>();

  /** @param directory named in messages */
  constructor(tensors: TensorMap, directory: string) {
    this.tensors = tensors;
    this.directory = directory;
  }

  /** A tensor that is stored as it is used. Returns its dtype. */
  plain(name: string, shape: readonly number[], dtypes: readonly DType[] = PLAIN): DType {
    const found = this.find(name);
    if (!dtypes.includes(found.dtype)) this.fail(name, `dtype ${dtypes.join(' or ')}`, found.dtype);
    if (!sameShape(found.shape, shape)) this.fail(name, `shape ${showShape(shape)}`, showShape(found.shape));
    return found.dtype;
  }

  /**
   * The weight of a linear and its scales.
   * @param name without `.weight`
   * @param groups FP8 scale rows restart in each of this many equal groups of rows
   */
  linear(name: string, rows: number, cols: number, groups = 1): LinearFormat {
    const weight = `${name}.weight`;
    const found = this.find(weight);
    switch (found.dtype) {
      case 'F8_E4M3': {
        this.plain(weight, [rows, cols], ['F8_E4M3']);
        const scaleRows = groups * Math.ceil(rows / groups / FP8_BLOCK);
        this.plain(`${name}.weight_scale_inv`, [scaleRows, Math.ceil(cols / FP8_BLOCK)], ['F32']);
        return 'fp8';
      }
      case 'U8': {
        if (cols % MXFP4_BLOCK !== 0) this.fail(weight, `a multiple of ${MXFP4_BLOCK} columns for MXFP4`, `${cols}`);
        this.plain(weight, [rows, cols / 2], ['U8']);
        this.plain(`${name}.weight_scale`, [rows, cols / MXFP4_BLOCK], ['U8']);
        return 'mxfp4';
      }
      case 'BF16':
        this.plain(weight, [rows, cols]);
        return 'bf16';
      case 'F32':
        this.plain(weight, [rows, cols]);
        return 'f32';
      default:
        return this.fail(weight, 'dtype F8_E4M3, U8, BF16 or F32', found.dtype);
    }
  }

  /** Refuses a tensor nobody asked for if its name satisfies `ours`: a bias, a further layer or a stray scale changes the model. */
  refuseUnexpected(ours: (name: string) => boolean): void {
    for (const name of this.tensors.keys()) {
      if (!this.expected.has(name) && ours(name)) {
        throw new InputError(
          `${this.directory}: tensor ${quote(name)} is not part of the model that config.json describes`,
        );
      }
    }
  }

  private find(name: string) {
    const found = this.tensors.get(name);
    this.expected.add(name);
    if (found === undefined) throw new InputError(`${this.directory}: tensor ${quote(name)} is missing`);
    return found;
  }

  private fail(name: string, expected: string, found: string): never {
    throw new InputError(`${this.directory}: tensor ${quote(name)}: expected ${expected}, found ${found}`);
  }
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

/** Storage formats met while checking, by the part of the model they belong to. */
export interface Formats {
  readonly experts: string;
  readonly linears: string;
  readonly rest: string;
}

/**
 * Checks every tensor of the target. `model.mtp.*` (not used by DFlash) and other modalities are left aside.
 * @param directory named in messages
 */
export function checkTargetLayout(config: ModelConfig, tensors: TensorMap, directory: string): Formats {
  const check = new LayoutCheck(tensors, directory);
  const experts = new Set<string>();
  const linears = new Set<string>();
  const rest = new Set<string>();
  const { hidden, vocab } = config;

  rest.add(check.plain('model.embed_tokens.weight', [vocab, hidden]).toLowerCase());
  if (!config.tied) rest.add(check.plain('lm_head.weight', [vocab, hidden]).toLowerCase());
  check.plain('model.norm.weight', [hidden]);

  config.layers.forEach((layer, i) => {
    const base = `model.layers.${i}`;
    check.plain(`${base}.input_layernorm.weight`, [hidden]);
    check.plain(`${base}.post_attention_layernorm.weight`, [hidden]);
    checkAttention(check, `${base}.self_attn`, layer.attention, hidden, linears, rest);
    const { kind, width } = layer.ffn;
    if (kind === 'dense') {
      for (const format of checkFfn(check, `${base}.mlp`, hidden, width)) linears.add(format);
      return;
    }
    check.plain(`${base}.mlp.gate.weight`, [config.experts, hidden]);
    check.plain(`${base}.mlp.gate.e_score_correction_bias`, [config.experts]);
    for (let e = 0; e < config.experts; e++) {
      for (const format of checkFfn(check, `${base}.mlp.experts.${e}`, hidden, width)) experts.add(format);
    }
  });

  check.refuseUnexpected(
    (name) =>
      /^(model\.(layers|embed_tokens|norm)|lm_head)\./.test(name) &&
      !name.endsWith('.rotary_emb.inv_freq') &&
      !(config.tied && name === 'lm_head.weight'),
  );
  return { experts: spell(experts), linears: spell(linears), rest: spell(rest) };
}

function checkAttention(
  check: LayoutCheck,
  base: string,
  plan: AttentionPlan,
  hidden: number,
  linears: Set<string>,
  rest: Set<string>,
): void {
  const qRows = plan.qHeads * plan.headDim;
  const kRows = plan.kvHeads * plan.headDim;
  const vRows = plan.kvHeads * plan.vHeadDim;
  if (plan.fusedGroups > 0) {
    linears.add(check.linear(`${base}.qkv_proj`, qRows + kRows + vRows, hidden, plan.fusedGroups));
  } else {
    linears.add(check.linear(`${base}.q_proj`, qRows, hidden));
    linears.add(check.linear(`${base}.k_proj`, kRows, hidden));
    linears.add(check.linear(`${base}.v_proj`, vRows, hidden));
  }
  rest.add(check.linear(`${base}.o_proj`, hidden, plan.qHeads * plan.vHeadDim));
  if (plan.sink) check.plain(`${base}.attention_sink_bias`, [plan.qHeads]);
}

function checkFfn(check: LayoutCheck, base: string, hidden: number, width: number): LinearFormat[] {
  return [
    check.linear(`${base}.gate_proj`, width, hidden),
    check.linear(`${base}.up_proj`, width, hidden),
    check.linear(`${base}.down_proj`, hidden, width),
  ];
}

function spell(formats: ReadonlySet<string>): string {
  if (formats.size === 0) return 'none';
  return [...formats]
    .map((format) => (format === 'fp8' ? 'fp8-128x128' : format))
    .sort()
    .join('+');
}
