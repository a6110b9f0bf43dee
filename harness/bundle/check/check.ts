/**
 * `kilotoken check`: recomputes everything a bundle says of itself from its files and rows with the code of today, and names every
 * difference. The tree and the signature speak for the bytes; the other checks speak for the rows even when whoever changed them made
 * every digest anew. What no check can see without a signature is said in docs/bundle.md.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../../engine.ts';
import { buildReport, verdictsOf } from '../../report/build.ts';
import type { Verdict } from '../../report/schema.ts';
import { canonicalJson, sha256 } from '../../suite/canonical.ts';
import { checkBooks } from '../../verify/books.ts';
import { readJson, readManifest, readRun, type StoredRun } from '../reader.ts';
import type { Manifest } from '../rows.ts';
import { cellName, shardByCell } from '../shards.ts';
import { readSignature, signatureDifferences } from '../sign.ts';
import { compareTrees, readTree, SIGNATURE_FILE, type Tree, treeOf } from '../tree.ts';
import { checkCeilings } from './ceilings.ts';
import { ClockCheck } from './clocks.ts';
import { checkConformance } from './conformance.ts';
import { checkContinuations } from './continuation.ts';
import { compareDocuments } from './documents.ts';
import { type Finding, Findings } from './findings.ts';
import { checkTimings } from './timings.ts';

export interface CheckOptions {
  /** A public key in PEM form; the bundle must carry its signature. Null: a signature is only held against itself. */
  readonly publicKey: string | null;
  /** A build of the engines; every card must name it. Null: any build will do. */
  readonly build: Uint8Array | null;
}

export interface CheckResult {
  readonly run: string;
  readonly schema: string;
  /** As the manifest says; `running` is a run that was killed, or one that still goes on. */
  readonly status: Manifest['status'];
  /** intact: everything follows from the rows. different: something does not. unfinished: what is there does, but it is not all. */
  readonly outcome: 'intact' | 'different' | 'unfinished';
  readonly differences: number;
  readonly doubts: number;
  readonly findings: readonly Finding[];
  /** Root of the tree; null where there is none. */
  readonly root: string | null;
  /** Public key of the signature, hexadecimal; null without one. */
  readonly signedBy: string | null;
  readonly rounds: number;
  readonly sessions: number;
  /** As recomputed. */
  readonly verdicts: readonly Pick<Verdict, 'id' | 'outcome' | 'evidence'>[];
}

/** Throws InputError only when `directory` holds no manifest that can be read. */
export async function checkBundle(directory: string, options: CheckOptions): Promise<CheckResult> {
  const findings = new Findings();
  const tree = await checkTree(directory, options, findings);
  let manifest: Manifest;
  try {
    manifest = readManifest(directory, () => {});
  } catch (error) {
    // With a tree that tells what changed, say that too.
    if (!(error instanceof InputError) || tree.root === null) throw error;
    findings.difference('rows', error.message);
    return result(directory, null, findings, tree, null, []);
  }
  const first = manifest.schema === 'kilotoken/run@1';
  if (first)
    findings.note('tree', 'run@1 has no tree: only the rows and what follows from them are covered by digests');
  else checkPlanBytes(directory, findings);
  checkSealed(manifest, tree, first, findings);
  if (options.build !== null) checkBuild(manifest, sha256(options.build), findings);

  const run = await readForCheck(directory, manifest, findings);
  if (run === null) return result(directory, manifest, findings, tree, null, []);
  let verdicts: CheckResult['verdicts'] = [];
  try {
    checkConformance(run, findings);
    checkContinuations(run, findings);
    checkCeilings(run, findings);
    checkTimings(run, findings);
    verdicts = checkDocuments(directory, run, findings);
  } catch (error) {
    // Of rows that are known to be other rows, one may be such that nothing can be computed from it.
    if (findings.count('difference') === 0) throw error;
    findings.difference('rows', `they cannot be judged: ${(error as Error).message}`);
  }
  return result(directory, manifest, findings, tree, run, verdicts);
}

export interface TreeState {
  readonly tree: Tree | null;
  readonly root: string | null;
  readonly signedBy: string | null;
}

/** The tree and the signature of a bundle of any kind. */
export async function checkTree(directory: string, options: CheckOptions, findings: Findings): Promise<TreeState> {
  const attempt = <T>(check: string, read: () => T): T | null => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      findings.difference(check, error.message);
      return null;
    }
  };
  const tree = attempt('tree', () => readTree(directory));
  if (tree !== null) {
    for (const text of compareTrees(tree, await treeOf(directory))) findings.difference('tree', text);
  }
  const signature = attempt('signature', () => readSignature(directory));
  if (signature !== null) {
    if (tree === null) findings.difference('signature', `${SIGNATURE_FILE} has no tree to be over`);
    else {
      for (const text of signatureDifferences(signature, tree, options.publicKey))
        findings.difference('signature', text);
    }
  } else if (options.publicKey !== null) findings.difference('signature', 'the bundle carries no signature');
  return { tree, root: tree?.root ?? null, signedBy: signature?.publicKey ?? null };
}

