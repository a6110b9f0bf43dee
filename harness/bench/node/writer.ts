/**
 * Writes the bundle of a node benchmark with the row files, documents and digests of harness/bundle: plan and manifest stand before the
 * first row, rows are appended whole, the manifest at the end names the sha256 of every file's rows. tree.json is written when the
 * report is.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf } from '../../bundle/digests.ts';
import { makeFolder, writeDocument, writeWhole } from '../../bundle/disk.ts';
import { RowFileSet } from '../../bundle/row-file-set.ts';
import type { RunFile } from '../../bundle/rows.ts';
import { InputError } from '../../engine.ts';
import { GpuLookRow } from '../../measure/gpus.ts';
import { canonicalJson } from '../../suite/canonical.ts';
import type { NodePlan } from './plan.ts';
import {
  type CollectiveRow,
  type EventRow,
  type FloorRow,
  type GenerationRow,
  type ModelRow,
  NODE_ROW_SCHEMAS,
  NODE_SCHEMA_ID,
  NodeManifest,
  type NodeRoundRow,
  type TelemetryRow,
  type TraceRow,
} from './rows.ts';

/** A manifest as it is known before the first token. */
export type NodeManifestHead = Omit<NodeManifest, '$schema' | 'schema' | 'status' | 'seconds' | 'files' | 'planDigest'>;

/** What `run-start` carries: the digest of all that a manifest says before the first token. */
export function nodeHeadDigest({ $schema, status, seconds, files, ...head }: NodeManifest): string {
  return digestOf(head);
}

export class NodeWriter {
  readonly directory: string;
  readonly #head: NodeManifestHead;
  readonly #planDigest: string;
  readonly #now: () => bigint;
  readonly #origin: bigint;
  readonly #files: RowFileSet<typeof NODE_ROW_SCHEMAS>;
  readonly #counters = { generations: 0, rounds: 0, tokens: 0 };

  /** `directory` must not hold a run already. `now`: monotonic nanoseconds; its reading at this moment is 0 of every `t_ns`. */
  constructor(directory: string, head: NodeManifestHead, plan: NodePlan, now: () => bigint) {
    this.directory = directory;
    this.#head = head;
    this.#now = now;
    this.#origin = now();
    this.#planDigest = digestOf(plan);
    if (existsSync(join(directory, 'manifest.json')))
      throw new InputError(`${directory} already holds a run; choose another directory`);
    makeFolder(directory);
    writeWhole(join(directory, 'plan.json'), canonicalJson(plan));
    const manifest = this.#writeManifest('running', 0, []);
    this.#files = new RowFileSet(directory, NODE_ROW_SCHEMAS);
    this.event({ t_ns: 0, kind: 'run-start', run: head.id, head: nodeHeadDigest(manifest) });
    this.flush();
  }

  /** Nanoseconds since the run began, of a reading of the clock (default: now). */
  t(reading: bigint = this.#now()): number {
    return Number(reading - this.#origin);
  }

  floor(row: FloorRow): void {
    this.#files.append('floors.jsonl', row);
  }

  model(row: ModelRow): void {
    this.#files.append('models.jsonl', row);
  }

  /** A generation with all of its rounds and traces; `row.rounds`, `row.tokens` and `row.traced` count them. */
  generation(row: GenerationRow, rounds: readonly NodeRoundRow[], traces: readonly TraceRow[]): void {
    for (const round of rounds) this.#files.hold('rounds.jsonl', round);
    for (const trace of traces) this.#files.hold('traces.jsonl', trace);
    this.#counters.generations += 1;
    this.#counters.rounds += rounds.length;
    this.#counters.tokens += row.tokens;
    this.#files.append('generations.jsonl', row);
  }

  collective(row: CollectiveRow): void {
    this.#files.append('collectives.jsonl', row);
  }

  telemetry(row: TelemetryRow): void {
    this.#files.append('telemetry.jsonl', row);
  }

  event(row: EventRow): void {
    this.#files.append('events.jsonl', row);
  }

  look(row: GpuLookRow): void {
    this.event(GpuLookRow.parse(row));
  }

  flush(): void {
    this.#files.flush();
  }

  /** The last rows, then the manifest with their digests. Call once, whatever happened. */
  finish(status: NodeManifest['status']): void {
    const ended = this.t();
    try {
      this.event({ t_ns: ended, kind: 'run-end', status, ...this.#counters });
      this.flush();
    } finally {
      this.#files.close();
    }
    this.#writeManifest(status, ended / 1e9, this.#files.describe());
  }

  #writeManifest(status: NodeManifest['status'], seconds: number, files: RunFile[]): NodeManifest {
    const manifest: NodeManifest = {
      $schema: 'schemas/node-manifest.schema.json',
      schema: NODE_SCHEMA_ID,
      ...this.#head,
      planDigest: this.#planDigest,
      status,
      seconds,
      files,
    };
    writeDocument(join(this.directory, 'manifest.json'), NodeManifest, manifest);
    return manifest;
  }
}
