/**
 * Tables of the record that are summaries: what the catalogue of defects came to (`results/mutants`) and calibrations
 * (`results/calibration`). Their raw rows were not kept, so what can be computed anew is what follows from their own counts: rates,
 * intervals, true values, and the outcome of a defect from the looks of its layers.
 */
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { jsonOf } from '../input.ts';
import { calibrated, type Law, truths, WRONG } from '../measure/calibration.ts';
import {
  gateOf,
  MutantOutcome,
  MutantRow,
  type MutantsReport,
  type MutantsReportV1,
  readMutants,
} from '../mutants/schema.ts';
import { clopperPearson } from '../stats/proportion.ts';
import { firstIssue } from '../suite/jsonl.ts';

/** Of a number that is computed again, relative. */
const SLACK = 1e-9;

const Count = z.int().nonnegative();
const AlarmRate = z.looseObject({
  alpha: z.number(),
  alarms: Count,
  runs: Count,
  rate: z.number(),
  interval: z.object({ low: z.number(), high: z.number() }),
});
const GateCalibration = z.looseObject({
  schema: z.literal('kilotoken/calibration@1'),
  options: z.looseObject({ runs: Count, pairs: Count }),
  strict: AlarmRate,
  loose: AlarmRate,
  twoSample: AlarmRate,
});

const Coverage = z.object({
  figure: z.string(),
  truth: z.number(),
  ratio: z.number(),
  held: Count,
  campaigns: Count,
  low: z.number(),
  high: z.number(),
});
const MeasurementCalibration = z.looseObject({
  options: z.looseObject({ law: z.custom<Law>((law) => typeof law === 'object' && law !== null), campaigns: Count }),
  figures: z.array(Coverage).min(1),
  wrong: z.array(Coverage),
});

type Tell = (difference: string) => void;

/** Whether a path within the record is that of such a table. */
export function isTable(name: string): boolean {
  return /^(calibration|mutants)\/[^/]+\.json$/u.test(name);
}

/**
 * A table, with counts beside it that its rows give; `tell` hears what in it does not follow from the rest. Statements for later builds
 * (scores, an acceptance) are given as they are, with the number of their texts. Throws InputError.
 */
export function readTable(path: string, name: string, tell: Tell): unknown {
  const value = jsonOf(path);
  if (name.startsWith('mutants/')) return defects(readMutants(value), tell);
  if (typeof value === 'object' && value !== null && 'schema' in value)
    return gateRuns(fitted(GateCalibration, value, path), tell);
  if (typeof value === 'object' && value !== null && 'wrong' in value)
    return campaigns(fitted(MeasurementCalibration, value, path), tell);
  return Array.isArray(value) ? value.map(held) : value;
}

/** A statement of scores with the number of its texts. */
function held(statement: unknown): unknown {
  const parsed = z.looseObject({ texts: z.array(z.unknown()) }).safeParse(statement);
  return parsed.success ? { ...parsed.data, held: parsed.data.texts.length } : statement;
}

function fitted<T>(shape: z.ZodType<T>, value: unknown, path: string): T {
  const parsed = shape.safeParse(value);
  if (!parsed.success) throw new InputError(`${path}: ${firstIssue(parsed.error)}`);
  return parsed.data;
}

/** `outcomes`, and in the second version `gates`: how many defects came to what, what none came to included; `leftOut`: rows not run. */
function defects(table: MutantsReport | MutantsReportV1, tell: Tell): unknown {
  const says = (id: string, what: string, said: string | boolean, due: string | boolean): void => {
    if (said !== due) tell(`${id}: ${what} is ${said}, its rows give ${due}`);
  };
  const rows: readonly { readonly outcome: MutantOutcome }[] = table.defects;
  if (table.schema === 'kilotoken/mutants@1') {
    for (const { id, outcome, found } of table.defects) {
      if (!isControl(outcome)) says(id, 'outcome', outcome, found === null ? 'survived' : 'killed');
    }
  } else {
    for (const { id, outcome, gate, looks } of table.defects) {
      says(id, 'gate', gate, gateOf(looks));
      const seen = looks.map((look) => look.outcome);
      const due = seen.includes('killed') ? 'killed' : seen.includes('not run') ? 'not run' : 'survived';
      if (!isControl(outcome)) says(id, 'outcome', outcome, due);
    }
  }
  const holds = rows.every(({ outcome }) => outcome === 'killed' || outcome === 'control holds');
  says('the table', 'passed', table.passed, holds && table.clean.every((row) => row.holds));
  const outcomes = counted(
    MutantOutcome.options,
    rows.map(({ outcome }) => outcome),
  );
  const leftOut = table.notCovered.length;
  if (table.schema === 'kilotoken/mutants@1') return { ...table, outcomes, leftOut };
  const gates = counted(
    MutantRow.shape.gate.options,
    table.defects.map(({ gate }) => gate),
  );
  return { ...table, outcomes, gates, leftOut };
}

/** Which defects are controls, and what they must keep, stands in the catalogue. */
function isControl(outcome: MutantOutcome): boolean {
  return outcome.startsWith('control');
}

function counted(names: readonly string[], found: readonly string[]): Record<string, number> {
  return Object.fromEntries(names.map((name) => [name, found.filter((one) => one === name).length]));
}

function gateRuns(table: z.infer<typeof GateCalibration>, tell: Tell): unknown {
  const { strict, loose, twoSample, options } = table;
  for (const [name, row, runs] of [
    ['strict', strict, options.runs],
    ['loose', loose, options.runs],
    ['twoSample', twoSample, options.pairs],
  ] as const) {
    follows(`${name} > runs`, row.runs, runs, tell);
    follows(`${name} > rate`, row.rate, row.runs === 0 ? 0 : row.alarms / row.runs, tell);
    const { low, high } = clopperPearson(row.alarms, row.runs, 0.95);
    follows(`${name} > interval > low`, row.interval.low, low, tell);
    follows(`${name} > interval > high`, row.interval.high, high, tell);
  }
  return table;
}

/** `uncalibrated`: how many figures held less often than they say; `passing`: how many wrong estimators did not. */
function campaigns(table: z.infer<typeof MeasurementCalibration>, tell: Tell): unknown {
  const { law } = table.options;
  const truth = truths(law);
  const wrong: Readonly<Record<string, string>> = WRONG;
  for (const row of [...table.figures, ...table.wrong]) {
    follows(`${row.figure} > campaigns`, row.campaigns, table.options.campaigns, tell);
    follows(`${row.figure} > truth`, row.truth, truth.get(wrong[row.figure] ?? row.figure) ?? Number.NaN, tell);
    const { low, high } = clopperPearson(row.held, row.campaigns, 0.999);
    follows(`${row.figure} > low`, row.low, low, tell);
    follows(`${row.figure} > high`, row.high, high, tell);
  }
  const uncalibrated = table.figures.filter((row) => !calibrated(row)).length;
  return { ...table, uncalibrated, passing: table.wrong.filter(calibrated).length };
}

function follows(what: string, said: number, due: number, tell: Tell): void {
  if (!(Math.abs(said - due) <= SLACK * Math.max(1, Math.abs(due)))) tell(`${what} is ${said}, its counts give ${due}`);
}