/** plan.json is stored in its canonical form, so that its sha256 is the plan's digest. */
function checkPlanBytes(directory: string, findings: Findings): void {
  const path = join(directory, 'plan.json');
  const bytes = readFileSync(path);
  if (!bytes.equals(Buffer.from(canonicalJson(readJson(path))))) {
    findings.difference('plan', 'plan.json is not in canonical form');
  }
}

function checkSealed(manifest: Manifest, { tree }: TreeState, first: boolean, findings: Findings): void {
  if (manifest.status === 'running') {
    findings.doubt(
      'status',
      'the run was interrupted before it closed its books (or still goes on): judged on what is there',
    );
  } else if (manifest.status !== 'complete') {
    findings.doubt('status', `the run is ${manifest.status}: judged on what is there`);
  }
  if (manifest.status !== 'running' && tree === null && !first) {
    findings.doubt('tree', 'the bundle is not sealed: it has no tree.json, so single bytes are not covered');
  }
  if (manifest.shard !== null) {
    findings.doubt(
      'status',
      `this is shard ${manifest.shard.index} of ${manifest.shard.of}: only its cells are judged`,
    );
  }
}

function checkBuild(manifest: Manifest, digest: string, findings: Findings): void {
  for (const [name, card] of Object.entries(manifest.engines)) {
    if (card.buildDigest !== digest) {
      findings.difference('build', `engine ${name} was built as ${card.buildDigest}, the build given is ${digest}`);
    }
  }
}

async function readForCheck(directory: string, manifest: Manifest, findings: Findings): Promise<StoredRun | null> {
  const shards = shardByCell(manifest.plan, manifest.parts);
  const alone = new Set(manifest.plan.phases.filter((phase) => phase.concurrency === 1).map((phase) => phase.id));
  const clocks = new ClockCheck(findings, (row) => shards.get(cellName(row.phase, row.prompt)) ?? 0, alone);
  try {
    const run = await readRun(directory, {
      onRound: (row, session) => clocks.round(row, session),
      onDifference: (text) => findings.difference('rows', text),
    });
    clocks.finish(run);
    return run;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    findings.difference('rows', error.message);
    return null;
  }
}

function checkDocuments(directory: string, run: StoredRun, findings: Findings): CheckResult['verdicts'] {
  const report = buildReport(run);
  for (const trace of run.sessions.values()) {
    if (run.manifest.status !== 'complete' && trace.rounds.at(-1)?.finish == null) continue;
    for (const violation of checkBooks(trace, run.manifest.engines[trace.row.engine]!)) {
      const round = violation.round === null ? '' : `, round ${violation.round}`;
      findings.difference('books', `session ${violation.session}${round}: ${violation.text}`);
    }
  }
  for (const [name, computed] of [
    ['verdicts.json', verdictsOf(report)],
    ['report.json', report],
  ] as const) {
    const file = join(directory, name);
    if (!existsSync(file)) {
      if (run.manifest.status !== 'running')
        findings.doubt('documents', `${name} is missing; the verdicts below are new`);
      continue;
    }
    let stored: unknown;
    try {
      stored = readJson(file);
    } catch (error) {
      findings.difference('documents', (error as Error).message);
      continue;
    }
    // Compared as JSON: a member that is undefined does not exist.
    for (const difference of compareDocuments(stored, JSON.parse(JSON.stringify(computed)))) {
      const { path, stored: said, computed: due } = difference;
      findings.difference('documents', `${name}: ${path} says ${said}, the rows give ${due}`);
    }
  }
  return report.verdicts.map(({ id, outcome, evidence }) => ({ id, outcome, evidence }));
}

function result(
  directory: string,
  manifest: Manifest | null,
  findings: Findings,
  tree: TreeState,
  run: StoredRun | null,
  verdicts: CheckResult['verdicts'],
): CheckResult {
  const differences = findings.count('difference');
  const doubts = findings.count('doubt');
  return {
    run: manifest?.id ?? directory,
    schema: manifest?.schema ?? 'unknown',
    status: manifest?.status ?? 'failed',
    outcome: differences > 0 ? 'different' : doubts > 0 ? 'unfinished' : 'intact',
    differences,
    doubts,
    findings: findings.list(),
    root: tree.root,
    signedBy: tree.signedBy,
    rounds: run === null ? 0 : [...run.sessions.values()].reduce((sum, trace) => sum + trace.rounds.length, 0),
    sessions: run?.sessions.size ?? 0,
    verdicts,
  };
}
