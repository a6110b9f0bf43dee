/**
 * `npm test`: the static checks, then every test, then the one line a reader and CI look for: `N passed, N failed, N skipped`.
 * A run in which nothing passed, or in which a static check failed, exits 1.
 */
import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

function step(label, args) {
  const started = Date.now();
  const status = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ASTRO_TELEMETRY_DISABLED: '1' },
  }).status;
  process.stdout.write(
    `${label}: ${status === 0 ? 'ok' : `FAILED (exit ${status})`}, ${((Date.now() - started) / 1000).toFixed(1)} s\n`,
  );
  return status === 0;
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
const failedChecks = checks.filter(([label, args]) => !step(label, args)).map(([label]) => label);
const tests = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, ASTRO_TELEMETRY_DISABLED: '1', KILOTOKEN_FAILED_CHECKS: failedChecks.join(',') },
});
process.exit(failedChecks.length > 0 || tests.status !== 0 ? 1 : 0);
