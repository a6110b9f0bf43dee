/**
 * The engine against an independent binary64 implementation, element by element, on random checkpoints of every storage format and
 * shape of the family.
 *
 * Bounds per row, in units of the row's range. Binary32 sums alone err by at most eps (K/16 + 4) per sum of K terms in 16 lanes;
 * with six sums a layer on the way of the largest logit that gives `tight`. Unquantised, nothing else is rounded, and every row must be
 * within `tight`. A quantised activation (E4M3) or a cached key (BF16) that lies that close to a midpoint may round the other way: E4M3
 * steps are 2^-3 of one element; one flip brings others and at last another choice of expert, and the oracle itself, its input moved by
 * 1e-6, moves by several units. So with quantised activations the judges are sequences of one and two tokens, whose rows must be within
 * `tight` for the greater part; a longer one must stay within half of its range.
 */
import { cp, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Activations } from '../../../native/addon.ts';
import { CpuModel } from '../../../native/engines.ts';
import { logSoftmax, Oracle } from '../../support/oracle.ts';
import { BASE_CONFIG, BASE_DRAFT_CONFIG, FLASH_STYLE, type SyntheticSpec } from '../../support/synthetic-checkpoint.ts';
import { checkpoint, randomIds } from './checkpoints.ts';

const EPSILON = 2 ** -24;

const KINDS: Record<string, Omit<SyntheticSpec, 'seed'>> = {
  'fused qkv, all FP8': {},
  'MXFP4 experts': { experts: 'mxfp4' },
  'BF16 experts, F32 output projection': { experts: 'bf16', outputProjection: 'f32', routerDType: 'BF16' },
  'separate q, k, v; more kv heads on sliding layers': { ...FLASH_STYLE, draft: {} },
  'separate FP8 projections, ragged widths': {
    config: {
      attention_projection_layout: undefined,
      hidden_size: 136,
      intermediate_size: 200,
      moe_intermediate_size: 72,
      head_dim: 40,
      swa_head_dim: 56,
      v_head_dim: 24,
      swa_v_head_dim: 40,
      partial_rotary_factor: 0.25,
    },
  },
  'fused FP8 whose groups end inside a scale block, sinks everywhere': {
    config: {
      num_attention_heads: 8,
      swa_num_attention_heads: 6,
      add_full_attention_sink_bias: true,
      routed_scaling_factor: 1.5,
      norm_topk_prob: false,
    },
  },
  'a draft window shorter than its block': {
    experts: 'mxfp4',
    draft: { dflash_config: { ...(BASE_DRAFT_CONFIG.dflash_config as object), swa_window_size: 3 } },
  },
  'no sinks, tied head, one layer kind, unquantised': {
    config: {
      add_swa_attention_sink_bias: false,
      tie_word_embeddings: true,
      hybrid_layer_pattern: [0, 0, 0, 0],
      moe_layer_freq: [0, 0, 1, 1],
    },
    experts: 'f32',
    linears: 'f32',
    outputProjection: 'f32',
  },
};

interface Deviation {
  readonly largest: number;
  readonly range: number;
}

/** How far a full list of top log-probabilities lies from a row of logits. */
function deviation(ids: readonly number[], logprobs: readonly number[], logits: Float64Array): Deviation {
  const expected = logSoftmax(logits);
  const largest = ids.reduce((worst, id, k) => Math.max(worst, Math.abs(logprobs[k]! - expected[id]!)), 0);
  return { largest, range: Math.max(...expected) - Math.min(...expected) };
}

/** Lengths of the sequences that are compared. */
const LENGTHS = { bf16: [1, 2, 3, 4, 6, 9, 23], fp8: [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 23] };

interface Sequence {
  readonly scores: Deviation[];
  /** Of the block behind the last token; empty without a draft. */
  readonly drafts: Deviation[];
}

/** Every row of scores and of drafts of a few random sequences. */
async function deviations(directory: string, judge: string, activations: Activations): Promise<Sequence[]> {
  const model = await CpuModel.load(directory, { activations });
  const vocab = model.checkpoint.vocab;
  const cases = LENGTHS[activations].map((length, i) => randomIds(17 + i, length, vocab));
  const scored = await model.scoreCases(cases, vocab);
  const drafted = model.checkpoint.draft === null ? [] : await model.draftCases(cases, vocab);
  await model.close();

  const oracle = new Oracle(judge);
  return cases.map((ids, c) => {
    const target = oracle.target(activations);
    const draft = drafted.length > 0 ? oracle.draft(target) : null;
    const rows = target.forward(ids);
    const { topIds, topLogprobs, nextLogprobs } = scored[c]!;
    expect(topIds.map((row) => row.length)).toEqual(ids.map(() => vocab));
    expect(nextLogprobs).toEqual(ids.slice(1).map((id, i) => topLogprobs[i]![topIds[i]!.indexOf(id)]));
    const scores = rows.map((row, i) => deviation(topIds[i]!, topLogprobs[i]!, row.logits));
    if (draft === null) return { scores, drafts: [] };
    for (const row of rows.slice(0, -1)) draft.append(row.taps);
    const block = draft.propose(ids.at(-1)!);
    expect(drafted[c]!.anchor).toBe(ids.length - 1);
    expect(drafted[c]!.topIds.length).toBe(block.length);
    const drafts = block.map((row, i) => deviation(drafted[c]!.topIds[i]!, drafted[c]!.topLogprobs[i]!, row));
    return { scores, drafts };
  });
}

