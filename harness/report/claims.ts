/** What this run says of each claim of the ledger. Nearly always: not this model, not this machine, and what was seen here. */
import type { StoredRun } from '../bundle/reader.ts';
import type { Claim } from '../suite/claims.ts';
import type { AcceptanceRow, ClaimRow, SpeedRow, Verdict } from './schema.ts';

interface Findings {
  readonly verdicts: readonly Verdict[];
  readonly acceptance: readonly AcceptanceRow[];
  readonly speed: readonly SpeedRow[];
}

export function answerClaims(run: StoredRun, findings: Findings): ClaimRow[] {
  return run.manifest.ledger.map((claim) => {
    const { id, claim: text, source } = claim;
    return { id, claim: text, source, ...answer(run, claim, findings) };
  });
}

function answer(run: StoredRun, claim: Claim, findings: Findings): Pick<ClaimRow, 'outcome' | 'finding'> {
  const { model } = run.manifest;
  const notThisModel = `The claim is about the 1.02 T model; this run decodes ${model.name} (${model.kind}).`;
  if (claim.kind === 'acceptance') {
    // Only a claim about one scenario has a figure here that stands for the same thing.
    const row = findings.acceptance.find((entry) => entry.decoding === 'greedy' && entry.scenario === claim.scenario);
    const beside = row === undefined ? '' : ` Here, greedy, block ${row.blockSize}: ${figure(row.rawMicro)}.`;
    return { outcome: 'not testable here', finding: `${notThisModel}${beside}` };
  }
  if (claim.kind === 'losslessness') {
    const seen = findings.verdicts
      .filter((verdict) => !['sessions', 'books'].includes(verdict.id))
      .map((verdict) => `${verdict.id} ${verdict.outcome}`);
    const beside = seen.length > 0 ? ` Of the same algorithm here: ${seen.join(', ')}.` : '';
    return { outcome: 'not testable here', finding: `${notThisModel}${beside}` };
  }
  if (claim.kind === 'speed') {
    return { outcome: 'not yet measured', finding: `${notThisModel} Its speed needs its size and the 8-GPU node.` };
  }
  return { outcome: 'not yet measured', finding: `${notThisModel} This run has no test of it.` };
}

function figure(measured: AcceptanceRow['rawMicro']): string {
  if (measured.state !== 'measured') return measured.state;
  const { value, interval, n, of } = measured;
  const ends = interval === null ? '' : ` [${interval.low.toFixed(2)}, ${interval.high.toFixed(2)}]`;
  return `${value.toFixed(2)}${ends} tokens a round on ${n} ${of}`;
}
