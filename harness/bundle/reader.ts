/**
 * Reads a run directory back, of this schema or an earlier one. Every row is validated; of a finished run the rows of every file
 * are compared with the sha256 in the manifest. A run that was killed has a manifest that says `running`: then, and only then, a row
 * file may be missing or end in the middle of a row. What a reader concludes is its own business (report/, check/).
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { InputError } from '../engine.ts';
import { digestOf, promptsDigest, tokensDigest } from './digests.ts';
import { readRows, rowPath, validated } from './row-reader.ts';
import {
  type EventRow,
  type FaultRow,
  FIRST_RUN_SCHEMA_ID,
  type Manifest,
  ManifestV1,
  ManifestV2,
  Plan,
  type PromptRow,
  type RoundRow,
  RUN_SCHEMA_ID,
  type SessionRow,
  type TelemetryRow,
  type TimingRow,
} from './rows.ts';
import { ROW_FILES, ROW_SCHEMAS, type RowFileName } from './writer.ts';

/** Row files of the first schema. */
const FIRST_ROW_FILES: readonly RowFileName[] = ['prompts.jsonl', 'sessions.jsonl', 'rounds.jsonl', 'faults.jsonl'];

/** One session with everything that happened in it. */
export interface SessionTrace {
  readonly row: SessionRow;
  readonly rounds: readonly RoundRow[];
  readonly fault: FaultRow | null;
}

export interface StoredRun {
  readonly manifest: Manifest;
  /** By prompt id. */
  readonly prompts: ReadonlyMap<string, PromptRow>;
  /** In the order they were opened, by session id. */
  readonly sessions: ReadonlyMap<string, SessionTrace>;
  /** In the order they were written; empty before run@2. */
  readonly timings: readonly TimingRow[];
  readonly telemetry: readonly TelemetryRow[];
  readonly events: readonly EventRow[];
}

export interface ReadOptions {
  /** Sees every round as it is read, in the order of the file, with its session. */
  readonly onRound?: (row: RoundRow, session: SessionRow) => void;
  /** Takes what would otherwise be refused although the rows can be read: digests that differ. Default: throws InputError. */
  readonly onDifference?: (text: string) => void;
}

export function rowFilesOf(manifest: Manifest): readonly RowFileName[] {
  return manifest.schema === FIRST_RUN_SCHEMA_ID ? FIRST_ROW_FILES : ROW_FILES;
}

/** Throws InputError, naming file and line, when anything is missing, malformed or not what the manifest says. */
export async function readRun(directory: string, options: ReadOptions = {}): Promise<StoredRun> {
  const differ = options.onDifference ?? refuse;
  const manifest = readManifest(directory, differ);
  const finished = manifest.status !== 'running';
  const prompts = new Map<string, PromptRow>();
  const open = new Map<string, { row: SessionRow; rounds: RoundRow[]; fault: FaultRow | null }>();
  const timings: TimingRow[] = [];
  const telemetry: TelemetryRow[] = [];
  const events: EventRow[] = [];

  const use: { [N in RowFileName]: (row: z.infer<(typeof ROW_SCHEMAS)[N]>, where: string) => void } = {
    'prompts.jsonl': (row, where) => {
      if (prompts.has(row.id)) throw new InputError(`${where}: prompt ${row.id} appears twice`);
      if (tokensDigest(row.ids) !== row.digest) throw new InputError(`${where}: the digest is not that of the ids`);
      prompts.set(row.id, row);
    },
    'sessions.jsonl': (row, where) => {
      if (open.has(row.session)) throw new InputError(`${where}: session ${row.session} appears twice`);
      if (!prompts.has(row.prompt)) throw new InputError(`${where}: unknown prompt ${row.prompt}`);
      if (!(row.engine in manifest.engines)) throw new InputError(`${where}: unknown engine ${row.engine}`);
      open.set(row.session, { row, rounds: [], fault: null });
    },
    'rounds.jsonl': (row, where) => {
      const trace = open.get(row.session);
      if (trace === undefined) throw new InputError(`${where}: unknown session ${row.session}`);
      if (row.index !== trace.rounds.length) {
        throw new InputError(
          `${where}: session ${row.session} has round ${row.index} where ${trace.rounds.length} is due`,
        );
      }
      // One string for all rounds of a session: each row was parsed with a copy of its own.
      row.session = trace.row.session;
      trace.rounds.push(row);
      options.onRound?.(row, trace.row);
    },
    'faults.jsonl': (row, where) => {
      const trace = open.get(row.session);
      if (trace === undefined) throw new InputError(`${where}: unknown session ${row.session}`);
      if (trace.fault !== null) throw new InputError(`${where}: session ${row.session} failed twice`);
      trace.fault = row;
    },
    'timings.jsonl': (row) => void timings.push(row),
    'telemetry.jsonl': (row) => void telemetry.push(row),
    'events.jsonl': (row) => void events.push(row),
  };
  for (const name of rowFilesOf(manifest)) {
    await readFile(directory, name, manifest, use[name] as (row: unknown, where: string) => void, differ);
  }
  if (manifest.schema !== FIRST_RUN_SCHEMA_ID && (finished || prompts.size > 0)) {
    if (promptsDigest(prompts.values()) !== manifest.promptsDigest) {
      differ(`${join(directory, 'prompts.jsonl')}: these are not the prompts that the manifest names`);
    }
  }
  const { plan } = manifest;
  const due = [
    ...plan.phases.flatMap((phase) => phase.prompts),
    ...(plan.speed?.cells.flatMap((cell) => [...cell.prompts, ...cell.warmupPrompts, ...cell.probePrompts]) ?? []),
  ];
  const missing = due.find((id) => !prompts.has(id));
  if (finished && missing !== undefined) {
    throw new InputError(`${join(directory, 'prompts.jsonl')}: prompt ${missing} of the plan is missing`);
  }
  return { manifest, prompts, sessions: open, timings, telemetry, events };
}

