/**
 * Runs a plan of the node benchmark and writes down what happened. The machine is not trusted to return, to return the right shape or
 * to end: whatever it does becomes a row. Nothing is concluded here; figures.ts does that from the rows.
 */
import { z } from 'zod';
import { tokensDigest } from '../../bundle/digests.ts';
import { EnvironmentError } from '../../engine.ts';
import { companyOf, GPU_LOOK, type GpuLookRow, looksOf, takeLook } from '../../measure/gpus.ts';
import { collectiveRows } from './collectives.ts';
import { DeviceError, type NodeMachine, type NodeModel, type NodeRound, type NodeTraceOp } from './machine.ts';
import {
  corruptionSeed,
  loadSeconds,
  modelSpec,
  type NodePlan,
  type PlanCell,
  type PlanStage,
  type PlanTask,
  promptOf,
  taskTokens,
} from './plan.ts';
import { BLOCK, corrupt } from './profile.ts';
import { type CollectiveRow, type GenerationFault, NodeRoundRow, TraceRow } from './rows.ts';
import { PRO } from './shape.ts';
import type { NodeWriter } from './writer.ts';

/** Longest wait for a machine that says nothing: it bounds its own waits, this is for one that does not. */
const HANG_SECONDS = 60;
const HANG_SECONDS_PER_TOKEN = 0.05;

export interface NodeRunContext {
  readonly plan: NodePlan;
  readonly machine: NodeMachine;
  readonly writer: NodeWriter;
  readonly signal: AbortSignal;
  /** Monotonic nanoseconds. */
  readonly now: () => bigint;
  readonly progress: (line: string) => void;
  /** Factor on the longest wait; a test makes it small. */
  readonly patience?: number;
}

/**
 * Rejects with the machine's own error when a GPU faulted, or when the model of a stage that is never left out cannot be opened; what was
 * recorded before is in the writer.
 */
export async function runNodePlan(context: NodeRunContext): Promise<void> {
  const run = new NodeRun(context);
  try {
    await run.floors();
    for (const [i, stage] of context.plan.stages.entries()) {
      if (context.signal.aborted) break;
      await run.stage(stage, context.plan.stages.slice(i + 1));
    }
    await run.collectives();
  } catch (error) {
    // A GPU that faulted cannot be asked to give anything back: the end of the process does.
    if ((error as Error).name !== 'DeviceError') await run.close();
    throw error;
  }
  await run.close();
}

/** Looks who is on the GPUs of the plan and writes it down; others are said aloud, and no reason to stop. */
export async function lookAgain(
  context: Pick<NodeRunContext, 'machine' | 'plan' | 'writer' | 'progress'>,
  when: GpuLookRow['when'],
  stage: string | null,
): Promise<void> {
  const { machine, plan, writer, progress } = context;
  const gpus = Array.from({ length: plan.input.gpus }, (_, gpu) => gpu);
  const looks = looksOf(await takeLook(() => machine.look()), gpus);
  writer.look({ t_ns: writer.t(), kind: GPU_LOOK, when, stage, gpus: looks });
  for (const text of companyOf(looks).foreign) progress(`another program is ${text}`);
}

class NodeRun {
  readonly #context: NodeRunContext;
  readonly #cells: ReadonlyMap<string, PlanCell>;
  /** Plain continuations by model and context. */
  readonly #records = new Map<string, readonly number[]>();
  /** Cells whose last generation went wrong, and models that could not be opened, with the reason. */
  readonly #givenUp = new Set<string>();
  #open: { readonly id: string; readonly model: NodeModel } | null = null;
  #number = 0;
  /** What the plan thought of the stages that were run. */
  #estimated = 0;

  constructor(context: NodeRunContext) {
    this.#context = context;
    this.#cells = new Map(context.plan.cells.map((cell) => [cell.id, cell]));
  }

  async close(): Promise<void> {
    const open = this.#open;
    this.#open = null;
    if (open !== null) await this.#within(HANG_SECONDS, 'closing a model', open.model.close()).catch(() => {});
  }

  async floors(): Promise<void> {
    const { machine, plan, writer, progress } = this.#context;
    if (machine.readCeiling === undefined || plan.input.lacks.readCeiling !== null) return;
    progress('read ceiling of every GPU, all at once');
    const t_ns = writer.t();
    const { gpus } = plan.input;
    const { bytesPerSecond, method } = await this.#within(HANG_SECONDS, 'the read ceiling', machine.readCeiling(gpus));
    writer.floor({ t_ns, kind: 'read', gpus, bytesPerSecond: [...bytesPerSecond], method });
  }

