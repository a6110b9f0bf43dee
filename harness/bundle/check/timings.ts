/**
 * The clocks inside timed sessions (timings.jsonl): steps lie one behind another within their session, the engine's and the device's
 * clocks stay below the harness's, counts add up to the tokens, the sessions of a lane and the segments of a run do not overlap, and
 * pauses do not grow with steps (pauses.ts).
 */
import type { StoredRun } from '../reader.ts';
import type { TimingRow } from '../rows.ts';
import type { Findings } from './findings.ts';
import { Pauses } from './pauses.ts';

const SLACK_NS = 1_000;
const DEVICE_SLACK = { share: 0.01, ns: 20_000 };

type Session = Extract<TimingRow, { kind: 'session' }>;

export function checkTimings(run: StoredRun, findings: Findings): void {
  const pauses = new Pauses();
  const alone = new Set(
    (run.manifest.plan.speed?.cells ?? []).filter((cell) => cell.concurrency === 1).map((cell) => cell.id),
  );
  const lanes = new Map<string, Session>();
  /** Of the sessions since the last segment row: a segment's row stands behind its sessions. */
  let span: { segment: number; from: number; to: number } | null = null;
  for (const row of run.timings) {
    if (row.kind === 'segment') {
      const where = `segment ${row.segment}`;
      if (row.endNs < row.startNs) findings.difference('timings', `${where} ends before it starts`);
      if (span !== null && (span.from < row.startNs - SLACK_NS || span.to > row.endNs + SLACK_NS)) {
        findings.difference('timings', `${where} has sessions outside its time`);
      }
      if (run.manifest.status !== 'running' && row.endNs > run.manifest.seconds * 1e9 + SLACK_NS) {
        findings.difference('timings', `${where} ends behind the end of the run`);
      }
      span = null;
      lanes.clear();
      continue;
    }
    const where = `segment ${row.segment}, cell ${row.cell}, ${row.role} session ${row.ordinal}`;
    const wrong = sessionFault(row);
    if (wrong !== null) findings.difference('timings', `${where}: ${wrong}`);
    else if (alone.has(row.cell)) {
      const arm = run.manifest.plan.speed?.order[row.segment] ?? 'unknown';
      for (let i = 1; i < row.atNs.length; i++) {
        const pause = row.atNs[i]! - row.stepNs[i]! - row.atNs[i - 1]!;
        // atNs is the end of a step, so a step that was shortened leaves a pause in front of it.
        pauses.add(`timed ${arm} sessions`, false, { step: row.stepNs[i]!, pause });
      }
    }
    const lane = `${row.segment} ${row.cell} ${row.lane}`;
    const before = lanes.get(lane);
    if (before !== undefined && row.startNs < before.startNs + (before.atNs.at(-1) ?? 0) - SLACK_NS) {
      findings.difference('timings', `${where}: it began before the session in front of it in its lane had ended`);
    }
    lanes.set(lane, row);
    const end = row.startNs + (row.atNs.at(-1) ?? 0);
    if (span === null) span = { segment: row.segment, from: row.startNs, to: end };
    else {
      if (row.segment !== span.segment) {
        findings.difference('timings', `${where}: it stands among the sessions of segment ${span.segment}`);
      }
      span.from = Math.min(span.from, row.startNs);
      span.to = Math.max(span.to, end);
    }
  }
  pauses.compare('timings', findings, true);
}

/** The first thing that cannot be in a timed session, in words. */
function sessionFault(row: Session): string | null {
  const rounds = row.atNs.length;
  const columns = [row.stepNs, row.engineNs, row.draftNs, row.verifyNs, row.kept, row.accepted, row.drafted];
  if (columns.some((column) => column.length !== rounds) || (row.deviceNs !== null && row.deviceNs.length !== rounds)) {
    return 'its columns have different lengths';
  }
  const kept = row.kept.reduce((a, b) => a + b, 0);
  if (kept !== row.tokens.length) return `its rounds keep ${kept} tokens, it has ${row.tokens.length}`;
  for (let i = 0; i < rounds; i++) {
    const began = row.atNs[i]! - row.stepNs[i]!;
    if (began < (i === 0 ? 0 : row.atNs[i - 1]!) - SLACK_NS)
      return `step ${i} began before the one in front of it had ended`;
    if (row.engineNs[i]! > row.stepNs[i]! + SLACK_NS) {
      return `step ${i}: the engine claims ${row.engineNs[i]} ns, the harness waited ${row.stepNs[i]} ns`;
    }
    const device = row.deviceNs?.[i] ?? 0;
    if (device > row.stepNs[i]! * (1 + DEVICE_SLACK.share) + DEVICE_SLACK.ns) {
      return `step ${i}: the device took ${device} ns of the ${row.stepNs[i]} ns the harness waited`;
    }
    if (row.accepted[i]! > row.drafted[i]!) return `step ${i} accepts ${row.accepted[i]} of ${row.drafted[i]} drafts`;
    if (row.kept[i]! > row.accepted[i]! + 1)
      return `step ${i} keeps ${row.kept[i]} tokens with ${row.accepted[i]} accepted`;
  }
  return null;
}
