/**
 * The ledger: what others have claimed, each claim with its place and with the conditions its source states and leaves
 * out. `suites/claims.json` holds it; verdicts on it live in run reports, never here.
 */
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { firstIssue, readText } from './jsonl.ts';
import { SCENARIOS } from './suite.ts';

export const ClaimKind = z.enum(['speed', 'acceptance', 'losslessness', 'fidelity', 'economics', 'demo']);

export const Claim = z
  .strictObject({
    id: z.string().regex(/^[a-z][a-z0-9-]*$/, 'must be lower-case words joined by hyphens'),
    /** The claim in one sentence, close to its source. */
    claim: z.string().min(1),
    kind: ClaimKind,
    /** `vendor`: by those who publish or sell the stack, or the press after them. `observation`: measured by someone outside. */
    by: z.enum(['vendor', 'observation']),
    scenario: z.enum(SCENARIOS).optional(),
    value: z.number().optional(),
    /** The earlier or other value where the claim compares two (`value` against `baseline`). */
    baseline: z.number().optional(),
    unit: z.string().min(1).optional(),
    /** Who said it, and when (ISO date) where that is known. */
    source: z.string().min(1),
    date: z.iso.date().optional(),
    /** Address, or the place within a repository or page. */
    sourceUrlOrPlace: z.string().min(1),
    /** Conditions the source gives. */
    stated: z.array(z.string().min(1)),
    /** Conditions a re-run would need and the source does not give. */
    unstated: z.array(z.string().min(1)),
    /** What follows from the claim by arithmetic or convention, and what speaks against it. */
    note: z.string().min(1).optional(),
  })
  .refine((claim) => (claim.value === undefined) === (claim.unit === undefined), 'value and unit belong together')
  .refine((claim) => claim.baseline === undefined || claim.value !== undefined, 'a baseline needs a value');

export const Claims = z
  .array(Claim)
  .min(1)
  .superRefine((claims, context) => {
    claims.forEach((claim, i) => {
      if (claims.findIndex((other) => other.id === claim.id) < i) {
        context.addIssue({ code: 'custom', path: [i, 'id'], message: `"${claim.id}" is taken`, input: claim.id });
      }
    });
  });

export type Claim = z.infer<typeof Claim>;

/** The claims in a ledger file. Throws InputError naming the file and the first field that does not fit. */
export async function loadClaims(path: string): Promise<Claim[]> {
  const text = await readText(path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}: is not JSON (${(error as Error).message})`);
  }
  const result = Claims.safeParse(value);
  if (!result.success) throw new InputError(`${path}: ${firstIssue(result.error)}`);
  return result.data;
}
