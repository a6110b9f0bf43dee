/** The JSON Schemas (draft 2020-12) of everything a run directory or the bundle of a node benchmark holds, made from the same definitions that check it. */
import { z } from 'zod';
import { NodePlan } from '../bench/node/plan.ts';
import { NodeReport } from '../bench/node/report.ts';
import {
  CollectiveRow,
  FloorRow,
  GenerationRow,
  ModelRow,
  NodeManifest,
  NodeRoundRow,
  TraceRow,
} from '../bench/node/rows.ts';
import { GpuLookRow } from '../measure/gpus.ts';
import { Report } from '../report/schema.ts';
import {
  EventRow,
  FaultRow,
  ManifestV1,
  ManifestV2,
  Plan,
  PromptRow,
  RoundRow,
  SessionRow,
  TelemetryRow,
  TimingRow,
  Verdicts,
} from './rows.ts';
import { Signature } from './sign.ts';
import { Tree } from './tree.ts';

const DEFINITIONS = {
  report: { schema: Report, title: 'report.json: what a run concluded' },
  manifest: { schema: ManifestV2, title: 'manifest.json: what was run on what' },
  'manifest-v1': {
    schema: ManifestV1,
    title: 'manifest.json of the first schema: what was run on what, and by which plan',
  },
  plan: { schema: Plan, title: 'plan.json: what was to be run' },
  verdicts: { schema: Verdicts, title: 'verdicts.json: the verdicts of a run' },
  prompt: { schema: PromptRow, title: 'A line of prompts.jsonl' },
  session: { schema: SessionRow, title: 'A line of sessions.jsonl' },
  round: { schema: RoundRow, title: 'A line of rounds.jsonl' },
  fault: { schema: FaultRow, title: 'A line of faults.jsonl' },
  timing: { schema: TimingRow, title: 'A line of timings.jsonl' },
  telemetry: { schema: TelemetryRow, title: 'A line of telemetry.jsonl' },
  event: { schema: EventRow, title: 'A line of events.jsonl' },
  'gpu-look': {
    schema: GpuLookRow,
    title: 'A line of events.jsonl of kind gpu-look: who was on the GPUs of a run',
  },
  tree: { schema: Tree, title: 'tree.json: the sha256 of every file of a bundle' },
  signature: { schema: Signature, title: 'signature.json: who vouches for a bundle' },
  'node-report': { schema: NodeReport, title: 'report.json of a node benchmark: what it concluded' },
  'node-manifest': { schema: NodeManifest, title: 'manifest.json of a node benchmark: what was run on what' },
  'node-plan': { schema: NodePlan, title: 'plan.json of a node benchmark: what was to be run' },
  'node-generation': { schema: GenerationRow, title: 'A line of generations.jsonl' },
  'node-round': { schema: NodeRoundRow, title: 'A line of rounds.jsonl of a node benchmark' },
  'node-trace': { schema: TraceRow, title: 'A line of traces.jsonl' },
  'node-model': { schema: ModelRow, title: 'A line of models.jsonl' },
  'node-collective': { schema: CollectiveRow, title: 'A line of collectives.jsonl' },
  'node-floor': { schema: FloorRow, title: 'A line of floors.jsonl' },
} as const;

export type SchemaName = keyof typeof DEFINITIONS;
export const SCHEMA_NAMES = Object.keys(DEFINITIONS) as SchemaName[];

export function isSchemaName(name: string): name is SchemaName {
  return name in DEFINITIONS;
}

/** What stands in `schemas/<name>.schema.json`, newline included. */
export function schemaText(name: SchemaName): string {
  const { schema, title } = DEFINITIONS[name];
  const { $schema, ...rest } = z.toJSONSchema(schema, {
    target: 'draft-2020-12',
    // Validators need a plug-in to know formats; the pattern beside each says the same without one.
    override: ({ jsonSchema }) => {
      delete jsonSchema.format;
    },
  });
  const document = { $schema, $id: `schemas/${name}.schema.json`, title, ...rest };
  return `${JSON.stringify(document, null, 2)}\n`;
}
