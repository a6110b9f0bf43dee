/** How much a gate looks at. Fixed before the run, so that nobody stops when the numbers look good. */
export type GateName = 'pr' | 'nightly';

export interface Budget {
  /** Built-in prompts, when the caller brings none. */
  readonly prompts: number;
  /** Prompts and tokens of each equality comparison. */
  readonly equalityPrompts: number;
  readonly equalityTokens: number;
  /** Tokens judged one by one against their rows; fewer where a vocabulary above 64 makes each dear. */
  readonly lawTokens: number;
  readonly wideLawTokens: number;
  /** Tokens of toys, over all of them, and pairs of sessions on each that must emit the same. */
  readonly toyTokens: number;
  readonly toyEqualitySessions: number;
  readonly lawSessionTokens: number;
  /** The same when rows must be put together from score(): one call a vocabulary entry. */
  readonly scoredTokens: number;
  /** Sessions of each mode in the two-sample design, and the tokens of each that are looked at. */
  readonly twoSampleSessions: number;
  readonly twoSampleTokens: number;
  /** Positions whose rows are computed again by the plain engine. */
  readonly rowPositions: number;
  /**
   * Longest time of the laws. The numbers above are a plan and do not depend on the machine: a run that is cut here is
   * inconclusive, never a pass.
   */
  readonly lawSeconds: number;
  /** False-alarm rate of the whole family of laws, whatever the stopping. */
  readonly alpha: number;
  /** Power that the smallest effect is computed for. */
  readonly power: number;
  /** A defect family that shifts the law by this much and would be missed makes the verdict inconclusive. */
  readonly largestBlindDistance: number;
}

/** Vocabulary up to which a gate looks at all that its budget says. */
const WHOLE_VOCABULARY = 2_048;
/** What is left of a budget however wide the vocabulary: below, an equality or a law would say nothing. */
const LEAST = { equalityPrompts: 16, equalityTokens: 24, wideLawTokens: 64, lawSessionTokens: 16, rowPositions: 8 };

/**
 * The budget for rows of `vocabSize` numbers. A round of eight drafts carries up to sixteen of them (20 MB at 152,576 tokens), and every one is
 * computed, copied and judged, so fewer positions are looked at in the proportion in which rows are longer. The checks say what that would have missed.
 */
export function fittedTo(budget: Budget, vocabSize: number): Budget {
  const share = Math.min(1, WHOLE_VOCABULARY / vocabSize);
  const of = (name: keyof typeof LEAST): number =>
    Math.min(budget[name], Math.max(LEAST[name], Math.ceil(share * budget[name])));
  return {
    ...budget,
    equalityPrompts: of('equalityPrompts'),
    equalityTokens: of('equalityTokens'),
    wideLawTokens: of('wideLawTokens'),
    lawSessionTokens: of('lawSessionTokens'),
    rowPositions: of('rowPositions'),
  };
}

export const BUDGETS: Readonly<Record<GateName, Budget>> = {
  pr: {
    prompts: 32,
    equalityPrompts: 32,
    equalityTokens: 40,
    lawTokens: 40_000,
    wideLawTokens: 10_000,
    toyTokens: 24_000,
    toyEqualitySessions: 48,
    lawSessionTokens: 64,
    scoredTokens: 2_000,
    twoSampleSessions: 2_400,
    twoSampleTokens: 2,
    rowPositions: 48,
    lawSeconds: 300,
    alpha: 1e-6,
    power: 0.999,
    largestBlindDistance: 0.1,
  },
  nightly: {
    prompts: 32,
    equalityPrompts: 32,
    equalityTokens: 128,
    lawTokens: 200_000,
    wideLawTokens: 100_000,
    toyTokens: 400_000,
    toyEqualitySessions: 400,
    lawSessionTokens: 128,
    scoredTokens: 20_000,
    twoSampleSessions: 20_000,
    twoSampleTokens: 4,
    rowPositions: 512,
    lawSeconds: 7_200,
    alpha: 1e-6,
    power: 0.999,
    largestBlindDistance: 0.02,
  },
};
