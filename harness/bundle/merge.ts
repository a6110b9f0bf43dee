/**
 * Joins the shards of one plan into one run. The shards must be complete and sealed, have run the same plan with the same engines,
 * prompts and code, and hold every cell once. Their clocks have nothing to do with each other, so the merged run lays them one behind
 * another: its times are those of a machine that did one shard after the other. Rows are copied as a stream.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { z } from 'zod';
import { InputError } from '../engine.ts';
import { canonicalJson, sha256 } from '../suite/canonical.ts';
import { digestOf, headDigest } from './digests.ts';
import { makeFolder } from './disk.ts';
import { readManifest } from './reader.ts';
import { RowFile } from './row-file.ts';
import { readRows, rowPath } from './row-reader.ts';
import type { EventRow, Manifest, MergedPart, RoundRow, RunFile, SessionRow, TelemetryRow, TimingRow } from './rows.ts';
import { cellName, shardByCell } from './shards.ts';
import { compareTrees, readTree, treeOf } from './tree.ts';
import { type CurrentManifest, ROW_FILES, ROW_SCHEMAS, type RowFileName, writeManifest, writePlan } from './writer.ts';

interface Part {
  readonly directory: string;
  readonly manifest: CurrentManifest;
  readonly merged: MergedPart;
}

/** Writes the rows, plan and manifest of the merged run; judging and sealing it are the caller's. Throws InputError. */
export async function mergeShards(directories: readonly string[], to: string, command: string): Promise<Manifest> {
  if (existsSync(join(to, 'manifest.json')))
    throw new InputError(`${to} already holds a run; choose another directory`);
  const parts = await readParts(directories);
  const [first] = parts;
  for (const part of parts.slice(1)) checkSame(first!, part);

  makeFolder(to);
  writePlan(to, first!.manifest.plan);
  const files: RunFile[] = [];
  try {
    for (const name of ROW_FILES) files.push(await mergeRows(parts, to, name));
  } catch (error) {
    // Half a merge is of no use to anybody; the shards are still there.
    for (const name of ['plan.json', ...ROW_FILES.map((file) => `${file}.gz`)]) rmSync(join(to, name), { force: true });
    throw error;
  }
  const merged = parts.map((part) => part.merged);
  const startedAt = merged.map((part) => part.startedAt).sort()[0]!;
  const foreign = merged.flatMap((part) => (part.foreignCores === null ? [] : [part.foreignCores]));
  const manifest: CurrentManifest = {
    ...first!.manifest,
    id: `${startedAt.replace(/[-:]|\.\d+/g, '')}-${digestOf(merged.map((part) => part.id)).slice('sha256:'.length, 'sha256:'.length + 7)}`,
    title: `${first!.manifest.title}, ${parts.length} shards merged`,
    command,
    startedAt,
    seconds: merged.reduce((sum, part) => sum + part.seconds, 0),
    foreignCores: foreign.length === 0 ? null : Math.max(...foreign),
    status: 'complete',
    shard: null,
    parts: merged,
    files,
  };
  writeManifest(to, manifest);
  return manifest;
}

async function readParts(directories: readonly string[]): Promise<Part[]> {
  const parts: Part[] = [];
  for (const directory of directories) {
    const manifest = readManifest(directory);
    const refuse = (text: string): never => {
      throw new InputError(`${directory} ${text}`);
    };
    if (manifest.provenance === null || manifest.promptsDigest === null) refuse('is a run of an older schema');
    if (manifest.shard === null) refuse('is no shard: it was run in one piece');
    if (manifest.status !== 'complete') refuse(`is ${manifest.status}; run shard ${manifest.shard!.index} again`);
    const tree = readTree(directory);
    if (tree === null) return refuse('is not sealed: it has no tree.json');
    const [difference] = compareTrees(tree, await treeOf(directory));
    if (difference !== undefined) refuse(`is not the bundle that was sealed: ${difference}`);
    const current = manifest as CurrentManifest;
    parts.push({
      directory,
      manifest: current,
      merged: {
        shard: manifest.shard!,
        id: manifest.id,
        startedAt: manifest.startedAt,
        offsetNs: 0,
        seconds: manifest.seconds,
        head: headDigest(manifest),
        machine: manifest.machine,
        provenance: current.provenance,
        manifestSha256: sha256(readFileSync(join(directory, 'manifest.json'))),
        treeRoot: tree.root,
        foreignCores: manifest.foreignCores,
      },
    });
  }
  parts.sort((a, b) => a.merged.shard.index - b.merged.shard.index);
  checkComplete(parts);
  let offsetNs = 0;
  return parts.map((part) => {
    const placed = { ...part, merged: { ...part.merged, offsetNs } };
    offsetNs += Math.round(part.merged.seconds * 1e9);
    return placed;
  });
}

