/**
 * An audit from end to end: fix the plan, write it down, run it, judge the rows that were written, write the report. The
 * judging reads the directory back, so a fresh run and a stored one cannot be judged differently.
 */

import { cardDigest, digestOf, promptsDigest } from './bundle/digests.ts';
import { readRun } from './bundle/reader.ts';
import { type Arm, EngineCardRow, type Manifest, type Plan, type Rule, type Shard } from './bundle/rows.ts';
import { cellsOf } from './bundle/shards.ts';
import { sealBundle } from './bundle/tree.ts';
import { type CurrentManifest, RunWriter, writeReport, writeVerdicts } from './bundle/writer.ts';
import { type Engine, InputError } from './engine.ts';
import { runCampaign, type SegmentRunner, segmentsHere } from './measure/campaign.ts';
import { companyOf, GPU_LOOK, type GpuLook, GpuLookRow, looksOf, takeLook } from './measure/gpus.ts';
import { measureOverhead, OVERHEAD_EVENT } from './measure/overhead.ts';
import { startTelemetry } from './measure/telemetry.ts';
import { type AuditPrompt, makePlan, type PlanOptions, speedCellsOf } from './plan.ts';
import { buildReport, verdictsOf } from './report/build.ts';
import { engineName } from './report/engine-names.ts';
import type { Report } from './report/schema.ts';
import { runPlan } from './runner.ts';

export interface AuditInput {
  /** The same weights with and without speculation, for each rule. */
  readonly engines: Readonly<Record<Rule, Readonly<Record<Arm, Engine>>>>;
  readonly prompts: readonly AuditPrompt[];
  readonly suites: Manifest['suites'];
  readonly ledger: Manifest['ledger'];
  readonly plan: PlanOptions;
  /** What the manifest says of the run; the rest of it is the audit's own. */
  readonly about: Pick<
    CurrentManifest,
    'id' | 'title' | 'command' | 'commit' | 'dirty' | 'machine' | 'model' | 'tokenizer' | 'provenance'
  >;
  readonly startedAt: Date;
  /** Created; must not hold a run. */
  readonly directory: string;
  readonly signal: AbortSignal;
  readonly progress: (line: string) => void;
  /** Runs the segments of the speed part; default: in this process. */
  readonly segments?: SegmentRunner;
  /** The part of the plan to run; default all. */
  readonly shard?: Shard | null;
  /** Readings of the machine's sensors a second; default none. */
  readonly telemetryHz?: number;
  /** Who is on the GPUs, for an engine that runs on the first; written down before the first session and behind the last. Default: not asked. */
  readonly look?: () => Promise<readonly GpuLook[]>;
  /** Measure what the harness itself costs a round, on the null engine, before anything is timed; default no. */
  readonly overhead?: boolean;
  /** Monotonic nanoseconds; a test may bring its own. */
  readonly now?: () => bigint;
}

export interface AuditResult {
  readonly report: Report;
  readonly interrupted: boolean;
}

