/**
 * `kilotoken check` of a node benchmark: everything the bundle says of itself, made anew from its rows by the code of today. The tree
 * speaks for the bytes; the rest speaks for the rows even when every digest was made anew.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CheckOptions, type CheckResult, checkTree } from '../../bundle/check/check.ts';
import { compareDocuments } from '../../bundle/check/documents.ts';
import { Findings } from '../../bundle/check/findings.ts';
import { digestOf } from '../../bundle/digests.ts';
import { InputError } from '../../engine.ts';
import { sha256 } from '../../suite/canonical.ts';
import { cellOf, nodeBooks } from './books.ts';
import { buildNodeReport } from './build.ts';
import { makeNodePlan, type NodePlan, type PlanStage, type PlanTask, recordId } from './plan.ts';
import { readNodeManifest, readNodeRun, type StoredNodeRun } from './reader.ts';
import { NODE_SCHEMA_ID, type NodeManifest } from './rows.ts';
import { stepBytes } from './shape.ts';
import { nodeHeadDigest } from './writer.ts';

/** Bytes of a GPU's second-level cache that a step may find there; more than any known GPU's. */
const CACHE_BYTES = 128 * 2 ** 20;

/** Throws InputError only when `directory` holds no manifest that can be read. */
export async function checkNodeBundle(directory: string, options: CheckOptions): Promise<CheckResult> {
  const findings = new Findings();
  const tree = await checkTree(directory, options, findings);
  let manifest: NodeManifest;
  try {
    manifest = readNodeManifest(directory);
  } catch (error) {
    if (!(error instanceof InputError) || tree.root === null) throw error;
    findings.difference('rows', error.message);
    return resultOf(directory, null, null, findings, tree);
  }
  if (manifest.status !== 'complete')
    findings.doubt('status', `the run is ${manifest.status}: judged on what is there`);
  if (manifest.status !== 'running' && tree.root === null)
    findings.doubt('tree', 'the bundle is not sealed: it has no tree.json, so single bytes are not covered');
  if (options.build !== null && sha256(options.build) !== manifest.buildDigest)
    findings.difference(
      'build',
      `the run names the build ${manifest.buildDigest}, the one given is ${sha256(options.build)}`,
    );
  let run: StoredNodeRun | null = null;
  try {
    run = await readNodeRun(directory, (text) => findings.difference('rows', text));
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    findings.difference('rows', error.message);
  }
  if (run !== null) {
    try {
      checkPlan(run, findings);
      checkOrder(run, findings);
      checkEvents(run, findings);
      checkLooks(run, findings);
      checkClocks(run, findings);
      for (const text of nodeBooks(run)) findings.difference('books', text);
      checkCeilings(run, findings);
      checkReport(directory, run, findings);
    } catch (error) {
      // Of rows that are known to be other rows, one may be such that nothing can be computed from it.
      if (findings.count('difference') === 0) throw error;
      findings.difference('rows', `they cannot be judged: ${(error as Error).message}`);
    }
  }
  return resultOf(directory, manifest, run, findings, tree);
}

/** Names within the plan, and whether today's planner would have made it. */
function checkPlan({ plan }: StoredNodeRun, findings: Findings): void {
  const cells = new Set(plan.cells.map(({ id }) => id));
  const models = new Set(plan.models.map(({ id }) => id));
  for (const cell of plan.cells)
    if (!models.has(cell.model)) findings.difference('plan', `cell ${cell.id} names no model of the plan`);
  for (const stage of plan.stages) {
    if (!models.has(stage.model)) findings.difference('plan', `stage ${stage.id} names no model of the plan`);
    for (const task of stage.tasks)
      if (!cells.has(task.cell))
        findings.difference('plan', `stage ${stage.id} names no cell of the plan: ${task.cell}`);
  }
  let made: NodePlan | null = null;
  try {
    made = makeNodePlan(plan.input);
  } catch {}
  if (made === null || digestOf(made) !== digestOf(plan))
    findings.note('plan', "today's planner makes another plan of the same options");
}

