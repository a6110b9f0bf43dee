/**
 * Writes a run directory. Rows are batched, compressed and appended (row-file.ts) in an order in which a reader never meets a round of an
 * unknown session. The tree over everything is written when the verdicts are (tree.ts).
 */
import { join } from 'node:path';
import type { z } from 'zod';
import { Report } from '../report/schema.ts';
import { canonicalJson } from '../suite/canonical.ts';
import { BundleWriter } from './bundle-writer.ts';
import { headDigest } from './digests.ts';
import { writeDocument, writeWhole } from './disk.ts';
import type { Provenance } from './provenance.ts';
import { RowFileSet } from './row-file-set.ts';
import {
  EventRow,
  FaultRow,
  type Manifest,
  ManifestV2,
  type Plan,
  PromptRow,
  RoundRow,
  RUN_SCHEMA_ID,
  type RunFile,
  SessionRow,
  TelemetryRow,
  TimingRow,
  Verdicts,
} from './rows.ts';

/** In the order they are flushed. */
export const ROW_SCHEMAS = {
  'prompts.jsonl': PromptRow,
  'sessions.jsonl': SessionRow,
  'rounds.jsonl': RoundRow,
  'faults.jsonl': FaultRow,
  'timings.jsonl': TimingRow,
  'telemetry.jsonl': TelemetryRow,
  'events.jsonl': EventRow,
} as const satisfies Record<string, z.ZodType>;

export type RowFileName = keyof typeof ROW_SCHEMAS;
export const ROW_FILES = Object.keys(ROW_SCHEMAS) as RowFileName[];

/** What an engine's rounds added up to. `run-end` carries one a name, counted as the rows went by. */
export interface EngineCounters {
  rounds: number;
  drafted: number;
  accepted: number;
  committed: number;
}

/** A manifest as it is known before the first token. */
export type ManifestHead = Omit<CurrentManifest, 'schema' | 'status' | 'seconds' | 'foreignCores' | 'files'>;

/** A manifest of this schema with its plan. */
export type CurrentManifest = Manifest & { readonly provenance: Provenance; readonly promptsDigest: string };

export class RunWriter extends BundleWriter {
  readonly #head: ManifestHead;
  protected readonly files: RowFileSet<typeof ROW_SCHEMAS>;
  readonly #counters: Record<string, EngineCounters> = {};
  readonly #engineOf = new Map<string, string>();

  /** As of BundleWriter; `prompts` are written at once. */
  constructor(directory: string, head: ManifestHead, prompts: readonly PromptRow[], now: () => bigint) {
    super(directory, now);
    this.#head = head;
    writePlan(directory, head.plan);
    const manifest = this.#writeManifest('running', 0, null, []);
    this.files = new RowFileSet(directory, ROW_SCHEMAS);
    for (const row of prompts) this.files.append('prompts.jsonl', row);
    this.begin(manifest.id, headDigest(manifest));
  }

  session(row: SessionRow): void {
    this.#engineOf.set(row.session, row.engine);
    this.files.append('sessions.jsonl', row);
  }

  round(row: RoundRow): void {
    const engine = this.#engineOf.get(row.session) ?? 'unknown';
    this.#counters[engine] ??= { rounds: 0, drafted: 0, accepted: 0, committed: 0 };
    const counters = this.#counters[engine];
    this.files.append('rounds.jsonl', row);
    counters.rounds += 1;
    counters.drafted += row.drafted.length;
    counters.accepted += row.accepted;
    counters.committed += row.committed.length;
    if (row.finish !== null) this.#engineOf.delete(row.session);
  }

  fault(row: FaultRow): void {
    this.#engineOf.delete(row.session);
    this.files.append('faults.jsonl', row);
  }

  timing(row: TimingRow): void {
    this.files.append('timings.jsonl', row);
  }

  telemetry(row: TelemetryRow): void {
    this.files.append('telemetry.jsonl', row);
  }

  event(row: EventRow): void {
    this.files.append('events.jsonl', row);
  }

  /** The last rows, then the manifest with their digests. Call once, whatever happened. */
  finish(status: Manifest['status'], foreignCores: number | null): void {
    const { seconds, files } = this.end({ status, counters: this.#counters });
    this.#writeManifest(status, seconds, foreignCores, files);
  }

  #writeManifest(status: Manifest['status'], seconds: number, foreignCores: number | null, files: RunFile[]): Manifest {
    const manifest: CurrentManifest = {
      schema: RUN_SCHEMA_ID,
      ...this.#head,
      status,
      seconds,
      foreignCores,
      files,
    };
    writeManifest(this.directory, manifest);
    return manifest;
  }
}

/** plan.json is its own canonical form, byte for byte: `sha256sum plan.json` is the plan's digest. */
export function writePlan(directory: string, plan: Plan): void {
  writeWhole(join(directory, 'plan.json'), canonicalJson(plan));
}

export function writeManifest(directory: string, manifest: CurrentManifest): void {
  const { schema, plan, ...rest } = manifest;
  const document: ManifestV2 = { $schema: 'schemas/manifest.schema.json', schema: RUN_SCHEMA_ID, ...rest };
  writeDocument(join(directory, 'manifest.json'), ManifestV2, document);
}

export function writeVerdicts(directory: string, verdicts: Verdicts): void {
  writeDocument(join(directory, 'verdicts.json'), Verdicts, verdicts);
}

export function writeReport(directory: string, report: Report): void {
  writeDocument(join(directory, 'report.json'), Report, report);
}
