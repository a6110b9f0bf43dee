/**
 * The law to be kept: autoregressive decoding, token by token, as a product of row entries along every path. It shares
 * the processed rows with the rounds and nothing else, so an error in a rule cannot appear on both sides.
 */
import type { Model } from './model.ts';

/** Emitted tokens, joined by spaces, to probability. Sequences of probability 0 are absent. */
export type Law = ReadonlyMap<string, number>;

export const keyOf = (tokens: readonly number[]): string => tokens.join(' ');

/** The exact law of the first `length` tokens, shorter where a stop id ends them. */
export function autoregressiveLaw(model: Model, length: number): Law {
  const law = new Map<string, number>();
  const { prompt, decoding } = model.fixture;
  const walk = (emitted: readonly number[], counts: readonly number[], mass: number): void => {
    if (emitted.length === length || (emitted.length > 0 && decoding.stopIds.includes(emitted.at(-1)!))) {
      law.set(keyOf(emitted), mass);
      return;
    }
    const row = model.targetRow(model.contextOf([...prompt, ...emitted]), counts);
    for (const [token, probability] of row.entries()) {
      if (probability <= 0) continue;
      const more = counts.map((count, id) => (id === token ? count + 1 : count));
      walk([...emitted, token], more, mass * probability);
    }
  };
  walk([], new Array<number>(model.vocab).fill(0), 1);
  return law;
}

/** Half the sum of absolute differences, and the mass of `law` where `reference` has none. */
export function distanceOf(law: Law, reference: Law): { readonly distance: number; readonly offSupport: number } {
  let sum = 0;
  let offSupport = 0;
  for (const [key, mass] of law) {
    const expected = reference.get(key) ?? 0;
    sum += Math.abs(mass - expected);
    if (expected === 0) offSupport += mass;
  }
  for (const [key, mass] of reference) if (!law.has(key)) sum += mass;
  return { distance: sum / 2, offSupport };
}
