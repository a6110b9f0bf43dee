import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // one process a file: a crash of the addon stays contained
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    reporters: ['default', './test/support/plain-reporter.ts'],
    coverage: { include: ['harness/**/*.ts', 'native/**/*.ts', 'bin/**/*.ts'] },
  },
});
