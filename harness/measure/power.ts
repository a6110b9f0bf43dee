/**
 * What telemetry says about a stretch of the run: energy, throttling, foreign load. Power is integrated by the trapezoid rule between
 * readings; a counter of energy is read at both ends. Several devices of a source add up; where GPUs are read, theirs is the energy.
 */
import type { TelemetryRow } from '../bundle/rows.ts';

export interface Stretch {
  readonly startNs: number;
  readonly endNs: number;
}

/** A gap between readings above which a stretch counts as not covered, seconds. */
const LONGEST_GAP = 1;

export interface Energy {
  readonly joules: number;
  readonly source: string;
}

/** Energy over the stretches, or null when no source covers all of them. */
export function energyOver(rows: readonly TelemetryRow[], stretches: readonly Stretch[]): Energy | null {
  if (stretches.length === 0) return null;
  for (const source of ['nvidia-smi', 'rapl']) {
    const devices = new Map<string, TelemetryRow[]>();
    for (const row of rows) {
      if (row.source !== source) continue;
      const list = devices.get(row.device ?? '') ?? [];
      devices.set(row.device ?? '', list);
      list.push(row);
    }
    if (devices.size === 0) continue;
    let joules = 0;
    for (const list of devices.values()) {
      list.sort((a, b) => a.t_ns - b.t_ns);
      for (const stretch of stretches) joules += energyOf(list, stretch) ?? Number.NaN;
    }
    if (Number.isFinite(joules)) return { joules, source };
  }
  return null;
}

function energyOf(rows: readonly TelemetryRow[], { startNs, endNs }: Stretch): number | null {
  const counted = rows.filter((row) => row.energy_j !== undefined);
  if (counted.length > 0) {
    const [from, to] = [interpolated(counted, startNs, 'energy_j'), interpolated(counted, endNs, 'energy_j')];
    return from === null || to === null ? null : to - from;
  }
  const powered = rows.filter((row) => row.power_w !== undefined);
  const [first, last] = [interpolated(powered, startNs, 'power_w'), interpolated(powered, endNs, 'power_w')];
  if (first === null || last === null) return null;
  const points = [
    { t: startNs, w: first },
    ...powered.filter((row) => row.t_ns > startNs && row.t_ns < endNs).map((row) => ({ t: row.t_ns, w: row.power_w! })),
    { t: endNs, w: last },
  ];
  let joules = 0;
  for (let i = 1; i < points.length; i++) {
    const seconds = (points[i]!.t - points[i - 1]!.t) / 1e9;
    if (seconds > LONGEST_GAP) return null;
    joules += (seconds * (points[i]!.w + points[i - 1]!.w)) / 2;
  }
  return joules;
}

/** The quantity at a time between two readings; at the edge the nearest, if it is near enough. */
function interpolated(rows: readonly TelemetryRow[], t: number, key: 'energy_j' | 'power_w'): number | null {
  const after = rows.findIndex((row) => row.t_ns >= t);
  const next = after < 0 ? undefined : rows[after];
  const before = after < 0 ? rows.at(-1) : rows[after - 1];
  const near = (row: TelemetryRow | undefined): boolean =>
    row !== undefined && Math.abs(row.t_ns - t) <= LONGEST_GAP * 1e9;
  if (near(before) && near(next)) {
    const span = next!.t_ns - before!.t_ns;
    const share = span === 0 ? 0 : (t - before!.t_ns) / span;
    return before![key]! + share * (next![key]! - before![key]!);
  }
  const only = near(next) ? next : near(before) ? before : undefined;
  return only?.[key] ?? null;
}

/** Reasons for which clocks were lowered during the stretches, with the share of readings that name each. */
export function throttling(
  rows: readonly TelemetryRow[],
  stretches: readonly Stretch[],
): { readonly readings: number; readonly reasons: ReadonlyMap<string, number> } {
  const inside = within(rows, stretches).filter((row) => row.throttle_reasons !== undefined);
  const reasons = new Map<string, number>();
  for (const row of inside) {
    for (const reason of row.throttle_reasons!) reasons.set(reason, (reasons.get(reason) ?? 0) + 1 / inside.length);
  }
  return { readings: inside.length, reasons };
}

/** Lowest clock over highest of one device, by source, during the stretches; null where none was read. */
export function clockRatio(rows: readonly TelemetryRow[], stretches: readonly Stretch[]): number | null {
  const byDevice = new Map<string, number[]>();
  for (const row of within(rows, stretches)) {
    if (row.sm_clock_mhz === undefined || row.sm_clock_mhz === 0) continue;
    const key = `${row.source} ${row.device ?? ''}`;
    const list = byDevice.get(key) ?? [];
    byDevice.set(key, list);
    list.push(row.sm_clock_mhz);
  }
  const ratios = [...byDevice.values()].map((clocks) => Math.min(...clocks) / Math.max(...clocks));
  return ratios.length === 0 ? null : Math.min(...ratios);
}

export function within(rows: readonly TelemetryRow[], stretches: readonly Stretch[]): TelemetryRow[] {
  return rows.filter((row) => stretches.some(({ startNs, endNs }) => row.t_ns >= startNs && row.t_ns <= endNs));
}
