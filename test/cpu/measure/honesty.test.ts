/** Sensors, energy and the checks of honesty: on made-up machines, caches and forced acceptance, and on honest ones. */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TelemetryRow } from '../../../harness/bundle/rows.ts';
import { forcedAcceptance, repeatedRequests } from '../../../harness/measure/honesty.ts';
import { parseComputeApps } from '../../../harness/measure/load.ts';
import { measureOverhead, OVERHEAD_LIMIT, type Overhead, overheadAllowed } from '../../../harness/measure/overhead.ts';
import { clockRatio, energyOver, throttling } from '../../../harness/measure/power.ts';
import type { TimedSession } from '../../../harness/measure/rows.ts';
import { parseSmiLine, startTelemetry } from '../../../harness/measure/telemetry.ts';
import { Random } from '../../../harness/stats/philox.ts';
import { session } from './support.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kilotoken-sensors-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function put(path: string, text: string): void {
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), text);
}

const wait = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
/** A busy machine takes its time; that it never comes is seen by the limit of the test. */
const until = async (come: () => boolean): Promise<void> => {
  while (!come()) await wait(10);
};

describe('the sampler', () => {
  it('reads what is there, at the rate that was asked for, and stops', async () => {
    put('proc/stat', 'cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 50 0 0 50 0 0 0 0\ncpu1 50 0 0 50 0 0 0 0\n');
    put('sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq', '2000000\n');
    put('sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq', '3000000\n');
    put('sys/class/thermal/thermal_zone0/temp', '45000\n');
    put('sys/class/powercap/intel-rapl:0/energy_uj', '990000\n');
    put('sys/class/powercap/intel-rapl:0/max_energy_range_uj', '1000000\n');
    const rows: TelemetryRow[] = [];
    const started = performance.now();
    const telemetry = startTelemetry({
      hz: 50,
      t: () => Math.round((performance.now() - started) * 1e6),
      sink: (row) => rows.push(TelemetryRow.parse(row)),
      root,
      smi: null,
    });
    // 30 ticks busy of 40 on two cores: 1.5 cores. The counter of energy runs over its end.
    put('proc/stat', 'cpu  130 0 0 110 0 0 0 0 0 0\ncpu0 65 0 0 55 0 0 0 0\ncpu1 65 0 0 55 0 0 0 0\n');
    put('sys/class/powercap/intel-rapl:0/energy_uj', '10000\n');
    await until(() => rows.filter((row) => row.source === 'cpufreq').length >= 5);
    // Never faster than asked for.
    expect(rows.filter((row) => row.source === 'cpufreq').length).toBeLessThanOrEqual(
      (performance.now() - started) / 20 + 1,
    );
    await telemetry.stop();
    const n = rows.length;
    await wait(60);
    expect(rows).toHaveLength(n);
    const of = (source: string): TelemetryRow[] => rows.filter((row) => row.source === source);
    expect(of('/proc/stat')[0]).toMatchObject({ cpu_load: 1.5, utilisation: 0.75 });
    expect(of('cpufreq')[0]!.sm_clock_mhz).toBe(2500);
    expect(of('thermal')[0]!.temperature_c).toBe(45);
    expect(of('rapl')[0]!.energy_j).toBeCloseTo(0.02, 9);
  });

  it('gives no row for a sensor that is not there, and hands on what the sink throws', async () => {
    const none: TelemetryRow[] = [];
    const quiet = startTelemetry({
      hz: 100,
      t: () => 0,
      sink: (row) => none.push(row),
      root,
      smi: join(root, 'no-such-program'),
    });
    await wait(50);
    await quiet.stop();
    expect(none).toEqual([]);
    put('sys/class/thermal/thermal_zone0/temp', '45000\n');
    const full = startTelemetry({
      hz: 100,
      t: () => 0,
      sink: () => {
        throw new Error('no space left');
      },
      root,
      smi: null,
    });
    await wait(50);
    await expect(full.stop()).rejects.toThrow(/no space left/);
  });

  it('follows one long-lived nvidia-smi', async () => {
    const fake = join(root, 'smi');
    writeFileSync(
      fake,
      '#!/bin/sh\necho "$@" >&2\nwhile true; do printf "0, 310.5, 1980, 2619, 51, 98, 1024, 0x0000000000000004\\n1, [N/A], 345, 2619, 30, 0, 0, 0x0000000000000001\\n"; sleep 0.02; done\n',
    );
    chmodSync(fake, 0o755);
    const rows: TelemetryRow[] = [];
    const telemetry = startTelemetry({
      hz: 50,
      t: () => 1,
      sink: (row) => rows.push(TelemetryRow.parse(row)),
      root,
      smi: fake,
    });
    await until(() => rows.length > 4);
    await telemetry.stop();
    expect(rows.find((row) => row.device === '0')).toEqual({
      t_ns: 1,
      source: 'nvidia-smi',
      device: '0',
      power_w: 310.5,
      sm_clock_mhz: 1980,
      mem_clock_mhz: 2619,
      temperature_c: 51,
      utilisation: 0.98,
      memory_used_mib: 1024,
      throttle_reasons: ['sw_power_cap'],
    });
    const idle = rows.find((row) => row.device === '1')!;
    expect(idle.power_w).toBeUndefined();
    expect(idle.throttle_reasons).toEqual([]);
    expect(parseSmiLine('index, power.draw [W], x')).toBeNull();
    // As an H200 with driver 580.159.04 prints it, idle.
    expect(parseSmiLine('0, 79.62, 345, 3201, 34, 0, 0, 0x0000000000000001')).toEqual({
      source: 'nvidia-smi',
      device: '0',
      power_w: 79.62,
      sm_clock_mhz: 345,
      mem_clock_mhz: 3201,
      temperature_c: 34,
      utilisation: 0,
      memory_used_mib: 0,
      throttle_reasons: [],
    });
  });
});

