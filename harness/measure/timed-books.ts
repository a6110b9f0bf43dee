/**
 * Whether timed sessions agree with themselves and with the cards of their engines: counts, tokens, ends and clocks. What does not hold is
 * returned in words; a reader of a stored run applies the same rules.
 */
import { endOf, isSession } from './cells.ts';
import type { SpeedPlan, TimedSession, TimingRow } from './rows.ts';
import { timedSeed } from './timed.ts';

interface Card {
  readonly blockSize: number;
  readonly vocabSize: number;
}

export interface BooksInput {
  readonly plan: SpeedPlan;
  readonly seed: string;
  readonly stopIds: readonly number[];
  readonly cards: Readonly<Record<string, Card>>;
  readonly promptTokens: ReadonlyMap<string, number>;
}

/** An engine's clock may run ahead of the harness's by no more than this share of a step, for reading it twice. */
const CLOCK_SLACK_NS = 1000;

export function timedBooks(rows: readonly TimingRow[], input: BooksInput): string[] {
  const found: string[] = [];
  const cells = new Map(input.plan.cells.map((cell) => [cell.id, cell]));
  const lanes = new Map<string, number>();
  for (const row of rows) {
    const name = row.kind === 'segment' ? `segment ${row.segment}` : sessionName(row);
    const arm = input.plan.order[row.segment];
    if (arm === undefined) {
      found.push(`${name}: the plan has ${input.plan.order.length} segments`);
      continue;
    }
    if (!isSession(row)) {
      if (row.arm !== arm || row.engine !== input.plan[arm])
        found.push(`${name} ran ${row.engine}, the plan says ${arm}`);
      continue;
    }
    const cell = cells.get(row.cell);
    if (cell === undefined) {
      found.push(`${name}: no such cell in the plan`);
      continue;
    }
    const say = (text: string): void => void found.push(`${name}: ${text}`);
    checkPlace(row, cell, input, say);
    checkRounds(row, input.cards[input.plan[arm]]!, input, say);
    const lane = `${row.segment} ${row.cell} ${row.lane}`;
    if (row.startNs < (lanes.get(lane) ?? 0)) say('starts before the session in its place has ended');
    lanes.set(lane, Math.max(lanes.get(lane) ?? 0, endOf(row)));
  }
  return found;
}

function sessionName(row: TimedSession): string {
  return `timed session ${row.segment}/${row.cell}/${row.role}/${row.ordinal}`;
}

function checkPlace(
  row: TimedSession,
  cell: SpeedPlan['cells'][number],
  input: BooksInput,
  say: (text: string) => void,
): void {
  const due = row.role === 'probe' ? cell.probePrompts : row.role === 'warm-up' ? cell.warmupPrompts : cell.prompts;
  const expected =
    row.role === 'probe'
      ? { prompt: due[Math.floor(row.ordinal / input.plan.probeTimes)], pass: row.ordinal % input.plan.probeTimes }
      : { prompt: due[row.ordinal % due.length], pass: Math.floor(row.ordinal / due.length) };
  if (row.prompt !== expected.prompt || row.pass !== expected.pass) {
    say(`has prompt ${row.prompt}, pass ${row.pass}; the plan's turn is ${expected.prompt}, pass ${expected.pass}`);
  }
  if (row.lane >= cell.concurrency) say(`lane ${row.lane} of ${cell.concurrency}`);
  if (row.seed !== timedSeed(input.seed, cell.id, row.prompt, row.role === 'probe' ? 0 : row.pass)) {
    say('the seed is not the one that follows from the plan');
  }
  if (row.promptTokens !== input.promptTokens.get(row.prompt)) say('the prompt has another length');
}