export async function audit(input: AuditInput): Promise<AuditResult> {
  if (input.prompts.length === 0) throw new InputError('there are no prompts to audit with');
  const engines: Record<string, Engine> = {};
  for (const rule of ['match', 'coupled', 'reject'] as const) {
    for (const arm of ['plain', 'speculative'] as const) {
      const engine = input.engines[rule][arm];
      checkCard(engine, rule, arm);
      engines[engineName(engine.card)] = engine;
    }
  }
  const { plan: planned, rows } = makePlan(
    input.prompts,
    (rule, arm) => engineName(input.engines[rule][arm].card),
    input.plan,
  );
  const cards = Object.fromEntries(Object.entries(engines).map(([name, engine]) => [name, cardRow(engine)]));
  const digests = Object.fromEntries(Object.entries(cards).map(([name, card]) => [name, cardDigest(card)]));
  const plan: Plan = { ...planned, engines: digests };
  checkRoom(
    input,
    [...plan.phases, ...(plan.speed ? [plan.speed] : [])].map((phase) => phase.maxTokens),
  );

  const shard = input.shard ?? null;
  const now = input.now ?? process.hrtime.bigint;
  const writer = new RunWriter(
    input.directory,
    {
      ...input.about,
      startedAt: input.startedAt.toISOString(),
      engines: cards,
      suites: input.suites,
      plan,
      planDigest: digestOf(plan),
      promptsDigest: promptsDigest(rows),
      ledger: input.ledger,
      shard,
      parts: null,
    },
    rows,
    now,
  );
  const telemetry =
    input.telemetryHz === undefined
      ? null
      : startTelemetry({ hz: input.telemetryHz, t: () => writer.t(), sink: (row) => writer.telemetry(row) });
  const context = {
    plan,
    cells: cellsOf(plan, shard),
    prompts: new Map(rows.map((row) => [row.id, row])),
    engines,
    writer,
    signal: input.signal,
    now,
    progress: input.progress,
  };
  const look = async (when: GpuLookRow['when']): Promise<void> => {
    if (input.look === undefined) return;
    const gpus = looksOf(await takeLook(input.look), [0]);
    const row: GpuLookRow = { t_ns: writer.t(), kind: GPU_LOOK, when, stage: null, gpus };
    writer.event(GpuLookRow.parse(row));
    for (const text of companyOf(gpus).foreign) input.progress(`another program is ${text}`);
  };
  let foreignCores: number | null = null;
  try {
    await look('before');
    await runPlan(context);
    if (plan.speed && input.overhead && !input.signal.aborted) {
      const cost = await measureOverhead({ sessions: 100, tokens: 2048, blockSize: 8 });
      writer.event({ t_ns: writer.t(), kind: OVERHEAD_EVENT, ...cost });
    }
    if (plan.speed) {
      const reading = now();
      await runCampaign({
        plan: plan.speed,
        seed: plan.seed,
        stopIds: plan.stopIds,
        cells: speedCellsOf(plan, shard),
        prompts: context.prompts,
        stepTimeoutSeconds: plan.stepTimeoutSeconds,
        runner: input.segments ?? segmentsHere((name) => engines[name]!),
        host: {
          now,
          origin: reading - BigInt(writer.t(reading)),
          signal: input.signal,
          sink: (row) => {
            writer.timing(row);
            if (row.kind === 'segment' && row.foreignCores !== null) {
              foreignCores = Math.max(foreignCores ?? 0, row.foreignCores);
            }
          },
        },
        progress: input.progress,
      });
    }
    await look('after');
    await telemetry?.stop();
    writer.finish(input.signal.aborted ? 'interrupted' : 'complete', foreignCores);
  } catch (error) {
    // Whatever failed matters more than a second failure while marking the run.
    try {
      await telemetry?.stop().catch(() => {});
      writer.finish('failed', null);
    } catch {}
    throw error;
  }
  const report = await judgeDirectory(input.directory);
  return { report, interrupted: input.signal.aborted };
}

/** Judges the rows of a run directory. Writes nothing. Throws InputError. */
export async function reportOf(directory: string): Promise<Report> {
  return buildReport(await readRun(directory));
}

/** The same; writes verdicts.json and report.json beside the rows and seals the directory. Throws InputError. */
export async function judgeDirectory(directory: string): Promise<Report> {
  const report = await reportOf(directory);
  writeVerdicts(directory, verdictsOf(report));
  writeReport(directory, report);
  await sealBundle(directory);
  return report;
}

function cardRow(engine: Engine): EngineCardRow {
  const { numerics, ...rest } = engine.card;
  return EngineCardRow.parse({ ...rest, numerics: { ...numerics }, defects: [...rest.defects] });
}

function checkCard(engine: Engine, rule: Rule, arm: Arm): void {
  const { card } = engine;
  const result = EngineCardRow.safeParse({ ...card, defects: [...(card.defects ?? [])] });
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new InputError(`the ${arm} engine for rule ${rule}: card.${issue.path.join('.')}: ${issue.message}`);
  }
  if (card.rule !== rule) throw new InputError(`the ${arm} engine for rule ${rule} checks drafts by rule ${card.rule}`);
  if ((arm === 'plain') !== (card.blockSize === 1)) {
    throw new InputError(`the ${arm} engine for rule ${rule} has block size ${card.blockSize}`);
  }
}

/** Every prompt must fit every engine with at least one generated token, or the comparison silently loses it. */
function checkRoom(input: AuditInput, maxTokens: readonly number[]): void {
  const { maxContext, vocabSize } = input.engines.match.plain.card;
  const needed = Math.max(...maxTokens);
  for (const prompt of input.prompts) {
    if (prompt.ids.length === 0) throw new InputError(`prompt ${prompt.id} is empty`);
    const foreign = prompt.ids.find((id) => id >= vocabSize);
    if (foreign !== undefined)
      throw new InputError(`prompt ${prompt.id} has token ${foreign}; the vocabulary ends at ${vocabSize - 1}`);
    if (prompt.ids.length + needed > maxContext) {
      throw new InputError(
        `prompt ${prompt.id} has ${prompt.ids.length} tokens; with ${needed} more it exceeds the context of ${maxContext}`,
      );
    }
  }
}
