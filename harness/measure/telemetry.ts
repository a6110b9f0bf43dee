/**
 * Reads the sensors of the machine while it is measured, ten times a second or more: processor load, clock, temperature and energy
 * from /proc and /sys; GPUs through one long-lived nvidia-smi. Readings go to the sink one by one and are not kept. A sensor
 * that is not there gives no row, never a zero.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { TelemetryRow } from '../bundle/rows.ts';

export interface TelemetryOptions {
  /** Readings per second and sensor; at least 1. */
  readonly hz: number;
  /** Nanoseconds since the run began, by its monotonic clock. */
  readonly t: () => number;
  readonly sink: (row: TelemetryRow) => void;
  /** Where /proc and /sys are; a test may bring its own. */
  readonly root?: string;
  /** The program that reads GPUs; null for none. */
  readonly smi?: string | null;
}

export interface Telemetry {
  /** Stops the sensors; nothing reaches the sink afterwards. Rejects with what the sink threw, if it did. */
  stop(): Promise<void>;
}

export function startTelemetry(options: TelemetryOptions): Telemetry {
  const { hz, t, sink, root = '/' } = options;
  let failure: unknown = null;
  let over = false;
  const give = (row: Omit<TelemetryRow, 't_ns'>): void => {
    if (over || failure !== null) return;
    try {
      sink({ t_ns: t(), ...row });
    } catch (error) {
      // A full disk must stop the run, not kill the process from inside a timer.
      failure = error;
    }
  };
  const sensors = [loadSensor(root), clockSensor(root), thermalSensor(root), energySensor(root)].filter(
    (sensor) => sensor !== null,
  );
  const timer = setInterval(() => {
    for (const sensor of sensors) for (const row of sensor()) give(row);
  }, 1000 / hz);
  const smi = options.smi === null ? null : startSmi(options.smi ?? 'nvidia-smi', 1000 / hz, give);
  return {
    stop: async () => {
      over = true;
      clearInterval(timer);
      await smi?.stop();
      if (failure !== null) throw failure;
    },
  };
}

type Reading = Omit<TelemetryRow, 't_ns'>;
type Sensor = () => Reading[];

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/** Cores busy since the last reading, from the first line of /proc/stat. */
function loadSensor(root: string): Sensor | null {
  const path = join(root, 'proc/stat');
  const sample = (): { busy: number; all: number } | null => {
    const fields = /^cpu\s+(.*)$/m
      .exec(read(path) ?? '')?.[1]
      ?.trim()
      .split(/\s+/)
      .map(Number);
    if (fields === undefined || fields.some((field) => !Number.isFinite(field))) return null;
    // user nice system idle iowait irq softirq steal; guest times are within user.
    const all = fields.slice(0, 8).reduce((a, b) => a + b, 0);
    return { all, busy: all - (fields[3] ?? 0) - (fields[4] ?? 0) };
  };
  let before = sample();
  if (before === null) return null;
  const cores = Math.max(1, ((read(path) ?? '').match(/^cpu\d+/gm) ?? []).length);
  return () => {
    const after = sample();
    if (after === null || before === null || after.all <= before.all) return [];
    const load = (cores * (after.busy - before.busy)) / (after.all - before.all);
    before = after;
    return [{ source: '/proc/stat', cpu_load: Math.max(0, load), utilisation: Math.min(1, Math.max(0, load / cores)) }];
  };
}

/** Mean clock of the cores. */
function clockSensor(root: string): Sensor | null {
  const folder = join(root, 'sys/devices/system/cpu');
  const files = (existsSync(folder) ? readdirSync(folder) : [])
    .filter((name) => /^cpu\d+$/.test(name))
    .map((name) => join(folder, name, 'cpufreq/scaling_cur_freq'))
    .filter((path) => existsSync(path));
  if (files.length === 0) return null;
  return () => {
    const clocks = files.map((path) => Number(read(path) ?? Number.NaN) / 1000).filter(Number.isFinite);
    if (clocks.length === 0) return [];
    return [{ source: 'cpufreq', sm_clock_mhz: clocks.reduce((a, b) => a + b, 0) / clocks.length }];
  };
}

/** The hottest thermal zone. */
function thermalSensor(root: string): Sensor | null {
  const folder = join(root, 'sys/class/thermal');
  const files = (existsSync(folder) ? readdirSync(folder) : [])
    .filter((name) => name.startsWith('thermal_zone'))
    .map((name) => join(folder, name, 'temp'))
    .filter((path) => read(path) !== null);
  if (files.length === 0) return null;
  return () => {
    const degrees = files.map((path) => Number(read(path) ?? Number.NaN) / 1000).filter(Number.isFinite);
    return degrees.length === 0 ? [] : [{ source: 'thermal', temperature_c: Math.max(...degrees) }];
  };
}

