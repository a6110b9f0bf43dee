/** Digests of the things a run names, all written as `sha256:<hex>`. */
import { canonicalJson, sha256 } from '../suite/canonical.ts';
import type { EngineCardRow, Manifest, PromptRow } from './rows.ts';

/** Of a JSON value, whatever the order of its keys. Throws on NaN and infinities. */
export function digestOf(value: unknown): string {
  return sha256(canonicalJson(value));
}

/** Of a run: `<UTC time>-<hash of what was asked>`, fit for a folder name. */
export function runId(startedAt: Date, asked: unknown): string {
  const time = startedAt.toISOString().replace(/[-:]|\.\d+/g, '');
  return `${time}-${digestOf(asked).slice('sha256:'.length, 'sha256:'.length + 7)}`;
}

/** Of a token sequence: its ids as little-endian 32-bit words. */
export function tokensDigest(ids: readonly number[]): string {
  return sha256(new Uint8Array(Uint32Array.from(ids).buffer));
}

/** A 64-bit seed, as a decimal string, from a seed and the name of what it is for. */
export function derivedSeed(seed: string, purpose: string): string {
  const hex = sha256(`${seed}/${purpose}`).slice('sha256:'.length, 'sha256:'.length + 16);
  return BigInt(`0x${hex}`).toString();
}

/** Of an engine's card: what a session row and the plan name it by. */
export function cardDigest(card: EngineCardRow): string {
  return digestOf(card);
}

/** Of the prompts of a run, in order. */
export function promptsDigest(prompts: Iterable<Pick<PromptRow, 'id' | 'digest'>>): string {
  return digestOf([...prompts].map(({ id, digest }) => [id, digest]));
}

/** Of what a manifest says before the first token: all but how the run ended. `run-start` carries it. */
export function headDigest(manifest: Manifest): string {
  const { status, seconds, foreignCores, files, plan, ...head } = manifest;
  return digestOf(head);
}
