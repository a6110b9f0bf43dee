/**
 * Time in a bundle is told several times over: the harness's clock at each step and around it, the engine's clock, the device's,
 * events, telemetry, and the length of the run. They must fit together. A round cannot begin before the one before it has ended,
 * rows stand in the order in which they ended, nothing lies outside the run, and the pauses between steps do not depend on how long
 * the steps took: they do when step times were shortened afterwards.
 */
import type { StoredRun } from '../reader.ts';
import type { EventRow, RoundRow, SessionRow, TelemetryRow } from '../rows.ts';
import type { Findings } from './findings.ts';
import { Pauses } from './pauses.ts';

/** Timer resolution and rounding of nanoseconds to doubles. */
const SLACK_NS = 1_000;
/** Device clocks are read by other means than the host's. */
const DEVICE_SLACK = { share: 0.01, ns: 20_000 };
/** Time between the last round of a phase and its end that is not explained by rounds, faults aside. */
const TAIL = { share: 0.1, ns: 1e9 };

interface Span {
  from: number;
  to: number;
}

interface PhaseSum {
  wallNs: number;
  from: number;
  to: number;
}

/** Sees the rounds in the order of their file. */
export class ClockCheck {
  readonly #findings: Findings;
  readonly #lastEnd = new Map<number, number>();
  readonly #sessionEnd = new Map<string, { end: number; wall: number; prefill: boolean }>();
  readonly #phases = new Map<string, PhaseSum>();
  /** By engine, of phases with one session at a time. */
  readonly #pauses = new Pauses();
  readonly #part: (session: SessionRow) => number;
  readonly #alone: ReadonlySet<string>;
  /** Phases in which a session failed. */
  readonly #failed = new Set<string>();
  #undated = 0;

  /** `part`: from which shard a session is; 0 without shards. `alone`: phases with one session at a time. */
  constructor(findings: Findings, part: (session: SessionRow) => number, alone: ReadonlySet<string>) {
    this.#findings = findings;
    this.#part = part;
    this.#alone = alone;
  }

  round(row: RoundRow, session: SessionRow): void {
    const { deviceNs, wallNs } = row;
    const where = `session ${row.session}, round ${row.index}`;
    const complain = (text: string): void => this.#findings.difference('clocks', `${where}: ${text}`);
    if (deviceNs !== null) {
      const most = wallNs * (1 + DEVICE_SLACK.share) + DEVICE_SLACK.ns;
      if (deviceNs.total > most)
        complain(`the device took ${deviceNs.total} ns of the ${wallNs} ns the harness waited`);
      if (deviceNs.draft + deviceNs.verify > deviceNs.total * (1 + DEVICE_SLACK.share) + DEVICE_SLACK.ns) {
        complain('draft and verify take longer on the device than the whole round');
      }
    }
    if (row.t_ns === undefined) {
      this.#undated += 1;
      return;
    }
    const part = this.#part(session);
    const end = row.t_ns + wallNs;
    const last = this.#lastEnd.get(part) ?? 0;
    if (end < last - SLACK_NS) complain(`it ended ${Math.round(last - end)} ns before the row in front of it did`);
    this.#lastEnd.set(part, Math.max(last, end));

    const before = this.#sessionEnd.get(row.session);
    if (before !== undefined) {
      const pause = row.t_ns - before.end;
      if (pause < -SLACK_NS) complain(`it began ${Math.round(-pause)} ns before the round in front of it ended`);
      if (this.#alone.has(session.phase)) {
        this.#pauses.add(`engine ${session.engine}`, before.prefill, { step: before.wall, pause });
      }
    }
    if (row.finish === null) this.#sessionEnd.set(row.session, { end, wall: wallNs, prefill: row.kind === 'prefill' });
    else this.#sessionEnd.delete(row.session);

    const key = `${part} ${session.phase}`;
    const sum = this.#phases.get(key);
    if (sum === undefined) this.#phases.set(key, { wallNs, from: row.t_ns, to: end });
    else {
      sum.wallNs += wallNs;
      sum.from = Math.min(sum.from, row.t_ns);
      sum.to = Math.max(sum.to, end);
    }
  }

