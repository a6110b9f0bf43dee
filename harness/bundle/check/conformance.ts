/**
 * The sessions of a bundle against its plan: each must be one that the plan calls for, with the engine, prompt and decoding it
 * calls for, in the order in which it calls for them; a run that says it is complete lacks none. Cards, plan and session rows name every
 * engine by the same digest, and what the writer counted as rows went by is what the rows add up to.
 */
import { type SessionTask, tasksOf } from '../../plan.ts';
import { canonicalJson } from '../../suite/canonical.ts';
import { cardDigest, headDigest } from '../digests.ts';
import type { StoredRun } from '../reader.ts';
import { cellName, cellsOf, shardByCell } from '../shards.ts';
import type { EngineCounters } from '../writer.ts';
import type { Findings } from './findings.ts';

export function checkConformance(run: StoredRun, findings: Findings): void {
  const { manifest } = run;
  const current = manifest.schema !== 'kilotoken/run@1';
  const cells = cellsOf(manifest.plan, manifest.shard);
  const order = new Map<string, { task: SessionTask; place: number; done: boolean }>();
  for (const phase of manifest.plan.phases) {
    for (const task of tasksOf(manifest.plan, phase)) {
      if (cells.has(cellName(phase.id, task.prompt))) order.set(task.session, { task, place: order.size, done: false });
    }
  }
  const shards = shardByCell(manifest.plan, manifest.parts);
  const places = new Map<number, number>();
  for (const { row } of run.sessions.values()) {
    const complain = (text: string): void => findings.difference('plan', `session ${row.session}: ${text}`);
    const due = order.get(row.session);
    if (due === undefined) {
      complain('the plan has no such session');
      continue;
    }
    due.done = true;
    const { task } = due;
    const part = shards.get(cellName(task.phase.id, task.prompt)) ?? 0;
    const place = places.get(part) ?? -1;
    if (due.place < place) complain('it stands behind a session that the plan opens later');
    places.set(part, Math.max(place, due.place));
    const prompt = run.prompts.get(row.prompt)!;
    if (row.phase !== task.phase.id || row.arm !== task.arm || row.repeat !== task.repeat) {
      complain('phase, arm or repeat are not those of its name');
    }
    if (row.engine !== task.engine) complain(`engine ${row.engine} is not the plan's ${task.engine}`);
    if (row.prompt !== task.prompt) complain(`prompt ${row.prompt} is not the plan's ${task.prompt}`);
    if (canonicalJson(row.decoding) !== canonicalJson(task.decoding)) {
      complain("its decoding parameters are not the plan's");
    }
    if (
      row.promptDigest !== prompt.digest ||
      row.promptTokens !== prompt.ids.length ||
      row.scenario !== prompt.scenario
    ) {
      complain('it does not describe its prompt as prompts.jsonl does');
    }
    if (current && row.engineDigest !== manifest.plan.engines?.[row.engine]) {
      complain("the digest of its engine is not the plan's");
    }
  }
  if (manifest.status === 'complete') {
    const missing = [...order.values()].filter((due) => !due.done);
    for (const { task } of missing)
      findings.difference('plan', `session ${task.session} is missing from a complete run`);
  }
  for (const { row, rounds } of run.sessions.values()) {
    const echoed = rounds[0]?.echoed;
    if (echoed !== undefined && canonicalJson(echoed) !== canonicalJson(row.decoding)) {
      findings.difference(
        'echo',
        `session ${row.session}: the engine says it decoded with other parameters than were asked for`,
      );
    }
  }
  if (current) {
    checkCards(run, findings);
    checkEvents(run, findings);
    checkCounters(run, findings);
  }
}

function checkCards(run: StoredRun, findings: Findings): void {
  const { engines, plan, provenance } = run.manifest;
  const binaries = provenance?.code.binaries.value?.map((file) => file.sha256) ?? null;
  for (const [name, card] of Object.entries(engines)) {
    const complain = (text: string): void => findings.difference('cards', `engine ${name}: ${text}`);
    if (plan.engines?.[name] !== cardDigest(card)) complain('its card is not the one the plan was fixed with');
    if (binaries !== null && /^sha256:/.test(card.buildDigest) && !binaries.includes(card.buildDigest)) {
      complain('its build is none of the binaries that the provenance names');
    }
    for (const [digest, of] of [
      [provenance?.model.weightsDigest.value, card.weightsDigest],
      [provenance?.model.draftDigest.value, card.draftDigest],
    ] as const) {
      if (digest != null && of !== 'none' && digest !== of) complain('its weights are not those the provenance names');
    }
  }
  for (const name of Object.keys(plan.engines ?? {})) {
    if (!(name in engines)) findings.difference('cards', `engine ${name} of the plan has no card`);
  }
  const defect = provenance?.environment.KILOTOKEN_DEFECT ?? null;
  if (defect !== null && Object.values(engines).every((card) => card.defects.length === 0)) {
    findings.difference('cards', `the environment chose the defect ${defect}, but no card names one`);
  }
}

