/**
 * What a bundle of very many rounds costs: recorded through the writer of every audit, checked as `kilotoken check` does, each in a
 * process of its own so that its peak memory is its own. The rounds are drawn, not decoded; their books, tokens and clocks add up, so
 * the check has all of its work and finds nothing. What is printed is what was measured here and now; nothing is asserted.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { explain } from '../bin/support/exit.ts';
import { wholeNumber } from '../bin/support/options.ts';
import { note, print, printJson } from '../bin/support/output.ts';
import { judgeDirectory } from '../harness/audit.ts';
import { checkBundle } from '../harness/bundle/check/check.ts';
import { cardDigest, digestOf, promptsDigest, tokensDigest } from '../harness/bundle/digests.ts';
import { untoldProvenance } from '../harness/bundle/provenance.ts';
import type { EngineCardRow, Plan, PromptRow } from '../harness/bundle/rows.ts';
import { RunWriter } from '../harness/bundle/writer.ts';
import { tasksOf } from '../harness/plan.ts';
import { philox4x32 } from '../harness/stats/philox.ts';

const [TOKENS, BLOCK, VOCAB] = [512, 8, 1024];

interface Options {
  readonly rounds: number;
  /** Only record, into this directory. */
  readonly record?: string;
  /** Only check this directory. */
  readonly check?: string;
}

/** Words from a counter; the run is the same at every call. */
function word(a: number, b: number, c: number): number {
  return philox4x32([a, b, c, 0], 1, 2)[0];
}

function card(arm: 'plain' | 'speculative'): EngineCardRow {
  return {
    name: 'drawn',
    weightsDigest: digestOf('drawn'),
    draftDigest: 'none',
    numerics: { id: 'none', experts: 'none', linears: 'none', activations: 'none', kv: 'none' },
    device: 'none',
    topology: 'none',
    tensorParallel: 1,
    blockSize: arm === 'plain' ? 1 : BLOCK,
    rule: 'match',
    buildDigest: 'none',
    vocabSize: VOCAB,
    maxContext: 4096,
    defects: [],
    syntheticAcceptance: 'rounds are drawn',
  };
}

