/** The closing lines of a test run count and name what they should: broken files, failed static checks and unhandled errors are failures. */
import { expect, it } from 'vitest';
import type { TestModule } from 'vitest/node';
import { tallyOf } from '../../support/plain-reporter.ts';

function module(state: string, tests: readonly string[]): TestModule {
  const all = tests.map((test, i) => ({ fullName: `${i}`, result: () => ({ state: test }) }));
  return {
    relativeModuleId: 'a.test.ts',
    state: () => state,
    children: { allTests: () => all },
  } as unknown as TestModule;
}

it('counts tests by their state, and names those that failed', () => {
  const modules = [module('passed', ['passed', 'passed', 'skipped']), module('failed', ['passed', 'failed', 'failed'])];
  expect(tallyOf(modules, [], [])).toEqual({
    passed: 3,
    failures: ['a.test.ts: 1', 'a.test.ts: 2'],
    skipped: 1,
  });
});

it('a file that does not load is one failure, and so is each unhandled error and each static check', () => {
  const placed = Object.assign(new Error('nobody waits\n  at once'), {
    VITEST_TEST_PATH: 'b.test.ts',
    VITEST_TEST_NAME: 'c',
  });
  expect(tallyOf([module('failed', [])], [placed, undefined], ['types'])).toEqual({
    passed: 0,
    failures: [
      'static check: types',
      'a.test.ts: the file itself',
      'unhandled error while b.test.ts ran, in or behind "c": Error: nobody waits',
      'unhandled error: no error: undefined',
    ],
    skipped: 0,
  });
});
