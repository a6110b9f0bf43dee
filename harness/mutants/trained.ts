/**
 * Defects on trained weights: golden rows of another implementation, the acceptance length against the same engine without the
 * defect, and rounds decided again. A defect of the target is in plain decoding too, so only the first two can see it, and the
 * second only because the draft was trained for another target.
 */
import type { EngineSource } from '../engines/plugin.ts';
import { type GatePrompt, Observer } from '../gate/observer.ts';
import { mean } from '../stats/averages.ts';
import type { TrainedModel } from './build.ts';
import { judgeSessions, type Sight } from './loop.ts';

const FLOOR_TOKENS = 48;
const REPLAY_PROMPTS = 8;
const REPLAY_TOKENS = 32;
const STEP_MS = 60_000;
/** Chance that a draft as good as the correct one is called worse. */
const FLOOR_ALPHA = 1e-6;

export async function judgeGolden(model: TrainedModel, network: string | null): Promise<Sight> {
  const { rows, largest, bound } = await model.golden(network);
  const measure = `largest difference of a log-probability ${largest.toExponential(2)}, ${bound.toExponential(2)} allowed`;
  return { killed: !(largest < bound), n: rows, of: 'rows', measure, distance: null };
}

/** Mean raw acceptance length of each prompt's greedy rounds. */
export async function acceptanceByPrompt(source: EngineSource, prompts: readonly GatePrompt[]): Promise<number[]> {
  const engine = await source.open({});
  const decoding = { seed: '1', temperature: 0, topP: 1, topK: 0, maxTokens: FLOOR_TOKENS, stopIds: [] };
  const lengths: number[] = [];
  for (const prompt of prompts) {
    const { rounds } = await new Observer(STEP_MS).run(engine, prompt, decoding, 'floor');
    const decoded = rounds.filter(({ kind }) => kind === 'decode');
    lengths.push(decoded.reduce((sum, { accepted }) => sum + accepted + 1, 0) / decoded.length);
  }
  await engine.close();
  await source.close();
  return lengths;
}

/**
 * P(at least this many of the untied pairs fall) under chance 1/2 each: the exact sign test, one-sided.
 * Source: Conover, "Practical Nonparametric Statistics", section 3.4.
 */
export function signTest(fell: number, untied: number): number {
  let term = 0.5 ** untied;
  let sum = 0;
  for (let k = 0; k <= untied; k++) {
    if (k >= fell) sum += term;
    term *= (untied - k) / (k + 1);
  }
  return Math.min(1, sum);
}

/** `correct`, `found`: by prompt. */
export function judgeFloor(correct: readonly number[], found: readonly number[]): Sight {
  const fell = found.filter((length, i) => length < correct[i]!).length;
  const rose = found.filter((length, i) => length > correct[i]!).length;
  const p = signTest(fell, fell + rose);
  const measure =
    `acceptance length ${mean(found).toFixed(2)} instead of ${mean(correct).toFixed(2)}; ` +
    `shorter on ${fell} prompts, longer on ${rose}, sign test p ${p.toExponential(1)}, level ${FLOOR_ALPHA}`;
  return { killed: p < FLOOR_ALPHA, n: found.length, of: 'prompts', measure, distance: null };
}

/** Rounds on trained weights decided again: a decode loop with a defect, on rows that nobody made up. */
export async function judgeTrainedReplay(model: TrainedModel, loop: string | null): Promise<Sight> {
  const source = await model.open('reject', null, loop);
  const engine = await source.open({});
  const prompts = model.prompts.slice(0, REPLAY_PROMPTS).map(({ ids }) => ids);
  const decoding = { temperature: 1, topP: 1, topK: 0, maxTokens: REPLAY_TOKENS, stopIds: [] };
  const sights = await judgeSessions(engine, prompts, decoding, prompts.length, null);
  await engine.close();
  await source.close();
  return sights.get('loop: replay')!;
}
