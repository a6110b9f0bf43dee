/** What a run over the catalogue finds: one row a defect, and what was not run. The shape of the published table. */
import { z } from 'zod';

export const MUTANTS_SCHEMA_ID = 'kilotoken/mutants@1';

export const Layer = z.enum(['edge vectors', 'exact enumeration', 'seeded simulation', 'pr gate']);
export type Layer = z.infer<typeof Layer>;

/** In the order of the table: what needs a reader first. */
export const MutantOutcome = z.enum(['survived', 'control fails', 'killed', 'control holds']);
export type MutantOutcome = z.infer<typeof MutantOutcome>;

const Finding = z.strictObject({
  layer: Layer,
  where: z.string().describe('fixture and rule, or engine and check'),
  measure: z.string().describe('what was found, in words'),
  distance: z.number().nullable().describe('total variation distance to plain decoding; null where it is no law'),
  n: z.int().min(0).nullable().describe('tokens, sessions or vectors looked at; null for an exact law'),
  of: z.string().nullable().describe('what n counts'),
});
export type Finding = z.infer<typeof Finding>;

export const MutantRow = z.strictObject({
  id: z.string(),
  title: z.string(),
  outcome: MutantOutcome,
  found: Finding.nullable().describe('the first layer that saw the defect; null: none did'),
  reason: z.string().nullable().describe('why a control fails, or why nothing was looked at; else null'),
  tried: z.array(Layer).describe('layers that were run, in order'),
  seconds: z.number().min(0),
});
export type MutantRow = z.infer<typeof MutantRow>;

export const CleanRow = z.strictObject({
  layer: Layer,
  holds: z.boolean().describe('the sampler without a defect passes; if not, kills of this layer mean nothing'),
  measure: z.string(),
  seconds: z.number().min(0),
});
export type CleanRow = z.infer<typeof CleanRow>;

export const MutantsReport = z.strictObject({
  schema: z.literal(MUTANTS_SCHEMA_ID),
  fixtures: z.array(z.string()).describe('in the order they were tried, cheapest first'),
  passed: z.boolean().describe('no survivor, every control holds, every layer passes the sampler without a defect'),
  clean: z.array(CleanRow),
  defects: z.array(MutantRow).describe('survivors first, then in the order of the catalogue'),
  notCovered: z
    .array(z.strictObject({ id: z.string(), title: z.string() }))
    .describe('rows of the catalogue that no layer of this run implements'),
  seconds: z.number().min(0),
});
export type MutantsReport = z.infer<typeof MutantsReport>;