/** Every generation is the next task of the plan; those that are missing have a reason in the rows. */
function checkOrder(run: StoredNodeRun, findings: Findings): void {
  const { plan, generations, manifest } = run;
  const left = new Set(run.events.filter((row) => row.kind === 'stage-left-out').map((row) => String(row.stage)));
  const failed = new Set(run.models.filter((row) => row.lack !== null).map((row) => row.model));
  const givenUp = new Set<string>();
  const due: { stage: PlanStage; task: PlanTask }[] = plan.stages.flatMap((stage) =>
    stage.tasks.map((task) => ({ stage, task })),
  );
  const excused = ({ stage, task }: (typeof due)[number]): boolean => {
    if (left.has(stage.id) || failed.has(stage.model) || givenUp.has(task.cell)) return true;
    const cell = plan.cells.find(({ id }) => id === task.cell)!;
    // Without its plain continuation there is nothing to propose.
    return cell.profile !== null && givenUp.has(recordId(cell.model, cell.context));
  };
  let next = 0;
  for (const { row } of generations) {
    while (next < due.length && !same(due[next]!, row)) {
      if (!excused(due[next]!))
        findings.difference('plan', `${named(due[next]!)} is missing before generation ${row.g}`);
      next += 1;
    }
    if (next === due.length) {
      findings.difference(
        'plan',
        `generation ${row.g} (${row.cell}, repeat ${row.repeat}) is not the next task of the plan`,
      );
      return;
    }
    const { stage } = due[next]!;
    if (row.stage !== stage.id || row.model !== stage.model)
      findings.difference('plan', `generation ${row.g} names stage ${row.stage} and model ${row.model}`);
    if (row.fault !== null) givenUp.add(row.cell);
    next += 1;
  }
  if (manifest.status !== 'complete') return;
  for (const task of due.slice(next)) if (!excused(task)) findings.difference('plan', `${named(task)} is missing`);
}

function same(
  { stage, task }: { stage: PlanStage; task: PlanTask },
  row: PlanTask & { readonly stage: string },
): boolean {
  return stage.id === row.stage && task.cell === row.cell && task.role === row.role && task.repeat === row.repeat;
}

function named({ stage, task }: { stage: PlanStage; task: PlanTask }): string {
  return `${task.cell} (${task.role}, repeat ${task.repeat}, stage ${stage.id})`;
}

function checkEvents(run: StoredNodeRun, findings: Findings): void {
  const { manifest, events, generations } = run;
  const starts = events.filter((row) => row.kind === 'run-start');
  const ends = events.filter((row) => row.kind === 'run-end');
  if (starts.length !== 1 || starts[0]!.run !== manifest.id || starts[0]!.head !== nodeHeadDigest(manifest))
    findings.difference('events', 'the run did not begin under this manifest');
  if (manifest.status === 'running') return;
  const counted = {
    status: manifest.status,
    generations: generations.length,
    rounds: generations.reduce((sum, { rounds }) => sum + rounds.length, 0),
    tokens: generations.reduce((sum, { row }) => sum + row.tokens, 0),
  };
  const [end] = ends;
  for (const [name, value] of Object.entries(counted)) {
    if (ends.length !== 1 || end![name] !== value)
      findings.difference(
        'counters',
        `${name}: ${value} in the rows, ${end?.[name] ?? 'nothing'} counted as they were written`,
      );
  }
  if (end !== undefined && end.t_ns / 1e9 !== manifest.seconds)
    findings.difference('clocks', 'the run ended at another time than the manifest says');
}

/** Where a run looked who was on its GPUs, it looked before, behind every stage and after. */
function checkLooks({ looks, events, manifest, plan }: StoredNodeRun, findings: Findings): void {
  if (looks.length === 0) return;
  const missing = (what: string): void => findings.difference('events', `there is no look at the GPUs ${what}`);
  if (looks[0]!.when !== 'before') missing('before the run');
  if (manifest.status !== 'running' && looks.at(-1)!.when !== 'after') missing('after the run');
  const behind = new Set(looks.map(({ stage }) => stage));
  for (const row of events)
    if (row.kind === 'stage-end' && !behind.has(String(row.stage))) missing(`behind stage ${row.stage}`);
  const due = Array.from({ length: plan.input.gpus }, (_, gpu) => gpu).join();
  for (const { gpus, when } of looks)
    if (gpus.map(({ gpu }) => gpu).join() !== due)
      findings.difference('events', `a look (${when}) is not at the GPUs of the plan`);
}

