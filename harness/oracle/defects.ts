/**
 * The defects of the catalogue that a sampler of this size can show, each one line changed at one hook (two where a real
 * sampler writes one). The registry says what a defect breaks, so that a test which does not see it can be judged.
 *
 *   law         the emitted tokens have another law
 *   support     tokens appear that plain decoding never emits
 *   lengths     sessions end elsewhere
 *   acceptance  the law is kept and only the number of accepted drafts changes: must NOT fail a test of the output
 *   randomness  a number is used twice, or is not the number the engine says
 *   edge        measure zero: only uniforms at the edge of their range show it
 *   agreement   the output's law is kept; ranks that should decide alike do not
 */
import type { VerificationRule } from '../engine.ts';
import { type Fixture, runLength } from './fixture.ts';
import { CORRECT, type Hooks } from './hooks.ts';
import type { RoundView } from './round.ts';
import { argmax, hasPenalties, normalised, oneHot, type Row } from './rows.ts';
import { STREAM } from './source.ts';

export type Effect = 'law' | 'support' | 'lengths' | 'acceptance' | 'randomness' | 'edge' | 'agreement';

/** What a fixture must have for the defect to be visible on it. */
export type Need =
  | 'one draft'
  | 'two drafts'
  | 'order 2 or more'
  | 'a run that reaches the last draft'
  | 'a run that reaches the bonus token'
  | 'a run beyond the bonus token'
  | 'a temperature above 0'
  | 'a temperature other than 0 and 1'
  | 'a filter on the draft rows'
  | 'top-p below 1'
  | 'penalties'
  | 'a stop id'
  | 'a limit below the run'
  | 'a logit bias';

export interface Defect {
  readonly id: string;
  readonly title: string;
  readonly hook: keyof Hooks | 'comparisons' | 'seed';
  /** The nearest real bug, or null where there is none. */
  readonly anchor: string | null;
  readonly effects: readonly Effect[];
  readonly rules: readonly VerificationRule[];
  readonly needs: readonly Need[];
  /** The law of it is exact under these rules; under the others of `rules` it is simulated. Empty: never exact. */
  readonly exact: readonly VerificationRule[];
  readonly change: Partial<Hooks>;
}

const ALL: readonly VerificationRule[] = ['match', 'reject', 'coupled'];
const REJECT: readonly VerificationRule[] = ['reject'];

const PRESENT: Readonly<Record<Need, (fixture: Fixture) => boolean>> = {
  'one draft': ({ block }) => block >= 2,
  'two drafts': ({ block }) => block >= 3,
  'order 2 or more': ({ order }) => order >= 2,
  // The prefill commits one token, then a block its drafts and the bonus token.
  'a run that reaches the last draft': (fixture) => runLength(fixture) >= fixture.block,
  'a run that reaches the bonus token': (fixture) => runLength(fixture) >= fixture.block + 1,
  'a run beyond the bonus token': (fixture) => runLength(fixture) >= fixture.block + 2,
  'a temperature above 0': ({ decoding }) => decoding.temperature > 0,
  'a temperature other than 0 and 1': ({ decoding }) => decoding.temperature > 0 && decoding.temperature !== 1,
  'a filter on the draft rows': ({ vocab, decoding: { temperature, topP, topK } }) =>
    temperature > 0 && (temperature !== 1 || topP < 1 || (topK > 0 && topK < vocab)),
  'top-p below 1': ({ decoding }) => decoding.topP < 1 && decoding.temperature > 0,
  penalties: ({ decoding }) => hasPenalties(decoding),
  'a stop id': ({ decoding }) => decoding.stopIds.length > 0,
  'a limit below the run': ({ decoding, tokens }) => decoding.maxTokens !== null && decoding.maxTokens < tokens,
  'a logit bias': ({ decoding }) => decoding.logitBias.length > 0,
};

/** What the fixture lacks for the defect to show; empty when nothing. */
export function missing(defect: Defect, fixture: Fixture): readonly Need[] {
  return defect.needs.filter((need) => !PRESENT[need](fixture));
}

const clamped = (p: Row, q: Row): Row =>
  normalised(
    p.map((value, id) => Math.max(value - q[id]!, 0)),
    p,
  );
const without = (row: Row, token: number): Row => row.map((value, id) => (id === token ? 0 : value));
const target = (view: RoundView, slot: number): Row => view.hooks.targetRow(view, slot);
const ratio = (view: RoundView, slot: number): Row => view.hooks.ratioRow(view, slot);
const greedyRow = (row: Row): Row => oneHot(row.length, argmax(row));

