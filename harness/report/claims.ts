/** What this run says of each claim of the ledger. Nearly always: not this model, not this machine, and what was seen here. */
import type { StoredRun } from '../bundle/reader.ts';
import type { Claim } from '../suite/claims.ts';
import type { AcceptanceRow, ClaimRow, Figure, Measurement, SpeedRow, Verdict } from './schema.ts';

interface Findings {
  readonly verdicts: readonly Verdict[];
  readonly acceptance: readonly AcceptanceRow[];
  readonly speed: readonly SpeedRow[];
  /** Null in a run that has no speed plan. */
  readonly measurement: Measurement | null;
}

export function answerClaims(run: StoredRun, findings: Findings): ClaimRow[] {
  return run.manifest.ledger.map((claim) => {
    const { id, claim: text, source } = claim;
    return { id, claim: text, source, ...answer(run, claim, findings) };
  });
}

function answer(run: StoredRun, claim: Claim, findings: Findings): Pick<ClaimRow, 'outcome' | 'finding'> {
  const { model } = run.manifest;
  const synthetic = model.kind === 'pro-synthetic';
  const what = synthetic ? 'a slice of its shape with synthetic weights' : model.kind;
  const notThisModel = `The claim is about the 1.02 T model; this run decodes ${model.name} (${what}).`;
  if (claim.kind === 'acceptance') {
    if (synthetic) return { outcome: 'not testable here', finding: `${notThisModel} Its draft was never trained.` };
    // Only a claim about one scenario has a figure here that stands for the same thing.
    const row = findings.acceptance.find((entry) => entry.decoding === 'greedy' && entry.scenario === claim.scenario);
    const beside = row === undefined ? '' : ` Here, greedy, block ${row.blockSize}: ${figure(row.rawMicro)}.`;
    return { outcome: 'not testable here', finding: `${notThisModel}${beside}` };
  }
  if (claim.kind === 'losslessness') {
    const seen = findings.verdicts
      .filter((verdict) => !['sessions', 'books', 'timings'].includes(verdict.id))
      .map((verdict) => `${verdict.id} ${verdict.outcome}`);
    const beside = seen.length > 0 ? ` Of the same algorithm here: ${seen.join(', ')}.` : '';
    return { outcome: 'not testable here', finding: `${notThisModel}${beside}` };
  }
  if (findings.measurement !== null && claim.kind !== 'fidelity') {
    return { outcome: 'not yet measured', finding: `${notThisModel}${paceBeside(claim, findings.measurement)}` };
  }
  if (claim.kind === 'speed') {
    return { outcome: 'not yet measured', finding: `${notThisModel} Its speed needs its size and the 8-GPU node.` };
  }
  return { outcome: 'not yet measured', finding: `${notThisModel} This run has no test of it.` };
}

/** What was measured here of the same thing, in one sentence; what a claim needs and does not say comes first. */
function paceBeside(claim: Claim, { cells, comparisons, mode }: Measurement): string {
  const run = mode === 'short' ? ', short run' : '';
  const range = (figures: readonly Figure[]): string | null => {
    const values = figures.flatMap(({ figure: found }) => (found.state === 'measured' ? [found.value] : []));
    if (values.length === 0) return null;
    const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => Number(value.toPrecision(3)));
    return low === high ? `${low}` : `${low} to ${high}`;
  };
  const on = cells.filter((cell) => cell.speculation).flatMap((cell) => cell.figures);
  const of = (figures: readonly Figure[], id: string): string | null =>
    range(figures.filter((entry) => entry.id === id));
  if (claim.kind === 'demo' && claim.unit === 's') {
    const tokens = of(on, 'tokens-10s');
    const here = tokens === null ? '' : ` Here 10 s give ${tokens} tokens by scenario${run}.`;
    return ` How many tokens the task took was not published.${here}`;
  }
  if (claim.kind === 'economics') {
    const compared = comparisons.flatMap((row) => row.figures);
    const found = of(compared, 'price-per-speed') ?? of(compared, 'speedup');
    const what =
      of(compared, 'price-per-speed') === null ? 'speed-up' : "speed-up per price, by the caller's own prices,";
    return found === null ? '' : ` Here the ${what} is ${found} by scenario${run}.`;
  }
  const peak = of(on, 'peak');
  const rate = of(on, 'decode-tps');
  const parts = [
    ...(rate === null ? [] : [`${rate} tokens/s decoding with speculation`]),
    ...(peak === null ? [] : [`${peak} tokens/s at the peak over 1 s`]),
  ];
  return `${claim.kind === 'speed' ? ' Its speed needs its size and the 8-GPU node.' : ''}${parts.length > 0 ? ` Here ${parts.join(', ')} by scenario${run}.` : ''}`;
}

function figure(measured: AcceptanceRow['rawMicro']): string {
  if (measured.state !== 'measured') return measured.state;
  const { value, interval, n, of } = measured;
  const ends = interval === null ? '' : ` [${interval.low.toFixed(2)}, ${interval.high.toFixed(2)}]`;
  return `${value.toFixed(2)}${ends} tokens a round on ${n} ${of}`;
}
