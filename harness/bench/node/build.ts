/** The report of a node benchmark from its stored rows: a fresh run and a committed one are judged by the same code. */

import { companyOf } from '../../measure/gpus.ts';
import { median } from '../../stats/averages.ts';
import { collectiveFigures } from './collectives.ts';
import { Comparer, labelsOf } from './compare.ts';
import { type CellSums, cellFigures, cellSums, stretchOf, told, untold } from './figures.ts';
import { layerTimes } from './layers.ts';
import type { NodePlan, PlanCell, PlanModel } from './plan.ts';
import { expectedCommitted } from './profile.ts';
import type { StoredNodeRun } from './reader.ts';
import {
  NODE_REPORT_SCHEMA_ID,
  type NodeCellRow,
  type NodeFigure,
  type NodeGpuUse,
  type NodeReport,
} from './report.ts';
import { nodeVerdicts } from './verdicts.ts';

/** GPUs that read at less than this share of the median's rate are named. */
const EVEN = 0.95;
/** How far the engine's count of its weights may lie from the estimate before a reader is told. */
const WEIGHTS_APART = 0.15;

export function buildNodeReport(run: StoredNodeRun): NodeReport {
  const { manifest, plan } = run;
  const sums = new Map<string, CellSums>();
  const cells: NodeCellRow[] = [];
  for (const cell of plan.cells) {
    if (cell.group === 'record') continue;
    const model = modelOf(plan, cell);
    const timed = run.generations.filter(({ row }) => row.cell === cell.id && row.role === 'timed');
    const found = cellSums(cell, model, timed);
    if (found === null) continue;
    sums.set(cell.id, found);
    cells.push(cellRow(run, cell, model, found));
  }
  const collectives = collectiveFigures(run);
  const comparer = new Comparer(run, sums, collectives);
  const comparisons = comparer.comparisons();
  const layers = layerTimes(run);
  return {
    $schema: 'schemas/node-report.schema.json',
    schema: NODE_REPORT_SCHEMA_ID,
    run: {
      id: manifest.id,
      title: manifest.title,
      startedAt: manifest.startedAt,
      status: manifest.status,
      seconds: manifest.seconds,
      command: manifest.command,
      commit: manifest.commit,
      dirty: manifest.dirty,
      seed: plan.input.seed,
    },
    machine: {
      gpus: manifest.gpus.length,
      used: plan.input.gpus,
      gpu: manifest.gpus[0]!.name,
      cpu: manifest.machine.cpu,
      os: manifest.machine.os,
    },
    labels: [...new Set(cells.flatMap((cell) => cell.labels))],
    warnings: warnings(run),
    verdicts: nodeVerdicts(run),
    profiles: plan.input.profiles,
    floors: floorFigures(run),
    models: plan.models.map((model) => {
      const opened = run.models.filter((row) => row.model === model.id);
      return {
        id: model.id,
        layers: model.layers,
        gpus: model.gpus,
        loadSeconds: opened.length === 0 ? 0 : Math.max(...opened.map((row) => row.loadNs)) / 1e9,
        weightBytes: opened.find((row) => row.weightBytes !== null)?.weightBytes ?? null,
        estimatedGpuBytes: model.estimatedGpuBytes,
        lack: opened.find((row) => row.lack !== null)?.lack ?? null,
      };
    }),
    cells,
    layers,
    notMeasured: notMeasured(run, new Set([...sums.keys(), ...layers.map(({ id }) => id)])),
    comparisons,
    projections: comparer.projections(),
    targets: comparer.targets(comparisons),
    ...(collectives === undefined ? {} : { collectives }),
    telemetry: gpuUse(run),
  };
}

function modelOf(plan: NodePlan, cell: PlanCell): PlanModel {
  return plan.models.find(({ id }) => id === cell.model)!;
}

function cellRow(run: StoredNodeRun, cell: PlanCell, model: PlanModel, sums: CellSums): NodeCellRow {
  const profile = run.plan.input.profiles.find(({ name }) => name === cell.profile);
  const few = sums.generations.length < 3 && cell.group !== 'lossless' ? ['fewer than 3 repeats: no interval'] : [];
  return {
    id: cell.id,
    group: cell.group,
    engine: model.engine,
    experts: model.experts,
    layers: model.layers,
    gpus: model.gpus,
    sharedRouting: model.sharedRouting,
    mode: cell.mode,
    speculation: cell.block > 1,
    block: cell.block,
    profile:
      profile === undefined
        ? null
        : { name: profile.name, target: profile.target, expected: expectedCommitted(profile.chances, cell.block) },
    context: cell.context,
    repeats: sums.generations.length,
    labels: [...labelsOf(cell, model), ...few],
    figures: cellFigures(run, cell, model, sums),
  };
}

/** Cells that the plan left out, and those it has that gave nothing, each with why. */
function notMeasured(run: StoredNodeRun, measured: ReadonlySet<string>): NodeReport['notMeasured'] {
  const { plan } = run;
  const missing = plan.cells
    .filter((cell) => cell.group !== 'record' && !measured.has(cell.id))
    .map((cell) => ({ cell: cell.id, group: cell.group, reason: reasonOf(run, cell) }));
  return [...plan.notMeasured, ...missing];
}