const tight = ({ range }: Deviation) => {
  const [longest, layers] = [256, 4];
  return EPSILON * (longest / 16 + 4) * 6 * layers * range;
};

const allRows = (sequences: readonly Sequence[]) => sequences.flatMap(({ scores, drafts }) => [...scores, ...drafts]);
const share = (rows: readonly Deviation[], good: (row: Deviation) => boolean) => rows.filter(good).length / rows.length;
const isTight = (row: Deviation) => row.largest <= tight(row);

describe.each(Object.entries(KINDS))('%s', (name, spec) => {
  test('scores and drafts agree with the oracle, activations bf16', async () => {
    const directory = await checkpoint(name, spec);
    const rows = allRows(await deviations(directory, directory, 'bf16'));
    expect(Math.min(...rows.map((row) => row.range))).toBeGreaterThan(4); // far from flat
    for (const [i, row] of rows.entries()) expect(row.largest, `row ${i}`).toBeLessThanOrEqual(tight(row));
  });

  test('scores and drafts agree with the oracle, activations fp8', async () => {
    const directory = await checkpoint(name, spec);
    const sequences = await deviations(directory, directory, 'fp8');
    const long = sequences.pop()!;
    expect(
      share(
        sequences.flatMap(({ scores }) => scores),
        isTight,
      ),
    ).toBeGreaterThan(1 / 2);
    // A draft sees the target only through its context, so the sequences of one token say nothing about the target there.
    const drafts = sequences.filter(({ scores }) => scores.length > 1).flatMap((sequence) => sequence.drafts);
    if (drafts.length > 0) expect(share(drafts, isTight)).toBeGreaterThan(1 / 2);
    for (const [i, row] of allRows([long]).entries()) expect(row.largest, `row ${i}`).toBeLessThan(row.range / 2);
  });
});

describe('a wrong rule shows', () => {
  /** Fields of the published config, each with a value that a wrong engine would in effect use. */
  const wrong: Record<string, Record<string, unknown>> = {
    'a window one too long': { sliding_window: (BASE_CONFIG.sliding_window as number) + 1 },
    'a forgotten value scale': { attention_value_scale: 1 },
    'the global theta on sliding layers': { swa_rope_theta: BASE_CONFIG.rope_theta },
    'all dimensions rotated': { partial_rotary_factor: 1 },
    'sliding and global layers exchanged': { hybrid_layer_pattern: [1, 0, 0, 1] },
    'unnormalised expert weights': { norm_topk_prob: false },
    'one expert fewer': { num_experts_per_tok: 2 },
    'another epsilon': { layernorm_epsilon: 0.01 },
  };
  test.each(Object.entries(wrong))('%s', async (name, fields) => {
    const directory = await checkpoint('fused qkv, all FP8');
    const other = `${directory}, ${name}`;
    await cp(directory, other, { recursive: true });
    const config = JSON.parse(await readFile(path.join(directory, 'config.json'), 'utf8'));
    await writeFile(path.join(other, 'config.json'), JSON.stringify({ ...config, ...fields }));
    const rows = allRows(await deviations(directory, other, 'bf16'));
    expect(rows.some((row) => row.largest > 100 * tight(row))).toBe(true);
  });

  test('unquantised activations where they should be quantised', async () => {
    const directory = await checkpoint('fused qkv, all FP8');
    const model = await CpuModel.load(directory, { activations: 'bf16' });
    const ids = randomIds(3, 20, model.checkpoint.vocab);
    const [scored] = await model.scoreCases([ids], model.checkpoint.vocab);
    const rows = new Oracle(directory).target('fp8').forward(ids);
    const found = rows.map((row, i) => deviation(scored!.topIds[i]!, scored!.topLogprobs[i]!, row.logits));
    expect(share(found, isTight)).toBe(0);
    await model.close();
  });
});
