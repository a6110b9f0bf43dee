/** Published audits as lines of a list. What a line says of its run is all in the run's report. */
import type { Report, Verdict } from '../../../harness/report/schema.ts';
import { distinct } from './groups.ts';

export interface AuditLine {
  readonly id: string;
  readonly startedAt: string;
  /** Without the rule and block that stand behind the slash. */
  readonly engines: string;
  readonly model: string;
  readonly gpu: string;
  readonly verdicts: string;
  /** A warning of the run says that it is short. */
  readonly short: boolean;
}

/** `6 consistent, 1 refuted`, in order of first appearance. */
export function outcomes(verdicts: readonly Pick<Verdict, 'outcome'>[]): string {
  const words = verdicts.map(({ outcome }) => outcome);
  return distinct(words)
    .map((word) => `${words.filter((each) => each === word).length} ${word}`)
    .join(', ');
}

export function auditsOf(reports: readonly Report[]): AuditLine[] {
  return reports.map(({ run, engines, model, machine, verdicts, warnings }) => ({
    id: run.id,
    startedAt: run.startedAt,
    engines: distinct(engines.map(({ name }) => name.split('/')[0]!)).join(', '),
    model: `${model.name} (${model.kind})`,
    gpu: machine.gpus.length === 0 ? 'none' : distinct(machine.gpus).join('; '),
    verdicts: outcomes(verdicts),
    short: warnings.some(({ code }) => code === 'short-run'),
  }));
}
