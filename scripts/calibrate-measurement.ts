/**
 * Calibration of the figures of speed and acceptance: 500 whole campaigns on a synthetic engine whose true figures are known. Writes how
 * often each interval held the truth, and how often those of wrong estimators did.
 *
 *   node dist/scripts/calibrate-measurement.js [campaigns] [output]
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { calibrated, calibrateMeasurement, LAW } from '../harness/measure/calibration.ts';

const root = join(import.meta.dirname, '../..');
const campaigns = Number(process.argv[2] ?? 500);
const output = process.argv[3] ?? join(root, 'results/calibration/measurement.json');
const options = { law: LAW, campaigns, prompts: 32, blocks: 2, resamples: 400, seed: '20260101' };
const started = performance.now();
const result = await calibrateMeasurement(options, (done) => {
  if (done % 50 === 0) process.stderr.write(`${done}/${campaigns} campaigns\n`);
});
const seconds = Math.round((performance.now() - started) / 1000);
const document = {
  note: 'Of each figure: its true value by dynamic programming, the mean estimate over it, and in how many campaigns the 95 % interval held the truth; low and high are the 99.9 % Clopper-Pearson interval of that share. A figure is calibrated while high is at least 0.95. The wrong estimators are judged the same way and must fail.',
  level: 0.95,
  options,
  seconds,
  ...result,
};
writeFileSync(output, `${JSON.stringify(document, null, 2)}\n`);
const off = result.figures.filter((row) => !calibrated(row));
const missed = result.wrong.filter((row) => calibrated(row));
const shares = result.figures.map((row) => row.held / row.campaigns);
process.stdout.write(
  `${result.figures.length} figures over ${campaigns} campaigns: coverage ${Math.min(...shares).toFixed(3)} to ${Math.max(...shares).toFixed(3)} of stated 0.95; ${off.length} not calibrated; ${missed.length} of ${result.wrong.length} wrong estimators passed; ${seconds} s\n`,
);
if (off.length > 0 || missed.length > 0) process.exitCode = 1;