async function readFile(
  directory: string,
  name: RowFileName,
  manifest: Manifest,
  use: (row: unknown, where: string) => void,
  differ: (text: string) => void,
): Promise<void> {
  const finished = manifest.status !== 'running';
  const path = rowPath(directory, name);
  if (path === null) {
    // A run killed while it was being set up has no rows yet.
    if (!finished) return;
    throw new InputError(`${join(directory, name)} is missing`);
  }
  const listed = manifest.files.find((file) => file.path === name);
  if (finished && listed === undefined) throw new InputError(`${directory}/manifest.json does not list ${name}`);
  const read = await readRows(path, ROW_SCHEMAS[name] as z.ZodType, !finished, use);
  if (finished && read.sha256 !== listed!.sha256) {
    const reason = read.failure === null ? '' : `; ${read.failure.message}`;
    differ(`${path} does not hold the rows the run wrote: their sha256 differs from the manifest's${reason}`);
  }
  if (read.failure !== null) throw read.failure;
}

function refuse(text: string): never {
  throw new InputError(text);
}

/** Why a path is no run. */
function noRun(path: string): string {
  if (!existsSync(path)) return `${path}: no such folder`;
  if (!statSync(path).isDirectory()) return `${path} is not a run directory: it is a file`;
  const runs = readdirSync(path).filter((name) => existsSync(join(path, name, 'manifest.json')));
  const meant =
    runs.length === 0 ? '' : `; name one of the ${runs.length} runs in it, for instance ${join(path, runs.at(-1)!)}`;
  return `${path} is not a run directory: it has no manifest.json${meant}`;
}

/** manifest.json with its plan. Throws InputError naming the file and the first field that does not fit. */
export function readManifest(directory: string, differ: (text: string) => void = refuse): Manifest {
  const path = join(directory, 'manifest.json');
  if (!existsSync(path)) throw new InputError(noRun(directory));
  const value = readJson(path);
  if ((value as { schema?: unknown } | null)?.schema === FIRST_RUN_SCHEMA_ID) {
    const { $schema, ...manifest } = validated(ManifestV1, value, path);
    if (digestOf(manifest.plan) !== manifest.planDigest) {
      differ(`${path}: the plan is not the one that was fixed before the run`);
    }
    checkEngines(manifest, path);
    return { ...manifest, provenance: null, promptsDigest: null, shard: null, parts: null };
  }
  const { schema } = (value ?? {}) as { schema?: unknown };
  if (typeof schema === 'string' && schema !== RUN_SCHEMA_ID) {
    throw new InputError(`${path}: schema: this is ${schema}; a run of audit (${RUN_SCHEMA_ID}) is needed`);
  }
  const { $schema, ...manifest } = validated(ManifestV2, value, path);
  const planPath = join(directory, 'plan.json');
  if (!existsSync(planPath)) throw new InputError(`${planPath} is missing`);
  const plan = validated(Plan, readJson(planPath), planPath);
  if (digestOf(plan) !== manifest.planDigest) {
    differ(`${planPath}: the plan is not the one that was fixed before the run`);
  }
  checkEngines({ ...manifest, plan }, planPath);
  return { ...manifest, plan };
}

/** Nothing can be judged of engines that have no card. */
function checkEngines({ engines, plan }: Pick<Manifest, 'engines' | 'plan'>, path: string): void {
  const named = [...plan.phases, ...(plan.speed == null ? [] : [plan.speed])].flatMap((part) => [
    part.plain,
    part.speculative,
  ]);
  const missing = named.find((name) => !Object.hasOwn(engines, name));
  if (missing !== undefined) throw new InputError(`${path}: engine ${missing} of the plan has no card in the manifest`);
}

export function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    throw new InputError(`${path} is not JSON`);
  }
}
