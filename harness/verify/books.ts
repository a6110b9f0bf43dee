/**
 * Identities that every session must satisfy whatever the model: what a round says of itself must add up, and nothing
 * may be emitted after a stop or over a limit. A violation makes every figure of that engine doubtful.
 */
import type { SessionTrace } from '../bundle/reader.ts';
import type { EngineCardRow } from '../bundle/rows.ts';

export interface Violation {
  readonly session: string;
  /** Round index, or null when it is about the session. */
  readonly round: number | null;
  readonly text: string;
}

/** Slack between the engine's clock and the harness's: timer resolution. */
const CLOCK_SLACK_NS = 1_000;

export function checkBooks(trace: SessionTrace, card: EngineCardRow): Violation[] {
  const { row, rounds } = trace;
  const { maxTokens, stopIds } = row.decoding;
  const stops = new Set(stopIds);
  const violations: Violation[] = [];
  let emitted = 0;

  for (const round of rounds) {
    const complain = (text: string): void => void violations.push({ session: row.session, round: round.index, text });
    const { committed, drafted, accepted } = round;
    const last = round.index === rounds.length - 1;

    if ((round.kind === 'prefill') !== (round.index === 0)) complain(`round ${round.index} is of kind ${round.kind}`);
    if (round.kind === 'prefill' && (committed.length !== 1 || drafted.length !== 0)) {
      complain(`the prefill commits ${committed.length} tokens and drafts ${drafted.length}; 1 and 0 are due`);
    }
    const foreign = [...committed, ...drafted].find((id) => id >= card.vocabSize);
    if (foreign !== undefined) complain(`token ${foreign} is outside the vocabulary of ${card.vocabSize}`);
    if (drafted.length > card.blockSize - 1) {
      complain(`${drafted.length} drafts, but a block of ${card.blockSize} has at most ${card.blockSize - 1}`);
    }
    if (accepted > drafted.length) complain(`${accepted} drafts accepted of ${drafted.length} proposed`);
    if (committed.length === 0) complain('the round commits no token');
    if (committed.length > accepted + 1) {
      complain(
        `${committed.length} tokens committed, but ${accepted} accepted drafts and one more allow ${accepted + 1}`,
      );
    }
    const changed = committed.slice(0, accepted).findIndex((id, i) => id !== drafted[i]);
    if (changed >= 0) complain(`draft ${changed} counts as accepted, but another token was committed in its place`);
    if (accepted < drafted.length && committed[accepted] === drafted[accepted] && committed.length > accepted) {
      complain(`draft ${accepted} counts as rejected, but it was committed`);
    }

    // No short-cut past a stop: the whole round is searched, not its end.
    const stopAt = committed.findIndex((id) => stops.has(id));
    emitted += committed.length;
    if (stopAt >= 0 && stopAt < committed.length - 1) {
      complain(`${committed.length - 1 - stopAt} tokens committed after the stop token ${committed[stopAt]}`);
    }
    if (stopAt >= 0 && round.finish === null) complain(`the session goes on after the stop token ${committed[stopAt]}`);
    if (round.finish === 'stop' && stopAt < 0) complain('the session says it stopped, but there is no stop token');
    if (round.finish === 'length' && emitted < maxTokens && row.promptTokens + emitted < card.maxContext) {
      complain(`the session ends by length after ${emitted} of ${maxTokens} tokens with context to spare`);
    }
    if (round.finish === null && committed.length !== accepted + 1) {
      complain(
        `${accepted} accepted drafts and one more are ${accepted + 1} tokens, ${committed.length} were committed`,
      );
    }
    if (round.finish !== null && !last) complain('rounds follow after the session ended');
    if (emitted > maxTokens) complain(`${emitted} tokens emitted, the limit is ${maxTokens}`);
    if (row.promptTokens + emitted > card.maxContext) {
      complain(`${row.promptTokens + emitted} tokens of prompt and output in a context of ${card.maxContext}`);
    }

    if (round.ns.total > round.wallNs + CLOCK_SLACK_NS) {
      complain(`the engine claims ${round.ns.total} ns, the harness waited ${round.wallNs} ns`);
    }
    if (round.ns.draft + round.ns.verify > round.ns.total + CLOCK_SLACK_NS) {
      complain('draft and verify take longer than the whole round');
    }
  }

  const end = rounds.at(-1);
  if (trace.fault === null && (end === undefined || end.finish === null)) {
    violations.push({ session: row.session, round: null, text: 'the session neither ended nor failed' });
  }
  return violations;
}
