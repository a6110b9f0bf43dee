/** A small audit over scripted engines in a temporary directory: what most tests of the harness start from. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type AuditInput, type AuditResult, audit } from '../../harness/audit.ts';
import { untoldProvenance } from '../../harness/bundle/provenance.ts';
import type { Arm, Rule } from '../../harness/bundle/rows.ts';
import type { Engine } from '../../harness/engine.ts';
import { ManualClock, type ScriptedOptions, scriptedEngine } from '../../harness/engines/scripted.ts';
import { QUICK_SPEED } from '../../harness/measure/plan.ts';
import type { AuditPrompt, PlanOptions } from '../../harness/plan.ts';

export const ACCEPTANCE = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3];
export const STEP_NS = { prefill: 40_000_000, plain: 2_000_000, speculative: 3_000_000 };

export const SMALL_PLAN: PlanOptions = {
  seed: '7',
  stopIds: [5],
  tokens: 24,
  sampledTokens: 12,
  lawPrompts: 2,
  lawSeeds: 150,
  lawTokens: 3,
  lawPromptTokens: 4,
  speed: {
    ...QUICK_SPEED,
    promptsPerScenario: 3,
    tokens: 24,
    segmentSeconds: 0,
    warmup: { windowSeconds: 0.02, windows: 2, tolerance: 0.5, mostSeconds: 0 },
  },
  concurrency: 2,
  stepTimeoutSeconds: 0.25,
};

export interface ScriptedAuditOptions {
  readonly directory: string;
  readonly plan?: Partial<PlanOptions>;
  readonly prompts?: readonly AuditPrompt[];
  /** Changes one engine, for instance into a liar. */
  readonly change?: (engine: Engine, rule: Rule, arm: Arm) => Engine;
  readonly scripted?: Partial<ScriptedOptions>;
  readonly input?: Partial<AuditInput>;
}

export function scriptedPrompts(perScenario = 8): AuditPrompt[] {
  return ['coding', 'chat'].flatMap((scenario, s) =>
    Array.from({ length: perScenario }, (_, i) => ({
      id: `${scenario}-${i}`,
      scenario,
      ids: Array.from({ length: 6 + i }, (_, k) => 6 + ((s + i * 7 + k * 3) % 10)),
    })),
  );
}

/** `acceptance` of block 8 unless changed; plain engines have block 1. */
export function scriptedPair(clock: ManualClock, rule: Rule, arm: Arm, options: Partial<ScriptedOptions> = {}): Engine {
  const acceptance = arm === 'plain' ? [] : (options.acceptance ?? ACCEPTANCE);
  return scriptedEngine({
    weights: '1',
    vocabSize: 16,
    rule,
    clock,
    stepNs: (kind) => (kind === 'prefill' ? STEP_NS.prefill : STEP_NS[arm]),
    ...options,
    acceptance,
    blockSize: acceptance.length + 1,
  });
}

export async function scriptedAudit(options: ScriptedAuditOptions): Promise<AuditResult> {
  const clock = new ManualClock();
  const change = options.change ?? ((engine) => engine);
  const of = (rule: Rule, arm: Arm): Engine => change(scriptedPair(clock, rule, arm, options.scripted), rule, arm);
  const both = (rule: Rule): Record<Arm, Engine> => ({
    plain: of(rule, 'plain'),
    speculative: of(rule, 'speculative'),
  });
  return audit({
    engines: { match: both('match'), coupled: both('coupled'), reject: both('reject') },
    prompts: options.prompts ?? scriptedPrompts(),
    suites: [
      { scenario: 'coding', prompts: 8, promptTokens: 76, digest: 'none' },
      { scenario: 'chat', prompts: 8, promptTokens: 76, digest: 'none' },
    ],
    ledger: [],
    // A manual clock is one for all sessions, so a wall reading is right only one session at a time.
    plan: { ...SMALL_PLAN, concurrency: 1, ...options.plan },
    about: {
      id: 'test',
      title: 'A scripted audit',
      command: 'test',
      commit: '0000000',
      dirty: false,
      machine: { cpu: 'none', cores: 1, memoryGiB: 1, os: 'none', node: 'none', gpus: [] },
      model: { kind: 'nano', name: 'scripted', note: 'no model' },
      tokenizer: null,
      provenance: untoldProvenance('the engines are scripted'),
    },
    startedAt: new Date(0),
    directory: options.directory,
    signal: new AbortController().signal,
    progress: () => {},
    now: clock.now,
    ...options.input,
  });
}

/** Runs `use` with a fresh directory that is removed afterwards. */
export async function withDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'kilotoken-'));
  try {
    return await use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
