/**
 * The record of every gate run that was started, append-only: a line when a run starts, a line when it ends. Runs of one
 * build multiply into the same e-values and a refutation stays, so running again until it is green does not work. Each
 * line carries the digest of the line before; a record with a line changed or taken out is refused.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { digestOf } from '../bundle/digests.ts';
import { type EngineCard, InputError } from '../engine.ts';
import type { GateResult } from './result.ts';

const FILE = 'evidence.jsonl';

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
  readonly #lines: Line[];
  #last: string;

  /** @throws InputError for a record that was tampered with or cannot be read */
  constructor(directory: string) {
    mkdirSync(directory, { recursive: true });
    this.#path = join(directory, FILE);
    this.#lines = [];
    this.#last = 'none';
    if (!existsSync(this.#path)) return;
    const text = readFileSync(this.#path, 'utf8');
    text.split('\n').forEach((raw, i) => {
      if (raw === '') return;
      let line: Line;
      try {
        line = Line.parse(JSON.parse(raw));
      } catch {
        throw new InputError(`${this.#path}: line ${i + 1} is damaged; a record of evidence is never repaired`);
      }
      if (line.before !== this.#last) {
        throw new InputError(`${this.#path}: line ${i + 1} does not follow the line before; the record was changed`);
      }
      this.#lines.push(line);
      this.#last = digestOf(line);
    });
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
    this.#append({ ...line, before: this.#last, event: 'started', at: new Date().toISOString() });
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
      before: this.#last,
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
    this.#last = digestOf(line);
  }
}

/** What evidence is about: another build, another draft, another gate start from nothing. */
export function buildKey(subject: EngineCard, plain: EngineCard, gate: string): string {
  return digestOf([subject, plain, gate]);
}
