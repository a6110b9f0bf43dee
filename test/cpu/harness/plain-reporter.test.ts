/** The closing line of a test run counts what it should: broken files and failed static checks are failures. */
import { expect, it } from 'vitest';
import type { TestModule } from 'vitest/node';
import { tallyOf } from '../../support/plain-reporter.ts';

function module(state: string, tests: readonly string[]): TestModule {
  const all = tests.map((test) => ({ result: () => ({ state: test }) }));
  return { state: () => state, children: { allTests: () => all } } as unknown as TestModule;
}

it('counts tests by their state', () => {
  const modules = [module('passed', ['passed', 'passed', 'skipped']), module('failed', ['passed', 'failed', 'failed'])];
  expect(tallyOf(modules, 0)).toEqual({ passed: 3, failed: 2, skipped: 1 });
});

it('a file that does not load is one failure, and so is each unhandled error', () => {
  expect(tallyOf([module('failed', [])], 2)).toEqual({ passed: 0, failed: 3, skipped: 0 });
});