function checkRounds(row: TimedSession, card: Card, input: BooksInput, say: (text: string) => void): void {
  const n = row.atNs.length;
  const columns = [row.stepNs, row.engineNs, row.draftNs, row.verifyNs, row.kept, row.accepted, row.drafted];
  if (columns.some((column) => column.length !== n) || (row.deviceNs !== null && row.deviceNs.length !== n)) {
    say('its columns have different lengths');
    return;
  }
  if (row.kept.reduce((a, b) => a + b, 0) !== row.tokens.length)
    say('the rounds keep another number of tokens than it has');
  if (row.tokens.length > input.plan.maxTokens && row.fault === null) say('it has more tokens than the limit');
  const foreign = row.tokens.find((token) => token >= card.vocabSize);
  if (foreign !== undefined) say(`token ${foreign} is outside the vocabulary of ${card.vocabSize}`);
  if (row.fault === null) {
    if (n === 0 || row.finish === null) say('has neither an end nor a fault');
    const stop = row.tokens.findIndex((token) => input.stopIds.includes(token));
    if (stop >= 0 && stop !== row.tokens.length - 1) say(`goes on after the stop token at ${stop}`);
    if (row.finish === 'stop' && stop < 0) say('claims a stop without a stop token');
    if (row.finish === 'length' && stop >= 0) say('ends at the limit with a stop token');
  }
  for (let i = 0; i < n; i++) {
    if (row.accepted[i]! > row.drafted[i]! || row.drafted[i]! >= card.blockSize) {
      // An engine that shows no draft is judged by what it keeps.
      if (row.drafted[i]! > 0 || row.accepted[i]! > 0)
        say(`round ${i} accepts ${row.accepted[i]} of ${row.drafted[i]} drafts`);
    }
    const most = i === 0 ? 1 : Math.min(card.blockSize, row.drafted[i]! > 0 ? row.accepted[i]! + 1 : card.blockSize);
    if (row.kept[i]! > most) say(`round ${i} keeps ${row.kept[i]} tokens where ${most} are the most`);
    if (i > 0 && i < n - 1 && row.drafted[i]! > 0 && row.kept[i]! !== row.accepted[i]! + 1) {
      say(`round ${i} accepts ${row.accepted[i]} drafts and keeps ${row.kept[i]} tokens without an end`);
    }
    const from = i === 0 ? 0 : row.atNs[i - 1]!;
    if (row.atNs[i]! < from || row.stepNs[i]! > row.atNs[i]! - from)
      say(`round ${i} takes longer than the time that went by`);
    if (row.engineNs[i]! > row.stepNs[i]! + CLOCK_SLACK_NS)
      say(`round ${i}: the engine's clock says more than the harness waited`);
  }
}

/** Outputs of the two arms for the same prompt and seed, compared token by token. */
export interface TimedDifference {
  readonly prompt: string;
  readonly pass: number;
  readonly cell: string;
  readonly position: number;
}

export function compareTimed(
  plan: SpeedPlan,
  rows: readonly TimingRow[],
): {
  readonly compared: number;
  readonly tokens: number;
  readonly alone: number;
  readonly differences: TimedDifference[];
} {
  const outputs = new Map<string, { plain?: TimedSession; speculative?: TimedSession }>();
  const differences: TimedDifference[] = [];
  const key = (row: TimedSession): string => `${row.cell} ${row.prompt} ${row.seed}`;
  const differ = (a: TimedSession, b: TimedSession): void => {
    const at = a.tokens.findIndex((token, i) => token !== b.tokens[i]);
    const position = at >= 0 ? at : a.tokens.length === b.tokens.length ? -1 : a.tokens.length;
    if (position >= 0) differences.push({ prompt: a.prompt, pass: a.pass, cell: a.cell, position });
  };
  for (const row of rows) {
    if (!isSession(row) || row.fault !== null) continue;
    const arm = plan.order[row.segment];
    if (arm === undefined) continue;
    const entry = outputs.get(key(row)) ?? {};
    outputs.set(key(row), entry);
    // The same request of the same arm in another process must give the same tokens too.
    if (entry[arm] === undefined) entry[arm] = row;
    else differ(entry[arm], row);
  }
  let compared = 0;
  let tokens = 0;
  let alone = 0;
  for (const { plain, speculative } of outputs.values()) {
    if (plain === undefined || speculative === undefined) {
      alone += 1;
      continue;
    }
    compared += 1;
    tokens += Math.min(plain.tokens.length, speculative.tokens.length);
    differ(plain, speculative);
  }
  return { compared, tokens, alone, differences };
}