/** The draft rows of the context that was current a round ago; of this round's own in the first. */
const staleRow = (view: RoundView, slot: number): Row =>
  view.model.draftRow(view.state.memory[0] ?? view.state.context, slot);

type Fields = Pick<Defect, 'id' | 'title' | 'hook' | 'change'> & Partial<Defect>;

/** Most defects: of `reject`, changing the law, visible wherever a draft is refused or kept, exact. */
function defect(fields: Fields): Defect {
  const rules = fields.rules ?? REJECT;
  return {
    anchor: null,
    effects: ['law'],
    needs: ['one draft', 'a temperature above 0'],
    ...fields,
    rules,
    exact: fields.exact ?? rules,
  };
}

export const DEFECTS: readonly Defect[] = [
  defect({
    id: 'M01',
    title: 'residual drawn from p instead of max(p - q, 0)',
    hook: 'residual',
    anchor: 'openvino.genai #4190; NJUNLP/MCSD #5',
    change: { residual: (view, slot) => target(view, slot) },
  }),
  defect({
    id: 'M02',
    title: 'residual |p - q|: the clamp is lost',
    hook: 'residual',
    anchor: 'vllm-ascend #7807',
    change: {
      residual: (view, slot) => {
        const q = ratio(view, slot);
        const p = target(view, slot);
        return normalised(
          p.map((value, id) => Math.abs(value - q[id]!)),
          p,
        );
      },
    },
  }),
  defect({
    id: 'M03',
    title: 'every draft is accepted',
    hook: 'unchecked',
    anchor: 'huggingface/transformers #28508',
    rules: ALL,
    needs: ['one draft'],
    change: { unchecked: () => true },
  }),
  defect({
    id: 'M04',
    title: 'acceptance ratio upside down: q / p',
    hook: 'odds',
    anchor: 'vllm-ascend #7807',
    change: { odds: (view, slot, draft) => [ratio(view, slot)[draft]!, target(view, slot)[draft]!] },
  }),
  defect({
    id: 'M05',
    title: 'accept by p / q, residual p without the refused token',
    hook: 'residual',
    anchor: 'SafeAILab/EAGLE #47',
    change: { residual: (view, slot, draft) => normalised(without(target(view, slot), draft), target(view, slot)) },
  }),
  defect({
    id: 'M06',
    title: 'accept by p alone (q dropped), residual max(p - q, 0)',
    hook: 'odds',
    anchor: 'SafeAILab/EAGLE #47',
    change: { odds: (view, slot, draft) => [target(view, slot)[draft]!, 1] },
  }),
  defect({
    id: 'M07',
    title: 'bonus token from the row one place early',
    hook: 'bonusRow',
    anchor: 'openvino.genai #4190',
    rules: ALL,
    needs: ['one draft', 'a run that reaches the bonus token'],
    change: { bonusRow: (view) => view.p(Math.max(view.k - 1, 0)) },
  }),
  defect({
    id: 'M08',
    title: 'bonus token from the last draft row',
    hook: 'bonusRow',
    anchor: 'huggingface/transformers #28508',
    rules: ALL,
    needs: ['one draft', 'a run that reaches the bonus token'],
    change: { bonusRow: (view) => (view.k > 0 ? view.q(view.k - 1) : view.p(0)) },
  }),
  defect({
    id: 'M09',
    title: 'bonus token is the argmax',
    hook: 'bonusRow',
    anchor: 'mlxcel #902; SGLang #31214',
    rules: ALL,
    needs: ['one draft', 'a temperature above 0', 'a run that reaches the bonus token'],
    change: { bonusRow: (view) => greedyRow(view.p(view.k)) },
  }),
  defect({
    id: 'M10',
    title: 'residual from the target row after the refused token',
    hook: 'residual',
    anchor: 'openvino.genai #4190',
    change: { residual: (view, slot) => clamped(view.p(slot + 1), ratio(view, slot)) },
  }),
  defect({
    id: 'M11',
    title: 'verification starts at the second draft',
    hook: 'unchecked',
    anchor: 'lattice #243',
    rules: ALL,
    needs: ['one draft'],
    change: { unchecked: (_view, slot) => slot === 0 },
  }),
  defect({
    id: 'M12',
    title: 'verification ends before the last draft',
    hook: 'unchecked',
    anchor: 'lattice #243, mirrored',
    rules: ALL,
    needs: ['one draft', 'a run that reaches the last draft'],
    change: { unchecked: (view, slot) => slot === view.k - 1 },
  }),
  defect({
    id: 'M13',
    title: 'temperature is not applied to the rows of a verify step',
    hook: 'variant',
    anchor: 'vLLM #10198; vllm-ascend #6685',
    rules: ALL,
    needs: ['one draft', 'a temperature other than 0 and 1'],
    change: { variant: () => 'without temperature' },
  }),
  defect({
    id: 'M14',
    title: 'top-p is applied to the bonus row only',
    hook: 'variant',
    anchor: 'vLLM #42744',
    effects: ['law', 'support'],
    rules: ALL,
    needs: ['one draft', 'top-p below 1'],
    change: { variant: (view, slot) => (slot < view.k ? 'without top-p' : 'asked') },
  }),
  defect({
    id: 'M15',
    title: 'q is the unprocessed softmax, drafts come from the processed one',
    hook: 'ratioRow',
    anchor: 'huggingface/transformers #47932',
    needs: ['one draft', 'a filter on the draft rows'],
    change: { ratioRow: (view, slot) => view.model.rawDraftRow(view.state.context, slot) },
  }),
  defect({
    id: 'M16',
    title: 'drafts are argmaxes, the ratio still uses q',
    hook: 'propose',
    anchor: 'huggingface/transformers #32867',
    change: { propose: (view, slot) => argmax(view.q(slot)) },
  }),
  defect({
    id: 'M17',
    title: 'q rows of another request (here: of the mirrored context)',
    hook: 'ratioRow',
    anchor: 'vLLM #40149',
    change: {
      ratioRow: (view, slot) =>
        view.model.draftRow(view.model.vocab ** view.model.fixture.order - 1 - view.state.context, slot),
    },
  }),
  defect({
    id: 'M18',
    title: 'q rows shifted by one slot',
    hook: 'ratioRow',
    anchor: 'vLLM #40269',
    needs: ['two drafts', 'a temperature above 0'],
    change: { ratioRow: (view, slot) => view.q((slot + 1) % view.k) },
  }),
  defect({
    id: 'M19',
    title: 'q rows of the step before (stale buffer)',
    hook: 'ratioRow',
    anchor: 'vLLM #41044',
    change: { ratioRow: staleRow, memory: (view) => [view.state.context] },
  }),
  defect({
    id: 'M20',
    title: 'the refused draft stays in the cache',
    hook: 'cached',
    anchor: 'mlx-lm #1109; aprender #2014',
    rules: ALL,
    needs: ['one draft', 'order 2 or more'],
    change: {
      cached: (view, tokens, refused) =>
        refused === null ? tokens : [...tokens.slice(0, refused), view.draft(refused), ...tokens.slice(refused)],
    },
  }),
  defect({
    id: 'M21',
    title: "the bonus token's place in the cache is missing",
    hook: 'cached',
    anchor: 'vLLM #9730',
    rules: ALL,
    needs: ['one draft', 'a run beyond the bonus token'],
    change: { cached: (_view, tokens, refused) => (refused === null ? tokens.slice(0, -1) : tokens) },
  }),
  defect({
    id: 'M22',
    title: 'a refusal after the first draft emits no correction',
    hook: 'correction',
    anchor: 'vLLM #46899',
    effects: ['law'],
    // `match` and `coupled` read the position's number again in the next round and emit the token then: no law changes, only
    // the round's length is not accepted + 1.
    needs: ['two drafts', 'a temperature above 0'],
    change: { correction: (_view, slot, token) => (slot === 0 ? [token] : []) },
  }),
  defect({
    id: 'M23',
    title: 'p of the draft is zeroed in place before the ratio reads it',
    hook: 'targetRow',
    anchor: 'vllm-ascend #2881',
    change: { targetRow: (view, slot) => without(view.p(slot), view.draft(slot)) },
  }),
  defect({
    id: 'M24',
    title: 'accept by p / (0.9 q)',
    hook: 'odds',
    anchor: 'SGLang threshold_acc; vLLM #5131',
    change: { odds: (view, slot, draft) => [target(view, slot)[draft]!, 0.9 * ratio(view, slot)[draft]!] },
  }),
  defect({
    id: 'M25',
    title: 'accept by p / (0.99 q)',
    hook: 'odds',
    anchor: 'SGLang threshold_acc; vLLM #5131',
    change: { odds: (view, slot, draft) => [target(view, slot)[draft]!, 0.99 * ratio(view, slot)[draft]!] },
  }),
  defect({
    id: 'M26',
    title: 'verification by argmax at a temperature above 0',
    hook: 'targetRow',
    anchor: 'mlxcel #902; SGLang #31214',
    rules: ALL,
    change: {
      targetRow: (view, slot) => greedyRow(view.p(slot)),
      bonusRow: (view) => greedyRow(view.p(view.k)),
    },
  }),
  defect({
    id: 'M27',
    title: '2 % of the residual leaks to token 0',
    hook: 'residual',
    anchor: 'vllm-ascend #7807; vLLM #41834',
    change: {
      residual: (view, slot, draft) =>
        CORRECT.residual(view, slot, draft).map((value, id) => 0.98 * value + (id === 0 ? 0.02 : 0)),
    },
  }),
  defect({
    id: 'M28',
    title: 'q is off by 1 % up or down between draw and ratio',
    hook: 'ratioRow',
    anchor: 'DeepSpec #31',
    change: { ratioRow: (view, slot) => view.q(slot).map((value, id) => value * (id % 2 === 0 ? 1.01 : 0.99)) },
  }),
  defect({
    id: 'M29',
    title: 'residual uses the first draft row at every slot',
    hook: 'residual',
    anchor: 'vLLM #40149',
    needs: ['two drafts', 'a temperature above 0'],
    change: { residual: (view, slot) => clamped(target(view, slot), ratio(view, 0)) },
  }),
  defect({
    id: 'M30',
    title: 'the residual draw reuses the accept coin',
    hook: 'drawResidual',
    anchor: 'SGLang #7207',
    effects: ['law', 'randomness'],
    change: { drawResidual: (view, slot, row) => view.source.pick(view.hooks.coinAddress(view, slot), row) },
  }),
  defect({
    id: 'M31',
    title: "the residual draw reuses the draft's Gumbel noise",
    hook: 'drawResidual',
    anchor: 'vLLM #54282',
    effects: ['law', 'randomness'],
    change: {
      propose: (view, slot) => view.source.gumbel(view.address(STREAM.gumbel, slot), view.q(slot)),
      drawResidual: (view, slot, row) => view.source.gumbel(view.address(STREAM.gumbel, slot), row),
    },
  }),
  defect({
    id: 'M31b',
    title: 'the accept coin is the number that drew the draft',
    hook: 'coinAddress',
    anchor: 'vLLM #47386',
    effects: ['law', 'randomness'],
    change: { coinAddress: (view, slot) => view.address(STREAM.draft, slot) },
  }),
  defect({
    id: 'M32',
    title: 'one number for the whole block',
    hook: 'coinAddress',
    anchor: 'SGLang #7207',
    effects: ['law', 'randomness'],
    rules: ALL,
    exact: ['match', 'reject'],
    needs: ['two drafts', 'a temperature above 0'],
    change: {
      coinAddress: (view) => view.address(STREAM.coin, 0),
      targetAddress: (view) => view.address(STREAM.target, 0, 0),
      noiseAddress: (view) => view.address(STREAM.gumbel, 0, 0),
    },
  }),
  defect({
    id: 'M33',
    title: 'q is divided in place by the exponential noise that drew the draft',
    hook: 'ratioRow',
    anchor: 'vLLM #16952',
    exact: [],
    change: {
      propose: (view, slot) => view.source.gumbel(view.address(STREAM.gumbel, slot), view.q(slot)),
      ratioRow: (view, slot) => {
        const noise = view.source.exponentials(view.address(STREAM.gumbel, slot), view.model.vocab);
        return view.q(slot).map((value, id) => value / noise[id]!);
      },
    },
  }),
  defect({
    id: 'M34',
    title: 'coin <= bound and cumulative >= u: a token of probability 0 at u = 0',
    hook: 'comparisons',
    anchor: 'SGLang #35771',
    effects: ['edge', 'support'],
    rules: ALL,
    exact: [],
    change: {},
  }),
  defect({
    id: 'M35',
    title: 'a row that rounding exhausts falls through to the last id',
    hook: 'comparisons',
    anchor: 'SGLang #22643; vLLM #51367',
    effects: ['edge', 'support'],
    rules: ALL,
    exact: [],
    change: {},
  }),
  defect({
    id: 'M36',
    title: 'penalty state advances once a step, by one token',
    hook: 'penaltyCounts',
    anchor: 'SGLang #33643',
    rules: ALL,
    needs: ['one draft', 'penalties'],
    change: {
      penaltyCounts: (view) => view.state.counted,
      penaltyTokens: (_view, tokens) => tokens.slice(-1),
    },
  }),
  defect({
    id: 'M36b',
    title: 'penalties count refused drafts',
    hook: 'penaltyTokens',
    anchor: 'vmlx-swift #357',
    rules: ALL,
    // Under `coupled` a draft that was never reached is decided by noise that a later round reads again.
    exact: ['match', 'reject'],
    needs: ['one draft', 'penalties'],
    change: {
      penaltyTokens: (view, tokens, accepted) => {
        const refused = Array.from({ length: view.k - accepted }, (_, i) => view.draft(accepted + i));
        return [...tokens, ...refused];
      },
    },
  }),
  defect({
    id: 'M37',
    title: 'stop ids are looked for at the end of a block: tokens after the stop are kept',
    hook: 'emit',
    anchor: 'huggingface/transformers #47912; SGLang #31599',
    effects: ['support', 'lengths'],
    rules: ALL,
    needs: ['one draft', 'a stop id'],
    change: {
      emit: ({ emitted, tokens, stopIds, maxTokens }) => {
        const kept = tokens.slice(0, maxTokens - emitted);
        const stopped = kept.some((token) => stopIds.includes(token));
        return { kept, ended: stopped || emitted + kept.length >= maxTokens };
      },
    },
  }),
  defect({
    id: 'M38',
    title: 'the token limit counts steps',
    hook: 'emit',
    anchor: 'koboldcpp #1276',
    effects: ['support', 'lengths'],
    rules: ALL,
    needs: ['one draft', 'a limit below the run'],
    change: {
      memory: (view) => [(view.state.memory[0] ?? 0) + 1],
      emit: (emission) => {
        const { kept, ended } = CORRECT.emit({ ...emission, maxTokens: Number.POSITIVE_INFINITY });
        return { kept, ended: ended || emission.memory[0]! >= emission.maxTokens };
      },
    },
  }),
  defect({
    id: 'M39',
    title: 'a draft row of NaN (put in at the first slot) yields token 0',
    hook: 'residual',
    anchor: 'vLLM #41834',
    change: {
      propose: (view, slot) => (slot === 0 ? 0 : CORRECT.propose(view, slot)),
      odds: (view, slot, draft) => (slot === 0 ? [0, 1] : CORRECT.odds(view, slot, draft)),
      residual: (view, slot, draft) => (slot === 0 ? oneHot(view.model.vocab, 0) : CORRECT.residual(view, slot, draft)),
    },
  }),
  defect({
    id: 'M40',
    title: 'a rank draws its accept coins from a seed of its own',
    hook: 'seed',
    anchor: 'vLLM #17498',
    effects: ['agreement'],
    exact: [],
    change: {},
  }),
  defect({
    id: 'M41',
    title: 'logit bias is dropped in the rows of the drafts',
    hook: 'variant',
    anchor: 'vLLM #42744; TRT-LLM #17955',
    effects: ['law', 'support'],
    rules: ALL,
    needs: ['one draft', 'a logit bias'],
    change: { variant: (view, slot) => (slot < view.k ? 'without bias' : 'asked') },
  }),
  defect({
    id: 'M42',
    title: 'after a preemption (here: before the second decode round) q rows are those of before',
    hook: 'ratioRow',
    anchor: 'vLLM #39273',
    change: {
      // Memory is (context, rounds seen); only the third round of a session, prefill included, reads it.
      ratioRow: (view, slot) => (view.state.memory[1] === 2 ? staleRow(view, slot) : view.q(slot)),
      memory: (view) => [view.state.context, Math.min((view.state.memory[1] ?? 0) + 1, 3)],
    },
  }),
  defect({
    id: 'H04',
    title: 'synthetic acceptance is left on: four of five drafts pass, whatever the rows say',
    hook: 'odds',
    anchor: 'vLLM rejection_sample_method synthetic; SGLang SIMULATE_ACC_LEN',
    change: { odds: () => [0.8, 1] },
  }),
  defect({
    id: 'G01',
    title: 'the drafter is fed one layer early: flatter rows, used consistently',
    hook: 'draftRow',
    anchor: 'vLLM #42704; SGLang #25015',
    effects: ['acceptance'],
    change: {
      draftRow: (view, slot) => {
        const q = CORRECT.draftRow(view, slot);
        return normalised(
          q.map((value) => Math.sqrt(value)),
          q,
        );
      },
    },
  }),
  defect({
    id: 'G02',
    title: 'argmax drafts, q their point mass',
    hook: 'draftRow',
    anchor: 'DFlash reference',
    effects: ['acceptance'],
    change: { draftRow: (view, slot) => greedyRow(CORRECT.draftRow(view, slot)) },
  }),
  defect({
    id: 'G03',
    title: 'accept by p alone, residual p without the draft (target-only rule)',
    hook: 'odds',
    effects: ['acceptance'],
    change: {
      odds: (view, slot, draft) => [target(view, slot)[draft]!, 1],
      residual: (view, slot, draft) => normalised(without(target(view, slot), draft), target(view, slot)),
    },
  }),
];
