/**
 * A vitest reporter whose very last line is `N passed, N failed, N skipped`, so that a script can read the outcome
 * without parsing anything else. A file that could not be loaded counts as one failure.
 */
import type { Reporter, TestModule } from 'vitest/node';

export interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}

export function tallyOf(modules: readonly TestModule[], unhandledErrors: number): Tally {
  const tally: Tally = { passed: 0, failed: unhandledErrors, skipped: 0 };
  for (const module of modules) {
    let ownFailures = 0;
    for (const test of module.children.allTests()) {
      const state = test.result().state;
      if (state === 'passed') tally.passed += 1;
      else if (state === 'failed') ownFailures += 1;
      else tally.skipped += 1;
    }
    // A module may fail without a failing test: a broken import or a throwing hook.
    if (ownFailures === 0 && module.state() === 'failed') ownFailures = 1;
    tally.failed += ownFailures;
  }
  return tally;
}

export default class PlainReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    // Static checks that failed before the tests ran: their names, joined by commas.
    const checks = (process.env.KILOTOKEN_FAILED_CHECKS ?? '').split(',').filter((name) => name !== '');
    const { passed, failed, skipped } = tallyOf(modules, errors.length + checks.length);
    // Other reporters print in the same hook; the exit handler puts this line after all of them.
    process.once('exit', () => {
      // A run in which nothing passed proves nothing.
      if (passed === 0 || failed > 0) process.exitCode = 1;
      process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
    });
  }
}
