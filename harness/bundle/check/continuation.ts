/**
 * What the tokens say of the acceptance. Under greedy decoding, `match` and `coupled` the target's token at a position is the one plain
 * decoding emits there, so a draft is accepted exactly as long as it agrees with plain decoding. Plain sessions of the same prompt
 * and decoding, of whatever phase and length, give that continuation; every accepted count is recomputed from it, the drafts cut off
 * behind a limit included. Sessions of one engine that must be replicas of each other are held against each other too.
 */
import { generatedTokens } from '../../verify/equality.ts';
import type { SessionTrace, StoredRun } from '../reader.ts';
import type { TimingRow } from '../rows.ts';
import type { Findings } from './findings.ts';

export function checkContinuations(run: StoredRun, findings: Findings): void {
  const longest = new Map<string, number[]>();
  const traces = [...run.sessions.values()];
  for (const trace of traces) {
    const key = trace.row.arm === 'plain' ? decodingKey(run, trace) : null;
    if (key === null) continue;
    const tokens = generatedTokens(trace);
    if (tokens.length > (longest.get(key)?.length ?? -1)) longest.set(key, tokens);
  }
  for (const { key, arm, row } of timedGreedy(run)) {
    if (arm !== 'plain') continue;
    if (row.tokens.length > (longest.get(key)?.length ?? -1)) longest.set(key, row.tokens);
  }
  const replicas = new Map<string, SessionTrace>();
  for (const trace of traces) {
    if (trace.row.arm !== 'speculative') continue;
    const key = decodingKey(run, trace);
    if (key === null) continue;
    const plain = longest.get(key);
    if (plain !== undefined) checkAccepted(trace, plain, findings);
    const replicaKey = draftKey(run, trace.row.engine, key, trace.row.decoding.seed);
    const other = replicas.get(replicaKey);
    if (other === undefined) replicas.set(replicaKey, trace);
    else {
      compareReplicas(other, trace, findings);
      if (trace.rounds.length > other.rounds.length) replicas.set(replicaKey, trace);
    }
  }
  for (const { key, arm, engine, row } of timedGreedy(run)) {
    const other = arm === 'plain' ? undefined : replicas.get(draftKey(run, engine, key, row.seed));
    if (other !== undefined) compareTimed(other, row, findings);
  }
}

/** Sessions with the same key draft the same. Greedy drafts are drawn with no seed either, unless acceptance is not real. */
function draftKey(run: StoredRun, engine: string, key: string, seed: string): string {
  return run.manifest.engines[engine]!.syntheticAcceptance === null ? `${engine} ${key}` : `${engine} ${key} ${seed}`;
}

type TimedSession = Extract<TimingRow, { kind: 'session' }>;

/** Timed sessions whose text depends on the weights alone, by the same key as sessions of the phases. */
function timedGreedy(
  run: StoredRun,
): { key: string; arm: 'plain' | 'speculative'; engine: string; row: TimedSession }[] {
  const { speed, stopIds } = run.manifest.plan;
  if (speed == null || speed.temperature !== 0) return [];
  return run.timings.flatMap((row) => {
    if (row.kind !== 'session' || row.fault !== null) return [];
    const prompt = run.prompts.get(row.prompt);
    const arm = speed.order[row.segment];
    if (prompt === undefined || arm === undefined) return [];
    return [{ key: `${prompt.digest} greedy ${stopIds.join(' ')}`, arm, engine: speed[arm], row }];
  });
}

/** A timed session tells how many drafts each round had and accepted, and the tokens; they must be those of its replica. */
function compareTimed(trace: SessionTrace, row: TimedSession, findings: Findings): void {
  const rounds = Math.min(trace.rounds.length, row.kept.length);
  for (let i = 0; i < rounds; i++) {
    const round = trace.rounds[i]!;
    const most = Math.min(round.drafted.length, row.drafted[i]!);
    if (Math.min(round.accepted, most) !== Math.min(row.accepted[i]!, most)) {
      findings.doubt(
        'replicas',
        `session ${trace.row.session} and timed session ${row.ordinal} of segment ${row.segment} decode prompt ${row.prompt} with the same engine, but round ${i} accepts ${round.accepted} drafts in one and ${row.accepted[i]} in the other`,
      );
      return;
    }
    if (round.committed.length !== row.kept[i]!) return;
  }
}

/** Sessions with the same key must emit the same tokens; null where the rule promises no such thing. */
function decodingKey(run: StoredRun, trace: SessionTrace): string | null {
  const { row } = trace;
  const { temperature, topP, topK, seed, stopIds } = row.decoding;
  const rule = run.manifest.engines[row.engine]!.rule;
  // Greedy tokens depend on the weights alone: neither the rule nor the seed matters.
  if (temperature === 0) return `${row.promptDigest} greedy ${stopIds.join(' ')}`;
  if (rule === 'reject') return null;
  return `${row.promptDigest} ${rule} ${seed} ${temperature} ${topP} ${topK} ${stopIds.join(' ')}`;
}

/** Every accepted count of a session that emitted `plain`'s tokens, as far as `plain` reaches. */
function checkAccepted(trace: SessionTrace, plain: readonly number[], findings: Findings): void {
  const emitted = generatedTokens(trace);
  // Where the outputs differ the verdict on them says so; the accepted counts of such a session are its own.
  if (emitted.some((token, i) => i < plain.length && token !== plain[i])) return;
  let offset = 0;
  for (const { index, drafted, accepted, committed } of trace.rounds) {
    let due = 0;
    while (due < drafted.length && offset + due < plain.length && drafted[due] === plain[offset + due]) due += 1;
    const open = offset + due >= plain.length;
    // Past the end of the plain output nothing is known, so there only the lower bound holds.
    if (open ? accepted < due : accepted !== due) {
      findings.difference(
        'continuation',
        `session ${trace.row.session}, round ${index}: ${accepted} drafts count as accepted, ${open ? 'at least ' : ''}${due} agree with plain decoding`,
      );
      return;
    }
    offset += committed.length;
  }
}

/** Two sessions of one engine over the same text: the same drafts at the same places, the same accepted counts. */
function compareReplicas(a: SessionTrace, b: SessionTrace, findings: Findings): void {
  const rounds = Math.min(a.rounds.length, b.rounds.length);
  for (let i = 0; i < rounds; i++) {
    const [one, other] = [a.rounds[i]!, b.rounds[i]!];
    const drafts = Math.min(one.drafted.length, other.drafted.length);
    const at = one.drafted.slice(0, drafts).findIndex((id, k) => id !== other.drafted[k]);
    const accepted = Math.min(one.accepted, drafts) !== Math.min(other.accepted, drafts);
    if (at >= 0 || accepted) {
      findings.doubt(
        'replicas',
        `sessions ${a.row.session} and ${b.row.session} decode the same text with the same engine, but in round ${i} ` +
          (at >= 0
            ? `draft ${at} is token ${one.drafted[at]} in one and ${other.drafted[at]} in the other`
            : `${one.accepted} drafts are accepted in one and ${other.accepted} in the other`),
      );
      return;
    }
    // A limit cuts one of them short here; what follows starts from other places.
    if (one.committed.length !== other.committed.length) return;
  }
}
