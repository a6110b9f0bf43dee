/**
 * Sessions of a run under the names of `vllm bench serve --save-result` (vllm/benchmarks/serve.py), for tools that read those files. The
 * definitions are vLLM's too: inter-token latency is the time between chunks, and time per output token divides by N - 1 whatever the
 * first chunk held. Under speculation they are not the definitions of this project's own report.
 */
import { InputError } from '../../engine.ts';
import { total } from '../../stats/averages.ts';
import type { StoredRun } from '../reader.ts';
import type { Arm } from '../rows.ts';

export interface VllmChoice {
  /** Sessions of a phase, or the measured sessions of a timed cell. */
  readonly phase: string | null;
  readonly cell: string | null;
  readonly arm: Arm;
}

interface Request {
  readonly promptTokens: number;
  readonly startNs: number;
  /** End of each round, from the start of the session. */
  readonly atNs: readonly number[];
  readonly kept: readonly number[];
  readonly drafted: readonly number[];
  readonly accepted: readonly number[];
  readonly failed: boolean;
}

/** Throws InputError when nothing was chosen or nothing is there. */
export function vllmResult(run: StoredRun, choice: VllmChoice): Record<string, unknown> {
  const requests = requestsOf(run, choice);
  const done = requests.filter((request) => !request.failed && request.atNs.length > 0);
  if (done.length === 0) throw new InputError('no session of that choice ended');
  const begin = Math.min(...done.map((request) => request.startNs));
  const end = Math.max(...done.map((request) => request.startNs + request.atNs.at(-1)!));
  const duration = (end - begin) / 1e9;
  const outputs = done.map((request) => total(request.kept));
  const inputs = done.map((request) => request.promptTokens);
  const ttfts = done.map((request) => request.atNs[0]! / 1e9);
  const latencies = done.map((request) => request.atNs.at(-1)! / 1e9);
  const itls = done.map((request) => request.atNs.slice(1).map((at, i) => (at - request.atNs[i]!) / 1e9));
  const tpots = done.flatMap((_, i) => (outputs[i]! > 1 ? [(latencies[i]! - ttfts[i]!) / (outputs[i]! - 1)] : []));
  return {
    date: run.manifest.startedAt.replace(/[-:]|T|\.\d+Z?|Z/g, (mark) => (mark === 'T' ? '-' : '')),
    backend: 'kilotoken',
    label: `${run.manifest.id} ${choice.phase ?? choice.cell} ${choice.arm}`,
    model_id: run.manifest.model.name,
    tokenizer_id: run.manifest.tokenizer?.digest ?? null,
    num_prompts: requests.length,
    request_rate: 'inf',
    burstiness: 1,
    max_concurrency: concurrencyOf(run, choice),
    duration,
    completed: done.length,
    failed: requests.length - done.length,
    total_input_tokens: total(inputs),
    total_output_tokens: total(outputs),
    request_throughput: done.length / duration,
    request_goodput: null,
    output_throughput: total(outputs) / duration,
    total_token_throughput: (total(inputs) + total(outputs)) / duration,
    input_lens: inputs,
    output_lens: outputs,
    ttfts,
    itls,
    latencies,
    start_times: done.map((request) => request.startNs / 1e9),
    generated_texts: done.map(() => ''),
    errors: done.map(() => ''),
    max_output_tokens_per_s: busiestSecond(done, begin),
    max_concurrent_requests: mostAtOnce(done),
    ...speculation(done),
    ...milliseconds('ttft', ttfts),
    ...milliseconds('tpot', tpots),
    ...milliseconds('itl', itls.flat()),
    ...milliseconds('e2el', latencies),
  };
}

