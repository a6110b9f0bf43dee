/** Writes the bundle of a node benchmark: its rows, each generation whole, and its manifest. tree.json is written when the report is. */
import { join } from 'node:path';
import { BundleWriter } from '../../bundle/bundle-writer.ts';
import { digestOf } from '../../bundle/digests.ts';
import { writeDocument, writeWhole } from '../../bundle/disk.ts';
import { RowFileSet } from '../../bundle/row-file-set.ts';
import type { RunFile } from '../../bundle/rows.ts';
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

export class NodeWriter extends BundleWriter {
  readonly #head: NodeManifestHead;
  readonly #planDigest: string;
  protected readonly files: RowFileSet<typeof NODE_ROW_SCHEMAS>;
  readonly #counters = { generations: 0, rounds: 0, tokens: 0 };

  constructor(directory: string, head: NodeManifestHead, plan: NodePlan, now: () => bigint) {
    super(directory, now);
    this.#head = head;
    this.#planDigest = digestOf(plan);
    writeWhole(join(directory, 'plan.json'), canonicalJson(plan));
    const manifest = this.#writeManifest('running', 0, []);
    this.files = new RowFileSet(directory, NODE_ROW_SCHEMAS);
    this.begin(head.id, nodeHeadDigest(manifest));
  }

  floor(row: FloorRow): void {
    this.files.append('floors.jsonl', row);
  }

  model(row: ModelRow): void {
    this.files.append('models.jsonl', row);
  }

  /** A generation with all of its rounds and traces; `row.rounds`, `row.tokens` and `row.traced` count them. */
  generation(row: GenerationRow, rounds: readonly NodeRoundRow[], traces: readonly TraceRow[]): void {
    for (const round of rounds) this.files.hold('rounds.jsonl', round);
    for (const trace of traces) this.files.hold('traces.jsonl', trace);
    this.#counters.generations += 1;
    this.#counters.rounds += rounds.length;
    this.#counters.tokens += row.tokens;
    this.files.append('generations.jsonl', row);
  }

  collective(row: CollectiveRow): void {
    this.files.append('collectives.jsonl', row);
  }

  telemetry(row: TelemetryRow): void {
    this.files.append('telemetry.jsonl', row);
  }

  event(row: EventRow): void {
    this.files.append('events.jsonl', row);
  }

  look(row: GpuLookRow): void {
    this.event(GpuLookRow.parse(row));
  }

  /** The last rows, then the manifest with their digests. Call once, whatever happened. */
  finish(status: NodeManifest['status']): void {
    const { seconds, files } = this.end({ status, ...this.#counters });
    this.#writeManifest(status, seconds, files);
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