/** Energy of the processor packages by RAPL, as a counter that never falls, and the power since the last reading. */
function energySensor(root: string): Sensor | null {
  const folder = join(root, 'sys/class/powercap');
  const zones = (existsSync(folder) ? readdirSync(folder) : [])
    .filter((name) => /^intel-rapl:\d+$/.test(name))
    .map((name) => join(folder, name))
    .filter((path) => read(join(path, 'energy_uj')) !== null);
  if (zones.length === 0) return null;
  const counters = zones.map((zone) => ({
    path: join(zone, 'energy_uj'),
    wraps: Number(read(join(zone, 'max_energy_range_uj')) ?? Number.NaN),
    last: Number(read(join(zone, 'energy_uj'))),
    total: 0,
  }));
  return () => {
    for (const counter of counters) {
      const value = Number(read(counter.path) ?? Number.NaN);
      if (!Number.isFinite(value)) return [];
      const rise = value - counter.last;
      counter.total += rise >= 0 ? rise : Number.isFinite(counter.wraps) ? rise + counter.wraps : 0;
      counter.last = value;
    }
    return [{ source: 'rapl', energy_j: counters.reduce((sum, counter) => sum + counter.total, 0) / 1e6 }];
  };
}

const SMI_FIELDS = [
  'index',
  'power.draw',
  'clocks.sm',
  'clocks.mem',
  'temperature.gpu',
  'utilization.gpu',
  'memory.used',
  'clocks_throttle_reasons.active',
] as const;

/** Bits of the driver's mask of reasons why clocks are lowered (nvml.h, nvmlClocksThrottleReasons). */
const THROTTLE_BITS: readonly (readonly [bigint, string])[] = [
  [0x2n, 'applications_clocks_setting'],
  [0x4n, 'sw_power_cap'],
  [0x8n, 'hw_slowdown'],
  [0x10n, 'sync_boost'],
  [0x20n, 'sw_thermal_slowdown'],
  [0x40n, 'hw_thermal_slowdown'],
  [0x80n, 'hw_power_brake_slowdown'],
  [0x100n, 'display_clock_setting'],
];

/** A line of nvidia-smi's CSV without units; null when it is none. Idle is no reason. */
export function parseSmiLine(line: string): Reading | null {
  const cells = line.split(',').map((cell) => cell.trim());
  if (cells.length !== SMI_FIELDS.length || !/^\d+$/.test(cells[0]!)) return null;
  const number = (i: number): number | undefined => {
    const value = Number(cells[i]);
    return cells[i] !== '' && Number.isFinite(value) ? value : undefined;
  };
  const mask = /^0x[0-9a-f]+$/i.test(cells[7]!) ? BigInt(cells[7]!) : null;
  const utilisation = number(5);
  return {
    source: 'nvidia-smi',
    device: cells[0]!,
    ...optional('power_w', number(1)),
    ...optional('sm_clock_mhz', number(2)),
    ...optional('mem_clock_mhz', number(3)),
    ...optional('temperature_c', number(4)),
    ...optional('utilisation', utilisation === undefined ? undefined : Math.min(1, utilisation / 100)),
    ...optional('memory_used_mib', number(6)),
    ...(mask === null
      ? {}
      : { throttle_reasons: THROTTLE_BITS.filter(([bit]) => (mask & bit) !== 0n).map(([, name]) => name) }),
  };
}

function optional<K extends string>(key: K, value: number | undefined): { [P in K]?: number } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: number });
}

function startSmi(
  program: string,
  periodMs: number,
  give: (reading: Reading) => void,
): { readonly stop: () => Promise<void> } {
  const child: ChildProcessByStdio<null, Readable, null> = spawn(
    program,
    [`--query-gpu=${SMI_FIELDS.join(',')}`, '--format=csv,noheader,nounits', '-lms', String(Math.round(periodMs))],
    { stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const ended = new Promise<void>((done) => {
    child.once('error', () => done());
    child.once('close', () => done());
  });
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    // A tool that prints no line ends is not to fill the memory.
    rest = (lines.pop() ?? '').slice(-4096);
    for (const line of lines) {
      const reading = parseSmiLine(line);
      if (reading !== null) give(reading);
    }
  });
  child.stdout.on('error', () => {});
  return {
    stop: async () => {
      // One that never started has the process id 0, by which a signal would reach this whole group of processes.
      if (child.pid !== undefined) child.kill();
      await ended;
    },
  };
}
