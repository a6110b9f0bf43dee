/** A report as a person reads it in a terminal: verdicts, acceptance, speed, and what makes the numbers doubtful. */
import type { Measured, Measurement, Report, Verdict } from '../../harness/report/schema.ts';
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
  // A table that is copied out of its terminal must not lose what its numbers are of.
  const suffix = model.kind === 'pro-synthetic' ? ', synthetic weights' : '';
  if (report.acceptance.length > 0) {
    print('');
    print(paint('bold', `Acceptance length, tokens a round, bonus counted${suffix}`));
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
    print(paint('bold', `Decode speed, one session at a time, prefill outside${suffix}`));
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
  if (report.measurement !== undefined) printMeasurement(report.measurement, suffix);
  if (report.warnings.length > 0) {
    print('');
    for (const warning of report.warnings) print(`${paint('yellow', `warning ${warning.code}`)}: ${warning.text}`);
  }
  print('');
  const publishable = run.publishable ? 'yes' : `no: ${run.notPublishableBecause.join('; ')}`;
  print(`Publishable: ${publishable}. Took ${run.seconds.toFixed(0)} s.`);
}

/** What a reader of a terminal wants of the measurement; every other definition is in report.json and on the page. */
const SHOWN = ['ttft', 'e2e-tps', 'icl-p50', 'icl-p99', 'peak', 'energy-per-token', 'price-per-million'];

function printMeasurement(measurement: Measurement, suffix: string): void {
  print(measurement.statement);
  const { cells, comparisons } = measurement;
  if (cells.length > 0) {
    print('');
    print(paint('bold', `Speed by further definitions${suffix}`));
    const ids = [...new Set(cells.flatMap((cell) => cell.figures.map((figure) => figure.id)))].filter(
      (id) => SHOWN.includes(id) || id.startsWith('task-'),
    );
    const head = (id: string): string => {
      const figures = cells.flatMap((cell) => cell.figures.filter((figure) => figure.id === id));
      const unit = figures.flatMap(({ figure }) => (figure.state === 'measured' ? [figure.unit] : []))[0];
      return unit === undefined ? id : `${id} ${unit}`;
    };
    print(
      table(
        [
          ['scenario', 'at once', 'speculation', ...ids.map(head), 'headline'],
          ...cells.map((cell) => [
            cell.scenario,
            String(cell.concurrency),
            cell.speculation ? 'on' : 'off',
            ...ids.map((id) => {
              const figure = cell.figures.find((entry) => entry.id === id)?.figure;
              return figure === undefined ? '-' : value(figure, 2);
            }),
            cell.headline ? 'yes' : 'no',
          ]),
        ],
        ids.map((_, i) => i + 3),
      ),
    );
    print('');
    print(
      table(
        [
          [
            'on against off',
            ...comparisons.map((row) => (row.concurrency === 1 ? row.scenario : `${row.scenario} x${row.concurrency}`)),
          ],
          ...(comparisons[0]?.figures ?? []).map(({ id, name }) => [
            name,
            ...comparisons.map((row) => {
              const figure = row.figures.find((entry) => entry.id === id)?.figure;
              return figure === undefined ? '-' : value(figure, 2);
            }),
          ]),
        ],
        comparisons.map((_, i) => i + 1),
      ),
    );
  }
  print('');
  for (const check of measurement.checks) {
    const style = check.outcome === 'found' ? 'red' : check.outcome === 'clear' ? 'green' : 'yellow';
    print(`${paint(style, check.outcome.padEnd(11))}  ${check.question} ${check.evidence}`);
  }
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
