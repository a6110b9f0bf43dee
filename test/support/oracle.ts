/**
 * The oracle: an independent implementation of the whole model in binary64, written from the published description and not from any
 * engine here. Slow and plain; it judges the engines and is itself judged by the golden files of another implementation.
 */

import { existsSync } from 'node:fs';
import path from 'node:path';
import { OracleDraft } from './oracle/draft.ts';
import type { Activations } from './oracle/ops.ts';
import { OracleTarget } from './oracle/target.ts';
import { Weights } from './oracle/weights.ts';

export * from './oracle/decode.ts';
export { OracleDraft } from './oracle/draft.ts';
export * from './oracle/random.ts';
export { OracleTarget, type TargetRow } from './oracle/target.ts';
export type { Activations };

/** A checkpoint loaded once; `target` and `draft` give fresh states on the same weights. */
export class Oracle {
  private readonly directory: string;
  private readonly weights: Weights;

  constructor(directory: string) {
    this.directory = directory;
    this.weights = new Weights(directory);
  }

  target(activations: Activations): OracleTarget {
    return new OracleTarget(this.weights, activations);
  }

  /** A draft with an empty context, or null if the checkpoint has none. */
  draft(target: OracleTarget): OracleDraft | null {
    return existsSync(path.join(this.directory, 'dflash')) ? new OracleDraft(this.directory, target) : null;
  }
}

/** log softmax of a row, natural logarithm. */
export function logSoftmax(logits: Float64Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0);
  return logits.map((logit) => logit - max - Math.log(total));
}
