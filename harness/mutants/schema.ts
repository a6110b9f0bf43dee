/**
 * What a run over the catalogue finds: one row a defect, one look a layer. The shape of the published table, version 2; version 1,
 * which stopped at the first layer that saw a defect, is still read.
 */
import { z } from 'zod';
import { InputError } from '../engine.ts';

export const MUTANTS_SCHEMA_ID = 'kilotoken/mutants@2';

/** In the order they are run. `loop` and `trained`: on the engine with defects compiled in; behind `pr gate`: what carries the defect. */
export const Layer = z.enum([
  'edge vectors',
  'exact enumeration',
  'seeded simulation',
  'loop: edge vectors',
  'loop: books',
  'loop: replay',
  'loop: counters',
  'loop: rows',
  'loop: emitted law',
  'loop: accepted law',
  'trained: replay',
  'trained: golden rows',
  'trained: acceptance floor',
  'metric recount',
  'pr gate: oracle',
  'pr gate: fake engine',
  'pr gate: loop',
  'pr gate: trained',
]);
export type Layer = z.infer<typeof Layer>;

export const isGate = (layer: Layer): boolean => layer.startsWith('pr gate');

export const Look = z.strictObject({
  layer: Layer,
  outcome: z
    .enum(['killed', 'not seen', 'not run'])
    .describe('not run: it would apply, and something it needs is absent'),
  where: z.string().describe('fixture and rule, or engine and check'),
  measure: z.string().describe('what was found, or why it was not run'),
  distance: z.number().nullable().describe('total variation distance to plain decoding; null where it is no law'),
  n: z.int().min(0).nullable().describe('looked at until the defect was seen, or in all; null for an exact law'),
  of: z.string().nullable().describe('what n counts'),
  seconds: z.number().min(0).describe('judges of one set of sessions share its time equally'),
});
export type Look = z.infer<typeof Look>;

/** In the order of the table: what needs a reader first. */
export const MutantOutcome = z.enum(['survived', 'control fails', 'not run', 'killed', 'control holds']);
export type MutantOutcome = z.infer<typeof MutantOutcome>;

export const MutantRow = z.strictObject({
  id: z.string(),
  title: z.string(),
  outcome: MutantOutcome,
  gate: z
    .enum(['killed', 'not seen', 'not run', 'none'])
    .describe('the pull-request gate alone; none: no engine here carries the defect to a gate'),
  looks: z.array(Look).describe('every layer that applies, in order'),
  note: z.string().nullable().describe('why layers cannot see it, why a control fails, or why nothing was looked at'),
  seconds: z.number().min(0),
});
export type MutantRow = z.infer<typeof MutantRow>;

/** What the pull-request gate alone came to. */
export function gateOf(looks: readonly Pick<Look, 'layer' | 'outcome'>[]): MutantRow['gate'] {
  const outcomes = looks.filter(({ layer }) => isGate(layer)).map(({ outcome }) => outcome);
  return (['killed', 'not seen', 'not run'] as const).find((outcome) => outcomes.includes(outcome)) ?? 'none';
}

export const CleanRow = z.strictObject({
  layer: Layer,
  holds: z.boolean().describe('what has no defect passes; if not, kills of this layer mean nothing'),
  measure: z.string(),
  seconds: z.number().min(0),
});
export type CleanRow = z.infer<typeof CleanRow>;

const NamedRow = z.strictObject({ id: z.string(), title: z.string() });

export const MutantsReport = z.strictObject({
  schema: z.literal(MUTANTS_SCHEMA_ID),
  fixtures: z.array(z.string()).describe('in the order they were tried, cheapest first'),
  build: z.string().nullable().describe('the engine with defects compiled in; null: absent'),
  passed: z
    .boolean()
    .describe('no survivor, nothing left out, every control holds, every layer passes what has no defect'),
  clean: z.array(CleanRow),
  defects: z
    .array(MutantRow)
    .describe('survivors first, then what the gate does not see, then in the order of the catalogue'),
  notCovered: z.array(NamedRow).describe('rows of the catalogue that this run left out'),
  seconds: z.number().min(0),
});
export type MutantsReport = z.infer<typeof MutantsReport>;

const LayerV1 = z.enum(['edge vectors', 'exact enumeration', 'seeded simulation', 'pr gate']);
const FindingV1 = Look.pick({ where: true, measure: true, distance: true, n: true, of: true }).extend({
  layer: LayerV1,
});

export const MutantsReportV1 = z.strictObject({
  schema: z.literal('kilotoken/mutants@1'),
  fixtures: z.array(z.string()),
  passed: z.boolean(),
  clean: z.array(CleanRow.extend({ layer: LayerV1 })),
  defects: z.array(
    z.strictObject({
      id: z.string(),
      title: z.string(),
      outcome: z.enum(['survived', 'control fails', 'killed', 'control holds']),
      found: FindingV1.nullable(),
      reason: z.string().nullable(),
      tried: z.array(LayerV1),
      seconds: z.number().min(0),
    }),
  ),
  notCovered: z.array(NamedRow),
  seconds: z.number().min(0),
});
export type MutantsReportV1 = z.infer<typeof MutantsReportV1>;

/** A published table of any version. @throws InputError in one line */
export function readMutants(value: unknown): MutantsReport | MutantsReportV1 {
  const parsed = z.discriminatedUnion('schema', [MutantsReport, MutantsReportV1]).safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new InputError(`table of defects: ${issue.path.join('.')}: ${issue.message}`);
}

/** JSON Schema (draft 2020-12) of the table, newline included. */
export function mutantsSchemaText(): string {
  const { $schema, ...rest } = z.toJSONSchema(MutantsReport, { target: 'draft-2020-12' });
  const title = `A table of defects (${MUTANTS_SCHEMA_ID})`;
  return `${JSON.stringify({ $schema, $id: 'schemas/mutants.schema.json', title, ...rest }, null, 2)}\n`;
}