function checkEvents(run: StoredRun, findings: Findings): void {
  const { manifest } = run;
  const complain = (text: string): void => findings.difference('events', text);
  if (manifest.parts !== null) {
    for (const { shard, id, head, seconds, offsetNs } of manifest.parts) {
      const own = run.events.filter((event) => event.shard === shard.index);
      const [first, last] = [own[0], own.at(-1)];
      if (first?.kind !== 'run-start' || first.t_ns !== offsetNs || first.run !== id || first.head !== head) {
        complain(`shard ${shard.index} does not begin as the manifest says`);
      }
      if (last?.kind !== 'run-end' || Math.abs((last.t_ns - offsetNs) / 1e9 - seconds) > 1e-6) {
        complain(`shard ${shard.index} does not end as the manifest says`);
      }
    }
    return;
  }
  const [first] = run.events;
  if (first === undefined) {
    if (manifest.status !== 'running') complain('there is no run-start');
    return;
  }
  if (first.kind !== 'run-start' || first.t_ns !== 0) complain('the first event is not the start of the run');
  else if (first.run !== manifest.id || first.head !== headDigest(manifest)) {
    complain('the run began under another manifest than the one that lies here');
  }
  if (manifest.status === 'running') return;
  const last = run.events.at(-1)!;
  if (last.kind !== 'run-end') complain('the last event is not the end of the run');
  else {
    if (last.status !== manifest.status) complain(`the run ended ${last.status}, the manifest says ${manifest.status}`);
    if (Math.abs(last.t_ns / 1e9 - manifest.seconds) > 1e-6) {
      complain(`the run ended after ${last.t_ns / 1e9} s, the manifest says ${manifest.seconds} s`);
    }
  }
  if (run.events.filter((event) => event.kind === 'run-start' || event.kind === 'run-end').length > 2) {
    complain('the run starts or ends more than once');
  }
}

function checkCounters(run: StoredRun, findings: Findings): void {
  // A run that failed lost the rows it could not write; one that was killed never counted.
  if (!['complete', 'interrupted'].includes(run.manifest.status)) return;
  const counted = new Map<string, EngineCounters>();
  for (const event of run.events) {
    if (event.kind !== 'run-end') continue;
    for (const [name, counters] of Object.entries((event.counters ?? {}) as Record<string, EngineCounters>)) {
      add(counted, name, counters);
    }
  }
  const found = new Map<string, EngineCounters>();
  for (const { row, rounds } of run.sessions.values()) {
    for (const { drafted, accepted, committed } of rounds) {
      add(found, row.engine, { rounds: 1, drafted: drafted.length, accepted, committed: committed.length });
    }
  }
  for (const name of new Set([...counted.keys(), ...found.keys()])) {
    const nothing = { rounds: 0, drafted: 0, accepted: 0, committed: 0 };
    const [a, b] = [counted.get(name) ?? nothing, found.get(name) ?? nothing];
    for (const key of ['rounds', 'drafted', 'accepted', 'committed'] as const) {
      if (a[key] !== b[key]) {
        findings.difference(
          'counters',
          `${name}: the run counted ${a[key]} ${WORDS[key]}, the rows add up to ${b[key]}`,
        );
      }
    }
  }
}

const WORDS = { rounds: 'rounds', drafted: 'drafts', accepted: 'accepted drafts', committed: 'tokens' } as const;

function add(sums: Map<string, EngineCounters>, name: string, more: EngineCounters): void {
  const sum = sums.get(name);
  if (sum === undefined) {
    sums.set(name, { ...more });
    return;
  }
  sum.rounds += more.rounds;
  sum.drafted += more.drafted;
  sum.accepted += more.accepted;
  sum.committed += more.committed;
}