/** Generations lie one behind another on one clock, and everything within the run. */
function checkClocks(run: StoredNodeRun, findings: Findings): void {
  let free = 0;
  for (const { row } of run.generations) {
    if (row.t_ns < free) findings.difference('clocks', `generation ${row.g} begins before the one before it has ended`);
    free = row.t_ns + row.prefillNs + row.decodeNs;
  }
  const end = run.events.find((row) => row.kind === 'run-end')?.t_ns ?? Number.POSITIVE_INFINITY;
  if (free > end) findings.difference('clocks', 'the last generation ends after the run');
  for (const [what, rows] of [
    ['a floor', run.floors],
    ['an all-reduce', run.collectives],
    ['a model', run.models],
    ['a reading', run.telemetry],
    ['an event', run.events],
  ] as const) {
    if (rows.some((row) => row.t_ns > end)) findings.difference('clocks', `${what} lies behind the end of the run`);
  }
  for (const rows of [run.models, run.floors, run.collectives]) {
    if (rows.some((row, i) => i > 0 && row.t_ns < rows[i - 1]!.t_ns))
      findings.difference('clocks', 'rows do not stand in the order of their times');
  }
  const order = run.events.filter((row, i) => i > 0 && row.t_ns < run.events[i - 1]!.t_ns);
  if (order.length > 0) findings.difference('clocks', 'events do not stand in the order of their times');
}

/** No step is faster than the data sheet's memory rate lets its bytes be read. */
function checkCeilings(run: StoredNodeRun, findings: Findings): void {
  const { value: rate } = run.manifest.provenance.system.gpuMemoryBandwidth;
  if (rate === null) return;
  for (const generation of run.generations) {
    const cell = cellOf(run.plan, generation);
    const model = run.plan.models.find(({ id }) => id === cell?.model);
    if (cell === undefined || model === undefined || generation.row.fault !== null) continue;
    for (const round of generation.rounds.slice(1)) {
      if (round.e.length === 0) continue;
      const distinct = round.e.reduce((a, b) => a + b, 0) / round.e.length;
      const { total } = stepBytes({ ...model, speculation: cell.block > 1, distinct, context: cell.context });
      const least = Math.max(0, total - model.gpus * CACHE_BYTES) / (model.gpus * rate);
      const took = (round.ns[0] + round.ns[1]) / 1e9;
      if (took < least) {
        const ms = (seconds: number): string => `${(seconds * 1e3).toFixed(3)} ms`;
        findings.difference(
          'ceilings',
          `generation ${round.g}, round ${round.i} took ${ms(took)}; its bytes need ${ms(least)} at the data sheet's rate`,
        );
      }
    }
  }
}

function checkReport(directory: string, run: StoredNodeRun, findings: Findings): void {
  const path = join(directory, 'report.json');
  if (!existsSync(path)) {
    if (run.manifest.status !== 'running') findings.doubt('documents', 'report.json is missing');
    return;
  }
  let stored: unknown;
  try {
    stored = JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    findings.difference('documents', 'report.json is not JSON');
    return;
  }
  for (const difference of compareDocuments(stored, JSON.parse(JSON.stringify(buildNodeReport(run))))) {
    const { path: at, stored: said, computed } = difference;
    findings.difference('documents', `report.json: ${at} says ${said}, the rows give ${computed}`);
  }
}

function resultOf(
  directory: string,
  manifest: NodeManifest | null,
  run: StoredNodeRun | null,
  findings: Findings,
  tree: { readonly root: string | null; readonly signedBy: string | null },
): CheckResult {
  const differences = findings.count('difference');
  const doubts = findings.count('doubt');
  return {
    run: manifest?.id ?? directory,
    schema: NODE_SCHEMA_ID,
    status: manifest?.status ?? 'failed',
    outcome: differences > 0 ? 'different' : doubts > 0 ? 'unfinished' : 'intact',
    differences,
    doubts,
    findings: findings.list(),
    root: tree.root,
    signedBy: tree.signedBy,
    rounds: run === null ? 0 : run.generations.reduce((sum, { rounds }) => sum + rounds.length, 0),
    sessions: run?.generations.length ?? 0,
    verdicts:
      run === null || differences > 0
        ? []
        : buildNodeReport(run).verdicts.map(({ id, outcome, evidence }) => ({ id, outcome, evidence })),
  };
}
