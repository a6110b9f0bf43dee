/**
 * Tokens over stretches of wall time: the peak over windows of a stated width, and what a machine yields while all its
 * slots are busy. A peak over single chunks would be the block over the shortest step, which nobody receives.
 */
import { endOf } from './cells.ts';
import type { TimedSession } from './rows.ts';

export interface Peak {
  /** Tokens a second in the best window. */
  readonly tokensPerSecond: number;
  /** Rounds whose end lies in it. */
  readonly rounds: number;
}

/**
 * The most tokens that arrived in any window of `seconds`, over the sessions of one process. Null when they together last
 * less than one window.
 */
export function peakOf(sessions: readonly TimedSession[], seconds: number): Peak | null {
  if (sessions.length === 0) return null;
  const width = seconds * 1e9;
  const start = Math.min(...sessions.map((row) => row.startNs));
  if (Math.max(...sessions.map(endOf)) - start < width) return null;
  const events = sessions
    .flatMap((row) => row.atNs.map((at, i) => ({ at: row.startNs + at, kept: row.kept[i]! })))
    .sort((a, b) => a.at - b.at);
  let best = { tokens: 0, rounds: 0 };
  let tokens = 0;
  let first = 0;
  for (let last = 0; last < events.length; last++) {
    tokens += events[last]!.kept;
    // Half open: an event at the very start of the window belongs to the time before it.
    while (events[last]!.at - events[first]!.at >= width) tokens -= events[first++]!.kept;
    if (tokens > best.tokens) best = { tokens, rounds: last - first + 1 };
  }
  return { tokensPerSecond: best.tokens / seconds, rounds: best.rounds };
}

export interface BusyWindow {
  readonly seconds: number;
  readonly tokens: number;
}

/** Time during which at least `slots` sessions of one process were open, and the tokens that arrived in it. */
export function allBusy(sessions: readonly TimedSession[], slots: number): BusyWindow {
  const edges = sessions
    .flatMap((row) => [
      { at: row.startNs, step: 1 },
      { at: endOf(row), step: -1 },
    ])
    // Where one ends as the next starts, the slot was never idle.
    .sort((a, b) => a.at - b.at || b.step - a.step);
  const spans: { from: number; to: number }[] = [];
  let open = 0;
  let from: number | null = null;
  for (const { at, step } of edges) {
    open += step;
    if (open >= slots && from === null) from = at;
    if (open < slots && from !== null) {
      if (at > from) spans.push({ from, to: at });
      from = null;
    }
  }
  const events = sessions
    .flatMap((row) => row.atNs.map((at, i) => ({ at: row.startNs + at, kept: row.kept[i]! })))
    .sort((a, b) => a.at - b.at);
  let tokens = 0;
  let next = 0;
  for (const { from: low, to: high } of spans) {
    while (next < events.length && events[next]!.at <= low) next += 1;
    while (next < events.length && events[next]!.at <= high) tokens += events[next++]!.kept;
  }
  return { seconds: spans.reduce((sum, span) => sum + span.to - span.from, 0) / 1e9, tokens };
}