const row = (t: number, more: Partial<TelemetryRow>): TelemetryRow => ({
  t_ns: t * 1e9,
  source: 'nvidia-smi',
  device: '0',
  ...more,
});

describe('energy', () => {
  it('is the integral of power over the stretches, all devices together', () => {
    const rows = Array.from({ length: 21 }, (_, i) => row(i / 2, { power_w: 100 + 10 * (i / 2) }));
    const second = rows.map((r) => ({ ...r, device: '1', power_w: 50 }));
    // From 2 to 4 s: 120 to 140 W, and 50 W.
    const found = energyOver([...rows, ...second], [{ startNs: 2e9, endNs: 4e9 }])!;
    expect(found.joules).toBeCloseTo(260 + 100, 6);
    expect(energyOver(rows, [{ startNs: 2.25e9, endNs: 2.5e9 }])!.joules).toBeCloseTo(0.25 * 123.75, 6);
  });

  it('is not told where readings are missing, or power is', () => {
    const gap = [
      row(0, { power_w: 100 }),
      row(1, { power_w: 100 }),
      row(9, { power_w: 100 }),
      row(10, { power_w: 100 }),
    ];
    expect(energyOver(gap, [{ startNs: 0, endNs: 10e9 }])).toBeNull();
    expect(energyOver([row(0, { temperature_c: 40 })], [{ startNs: 0, endNs: 1e9 }])).toBeNull();
    expect(energyOver([], [])).toBeNull();
  });

  it('of a counter is its difference', () => {
    const rows = Array.from({ length: 11 }, (_, i) => ({ t_ns: i * 1e9, source: 'rapl', energy_j: 5 * i }));
    expect(
      energyOver(rows, [
        { startNs: 1.5e9, endNs: 3e9 },
        { startNs: 5e9, endNs: 6e9 },
      ]),
    ).toEqual({ joules: 12.5, source: 'rapl' });
  });
});

describe('throttling', () => {
  it('counts reasons within the stretches only, and the lowest clock of a device', () => {
    const rows = [
      row(1, { throttle_reasons: ['hw_slowdown'], sm_clock_mhz: 500 }),
      row(2, { throttle_reasons: [], sm_clock_mhz: 1000 }),
      row(3, { throttle_reasons: ['sw_power_cap'], sm_clock_mhz: 900 }),
    ];
    const found = throttling(rows, [{ startNs: 1.5e9, endNs: 4e9 }]);
    expect(found).toEqual({ readings: 2, reasons: new Map([['sw_power_cap', 0.5]]) });
    expect(clockRatio(rows, [{ startNs: 1.5e9, endNs: 4e9 }])).toBeCloseTo(0.9, 12);
    expect(clockRatio([], [{ startNs: 0, endNs: 1 }])).toBeNull();
  });
});

describe('other programs on a GPU', () => {
  it('are named without their folder, and the own process is none', () => {
    expect(parseComputeApps('12, /home/someone/python3\n34, node\n', [34])).toEqual(['python3']);
    expect(parseComputeApps('No running processes found\n', [])).toEqual([]);
    expect(parseComputeApps('56, [No data]\n78, \n', [])).toEqual(Array(2).fill('a program without a name'));
  });
});

