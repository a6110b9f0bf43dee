/**
 * How the tests run: two files at a time, each in a process of its own. The limits of time are there to end a hang; a machine with much
 * else to do may take many times as long as an idle one, and no test may fail for that.
 */
import { defineConfig } from 'vitest/config';
import LongestFirst from './test/support/longest-first.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks', // one process a file: a crash of the addon stays contained
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    testTimeout: 300_000,
    hookTimeout: 600_000,
    reporters: ['default', './test/support/plain-reporter.ts'],
    coverage: { include: ['harness/**/*.ts', 'native/**/*.ts', 'bin/**/*.ts'] },
  },
});
