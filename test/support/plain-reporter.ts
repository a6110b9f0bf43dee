/**
 * A vitest reporter whose very last line is `N passed, N failed, N skipped`, so that a script can read the outcome
 * without parsing anything else. A file that could not be loaded counts as one failure, and so does an error that no test
 * waited for. What failed is named once more above that line, so that the end of a log is enough.
 */
import type { Reporter, TestModule } from 'vitest/node';

export interface Tally {
  passed: number;
  /** One text for each failure: where, and what. */
  failures: string[];
  skipped: number;
}

/** `errors`: what vitest calls unhandled, rejections that nobody awaits among them. `checks`: names of static checks that failed. */
export function tallyOf(modules: readonly TestModule[], errors: readonly unknown[], checks: readonly string[]): Tally {
  const tally: Tally = { passed: 0, failures: checks.map((name) => `static check: ${name}`), skipped: 0 };
  for (const module of modules) {
    const failed: string[] = [];
    for (const test of module.children.allTests()) {
      const state = test.result().state;
      if (state === 'passed') tally.passed += 1;
      else if (state === 'failed') failed.push(`${module.relativeModuleId}: ${test.fullName}`);
      else tally.skipped += 1;
    }
    // A module may fail without a failing test: a broken import or a throwing hook.
    if (failed.length === 0 && module.state() === 'failed') failed.push(`${module.relativeModuleId}: the file itself`);
    tally.failures.push(...failed);
  }
  tally.failures.push(...errors.map(unhandled));
  return tally;
}

/** Vitest notes on the error which file and which test were running. */
function unhandled(error: unknown): string {
  const { name, message, VITEST_TEST_PATH, VITEST_TEST_NAME } = (error ?? {}) as Record<string, unknown>;
  const where = VITEST_TEST_PATH === undefined ? '' : ` while ${VITEST_TEST_PATH} ran`;
  const last = VITEST_TEST_NAME === undefined ? '' : `, in or behind "${VITEST_TEST_NAME}"`;
  return `unhandled error${where}${last}: ${name ?? 'no error'}: ${String(message ?? error).split('\n')[0]}`;
}

export default class PlainReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    // Static checks that failed before the tests ran: their names, joined by commas.
    const checks = (process.env.KILOTOKEN_FAILED_CHECKS ?? '').split(',').filter((name) => name !== '');
    const { passed, failures, skipped } = tallyOf(modules, errors, checks);
    // Other reporters print in the same hook; the exit handler puts these lines after all of them.
    process.once('exit', () => {
      // A run in which nothing passed proves nothing.
      if (passed === 0 || failures.length > 0) process.exitCode = 1;
      for (const failure of failures) process.stdout.write(`failed: ${failure}\n`);
      process.stdout.write(`${passed} passed, ${failures.length} failed, ${skipped} skipped\n`);
    });
  }
}
