/** A report as a person reads it in a terminal: verdicts, acceptance, speed, and what makes the numbers doubtful. */
import type { Measured, Report, Verdict } from '../../harness/report/schema.ts';
import { paint, print, table } from './output.ts';

export function printSummary(report: Report): void {
  const { run, model } = report;
  print(paint('bold', run.title));
  print(`Model: ${model.name} (${model.kind}). ${model.note}`);
  print('');
  for (const verdict of report.verdicts) {
    print(`${painted(verdict)}  ${verdict.question}`);
    print(`    ${verdict.evidence}`);
    if (verdict.outcome === 'consistent' && verdict.wouldHaveCaught !== null) {
      print(`    Would have caught: ${verdict.wouldHaveCaught}.`);
    }
  }
  if (report.acceptance.length > 0) {
    print('');
    print(paint('bold', 'Acceptance length, tokens a round, bonus counted'));
    print(
      table(
        [
          ['scenario', 'decoding', 'rule', 'raw', '95 % interval', 'kept', 'n-gram', 'published', 'prompts'],
          ...report.acceptance.map((row) => [
            row.scenario,
            row.decoding,
            row.rule,
            value(row.rawMicro, 2),
            interval(row.rawMicro, 2),
            value(row.keptMicro, 2),
            value(row.ngramBaseline, 2),
            row.published === null ? '-' : `${row.published.value} (other model)`,
            String(row.prompts),
          ]),
        ],
        [3, 5, 6, 8],
      ),
    );
  }
  if (report.speed.length > 0) {
    print('');
    print(paint('bold', 'Decode speed, one session at a time, prefill outside'));
    print(
      table(
        [
          [
            'scenario',
            'speculation',
            'tokens/s',
            '95 % interval',
            'step ms',
            'prefill tokens/s',
            'speed-up',
            '95 % interval',
          ],
          ...report.speed.map((row) => [
            row.scenario,
            row.speculation ? 'on' : 'off',
            value(row.decodeTokensPerSecond, 0),
            interval(row.decodeTokensPerSecond, 0),
            value(row.stepMs, 2),
            value(row.prefillTokensPerSecond, 0),
            value(row.speedup, 2),
            interval(row.speedup, 2),
          ]),
        ],
        [2, 4, 5, 6],
      ),
    );
  }
  if (report.warnings.length > 0) {
    print('');
    for (const warning of report.warnings) print(`${paint('yellow', `warning ${warning.code}`)}: ${warning.text}`);
  }
  print('');
  const publishable = run.publishable ? 'yes' : `no: ${run.notPublishableBecause.join('; ')}`;
  print(`Publishable: ${publishable}. Took ${run.seconds.toFixed(0)} s.`);
}

function painted(verdict: Verdict): string {
  const style = { consistent: 'green', refuted: 'red', 'internally inconsistent': 'red' } as const;
  const word = verdict.outcome;
  return paint(word in style ? style[word as keyof typeof style] : 'yellow', word.padEnd(12));
}

function value(figure: Measured, digits: number): string {
  return figure.state === 'measured' ? figure.value.toFixed(digits) : '-';
}

function interval(figure: Measured, digits: number): string {
  if (figure.state !== 'measured' || figure.interval === null) return '-';
  return `${figure.interval.low.toFixed(digits)} to ${figure.interval.high.toFixed(digits)}`;
}
