/**
 * `npm test`: the static checks, then every test, then the one line a reader and CI look for: `N passed, N failed, N skipped`.
 * A run in which nothing passed, or in which a static check failed, exits 1.
 */
import { spawn, spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Whether it succeeded. What it printed comes in one piece when it has ended: the checks run side by side. */
async function step(label, args) {
  const started = Date.now();
  const child = spawn(process.execPath, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ASTRO_TELEMETRY_DISABLED: '1' },
  });
  const printed = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => printed.push(bytes));
  const ended = await new Promise((done) => {
    child.once('error', (error) => done(error.message));
    child.once('close', (code, signal) => done(signal ?? code));
  });
  process.stdout.write(Buffer.concat(printed));
  process.stdout.write(
    `${label}: ${ended === 0 ? 'ok' : `FAILED (exit ${ended})`}, ${((Date.now() - started) / 1000).toFixed(1)} s\n`,
  );
  return ended === 0;
}

const checks = [
  ['types', ['node_modules/typescript/bin/tsc', '--noEmit']],
  ['lint and format', ['node_modules/@biomejs/biome/bin/biome', 'check', '.']],
  [
    'rooms',
    [
      'node_modules/dependency-cruiser/bin/dependency-cruise.mjs',
      '--config',
      '.dependency-cruiser.mjs',
      'bin',
      'harness',
      'native',
      'scripts',
      'test',
    ],
  ],
];
const passed = await Promise.all(checks.map(([label, args]) => step(label, args)));
const failedChecks = checks.filter((_, i) => !passed[i]).map(([label]) => label);
const tests = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, ASTRO_TELEMETRY_DISABLED: '1', KILOTOKEN_FAILED_CHECKS: failedChecks.join(',') },
});
process.exit(failedChecks.length > 0 || tests.status !== 0 ? 1 : 0);
