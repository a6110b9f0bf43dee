/**
 * The record of every gate run that was started, append-only: a line when a run starts, a line when it ends. Runs of one
 * build multiply into the same e-values and a refutation stays, so running again until it is green does not work. Each
 * line carries the digest of the line before; a record with a line changed or taken out is refused. A head file beside it holds the
 * number of lines and the digest of the last, so lines cut off at the end are noticed too. Both files put back together to
 * an earlier state look like that earlier state: who must exclude this keeps the head that a run prints and asks for it.
 */
import { appendFileSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { digestOf } from '../bundle/digests.ts';
import { makeFolder } from '../bundle/disk.ts';
import { type EngineCard, InputError } from '../engine.ts';
import type { GateResult } from './result.ts';

const FILE = 'evidence.jsonl';
const HEAD = 'evidence.head.json';

const Head = z.strictObject({ lines: z.int().nonnegative(), last: z.string() });

const Line = z.strictObject({
  before: z.string(),
  event: z.enum(['started', 'ended']),
  /** What was judged: digest of card, baseline card and gate. */
  build: z.string(),
  run: z.int().nonnegative(),
  at: z.string(),
  seed: z.string(),
  engine: z.string(),
  verdict: z.enum(['passed', 'refuted', 'inconclusive', 'interrupted']).optional(),
  evidence: z.string().optional(),
  /** Natural-log earnings of every bet in this run alone. */
  earnings: z.record(z.string(), z.record(z.string(), z.number())).optional(),
});
type Line = z.infer<typeof Line>;

export type Earnings = Readonly<Record<string, Readonly<Record<string, number>>>>;

export interface Earlier {
  /** Number of the next run: the first that started and never ended, or a new one. */
  readonly run: number;
  /** Seed of the run that never ended: it is run again as it was, so that killing a run gives no second draw. */
  readonly seed: string | null;
  readonly refutation: string | null;
  /** Sum over the runs of this build. */
  readonly earnings: Earnings;
}

export class EvidenceRecord {
  readonly #path: string;
  readonly #headPath: string;
  readonly #lines: Line[] = [];
  /** Digest after each line. */
  readonly #digests: string[] = [];

  /**
   * @param expected a head that an earlier run printed; the record must hold that state or go on from it
   * @throws InputError for a record that was tampered with, was cut or cannot be read; EnvironmentError where there can be no folder
   */
  constructor(directory: string, expected: string | null = null) {
    makeFolder(directory);
    this.#path = join(directory, FILE);
    this.#headPath = join(directory, HEAD);
    if (existsSync(this.#path)) this.#read(readFileSync(this.#path, 'utf8'));
    this.#checkHead();
    if (expected !== null && expected !== this.#digestAt(0) && !this.#digests.includes(expected)) {
      throw new InputError(`${this.#path}: the state ${expected} is not in it; it was cut, or it is another record`);
    }
  }

  #read(text: string): void {
    text.split('\n').forEach((raw, i) => {
      if (raw === '') return;
      let line: Line;
      try {
        line = Line.parse(JSON.parse(raw));
      } catch {
        throw new InputError(`${this.#path}: line ${i + 1} is damaged; a record of evidence is never repaired`);
      }
      if (line.before !== this.head) {
        throw new InputError(`${this.#path}: line ${i + 1} does not follow the line before; the record was changed`);
      }
      this.#lines.push(line);
      this.#digests.push(digestOf(line));
    });
  }

  /** The head is written after the line, so a run that is killed in between leaves a record longer than it, never shorter. */
  #checkHead(): void {
    if (!existsSync(this.#headPath)) {
      if (this.#lines.length === 0) return;
      throw new InputError(`${this.#headPath} is missing: whether lines were cut off cannot be told`);
    }
    let head: z.infer<typeof Head>;
    try {
      head = Head.parse(JSON.parse(readFileSync(this.#headPath, 'utf8')));
    } catch {
      throw new InputError(`${this.#headPath} is damaged; a record of evidence is never repaired`);
    }
    if (head.lines > this.#lines.length) {
      const cut = head.lines - this.#lines.length;
      throw new InputError(`${this.#path}: ${cut} lines were cut off at the end; started runs are never discarded`);
    }
    if (this.#digestAt(head.lines) !== head.last) {
      throw new InputError(
        `${this.#path}: line ${head.lines} is not the one that ${HEAD} names; the record was changed`,
      );
    }
  }

  #digestAt(lines: number): string {
    return lines === 0 ? 'none' : this.#digests[lines - 1]!;
  }

  /** Digest of the last line: `none` without any. Names the whole record up to here. */
  get head(): string {
    return this.#digestAt(this.#digests.length);
  }

  earlier(build: string): Earlier {
    const own = this.#lines.filter((line) => line.build === build);
    const ended = own.filter((line) => line.event === 'ended');
    const earnings: Record<string, Record<string, number>> = {};
    for (const line of ended) {
      for (const [process, components] of Object.entries(line.earnings ?? {})) {
        earnings[process] ??= {};
        for (const [name, value] of Object.entries(components)) {
          earnings[process][name] = (earnings[process][name] ?? 0) + value;
        }
      }
    }
    const refuted = ended.find((line) => line.verdict === 'refuted');
    const open = own.find((line) => line.event === 'started' && !ended.some((end) => end.run === line.run));
    return {
      run: open?.run ?? ended.length,
      seed: open?.seed ?? null,
      refutation: refuted === undefined ? null : `run ${refuted.run} of ${refuted.at}: ${refuted.evidence ?? ''}`,
      earnings,
    };
  }

  started(line: { build: string; run: number; seed: string; engine: string }): void {
    this.#append({ ...line, before: this.head, event: 'started', at: new Date().toISOString() });
  }

  ended(result: GateResult, build: string, evidence: string, earnings: Earnings): void {
    const { run, seed, verdict, subject } = result;
    // Natural logarithms beyond 1e308 do not exist; -Infinity would, and JSON has none.
    const finite = Object.fromEntries(
      Object.entries(earnings).map(([process, components]) => [
        process,
        Object.fromEntries(Object.entries(components).map(([name, value]) => [name, Math.max(-1e308, value)])),
      ]),
    );
    this.#append({
      before: this.head,
      event: 'ended',
      build,
      run,
      at: new Date().toISOString(),
      seed,
      engine: subject,
      verdict,
      evidence,
      earnings: finite,
    });
  }

  #append(line: Line): void {
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
    this.#lines.push(line);
    this.#digests.push(digestOf(line));
    const partial = `${this.#headPath}.partial`;
    writeFileSync(partial, `${JSON.stringify({ lines: this.#lines.length, last: this.head })}\n`);
    renameSync(partial, this.#headPath);
  }
}

/** What evidence is about: another build, another draft, another gate start from nothing. */
export function buildKey(subject: EngineCard, plain: EngineCard, gate: string): string {
  return digestOf([subject, plain, gate]);
}
