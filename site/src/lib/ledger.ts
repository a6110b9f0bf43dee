/**
 * The ledger of claims as the repository keeps it: what each source states and leaves unsaid. A report carries its own copy
 * of the claims it answered; conditions are joined to it only where the wording is still the same.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { ClaimRow } from '../../../harness/report/schema.ts';
import { ReportError } from './report.ts';
import { listOf, object, text } from './shape.ts';

export interface LedgerClaim {
  readonly id: string;
  readonly claim: string;
  readonly source: string;
  readonly sourceUrlOrPlace: string;
  readonly stated: readonly string[];
  readonly unstated: readonly string[];
  /** What follows from the claim by arithmetic or convention; empty if nothing. */
  readonly note: string;
}

const ledger = listOf(
  object<LedgerClaim>({
    id: text,
    claim: text,
    source: text,
    sourceUrlOrPlace: text,
    stated: listOf(text),
    unstated: listOf(text),
    note: (value, at) => (value === undefined ? '' : text(value, at)),
  }),
);

/** Claims of the file at `path`; none if there is no such file. Throws ReportError naming the file. */
export function readLedger(path: string): LedgerClaim[] {
  if (!existsSync(path)) return [];
  try {
    return ledger(JSON.parse(readFileSync(path, 'utf8')), 'claims').map((claim) => ({
      ...claim,
      note: claim.note ?? '',
    }));
  } catch (error) {
    throw new ReportError(`${path} cannot be shown: ${(error as Error).message}`);
  }
}

/** The ledger's entry behind a report's claim; null when it was reworded or removed since. */
export function entryOf(row: ClaimRow, claims: readonly LedgerClaim[]): LedgerClaim | null {
  return claims.find((claim) => claim.id === row.id && claim.claim === row.claim) ?? null;
}

/** Every claim as it stands before any run. */
export const unanswered = (claims: readonly LedgerClaim[]): ClaimRow[] =>
  claims.map(({ id, claim, source }) => ({
    id,
    claim,
    source,
    outcome: 'not yet measured',
    finding: '',
  }));