function requestsOf(run: StoredRun, { phase, cell, arm }: VllmChoice): Request[] {
  const { plan } = run.manifest;
  if (cell !== null) {
    const order = plan.speed?.order ?? [];
    const rows = run.timings.flatMap((row) =>
      row.kind === 'session' && row.cell === cell && row.role === 'measured' && order[row.segment] === arm ? [row] : [],
    );
    if (rows.length === 0) {
      const cells = plan.speed?.cells.map((entry) => entry.id).join(', ') ?? '';
      throw new InputError(`the run timed no cell "${cell}"; it has ${cells || 'none'}`);
    }
    return rows.map(({ promptTokens, startNs, atNs, kept, drafted, accepted, fault }) => {
      return { promptTokens, startNs, atNs, kept, drafted, accepted, failed: fault !== null };
    });
  }
  const traces = [...run.sessions.values()].filter((trace) => trace.row.phase === phase && trace.row.arm === arm);
  if (traces.length === 0) {
    throw new InputError(`the run has no phase "${phase}"; it has ${plan.phases.map((entry) => entry.id).join(', ')}`);
  }
  return traces.map(({ row, rounds, fault }) => {
    // Before run@2 rounds carry no time of day: they are laid one behind another.
    const start = rounds[0]?.t_ns ?? 0;
    let elapsed = 0;
    const atNs = rounds.map((round) => {
      elapsed = round.t_ns === undefined ? elapsed + round.wallNs : round.t_ns + round.wallNs - start;
      return elapsed;
    });
    return {
      promptTokens: row.promptTokens,
      startNs: start,
      atNs,
      kept: rounds.map((round) => round.committed.length),
      drafted: rounds.map((round) => round.drafted.length),
      accepted: rounds.map((round) => round.accepted),
      failed: fault !== null,
    };
  });
}

function concurrencyOf(run: StoredRun, { phase, cell }: VllmChoice): number | null {
  const { plan } = run.manifest;
  const entry =
    cell === null ? plan.phases.find((one) => one.id === phase) : plan.speed?.cells.find((one) => one.id === cell);
  return entry?.concurrency ?? null;
}

/** Rounds with drafts are vLLM's `drafts`; the rate is in percent of drafted tokens. Empty without speculation. */
function speculation(requests: readonly Request[]): Record<string, unknown> {
  let [drafts, drafted, accepted] = [0, 0, 0];
  const survivors: number[] = [];
  for (const request of requests) {
    request.drafted.forEach((count, i) => {
      if (count === 0) return;
      drafts += 1;
      drafted += count;
      accepted += request.accepted[i]!;
      for (let k = 0; k < count; k++) survivors[k] = (survivors[k] ?? 0) + (request.accepted[i]! > k ? 1 : 0);
    });
  }
  if (drafted === 0) return {};
  return {
    spec_decode_acceptance_rate: (100 * accepted) / drafted,
    spec_decode_acceptance_length: 1 + accepted / drafts,
    spec_decode_num_drafts: drafts,
    spec_decode_draft_tokens: drafted,
    spec_decode_accepted_tokens: accepted,
    spec_decode_per_position_acceptance_rates: survivors.map((count) => count / drafts),
  };
}

/** Tokens in the busiest of the seconds counted from the first start. */
function busiestSecond(requests: readonly Request[], begin: number): number {
  const seconds = new Map<number, number>();
  for (const { startNs, atNs, kept } of requests) {
    atNs.forEach((at, i) => {
      const second = Math.floor((startNs + at - begin) / 1e9);
      seconds.set(second, (seconds.get(second) ?? 0) + kept[i]!);
    });
  }
  return Math.max(...seconds.values());
}

function mostAtOnce(requests: readonly Request[]): number {
  const edges = requests.flatMap(({ startNs, atNs }) => [
    { at: startNs, step: 1 },
    { at: startNs + atNs.at(-1)!, step: -1 },
  ]);
  edges.sort((a, b) => a.at - b.at || a.step - b.step);
  let [now, most] = [0, 0];
  for (const { step } of edges) {
    now += step;
    most = Math.max(most, now);
  }
  return most;
}

/** mean, median, std (of the population) and p99 by linear interpolation, as NumPy's defaults; 0 without values, as vLLM has it. */
function milliseconds(name: string, seconds: readonly number[]): Record<string, number> {
  const values = (seconds.length === 0 ? [0] : [...seconds]).map((value) => value * 1000).sort((a, b) => a - b);
  const mean = total(values) / values.length;
  const at = (share: number): number => {
    const place = share * (values.length - 1);
    const below = values[Math.floor(place)]!;
    return below + (place - Math.floor(place)) * (values[Math.ceil(place)]! - below);
  };
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: at(0.5),
    [`std_${name}_ms`]: Math.sqrt(total(values.map((value) => (value - mean) ** 2)) / values.length),
    [`p99_${name}_ms`]: at(0.99),
  };
}
