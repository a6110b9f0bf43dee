/**
 * Someone who changes a bundle and knows how it is made: after a change of rows, plan or manifest every digest, counter, verdict and
 * figure is made anew, so that only what the rows say against each other can give the change away.
 */
import { cpSync } from 'node:fs';
import { type CheckResult, checkBundle } from '../../harness/bundle/check/check.ts';
import { digestOf, headDigest, promptsDigest } from '../../harness/bundle/digests.ts';
import { readManifest, readRun } from '../../harness/bundle/reader.ts';
import type {
  EventRow,
  ManifestV2,
  Plan,
  PromptRow,
  RoundRow,
  SessionRow,
  TimingRow,
} from '../../harness/bundle/rows.ts';
import { sealBundle } from '../../harness/bundle/tree.ts';
import { ROW_FILES, writePlan, writeReport, writeVerdicts } from '../../harness/bundle/writer.ts';
import { buildReport, verdictsOf } from '../../harness/report/build.ts';
import { sha256 } from '../../harness/suite/canonical.ts';
import { editDocument, readDocument, rowsOf, rowsText, writeRows } from './bundle-files.ts';

export const CHECK = { publicKey: null, build: null } as const;

export function check(run: string): Promise<CheckResult> {
  return checkBundle(run, CHECK);
}

/** Which checks found a difference or a doubt, each once. */
export function checksOf(result: CheckResult, level: 'difference' | 'doubt' = 'difference'): string[] {
  return [
    ...new Set(result.findings.filter((finding) => finding.level === level).map((finding) => finding.check)),
  ].sort();
}

export interface Forgery {
  readonly rounds?: (rows: RoundRow[]) => RoundRow[];
  readonly sessions?: (rows: SessionRow[]) => SessionRow[];
  readonly events?: (rows: EventRow[]) => EventRow[];
  readonly telemetry?: (rows: Record<string, number>[]) => Record<string, number>[];
  readonly timings?: (rows: TimingRow[]) => TimingRow[];
  readonly plan?: (plan: Plan) => void;
  readonly manifest?: (manifest: ManifestV2) => void;
  /** Leave these as they are. */
  readonly keep?: readonly ('counters' | 'head' | 'documents' | 'tree')[];
}

/** A changed copy of `run` at `to`. An empty forgery gives an intact bundle: that is every forgery's control. */
export async function forge(run: string, to: string, forgery: Forgery): Promise<string> {
  cpSync(run, to, { recursive: true });
  const keep = new Set(forgery.keep ?? []);
  if (forgery.rounds) writeRows(to, 'rounds.jsonl', forgery.rounds(rowsOf<RoundRow>(to, 'rounds.jsonl')));
  if (forgery.sessions) writeRows(to, 'sessions.jsonl', forgery.sessions(rowsOf<SessionRow>(to, 'sessions.jsonl')));
  if (forgery.telemetry) writeRows(to, 'telemetry.jsonl', forgery.telemetry(rowsOf(to, 'telemetry.jsonl')));
  if (forgery.timings) writeRows(to, 'timings.jsonl', forgery.timings(rowsOf<TimingRow>(to, 'timings.jsonl')));
  if (forgery.plan) {
    const plan = readDocument<Plan>(to, 'plan.json');
    forgery.plan(plan);
    writePlan(to, plan);
  }
  rewriteManifest(to, (manifest) => {
    forgery.manifest?.(manifest);
    manifest.planDigest = digestOf(readDocument(to, 'plan.json'));
    manifest.promptsDigest = promptsDigest(rowsOf<PromptRow>(to, 'prompts.jsonl'));
  });
  let events = rowsOf<EventRow>(to, 'events.jsonl');
  if (forgery.events) events = forgery.events(events);
  const manifest = readManifest(to, () => {});
  // A merged run has the events of its shards, each with its own head and counters.
  for (const event of manifest.parts === null ? events : []) {
    if (event.kind === 'run-start' && !keep.has('head'))
      Object.assign(event, { run: manifest.id, head: headDigest(manifest) });
    if (event.kind === 'run-end' && !keep.has('counters')) event.counters = counters(to);
  }
  writeRows(to, 'events.jsonl', events);
  rewriteManifest(to, (document) => {
    document.files = ROW_FILES.map((path) => {
      const text = rowsText(to, path);
      const rows = text === '' ? 0 : text.trimEnd().split('\n').length;
      return { path, sha256: sha256(text), bytes: Buffer.byteLength(text), rows };
    });
  });
  if (!keep.has('documents')) {
    // Rows that cannot be read give no documents; the check says so.
    const stored = await readRun(to).catch(() => null);
    if (stored !== null) {
      const report = buildReport(stored);
      writeVerdicts(to, verdictsOf(report));
      writeReport(to, report);
    }
  }
  if (!keep.has('tree')) await sealBundle(to);
  return to;
}

function rewriteManifest(run: string, change: (manifest: ManifestV2) => void): void {
  try {
    editDocument<ManifestV2>(run, 'manifest.json', change);
  } catch (error) {
    if (!/is what it was/.test((error as Error).message)) throw error;
  }
}

function counters(run: string): Record<string, unknown> {
  const engines = new Map(rowsOf<SessionRow>(run, 'sessions.jsonl').map((row) => [row.session, row.engine]));
  const sums: Record<string, { rounds: number; drafted: number; accepted: number; committed: number }> = {};
  for (const { session, drafted, accepted, committed } of rowsOf<RoundRow>(run, 'rounds.jsonl')) {
    const name = engines.get(session) ?? 'unknown';
    sums[name] ??= { rounds: 0, drafted: 0, accepted: 0, committed: 0 };
    const sum = sums[name];
    sum.rounds += 1;
    sum.drafted += drafted.length;
    sum.accepted += accepted;
    sum.committed += committed.length;
  }
  return sums;
}
