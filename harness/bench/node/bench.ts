/**
 * The node benchmark from end to end: looks at the machine, fixes the plan, runs it under telemetry, computes the report from what was
 * stored, seals the bundle. What the machine lacks is said before anything is run.
 */
import { writeDocument } from '../../bundle/disk.ts';
import type { Provenance } from '../../bundle/provenance.ts';
import { sealBundle } from '../../bundle/tree.ts';
import { EnvironmentError, InputError } from '../../engine.ts';
import { CONTEXT_BYTES, companyOf, GPU_LOOK, type GpuLook, looksOf, takeLook } from '../../measure/gpus.ts';
import { startTelemetry } from '../../measure/telemetry.ts';
import { exitCodeOf } from '../../report/build.ts';
import { buildNodeReport } from './build.ts';
import type { NodeDescription, NodeMachine } from './machine.ts';
import { GROUPS, makeNodePlan, type NodePlan, type NodePlanInput } from './plan.ts';
import { readNodeRun } from './reader.ts';
import { NodeReport } from './report.ts';
import type { NodeManifest } from './rows.ts';
import { lookAgain, runNodePlan } from './runner.ts';
import { type NodeManifestHead, NodeWriter } from './writer.ts';

/** Memory of a GPU that may be in use before the run begins, if this process has worked on it already. */
const WORKED_BYTES = 4 * 2 ** 30;

/** Longest wait for a driver to say what GPUs there are; starting eight of them anew takes long. */
const DESCRIBE_SECONDS = 60;

export type NodeBenchOptions = Omit<NodePlanInput, 'gpus' | 'freeBytes' | 'lacks'> & {
  /** Null: all that are there, as far as 1, 2, 4 or 8 of them can be used. */
  readonly gpus: number | null;
};

export interface NodeBenchInput {
  readonly machine: NodeMachine;
  readonly options: NodeBenchOptions;
  readonly about: Pick<NodeManifestHead, 'id' | 'startedAt' | 'command' | 'commit' | 'dirty' | 'machine'>;
  /** Provenance of the run, once the plan is known. */
  readonly provenance: (plan: NodePlan, description: NodeDescription) => Provenance;
  readonly directory: string;
  readonly telemetryHz: number;
  /** The program that reads GPUs; null for none. Default: nvidia-smi. */
  readonly smi?: string | null;
  readonly signal: AbortSignal;
  readonly now: () => bigint;
  readonly progress: (line: string) => void;
  readonly patience?: number;
}

export interface NodeBenchResult {
  readonly report: NodeReport;
  readonly status: NodeManifest['status'];
  /** As commands end: 0 pass, 1 refuted, 4 inconclusive. */
  readonly exitCode: 0 | 1 | 4;
}

/** The plan of a run on this machine. Throws EnvironmentError for what it lacks, InputError for options that contradict it. */
export async function planNodeBench(
  machine: NodeMachine,
  options: NodeBenchOptions,
  patience = 1,
): Promise<{ readonly plan: NodePlan; readonly description: NodeDescription; readonly looks: readonly GpuLook[] }> {
  // First: to describe a GPU is to be on it.
  const before = await takeLook(() => machine.look());
  const description = await described(machine, DESCRIBE_SECONDS * patience);
  const { lack, gpus, capabilities } = description;
  if (lack !== '') throw new EnvironmentError(lack);
  if (gpus.length === 0) throw new EnvironmentError('no GPU is visible');
  const most = [8, 4, 2, 1].find((count) => count <= gpus.length)!;
  const count = options.gpus ?? most;
  if (count > gpus.length)
    throw new EnvironmentError(
      `${count} GPUs were asked for, ${gpus.length} ${gpus.length === 1 ? 'is' : 'are'} visible`,
    );
  const used = gpus.slice(0, count);
  const looks = looksOf(
    before,
    used.map((gpu) => gpu.index),
  );
  const { foreign } = companyOf(looks);
  if (foreign.length > 0)
    throw new EnvironmentError(`another program is ${foreign.join('; ')}; the benchmark needs its GPUs to itself`);
  for (const [i, gpu] of used.entries()) {
    const taken = gpu.memory - gpu.freeMemory;
    if (taken > (looks[i]!.held ? WORKED_BYTES : CONTEXT_BYTES))
      throw new EnvironmentError(
        `GPU ${gpu.index} has ${(taken / 2 ** 30).toFixed(1)} GiB in use by another program; the benchmark needs its GPUs to itself`,
      );
    const missing = used.find((other) => other.index !== gpu.index && !gpu.peers.includes(other.index));
    if (missing !== undefined)
      throw new EnvironmentError(`GPU ${gpu.index} cannot reach the memory of GPU ${missing.index}: no peer access`);
    if (gpu.name !== used[0]!.name)
      throw new EnvironmentError(`GPU ${gpu.index} is a ${gpu.name}, GPU ${used[0]!.index} a ${used[0]!.name}`);
  }
  const plan = makeNodePlan({
    ...options,
    gpus: count,
    freeBytes: Math.min(...used.map((gpu) => gpu.freeMemory)),
    lacks: {
      ...capabilities,
      readCeiling: machine.readCeiling === undefined ? 'this build measures no read ceiling' : null,
      collectives: machine.collectives === undefined ? 'this build measures no collectives' : null,
    },
  });
  return { plan, description, looks };
}