  /** Behind all stages, so a GPU that faults takes nothing away from them: what the machine lacks and what went wrong become rows. */
  async collectives(): Promise<void> {
    const { machine, plan, writer, progress, signal } = this.#context;
    if (plan.collectives === undefined || machine.collectives === undefined) return;
    await this.close();
    for (const gpus of plan.collectives.gpus) {
      if (signal.aborted) return;
      progress(`the all-reduce alone on ${gpus} GPUs`);
      const t_ns = writer.t();
      let rows: CollectiveRow[];
      try {
        const measuring = this.#within(2 * HANG_SECONDS, 'the all-reduce alone', machine.collectives(gpus));
        rows = collectiveRows(t_ns, gpus, await measuring);
      } catch (error) {
        const { name, message } = error as Error;
        if (error instanceof Hung) throw new DeviceError(message);
        if (name !== 'EnvironmentError' && name !== 'InputError' && name !== 'DeviceError') throw error;
        if (name === 'DeviceError') {
          writer.collective({ kind: 'fault', t_ns, gpus, text: message });
          progress(`the all-reduce alone: ${message}`);
          break;
        }
        rows = [{ kind: 'lack', t_ns, gpus, of: 'all', reason: message }];
      }
      for (const row of rows) writer.collective(row);
    }
    writer.flush();
  }