function checkComplete(parts: readonly Part[]): void {
  const of = parts[0]?.merged.shard.of ?? 0;
  const other = parts.find((part) => part.merged.shard.of !== of);
  if (other !== undefined) {
    throw new InputError(
      `${other.directory} is one of ${other.merged.shard.of} shards, ${parts[0]!.directory} one of ${of}`,
    );
  }
  const there = parts.map((part) => part.merged.shard.index);
  const twice = there.find((index, i) => there.indexOf(index) < i);
  if (twice !== undefined) throw new InputError(`shard ${twice} of ${of} was given twice`);
  const missing = Array.from({ length: of }, (_, i) => i + 1).filter((index) => !there.includes(index));
  if (missing.length > 0)
    throw new InputError(`of ${of} shards ${missing.join(', ')} ${missing.length > 1 ? 'are' : 'is'} missing`);
}

/** What must be the same in every shard, with the words for it. The machines must be of one kind, because their times are pooled. */
const SAME: readonly (readonly [string, (manifest: CurrentManifest) => unknown])[] = [
  ['plan', (manifest) => manifest.planDigest],
  ['prompts', (manifest) => manifest.promptsDigest],
  ['engines', (manifest) => manifest.engines],
  ['suites', (manifest) => manifest.suites],
  ['tokenizer', (manifest) => manifest.tokenizer],
  ['model', (manifest) => manifest.model],
  ['ledger of claims', (manifest) => manifest.ledger],
  ['commit', (manifest) => [manifest.commit, manifest.dirty]],
  ['binaries', (manifest) => [manifest.provenance.code.binaries, manifest.provenance.code.kernels]],
  ['machine', ({ machine }) => [machine.cpu, machine.cores, machine.gpus]],
];

function checkSame(first: Part, part: Part): void {
  for (const [what, of] of SAME) {
    if (canonicalJson(of(first.manifest)) !== canonicalJson(of(part.manifest))) {
      throw new InputError(
        `${part.directory} was run with another ${what} than ${first.directory}: they are no shards of one run`,
      );
    }
  }
}

async function mergeRows(parts: readonly Part[], to: string, name: RowFileName): Promise<RunFile> {
  const schema = ROW_SCHEMAS[name] as z.ZodType;
  const out = new RowFile(join(to, `${name}.gz`), name, schema);
  try {
    // Every shard has all prompts; promptsDigest says they are the same.
    for (const part of name === 'prompts.jsonl' ? parts.slice(0, 1) : parts) {
      const owned = shardByCell(
        part.manifest.plan,
        parts.map((entry) => entry.merged),
      );
      const path = rowPath(part.directory, name)!;
      const read = await readRows(path, schema, false, (row, where) => {
        if (name === 'sessions.jsonl') {
          const { phase, prompt } = row as SessionRow;
          if (owned.get(cellName(phase, prompt)) !== part.merged.shard.index) {
            throw new InputError(`${where}: cell ${cellName(phase, prompt)} belongs to another shard`);
          }
        }
        if (out.append(placed(name, row, part.merged))) out.flush();
      });
      if (read.failure !== null) throw read.failure;
      const listed = part.manifest.files.find((file) => file.path === name);
      if (listed?.sha256 !== read.sha256) throw new InputError(`${path} does not hold the rows the shard wrote`);
    }
    out.flush();
  } finally {
    out.close();
  }
  return out.describe();
}

/** A row on the clock of the merged run, with its shard where it has a place for it. */
function placed(name: RowFileName, row: unknown, { shard, offsetNs }: MergedPart): unknown {
  switch (name) {
    case 'rounds.jsonl': {
      const round = row as RoundRow;
      return { ...round, t_ns: (round.t_ns ?? 0) + offsetNs };
    }
    case 'telemetry.jsonl':
    case 'events.jsonl': {
      const reading = row as TelemetryRow | EventRow;
      return { ...reading, t_ns: reading.t_ns + offsetNs, shard: shard.index };
    }
    case 'timings.jsonl': {
      const timing = row as TimingRow;
      if (timing.kind === 'session') return { ...timing, startNs: timing.startNs + offsetNs };
      return { ...timing, startNs: timing.startNs + offsetNs, endNs: timing.endNs + offsetNs };
    }
    default:
      return row;
  }
}
