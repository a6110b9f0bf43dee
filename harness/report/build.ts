/**
 * The report of a run, from its rows and nothing else: no clock, no disk, no engine. A fresh run and one read back from
 * its directory are judged by this same function.
 */
import type { StoredRun } from '../bundle/reader.ts';
import { type Manifest, VERDICTS_SCHEMA_ID, type Verdicts } from '../bundle/rows.ts';
import { isSegment } from '../measure/cells.ts';
import { answerClaims } from './claims.ts';
import { acceptanceRow, scenariosOf, speedRows } from './figures.ts';
import { measurementOf, timedVerdicts } from './measurement.ts';
import { FIRST_REPORT_SCHEMA_ID, REPORT_SCHEMA_ID, Report, type Verdict, type Warning } from './schema.ts';
import { judge } from './verdicts.ts';
import { distinct, engineWarnings } from './warnings.ts';

const REPORT_SCHEMA_FILE = 'schemas/report.schema.json';
const VERDICTS_SCHEMA_FILE = 'schemas/verdicts.schema.json';

export function buildReport(run: StoredRun): Report {
  const { manifest } = run;
  const equality = manifest.plan.phases.filter((phase) => phase.test === 'equality');
  const figures = equality.flatMap((phase) => scenariosOf(run, phase).map((name) => acceptanceRow(run, phase, name)));
  const broken = figures.flatMap(({ row, broken: texts }) =>
    texts.map((text) => `${row.engine}, ${row.scenario}, ${row.decoding}: ${text}`),
  );
  const { speed: speedPlan } = manifest.plan;
  const verdicts = [...judge(run, broken), ...(speedPlan ? timedVerdicts(run, speedPlan) : [])];
  const acceptance = figures.map(({ row }) => row);
  const timed = speedPlan ? measurementOf({ run, plan: { ...manifest.plan, speed: speedPlan }, verdicts }) : null;
  const phased = manifest.plan.phases
    .filter((phase) => phase.test === 'speed')
    .flatMap((phase) => {
      // The timings belong to a decoding; only an equality verdict on the same decoding speaks for their output.
      const same = equality.find((other) => other.rule === phase.rule && other.temperature === phase.temperature);
      const correct = verdicts.find((verdict) => verdict.id === same?.id)?.outcome === 'consistent';
      return scenariosOf(run, phase).flatMap((name) => speedRows(run, phase, name, correct));
    });

  const speed = [...phased, ...(timed?.speed ?? [])];
  const reasons = notPublishableBecause(run, verdicts);
  const engines = Object.entries(manifest.engines);
  // Parsed, so that the keys stand in the schema's order whoever prints it.
  return Report.parse({
    $schema: REPORT_SCHEMA_FILE,
    schema: timed === null ? FIRST_REPORT_SCHEMA_ID : REPORT_SCHEMA_ID,
    run: {
      id: manifest.id,
      title: manifest.title,
      startedAt: manifest.startedAt,
      seconds: manifest.seconds,
      command: manifest.command,
      seed: manifest.plan.seed,
      commit: manifest.commit,
      dirty: manifest.dirty,
      publishable: reasons.length === 0,
      notPublishableBecause: reasons,
    },
    machine: manifest.machine,
    model: manifest.model,
    engines: engines.map(([name, card]) => ({ ...card, name, numerics: card.numerics.id })),
    suites: manifest.suites,
    verdicts,
    acceptance,
    speed,
    ...(timed === null ? {} : { measurement: timed.measurement }),
    claims: answerClaims(run, { verdicts, acceptance, speed, measurement: timed?.measurement ?? null }),
    warnings: distinct([
      ...engines.flatMap(([, card]) => engineWarnings(card, manifest.model)),
      ...acceptance.flatMap((row) => (row.rawMicro.state === 'measured' ? row.rawMicro.warnings : [])),
      ...speed.flatMap((row) =>
        row.decodeTokensPerSecond.state === 'measured' ? row.decodeTokensPerSecond.warnings : [],
      ),
      ...(timed?.measurement.cells ?? []).flatMap((cell) =>
        cell.invalidBecause.map((text): Warning => ({ code: 'invalid', text: `${cell.id}: ${text}` })),
      ),
      ...treeWarnings(manifest.dirty),
    ]),
    files: manifest.files,
  });
}

export function verdictsOf(report: Report): Verdicts {
  const { verdicts, claims } = report;
  return { $schema: VERDICTS_SCHEMA_FILE, schema: VERDICTS_SCHEMA_ID, run: report.run.id, verdicts, claims };
}

/** 0 all consistent, 1 something refuted or contradictory, 4 not enough evidence. The one place that decides. */
export function exitCodeOf(verdicts: readonly Verdict[]): 0 | 1 | 4 {
  const outcomes = new Set(verdicts.map((verdict) => verdict.outcome));
  if (outcomes.has('refuted') || outcomes.has('internally inconsistent')) return 1;
  if (outcomes.has('inconclusive') || !outcomes.has('consistent')) return 4;
  return 0;
}

function treeWarnings(dirty: boolean): Warning[] {
  return dirty ? [{ code: 'dirty-tree', text: 'the code had uncommitted changes' }] : [];
}

function notPublishableBecause(run: StoredRun, verdicts: readonly Verdict[]): string[] {
  const { manifest } = run;
  const reasons: string[] = [];
  if (manifest.status !== 'complete') reasons.push(`the run is ${manifest.status}`);
  if (isQuick(manifest)) reasons.push('it is a quick look: run the audit again without --quick');
  if (manifest.dirty) reasons.push('the code had uncommitted changes');
  if (manifest.commit === 'unknown') reasons.push('the commit is unknown');
  for (const [name, card] of Object.entries(manifest.engines)) {
    if (card.defects.length > 0) reasons.push(`${name} has defects compiled in: ${card.defects.join(', ')}`);
    if (card.syntheticAcceptance !== null)
      reasons.push(`${name} does not accept for real: ${card.syntheticAcceptance}`);
  }
  for (const name of new Set(run.timings.filter(isSegment).flatMap((row) => row.switches))) {
    reasons.push(`${name} was set while speed was measured`);
  }
  for (const verdict of verdicts) {
    if (verdict.outcome === 'internally inconsistent') reasons.push(`the rows contradict themselves (${verdict.id})`);
  }
  return reasons;
}

/** Plans said nothing of it at first; the command that was recorded does. */
function isQuick({ plan, command }: Manifest): boolean {
  return plan.quick === true || command.split(' ').includes('--quick');
}