function reasonOf(run: StoredNodeRun, cell: PlanCell): string {
  const lack = run.models.find((row) => row.model === cell.model && row.lack !== null)?.lack;
  if (lack != null) return lack;
  const fault = run.generations.find(({ row }) => row.cell === cell.id && row.fault !== null)?.row.fault;
  if (fault != null) return `${fault.kind}: ${fault.message}`;
  const stages = new Set(
    run.plan.stages.filter(({ tasks }) => tasks.some((task) => task.cell === cell.id)).map(({ id }) => id),
  );
  const left = run.events.find((row) => row.kind === 'stage-left-out' && stages.has(String(row.stage)));
  if (left !== undefined) return String(left.reason);
  const record = run.generations.find(
    ({ row }) => row.role === 'record' && row.model === cell.model && row.fault !== null,
  );
  if (record !== undefined) return `its plain continuation is missing: ${record.row.fault!.message}`;
  return `the run ended before it: ${run.manifest.status}`;
}

function floorFigures(run: StoredNodeRun): NodeFigure[] {
  const row = run.floors.find((floor) => floor.kind === 'read');
  if (row === undefined) {
    const reason = run.plan.input.lacks.readCeiling ?? 'the run ended before it';
    return [
      { id: 'read-slowest', name: 'Read rate of the slowest GPU', formula: 'not measured', figure: untold(reason) },
    ];
  }
  const formula = `${row.method}; all ${row.gpus} GPUs at once`;
  const figure = (value: number) => told(value / 1e12, 'TB/s', row.bytesPerSecond.length, 'GPUs');
  return [
    {
      id: 'read-slowest',
      name: 'Read rate of the slowest GPU',
      formula,
      figure: figure(Math.min(...row.bytesPerSecond)),
    },
    {
      id: 'read-fastest',
      name: 'Read rate of the fastest GPU',
      formula,
      figure: figure(Math.max(...row.bytesPerSecond)),
    },
  ];
}

function warnings(run: StoredNodeRun): string[] {
  const said: string[] = [];
  if (run.manifest.dirty) said.push('the code had uncommitted changes');
  const floor = run.floors.find((row) => row.kind === 'read');
  if (floor !== undefined) {
    const middle = median(floor.bytesPerSecond);
    for (const [gpu, value] of floor.bytesPerSecond.entries()) {
      if (value < EVEN * middle)
        said.push(
          `GPU ${gpu} reads at ${(value / 1e12).toFixed(2)} TB/s, the median at ${(middle / 1e12).toFixed(2)}: all others wait for it`,
        );
    }
  }
  for (const use of gpuUse(run)) {
    if (use.throttled.length > 0)
      said.push(`GPU ${use.gpu} was held back during timed decoding: ${use.throttled.join(', ')}`);
  }
  for (const row of run.models) {
    const model = run.plan.models.find(({ id }) => id === row.model);
    if (row.weightBytes === null || model === undefined) continue;
    if (row.weightBytes > (1 + WEIGHTS_APART) * model.estimatedGpuBytes)
      said.push(
        `${model.id} holds ${gib(row.weightBytes)} GiB of weights on the first GPU; ${gib(model.estimatedGpuBytes)} were estimated in all`,
      );
  }
  for (const row of run.looks) {
    const { doubts, unseen } = companyOf(row.gpus);
    for (const text of unseen) said.push(`other programs: not seen: ${text}`);
    for (const text of doubts) said.push(text);
  }
  for (const row of run.events) if (row.kind === 'stage-left-out') said.push(`stage ${row.stage} was ${row.reason}`);
  return [...new Set(said)];
}

function gib(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(1);
}

/** Sensors of each GPU used, while timed generations decoded. */
function gpuUse(run: StoredNodeRun): NodeGpuUse[] {
  const stretches = run.generations.filter(({ row }) => row.role === 'timed' && row.fault === null).map(stretchOf);
  const inside = run.telemetry.filter(
    (row) =>
      row.source === 'nvidia-smi' &&
      Number(row.device ?? 'none') < run.plan.input.gpus &&
      stretches.some(({ startNs, endNs }) => row.t_ns >= startNs && row.t_ns <= endNs),
  );
  const gpus = [...new Set(inside.map((row) => row.device!))].sort((a, b) => Number(a) - Number(b));
  return gpus.map((gpu) => {
    const rows = inside.filter((row) => row.device === gpu);
    const power = rows.flatMap((row) => row.power_w ?? []);
    const clock = rows.flatMap((row) => row.sm_clock_mhz ?? []);
    const heat = rows.flatMap((row) => row.temperature_c ?? []);
    return {
      gpu,
      readings: rows.length,
      powerW:
        power.length === 0 ? null : { mean: power.reduce((a, b) => a + b, 0) / power.length, most: Math.max(...power) },
      smClockMhz: clock.length === 0 ? null : { median: median(clock), least: Math.min(...clock) },
      temperatureC: heat.length === 0 ? null : Math.max(...heat),
      throttled: [...new Set(rows.flatMap((row) => row.throttle_reasons ?? []))].sort(),
    };
  });
}
