/**
 * Reads the bundle of a node benchmark back. Every row is validated; of a finished run the rows of every file are compared with the
 * sha256 in the manifest, and each generation with its rounds. What a reader concludes is its own business.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { digestOf, tokensDigest } from '../../bundle/digests.ts';
import { readRows, rowPath, validated } from '../../bundle/row-reader.ts';
import { readCanonical } from '../../bundle/tree.ts';
import { InputError } from '../../engine.ts';
import { GPU_LOOK, GpuLookRow } from '../../measure/gpus.ts';
import { NodePlan } from './plan.ts';
import {
  type CollectiveRow,
  type EventRow,
  type FloorRow,
  type GenerationRow,
  LATER_ROW_FILES,
  type ModelRow,
  NODE_ROW_FILES,
  NODE_ROW_SCHEMAS,
  NODE_SCHEMA_ID,
  NodeManifest,
  type NodeRoundRow,
  type NodeRowFileName,
  type TelemetryRow,
  type TraceRow,
} from './rows.ts';

export interface Generation {
  readonly row: GenerationRow;
  readonly rounds: readonly NodeRoundRow[];
  readonly traces: readonly TraceRow[];
}

export interface StoredNodeRun {
  readonly manifest: NodeManifest;
  readonly plan: NodePlan;
  readonly floors: readonly FloorRow[];
  readonly models: readonly ModelRow[];
  /** In the order of running. */
  readonly generations: readonly Generation[];
  readonly collectives: readonly CollectiveRow[];
  readonly telemetry: readonly TelemetryRow[];
  readonly events: readonly EventRow[];
  /** Those of the events that say who was on the GPUs; none before runs looked. */
  readonly looks: readonly GpuLookRow[];
}

/** Whether a directory holds a bundle of this kind; false also where it holds none at all. */
export function isNodeBundle(directory: string): boolean {
  try {
    const manifest = JSON.parse(readFileSync(join(directory, 'manifest.json'), 'utf8')) as { schema?: unknown };
    return manifest.schema === NODE_SCHEMA_ID;
  } catch {
    return false;
  }
}

/** Throws InputError. */
export function readNodeManifest(directory: string): NodeManifest {
  const path = join(directory, 'manifest.json');
  if (!existsSync(path)) throw new InputError(`${directory} holds no run: there is no manifest.json`);
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    throw new InputError(`${path} is not JSON`);
  }
  return validated(NodeManifest, value, path);
}

/**
 * Throws InputError, naming file and line, when anything is missing, malformed or not what the manifest says; with `onDifference` what
 * can be read although it differs is handed there instead.
 */
export async function readNodeRun(
  directory: string,
  onDifference: (text: string) => void = refuse,
): Promise<StoredNodeRun> {
  const manifest = readNodeManifest(directory);
  const plan = readCanonical(join(directory, 'plan.json'), NodePlan);
  if (plan === null) throw new InputError(`${directory} holds no plan.json`);
  if (digestOf(plan) !== manifest.planDigest) onDifference('plan.json is not the plan that the manifest names');
  const finished = manifest.status !== 'running';
  const floors: FloorRow[] = [];
  const models: ModelRow[] = [];
  const rounds = new Map<number, NodeRoundRow[]>();
  const traces = new Map<number, TraceRow[]>();
  const generations: GenerationRow[] = [];
  const collectives: CollectiveRow[] = [];
  const telemetry: TelemetryRow[] = [];
  const events: EventRow[] = [];
  const looks: GpuLookRow[] = [];
  let last = { g: -1, i: -1 };
  const use: { [N in NodeRowFileName]: (row: z.infer<(typeof NODE_ROW_SCHEMAS)[N]>, where: string) => void } = {
    'floors.jsonl': (row) => void floors.push(row),
    'models.jsonl': (row) => void models.push(row),
    'rounds.jsonl': (row, where) => {
      const next = row.g === last.g ? row.i === last.i + 1 : row.g > last.g && row.i === 0;
      if (!next)
        throw new InputError(`${where}: round ${row.i} of generation ${row.g} does not follow the one before it`);
      last = { g: row.g, i: row.i };
      const list = rounds.get(row.g) ?? [];
      rounds.set(row.g, list);
      list.push(row);
    },
    'traces.jsonl': (row) => void traces.set(row.g, [...(traces.get(row.g) ?? []), row]),
    'generations.jsonl': (row, where) => {
      if (row.g !== generations.length) throw new InputError(`${where}: generation ${row.g} stands in the wrong place`);
      generations.push(row);
    },
    'collectives.jsonl': (row) => void collectives.push(row),
    'telemetry.jsonl': (row) => void telemetry.push(row),
    'events.jsonl': (row, where) => {
      events.push(row);
      if (row.kind === GPU_LOOK) looks.push(validated(GpuLookRow, row, where));
    },
  };
  for (const name of NODE_ROW_FILES) {
    const path = rowPath(directory, name);
    if (path === null) {
      // Whoever takes the file away has to take it out of the manifest and out of the plan.
      const named = manifest.files.some((file) => file.path === name) || plan.collectives !== undefined;
      if (finished && (named || !LATER_ROW_FILES.has(name))) throw new InputError(`${directory} lacks ${name}.gz`);
      continue;
    }
    const schema = NODE_ROW_SCHEMAS[name] as z.ZodType;
    const read = await readRows(path, schema, !finished, use[name] as (row: unknown, where: string) => void);
    if (finished) {
      const said = manifest.files.find((file) => file.path === name);
      if (said === undefined) onDifference(`the manifest does not name ${name}`);
      else if (said.sha256 !== read.sha256 || said.bytes !== read.bytes || said.rows !== read.rows)
        onDifference(`${name} is not the file that the manifest names: ${read.rows} rows, ${said.rows} were written`);
    }
    if (read.failure !== null) throw read.failure;
  }
  const joined = generations.map((row): Generation => {
    const own = rounds.get(row.g) ?? [];
    const traced = traces.get(row.g) ?? [];
    rounds.delete(row.g);
    traces.delete(row.g);
    if (traced.length !== row.traced) onDifference(`generation ${row.g} does not have the traces it counts`);
    const tokens = own.flatMap((round) => round.c);
    if (own.length !== row.rounds || tokens.length !== row.tokens || tokensDigest(tokens) !== row.tokensDigest)
      onDifference(`generation ${row.g} does not have the rounds it counts`);
    return { row, rounds: own, traces: traced };
  });
  if (finished && rounds.size + traces.size > 0) onDifference('there are rounds or traces of no generation');
  return { manifest, plan, floors, models, generations: joined, collectives, telemetry, events, looks };
}

function refuse(text: string): never {
  throw new InputError(text);
}