/** About so many rounds: each prompt gives `TOKENS` plain ones and about a quarter as many with drafts. */
function record(directory: string, rounds: number): void {
  const count = Math.max(1, Math.round(rounds / (1.25 * TOKENS)));
  const prompts: PromptRow[] = Array.from({ length: count }, (_, i) => {
    const ids = [i % VOCAB, Math.floor(i / VOCAB)];
    return { id: `p${i}`, scenario: i % 2 === 0 ? 'coding' : 'chat', ids, digest: tokensDigest(ids) };
  });
  const engines = { plain: card('plain'), speculative: card('speculative') };
  const plan: Plan = {
    seed: '1',
    stopIds: [],
    phases: [
      {
        id: 'greedy',
        test: 'equality',
        rule: 'match',
        plain: 'plain',
        speculative: 'speculative',
        prompts: prompts.map((prompt) => prompt.id),
        temperature: 0,
        topP: 1,
        topK: 0,
        maxTokens: TOKENS,
        repeats: 1,
        concurrency: 1,
      },
    ],
    lawPromptTokens: 1,
    lawAlpha: 1e-3,
    lawPower: 0.99,
    lawLargestBlindEffect: 0.25,
    stepTimeoutSeconds: 60,
    bootstrapResamples: 2000,
    engines: { plain: cardDigest(engines.plain), speculative: cardDigest(engines.speculative) },
    speed: null,
  };
  let clock = 0n;
  const writer = new RunWriter(
    directory,
    {
      id: 'drawn',
      title: 'Drawn rounds',
      startedAt: new Date(0).toISOString(),
      command: 'bench-bundle',
      commit: 'unknown',
      dirty: false,
      machine: { cpu: 'none', cores: 1, memoryGiB: 1, os: 'none', node: 'none', gpus: [] },
      model: { kind: 'nano', name: 'drawn', note: 'no model' },
      engines,
      suites: [],
      tokenizer: null,
      ledger: [],
      plan,
      planDigest: digestOf(plan),
      promptsDigest: promptsDigest(prompts),
      provenance: untoldProvenance('rounds are drawn'),
      shard: null,
      parts: null,
    },
    prompts,
    () => clock,
  );
  const phase = plan.phases[0]!;
  writer.event({ t_ns: writer.t(), kind: 'phase-start', phase: phase.id });
  note('recording');
  for (const task of tasksOf(plan, phase)) {
    const place = Number(task.prompt.slice(1));
    const prompt = prompts[place]!;
    writer.session({
      session: task.session,
      phase: phase.id,
      arm: task.arm,
      engine: task.engine,
      prompt: prompt.id,
      scenario: prompt.scenario,
      repeat: 0,
      decoding: { ...task.decoding, stopIds: [] },
      promptTokens: prompt.ids.length,
      promptDigest: prompt.digest,
      engineDigest: plan.engines![task.engine]!,
    });
    const text = (position: number): number => word(place, position, 0) % VOCAB;
    for (let index = 0, emitted = 0; emitted < TOKENS; index++) {
      const drafts = index === 0 || task.arm === 'plain' ? 0 : BLOCK - 1;
      const accepted = drafts === 0 ? 0 : word(place, emitted, 1) % (drafts + 1);
      const kept = Math.min(accepted + 1, TOKENS - emitted);
      const drafted = Array.from({ length: drafts }, (_, i) => (text(emitted + i) + (i < accepted ? 0 : 1)) % VOCAB);
      const took = 1_000_000 + (word(place, index, 2) % 1000);
      writer.round({
        session: task.session,
        index,
        kind: index === 0 ? 'prefill' : 'decode',
        committed: Array.from({ length: kept }, (_, i) => text(emitted + i)),
        drafted,
        accepted,
        finish: emitted + kept === TOKENS ? 'length' : null,
        ns: { draft: 0, verify: took, total: took },
        deviceNs: null,
        wallNs: took,
        t_ns: writer.t(),
      });
      clock += BigInt(took);
      emitted += kept;
    }
  }
  writer.event({ t_ns: writer.t(), kind: 'phase-end', phase: phase.id });
  writer.finish('complete', null);
}

/** This very program on one half of the work. */
function part(args: readonly string[]): Record<string, number | string> {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), ...args], { encoding: 'utf8' });
  if (child.status !== 0) throw new Error(child.stderr);
  return JSON.parse(child.stdout) as Record<string, number | string>;
}

async function bench({ rounds, record: into, check: from }: Options): Promise<void> {
  const started = performance.now();
  const measured = (): Record<string, number> => ({
    seconds: Math.round(performance.now() - started) / 1000,
    peakMiB: Math.round(process.resourceUsage().maxRSS / 1024),
  });
  if (into !== undefined) {
    record(into, rounds);
    const whole = measured();
    await judgeDirectory(into);
    printJson(whole);
    return;
  }
  if (from !== undefined) {
    const { outcome, rounds: seen, differences } = await checkBundle(from, { publicKey: null, build: null });
    printJson({ ...measured(), outcome, rounds: seen, differences });
    return;
  }
  const scratch = mkdtempSync(join(tmpdir(), 'kilotoken-bench-'));
  try {
    const run = join(scratch, 'run');
    const [recorded, checked] = [part(['--rounds', String(rounds), '--record', run]), part(['--check', run])];
    const bytes = readdirSync(run).reduce((sum, name) => sum + statSync(join(run, name)).size, 0);
    print(`${checked.rounds} rounds, ${(bytes / 2 ** 20).toFixed(1)} MiB on disk`);
    print(`recorded in ${recorded.seconds} s, peak ${recorded.peakMiB} MiB`);
    print(
      `checked in ${checked.seconds} s, peak ${checked.peakMiB} MiB: ${checked.outcome}, ${checked.differences} differences`,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

try {
  await new Command('bench-bundle')
    .option('--rounds <n>', 'about how many rounds', wholeNumber(1), 1_000_000)
    .option('--record <dir>', 'only record, and judge, into this directory')
    .option('--check <dir>', 'only check this directory')
    .action(bench)
    .parseAsync();
} catch (error) {
  const { code, text } = explain(error);
  note(text);
  process.exitCode = code;
}
