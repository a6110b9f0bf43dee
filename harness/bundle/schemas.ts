/** The JSON Schemas (draft 2020-12) of everything a run directory holds, made from the same definitions that check it. */
import { z } from 'zod';
import { Report } from '../report/schema.ts';
import { FaultRow, Manifest, PromptRow, RoundRow, SessionRow, Verdicts } from './rows.ts';

const DEFINITIONS = {
  report: { schema: Report, title: 'report.json: what a run concluded' },
  manifest: { schema: Manifest, title: 'manifest.json: what was run on what, and by which plan' },
  verdicts: { schema: Verdicts, title: 'verdicts.json: the verdicts of a run' },
  prompt: { schema: PromptRow, title: 'A line of prompts.jsonl' },
  session: { schema: SessionRow, title: 'A line of sessions.jsonl' },
  round: { schema: RoundRow, title: 'A line of rounds.jsonl' },
  fault: { schema: FaultRow, title: 'A line of faults.jsonl' },
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
