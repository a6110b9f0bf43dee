/**
 * Calibration of the gate under the null: thousands of whole gate runs on a truthful engine, each with its own chain and
 * seed. At alpha 1e-6 none may alarm; at alpha 0.05 the same runs may alarm in at most 5 %. An alarm is a law check whose
 * p-value after Holm, 1 / (largest e-value of the run), is at most alpha.
 *
 *   node dist/scripts/calibrate.js [runs] [output]
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { calibrate } from '../harness/gate/calibration.ts';

const root = join(import.meta.dirname, '../..');
const runs = Number(process.argv[2] ?? 2_000);
const output = process.argv[3] ?? join(root, 'results/calibration/gate-2.json');
const result = await calibrate({ runs, seed: '20260101', tokens: 1_000, toyTokens: 1_000, pairs: 100 });
writeFileSync(output, `${JSON.stringify(result, null, 2)}\n`);
const { strict, loose } = result;
process.stdout.write(
  `${runs} runs: ${strict.alarms} alarms at ${strict.alpha}, ${loose.alarms} at ${loose.alpha} (rate ${loose.rate}, 95 % interval ${loose.interval.low.toFixed(4)} to ${loose.interval.high.toFixed(4)}), ${result.seconds} s\n`,
);
if (strict.alarms > 0 || loose.rate > loose.alpha) process.exitCode = 1;