  /** After the last round. */
  finish(run: StoredRun): void {
    const { manifest } = run;
    if (manifest.schema === 'kilotoken/run@1') {
      this.#findings.note('clocks', 'rounds of run@1 carry no time of day: their order and pauses cannot be checked');
      return;
    }
    for (const { row, fault } of run.sessions.values()) if (fault !== null) this.#failed.add(row.phase);
    if (this.#undated > 0) this.#findings.difference('clocks', `${this.#undated} rounds have no t_ns`);
    const parts = manifest.parts?.map((part) => part.shard.index) ?? [0];
    for (const part of parts) this.#finishPart(run, part);
    this.#pauses.compare('clocks', this.#findings, false);
  }

  #finishPart(run: StoredRun, part: number): void {
    const { manifest } = run;
    const name = part === 0 ? '' : `shard ${part}: `;
    const complain = (text: string): void => this.#findings.difference('clocks', `${name}${text}`);
    const { offsetNs, seconds } = manifest.parts?.find((entry) => entry.shard.index === part) ?? {
      offsetNs: 0,
      seconds: manifest.seconds,
    };
    const end = manifest.status === 'running' ? Number.POSITIVE_INFINITY : offsetNs + seconds * 1e9 + SLACK_NS;
    const last = this.#lastEnd.get(part) ?? 0;
    if (last > end) complain(`the last round ends ${last} ns after the start of a run of ${seconds} s`);

    const events = run.events.filter((row) => (row.shard ?? 0) === part);
    const telemetry = run.telemetry.filter((row) => (row.shard ?? 0) === part);
    ordered(events, () => 'events.jsonl', end, complain);
    const sensors = new Map<string, TelemetryRow[]>();
    for (const row of telemetry) {
      const sensor = `${row.source}${row.device === undefined ? '' : ` ${row.device}`}`;
      const rows = sensors.get(sensor);
      if (rows === undefined) sensors.set(sensor, [row]);
      else rows.push(row);
    }
    for (const [sensor, rows] of sensors) {
      ordered(rows, () => `telemetry of ${sensor}`, end, complain);
      const energy = rows.filter((row) => row.energy_j !== undefined);
      const fell = energy.findIndex((row, i) => i > 0 && row.energy_j! < energy[i - 1]!.energy_j!);
      if (fell > 0) complain(`telemetry of ${sensor}: the energy counter falls at ${energy[fell]!.t_ns} ns`);
      this.#compareRate(run, sensor, rows, complain);
    }
    const spans = phaseSpans(events);
    for (const phase of manifest.plan.phases) {
      const sum = this.#phases.get(`${part} ${phase.id}`);
      if (sum === undefined) continue;
      const span = spans.get(phase.id);
      if (span === undefined) {
        complain(`phase ${phase.id} has rounds but no phase-start event`);
        continue;
      }
      if (sum.from < span.from - SLACK_NS || sum.to > span.to + SLACK_NS) {
        complain(`phase ${phase.id} has rounds outside its events`);
      }
      if (span.to === Number.POSITIVE_INFINITY && manifest.status === 'complete') {
        complain(`phase ${phase.id} of a complete run has no phase-end event`);
      }
      const tail = span.to - sum.to;
      const whole = !this.#failed.has(phase.id) && span.to !== Number.POSITIVE_INFINITY;
      if (whole && tail > Math.max(TAIL.ns, TAIL.share * (span.to - span.from))) {
        complain(`${tail} ns pass between the last round of phase ${phase.id} and its end`);
      }
      const length = Math.min(sum.to, span.to) - Math.max(sum.from, span.from);
      if (sum.wallNs > phase.concurrency * length * (1 + 1e-6) + SLACK_NS) {
        complain(
          `the rounds of phase ${phase.id} add up to ${sum.wallNs} ns in ${length} ns with ${phase.concurrency} sessions at once`,
        );
      }
    }
  }

  /** A sensor that was read faster than it was asked to be was read by a slower clock. */
  #compareRate(run: StoredRun, sensor: string, rows: readonly TelemetryRow[], complain: (text: string) => void): void {
    const asked = run.manifest.provenance?.telemetryHz.value ?? null;
    if (asked === null || rows.length < 20) return;
    const seconds = (rows.at(-1)!.t_ns - rows[0]!.t_ns) / 1e9;
    const rate = (rows.length - 1) / seconds;
    if (rate > asked * 1.25) {
      complain(`telemetry of ${sensor} was read ${rate.toFixed(1)} times a second, ${asked} were asked for`);
    }
  }
}

function ordered(
  rows: readonly (EventRow | TelemetryRow)[],
  what: () => string,
  end: number,
  complain: (text: string) => void,
): void {
  const back = rows.findIndex((row, i) => i > 0 && row.t_ns < rows[i - 1]!.t_ns);
  if (back > 0) complain(`${what()}: time runs backwards at ${rows[back]!.t_ns} ns`);
  const late = rows.find((row) => row.t_ns > end);
  if (late !== undefined) complain(`${what()}: a row at ${late.t_ns} ns lies behind the end of the run`);
}

function phaseSpans(events: readonly EventRow[]): Map<string, Span> {
  const spans = new Map<string, Span>();
  for (const event of events) {
    const phase = event.phase;
    if (typeof phase !== 'string') continue;
    if (event.kind === 'phase-start') spans.set(phase, { from: event.t_ns, to: Number.POSITIVE_INFINITY });
    const span = spans.get(phase);
    if (event.kind === 'phase-end' && span !== undefined) span.to = event.t_ns;
  }
  return spans;
}
