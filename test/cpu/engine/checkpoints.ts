/**
 * Random checkpoints for the engine's tests, written once per process, and the small things every test here needs: ids from a
 * seed, a session run to its end, rows compared bit by bit.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import type { Decoding, Engine, Round, Session } from '../../../harness/engine.ts';
import type { Activations, NativeCheckpoint } from '../../../native/addon.ts';
import { openCheckpoint } from '../../../native/checkpoint/index.ts';
import { type SyntheticSpec, writeSyntheticCheckpoint } from '../../support/synthetic-checkpoint.ts';

const root = mkdtempSync(path.join(tmpdir(), 'kilotoken-engine-'));
const written = new Map<string, Promise<string>>();
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The folder of a checkpoint, made on first use. */
export function checkpoint(name: string, spec: Omit<SyntheticSpec, 'seed'> & { seed?: number } = {}): Promise<string> {
  const known = written.get(name);
  if (known !== undefined) return known;
  const directory = path.join(root, name);
  const made = writeSyntheticCheckpoint(directory, { seed: 11, ...spec }).then(() => directory);
  written.set(name, made);
  return made;
}

/**
 * Few tokens, narrow layers: drafts of a random draft network are accepted often enough for several lengths of acceptance to occur,
 * a law over a few tokens has few enough cells to count, and the oracle keeps up.
 */
export function tinyVocabulary(vocab: number): Omit<SyntheticSpec, 'seed'> {
  const config = {
    vocab_size: vocab,
    eos_token_id: vocab - 1,
    pad_token_id: vocab - 1,
    max_position_embeddings: 64,
    hidden_size: 64,
    intermediate_size: 96,
    moe_intermediate_size: 32,
    head_dim: 24,
    swa_head_dim: 24,
    v_head_dim: 16,
    swa_v_head_dim: 16,
  };
  const dflash_config = {
    target_layer_ids: [0, 2, 3],
    mask_token_id: vocab - 1,
    block_size: 8,
    use_swa: true,
    swa_window_size: 12,
    attention_value_scale: 0.612,
    attention_sink_bias: true,
  };
  return { config, draft: { dflash_config, intermediate_size: 96, head_dim: 16, v_head_dim: 16 }, experts: 'mxfp4' };
}

/** What CpuModel.load hands to the addon, as plain data. */
export async function nativePlan(directory: string, activations: Activations): Promise<NativeCheckpoint> {
  const opened = await openCheckpoint(directory);
  const data = Object.fromEntries(Object.entries(opened).filter(([, value]) => typeof value !== 'function'));
  return {
    ...(data as unknown as NativeCheckpoint),
    tensors: [...opened.tensors.values()],
    draft: opened.draft && { ...opened.draft, tensors: [...opened.draft.tensors.values()] },
    activations,
  };
}

/** `count` ids below `vocab`, a function of the seed (a multiplicative congruential generator). */
export function randomIds(seed: number, count: number, vocab: number): number[] {
  let state = (seed * 2654435761 + 12345) % 2147483647 || 1;
  return Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647;
    return state % vocab;
  });
}

export const GREEDY: Decoding = { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: 24, stopIds: [] };
export const SAMPLED: Decoding = { ...GREEDY, seed: '18446744073709551557', temperature: 1 };

/** All rounds of a session, which is closed afterwards. */
export async function finish(session: Session): Promise<Round[]> {
  const rounds: Round[] = [];
  for (;;) {
    const round = await session.step();
    rounds.push(round);
    if (round.finish !== null) break;
  }
  await session.close();
  return rounds;
}

export async function decode(engine: Engine, prompt: readonly number[], decoding: Decoding): Promise<Round[]> {
  return finish(await engine.open(prompt, decoding));
}

export const tokensOf = (rounds: readonly Round[]): number[] => rounds.flatMap((round) => round.committed);

/** The first place where two lists of numbers differ in a bit, or null. */
export function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): string | null {
  if (a.length !== b.length) return `lengths ${a.length} and ${b.length}`;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return `[${i}]: ${a[i]} and ${b[i]}`;
  return null;
}