/** Names the parts where not all were asked for, so that runs of single parts are told apart. */
function titleOf({ models, input }: NodePlan, gpus: string): string {
  const parts = input.groups.length === GROUPS.length ? '' : ` (${input.groups.join(', ')})`;
  const layers = models.length === 0 ? '' : `, ${models[0]!.layers} layers`;
  return `Node benchmark${parts}${layers} on ${gpus}`;
}

async function described(machine: NodeMachine, seconds: number): Promise<NodeDescription> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, fail) => {
    const text = `the driver did not say what GPUs there are within ${seconds} s`;
    timer = setTimeout(() => fail(new EnvironmentError(text)), seconds * 1000);
  });
  try {
    return await Promise.race([machine.describe(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Rejects as planNodeBench does, and with DeviceError when a GPU faulted; then the bundle holds what was recorded before. */
export async function benchNode(input: NodeBenchInput): Promise<NodeBenchResult> {
  const { machine, signal, now, progress, directory } = input;
  const { plan, description, looks } = await planNodeBench(machine, input.options, input.patience);
  const gpus = `${plan.input.gpus} x ${description.gpus[0]!.name}`;
  const head: NodeManifestHead = {
    ...input.about,
    title: titleOf(plan, gpus),
    gpus: description.gpus.map((gpu) => ({ ...gpu, peers: [...gpu.peers] })),
    buildDigest: description.buildDigest,
    provenance: input.provenance(plan, description),
  };
  const writer = new NodeWriter(directory, head, plan, now);
  writer.look({ t_ns: 0, kind: GPU_LOOK, when: 'before', stage: null, gpus: [...looks] });
  const telemetry = startTelemetry({
    hz: input.telemetryHz,
    t: () => writer.t(),
    sink: (row) => writer.telemetry(row),
    ...(input.smi === undefined ? {} : { smi: input.smi }),
  });
  let status: NodeManifest['status'] = 'failed';
  let failure: unknown = null;
  try {
    const patience = input.patience === undefined ? {} : { patience: input.patience };
    await runNodePlan({ plan, machine, writer, signal, now, progress, ...patience });
    status = signal.aborted ? 'interrupted' : 'complete';
  } catch (error) {
    failure = error;
  }
  await telemetry.stop();
  await lookAgain({ machine, plan, writer, progress }, 'after', null);
  writer.finish(status);
  const report = await judgeNodeDirectory(directory);
  if (failure !== null) throw failure;
  return { report, status, exitCode: exitCodeOf(report.verdicts) };
}

/** Judges the stored rows. Writes nothing. Throws InputError for rows that are not what was written. */
export async function nodeReportOf(directory: string): Promise<NodeReport> {
  return buildNodeReport(await readNodeRun(directory));
}

/** The same; writes report.json anew, and the tree over everything. Throws InputError. */
export async function judgeNodeDirectory(directory: string): Promise<NodeReport> {
  const report = await writeNodeReport(directory);
  await sealBundle(directory);
  return report;
}

/** Computes report.json from the stored rows. */
export async function writeNodeReport(directory: string): Promise<NodeReport> {
  const report = await nodeReportOf(directory);
  writeDocument(`${directory}/report.json`, NodeReport, report);
  return report;
}

/** For a benchmark of the shape that is asked for; there is one. */
export function shapeOf(name: string): 'pro' {
  if (name !== 'pro') throw new InputError(`there is no shape "${name}"; there is pro`);
  return name;
}