/** Rounds of prompts whose own acceptance is drawn around `mean` with `spread`; 0 is forced acceptance. */
function prompts(spread: number, seed: string): { prompt: string; accepted: number[] }[] {
  const random = new Random(seed, 4);
  return Array.from({ length: 40 }, (_, i) => {
    const accept = Math.min(0.98, Math.max(0.02, 0.7 + spread * (2 * random.uniform() - 1)));
    const accepted = Array.from({ length: 40 }, () => {
      let a = 0;
      while (a < 7 && random.uniform() < accept) a += 1;
      return a;
    });
    return { prompt: `p${i}`, accepted };
  });
}

describe('forced acceptance', () => {
  it('is seen where prompts do not differ, and not where they do', () => {
    for (let seed = 0; seed < 20; seed++) {
      expect(forcedAcceptance(prompts(0, `${seed}`)).outcome).toBe('found');
      expect(forcedAcceptance(prompts(0.25, `${seed}`)).outcome).toBe('clear');
    }
  });

  it('is seen where every round is the same, and not judged on a handful', () => {
    const same = prompts(0, '1').map(({ prompt }) => ({ prompt, accepted: new Array<number>(20).fill(5) }));
    expect(forcedAcceptance(same)).toMatchObject({ outcome: 'found', evidence: expect.stringMatching(/exactly 5/) });
    expect(forcedAcceptance(prompts(0, '1').slice(0, 5)).outcome).toBe('not checked');
  });
});

describe('repeated requests', () => {
  const probe = (prompt: string, pass: number, change: { first: number; step: number; kept: number }): TimedSession =>
    session({
      role: 'probe',
      prompt,
      pass,
      kept: [1, change.kept, change.kept, change.kept],
      stepNs: [change.first, change.step, change.step, change.step].map((ns, i) => ns * (1 + ((pass + i) % 3) / 100)),
    });
  const probes = (again: { first: number; step: number; kept: number }): TimedSession[] =>
    Array.from({ length: 6 }, (_, i) => `p${i}`).flatMap((prompt, i) => [
      probe(prompt, 0, { first: (50 + i) * 1e6, step: 2e6, kept: 3 }),
      probe(prompt, 1, { ...again, first: again.first * (50 + i) * 1e6 }),
      probe(prompt, 2, { ...again, first: again.first * (50 + i) * 1e6 }),
    ]);

  it.each([
    ['a cached prompt', { first: 0.3, step: 2e6, kept: 3 }, 'found'],
    ['cached drafts', { first: 1, step: 2e6, kept: 8 }, 'found'],
    ['faster steps', { first: 1, step: 1e6, kept: 3 }, 'found'],
    ['the same again', { first: 1, step: 2e6, kept: 3 }, 'clear'],
    ['slightly faster', { first: 0.95, step: 2e6, kept: 3 }, 'clear'],
  ] as const)('%s', (_name, again, outcome) => {
    expect(repeatedRequests(probes(again)).outcome).toBe(outcome);
  });

  it('a gain that the spread of the prompts explains is none', () => {
    const rows = probes({ first: 1, step: 2e6, kept: 3 }).map((row, i) => {
      const factor = row.pass === 0 ? 1 : Math.floor(i / 3) % 2 === 0 ? 0.5 : 1.25;
      return { ...row, atNs: row.atNs.map((at) => at * factor), stepNs: row.stepNs.map((ns) => ns * factor) };
    });
    expect(repeatedRequests(rows).outcome).toBe('clear');
  });

  it('are not judged on fewer than four prompts', () => {
    expect(repeatedRequests(probes({ first: 0.1, step: 1, kept: 8 }).slice(0, 9)).outcome).toBe('not checked');
  });
});

describe('the cost of the harness', () => {
  it('is within the limit on the null engine, and what is over it is said', async () => {
    const { meanUs, percentilesUs, rounds } = await measureOverhead({ sessions: 60, tokens: 1024, blockSize: 8 });
    expect(rounds).toBe(60 * 128);
    // The median: on a busy machine the mean is that of its neighbours.
    expect(percentilesUs[0]!.value).toBeLessThan(OVERHEAD_LIMIT.microseconds);
    expect(meanUs).toBeGreaterThan(0);
    expect(overheadAllowed(11, 0.1)).toBe(false);
    expect(overheadAllowed(11, 2)).toBe(true);
  });

  it('is published, with and without a block, within the limit', () => {
    const path = new URL('../../../results/calibration/overhead.json', import.meta.url);
    const published = JSON.parse(readFileSync(path, 'utf8')) as { rows: Overhead[] };
    expect(published.rows.map((row) => row.blockSize)).toEqual([1, 8]);
    for (const row of published.rows) {
      expect(row.meanUs).toBeLessThanOrEqual(OVERHEAD_LIMIT.microseconds);
      expect(row.withinLimit).toBe(true);
      expect(row.rounds).toBeGreaterThan(10_000);
    }
  });
});
