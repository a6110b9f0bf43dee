/**
 * Which word may be used of a pair of engines. "Lossless" has a subject: the same weights in the same numerics without
 * speculation. Everything else is fidelity, and no verdict about it may carry the other word.
 */
import type { EngineCardRow } from '../bundle/rows.ts';

declare const losslessPair: unique symbol;

/** Only `comparability` makes one: a verdict that says "lossless" asks for it as evidence. */
export interface LosslessPair {
  readonly kind: 'lossless';
  readonly [losslessPair]: true;
}

export interface FidelityPair {
  readonly kind: 'fidelity';
  /** What forbids the other word, in words. */
  readonly because: readonly string[];
}

export function comparability(a: EngineCardRow, b: EngineCardRow): LosslessPair | FidelityPair {
  const because: string[] = [];
  if (a.weightsDigest === 'none' || b.weightsDigest === 'none') because.push('an engine cannot name its weights');
  else if (a.weightsDigest !== b.weightsDigest) because.push('the weights differ');
  if (a.numerics.id !== b.numerics.id) because.push(`the numerics differ (${a.numerics.id} against ${b.numerics.id})`);
  if (a.vocabSize !== b.vocabSize) because.push('the vocabularies differ');
  if (because.length > 0) return { kind: 'fidelity', because };
  return { kind: 'lossless' } as LosslessPair;
}