  async stage(stage: PlanStage, rest: readonly PlanStage[]): Promise<void> {
    const { writer, plan, progress } = this.#context;
    const elapsed = writer.t() / 1e9;
    // What matters more keeps its time, and what it takes to make its model; estimates are as far off as they were so far.
    const pace = this.#estimated === 0 ? 1 : elapsed / this.#estimated;
    const later = rest.filter((other) => other.priority < stage.priority);
    const needs = pace * this.#estimate([stage, ...later]);
    const reserved = plan.collectives?.estimateSeconds ?? 0;
    if (stage.priority > 1 && elapsed + needs + reserved > plan.input.budgetSeconds) {
      const reason = `left out after ${elapsed.toFixed(0)} s: it no longer fits the budget of ${plan.input.budgetSeconds} s`;
      writer.event({ t_ns: writer.t(), kind: 'stage-left-out', stage: stage.id, reason });
      progress(`${stage.id}: ${reason}`);
      return;
    }
    this.#estimated += this.#estimate([stage]);
    const model = await this.#modelFor(stage);
    if (model === null) return;
    writer.event({ t_ns: writer.t(), kind: 'stage-start', stage: stage.id });
    progress(`${stage.id}: ${stage.tasks.length} generations on ${stage.model}`);
    for (const task of stage.tasks) {
      if (this.#context.signal.aborted) break;
      await this.#generate(stage, task, model);
    }
    writer.event({ t_ns: writer.t(), kind: 'stage-end', stage: stage.id });
    await lookAgain(this.#context, 'between', stage.id);
    writer.flush();
  }

  /** Seconds by the plan, models that are not open now to be made. */
  #estimate(stages: readonly PlanStage[]): number {
    let open = this.#open?.id;
    let seconds = 0;
    for (const stage of stages) {
      if (stage.model !== open) seconds += loadSeconds(this.#context.plan.models.find(({ id }) => id === stage.model)!);
      open = stage.model;
      seconds += stage.estimateSeconds;
    }
    return seconds;
  }

  async #modelFor(stage: PlanStage): Promise<NodeModel | null> {
    const { machine, plan, writer, progress } = this.#context;
    if (this.#open?.id === stage.model) return this.#open.model;
    if (this.#givenUp.has(stage.model)) return null;
    await this.close();
    const spec = plan.models.find(({ id }) => id === stage.model)!;
    progress(
      `opening ${stage.model}: ${spec.layers} of ${PRO.layers} layers on ${spec.gpus} GPU${spec.gpus === 1 ? '' : 's'}`,
    );
    const t_ns = writer.t();
    try {
      const model = await this.#within(10 * HANG_SECONDS, `opening ${stage.model}`, machine.open(modelSpec(spec)));
      this.#open = { id: stage.model, model };
      writer.model({ t_ns, model: stage.model, loadNs: writer.t() - t_ns, weightBytes: model.weightBytes, lack: null });
      return model;
    } catch (error) {
      const lack = (error as Error).message;
      writer.model({ t_ns, model: stage.model, loadNs: writer.t() - t_ns, weightBytes: null, lack });
      const { name } = error as Error;
      if (stage.priority === 1 && name === 'EnvironmentError') {
        const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
        throw new EnvironmentError(
          `${lack} (${spec.layers} layers were estimated to need ${gib(spec.estimatedGpuBytes)} of each GPU, ${gib(plan.input.freeBytes)} were free; fewer: --layers)`,
        );
      }
      if (stage.priority === 1 || (name !== 'InputError' && name !== 'EnvironmentError')) throw error;
      this.#givenUp.add(stage.model);
      progress(`${stage.model} cannot be opened: ${lack}`);
      return null;
    }
  }

  async #generate(stage: PlanStage, task: PlanTask, model: NodeModel): Promise<void> {
    const { plan, writer, now, signal } = this.#context;
    const cell = this.#cells.get(task.cell)!;
    const text = `${cell.model}/${cell.context}`;
    const plain = this.#records.get(text);
    if (this.#givenUp.has(cell.id) || (cell.profile !== null && plain === undefined)) return;
    const g = this.#number++;
    const maxTokens = taskTokens(cell, task);
    const limit = HANG_SECONDS + HANG_SECONDS_PER_TOKEN * (maxTokens + cell.promptTokens);
    const began = now();
    let prefilled = began;
    let ended = began;
    let inside = 0;
    let rounds: NodeRoundRow[] = [];
    let traces: TraceRow[] = [];
    let logitsDigest: string | null = null;
    let fault: GenerationFault | null = null;
    let failure: unknown = null;
    try {
      const sequence = await this.#within(
        limit,
        `the prefill of ${cell.id}`,
        model.generate({
          prompt: promptOf(plan.input.seed, cell.promptTokens),
          filledContext: cell.context - cell.promptTokens,
          maxTokens,
          block: cell.block,
          proposals: this.#proposals(cell, task, plain, maxTokens),
          mode: cell.mode,
          trace: task.role === 'traced',
        }),
      );
      prefilled = now();
      await this.#within(limit, `decoding ${cell.id}`, sequence.decode());
      ended = now();
      const decoded = await this.#within(limit, 'reading rounds', sequence.decoded());
      // What of this call was the prompt's is the engine's to say; its clock counts no further than ours.
      inside = Math.min(decoded.prefillNs, Number(ended - prefilled));
      logitsDigest = await this.#within(limit, 'reading logits', sequence.logitsDigest());
      const clocks = await this.#within(limit, 'reading clocks', sequence.trace());
      await this.#within(limit, 'closing a sequence', sequence.close());
      const checked = roundRows(g, decoded.rounds);
      const seen = traceRows(g, clocks ?? []);
      if (typeof checked === 'string' || typeof seen === 'string')
        fault = { kind: 'malformed', message: typeof checked === 'string' ? checked : String(seen) };
      else {
        rounds = checked;
        traces = seen;
      }
    } catch (error) {
      ended = now();
      if (prefilled === began) prefilled = ended;
      const { name, message } = error as Error;
      const kind =
        error instanceof Hung ? 'hung' : name === 'InputError' || name === 'EnvironmentError' ? 'refused' : 'threw';
      fault = { kind, message };
      if (kind !== 'refused') failure = error instanceof Hung ? new DeviceError(message) : error;
    }
    if (signal.aborted && fault === null && rounds.length === 0)
      fault = { kind: 'interrupted', message: 'interrupted' };
    const tokens = rounds.flatMap((round) => round.c);
    writer.generation(
      {
        g,
        stage: stage.id,
        ...task,
        model: cell.model,
        t_ns: writer.t(began),
        prefillNs: Number(prefilled - began) + inside,
        decodeNs: Number(ended - prefilled) - inside,
        rounds: rounds.length,
        tokens: tokens.length,
        tokensDigest: tokensDigest(tokens),
        logitsDigest,
        traced: traces.length,
        fault,
      },
      rounds,
      traces,
    );
    if (fault !== null) {
      this.#givenUp.add(cell.id);
      this.#context.progress(`${cell.id}: ${fault.kind}: ${fault.message}`);
    } else if (task.role === 'record') this.#records.set(text, tokens);
    if (failure !== null) throw failure;
  }

  #proposals(cell: PlanCell, task: PlanTask, plain: readonly number[] | undefined, maxTokens: number): number[] | null {
    if (cell.profile === null) return null;
    const { seed, profiles } = this.#context.plan.input;
    const profile = profiles.find(({ name }) => name === cell.profile)!;
    const { proposals } = corrupt(plain!, PRO.vocab, profile, cell.block, corruptionSeed(seed, cell, task));
    return proposals.slice(0, maxTokens + BLOCK);
  }

  async #within<T>(seconds: number, what: string, work: Promise<T>): Promise<T> {
    const limit = seconds * (this.#context.patience ?? 1);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, fail) => {
      timer = setTimeout(() => fail(new Hung(`${what} took more than ${limit.toFixed(1)} s`)), limit * 1000);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

class Hung extends Error {}

/** The rows of a generation, or in words what is wrong with their shape. */
function roundRows(g: number, rounds: readonly NodeRound[]): NodeRoundRow[] | string {
  const rows: NodeRoundRow[] = [];
  for (const [i, round] of rounds.entries()) {
    const result = NodeRoundRow.safeParse({
      g,
      i,
      c: round.committed,
      d: round.drafted?.length,
      a: round.accepted,
      f: round.finish,
      ns: [round.draftNs, round.verifyNs],
      e: round.distinctExperts,
    });
    if (!result.success) {
      const issue = result.error.issues[0]!;
      return `round ${i}: ${FIELDS[String(issue.path[0])] ?? String(issue.path[0])}: ${issue.message}`;
    }
    rows.push(result.data);
  }
  return rows;
}

function traceRows(g: number, ops: readonly NodeTraceOp[]): TraceRow[] | string {
  const result = z.array(TraceRow).safeParse(ops.map((op) => ({ g, ...op })));
  return result.success ? result.data : `clocks of operations: ${result.error.issues[0]!.message}`;
}

const FIELDS: Record<string, string> = {
  c: 'committed tokens',
  d: 'drafted tokens',
  a: 'accepted drafts',
  f: 'finish',
  ns: 'times of draft and verification',
  e: 'distinct experts',
};
