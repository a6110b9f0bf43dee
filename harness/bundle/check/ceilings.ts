/**
 * What the stated hardware cannot do. A plain decode step reads every active weight once, so it takes at least their bytes over the
 * memory rate of all GPUs; a card draws no more than its cap for long and runs no faster than its highest clock. Only where the
 * provenance states both sides; the rates come from data sheets, so a step at the ceiling is possible and one well below is not.
 */
import type { StoredRun } from '../reader.ts';
import type { Findings } from './findings.ts';

/** A power reading is an average over some milliseconds and may pass the cap briefly. */
const POWER_MARGIN = 1.25;
const CLOCK_MARGIN = 1.05;
/** Energy counted against power integrated over the same time. */
const ENERGY_MARGIN = 0.25;
const ENERGY_SECONDS = 5;

export function checkCeilings(run: StoredRun, findings: Findings): void {
  const { provenance } = run.manifest;
  if (provenance === null) return;
  const bytes = provenance.model.activeWeightBytes.value;
  const bandwidth = provenance.system.gpuMemoryBandwidth.value;
  const gpus = provenance.system.gpus.value;
  if (bytes === null || bandwidth === null || gpus === null) {
    findings.note(
      'ceilings',
      'the provenance states no active weight bytes or no memory rate: no ceiling on speed is checked',
    );
  } else {
    for (const { row, rounds } of run.sessions.values()) {
      const card = run.manifest.engines[row.engine]!;
      const least = (bytes / (bandwidth * Math.min(card.tensorParallel, gpus.length))) * 1e9;
      const fast = rounds.find((round) => round.kind === 'decode' && round.wallNs < least);
      if (fast === undefined) continue;
      findings.difference(
        'ceilings',
        `session ${row.session}, round ${fast.index}: ${fast.wallNs} ns for a step that reads ${bytes} bytes of weights; the memory of ${Math.min(card.tensorParallel, gpus.length)} GPUs needs ${Math.ceil(least)} ns`,
      );
    }
  }
  for (const row of run.telemetry) {
    const gpu = gpus?.find((entry) => String(entry.index) === row.device);
    const complain = (text: string): void =>
      findings.difference('ceilings', `telemetry of ${row.source} ${row.device} at ${row.t_ns} ns: ${text}`);
    if (gpu === undefined) continue;
    const [cap, clocks] = [gpu.powerCapW.value, gpu.maxClocksMhz.value];
    if (cap !== null && row.power_w !== undefined && row.power_w > cap * POWER_MARGIN) {
      complain(`${row.power_w} W under a cap of ${cap} W`);
    }
    if (clocks !== null && row.sm_clock_mhz !== undefined && row.sm_clock_mhz > clocks.sm * CLOCK_MARGIN) {
      complain(`${row.sm_clock_mhz} MHz on a card that reaches ${clocks.sm} MHz`);
    }
  }
  checkEnergy(run, findings);
}

/** Counted energy and integrated power of one sensor tell the same time. */
function checkEnergy(run: StoredRun, findings: Findings): void {
  const sums = new Map<
    string,
    { from: number; to: number; first: number; last: number; integral: number; power: number }
  >();
  for (const row of run.telemetry) {
    if (row.power_w === undefined || row.energy_j === undefined) continue;
    const key = `${row.shard ?? 0} ${row.source} ${row.device ?? ''}`;
    const sum = sums.get(key);
    if (sum === undefined) {
      sums.set(key, {
        from: row.t_ns,
        to: row.t_ns,
        first: row.energy_j,
        last: row.energy_j,
        integral: 0,
        power: row.power_w,
      });
      continue;
    }
    sum.integral += (((row.t_ns - sum.to) / 1e9) * (row.power_w + sum.power)) / 2;
    sum.to = row.t_ns;
    sum.last = row.energy_j;
    sum.power = row.power_w;
  }
  for (const [sensor, sum] of sums) {
    const counted = sum.last - sum.first;
    if ((sum.to - sum.from) / 1e9 < ENERGY_SECONDS || counted <= 0) continue;
    const ratio = sum.integral / counted;
    if (Math.abs(ratio - 1) > ENERGY_MARGIN) {
      findings.difference(
        'ceilings',
        `telemetry of ${sensor.slice(sensor.indexOf(' ') + 1).trim()}: the power adds up to ${sum.integral.toFixed(1)} J, the counter says ${counted.toFixed(1)} J`,
      );
    }
  }
}
