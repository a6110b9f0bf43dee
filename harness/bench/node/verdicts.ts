/** What the rows of a node benchmark allow to be said about correctness. Speed is figures.ts. */
import { digestOf } from '../../bundle/digests.ts';
import { companyOf } from '../../measure/gpus.ts';
import type { Verdict, Warning } from '../../report/schema.ts';
import { acceptanceDifferences, cellOf, nodeBooks, recordsOf, textOf, tokensOf } from './books.ts';
import { sumDifferences } from './collectives.ts';
import { COLLECTIVE_VALUES } from './collectives-oracle.ts';
import { LOSSLESS_TOKENS, type PlanCell, taskTokens } from './plan.ts';
import type { Generation, StoredNodeRun } from './reader.ts';

type Said = Pick<Verdict, 'outcome' | 'evidence' | 'n' | 'of'> & Partial<Pick<Verdict, 'wouldHaveCaught' | 'warnings'>>;

export function nodeVerdicts(run: StoredNodeRun): Verdict[] {
  const verdict = (id: string, question: string, said: Said): Verdict => ({
    id,
    question,
    wouldHaveCaught: null,
    warnings: [],
    ...said,
    engines: [...new Set(run.plan.models.map((model) => model.engine))],
    scenarios: [],
  });
  return [
    verdict('lossless', 'Is the output with speculation that of plain decoding, token for token?', lossless(run)),
    verdict('same-bits', 'Does the same request give the same bits every time?', replicas(run, 'again')),
    verdict(
      'launches',
      'Do single launches, a CUDA graph and the resident kernel give the same bits?',
      replicas(run, 'modes'),
    ),
    verdict(
      'acceptance',
      'Was every draft accepted that the assumed acceptance makes right, and no other?',
      acceptance(run),
    ),
    verdict('books', 'Do the rounds add up?', books(run)),
    // Runs from before looks were taken say nothing of it.
    ...(run.looks.length === 0 ? [] : [verdict('alone', 'Was nobody else on the GPUs?', alone(run))]),
    ...(run.plan.collectives === undefined
      ? []
      : [
          verdict(
            'sums',
            'Does every rank hold the binary32 sum in the order of ranks after the all-reduce, bit for bit?',
            sums(run),
          ),
        ]),
  ];
}

interface Compared {
  readonly generation: Generation;
  readonly cell: PlanCell;
}

function known(run: StoredNodeRun): Compared[] {
  return run.generations.flatMap((generation) => {
    const cell = cellOf(run.plan, generation);
    return cell === undefined || generation.row.fault !== null ? [] : [{ generation, cell }];
  });
}

function lossless(run: StoredNodeRun): Said {
  const records = recordsOf(run);
  let tokens = 0;
  let generations = 0;
  let longest = 0;
  const differences: string[] = [];
  const asked = run.plan.cells.some((cell) => cell.group === 'lossless');
  // Every output is looked at. The longest is said of the test of losslessness where there is one; runs that are older than the
  // collectives say what they said.
  const all = !asked && run.plan.input.lacks.collectives !== undefined;
  for (const { generation, cell } of known(run)) {
    const record = records.get(textOf(cell));
    if (cell.profile === null || record === undefined) continue;
    const own = tokensOf(generation);
    const place = own.findIndex((id, i) => id !== record[i]);
    generations += 1;
    tokens += own.length;
    if (all || cell.group === 'lossless') longest = Math.max(longest, own.length);
    if (place >= 0) {
      const where = `${cell.id}, repeat ${generation.row.repeat}`;
      differences.push(`${where}: token ${place} is ${own[place]}, plain decoding gives ${record[place]}`);
    }
  }
  const of = 'tokens';
  if (differences.length > 0) {
    const evidence = `${differences[0]}${differences.length > 1 ? `; ${differences.length} generations differ` : ''}`;
    return { outcome: 'refuted', evidence, n: tokens, of };
  }
  if (run.plan.cells.every((cell) => cell.profile === null))
    return { outcome: 'not testable here', evidence: 'no speculation was to be run', n: tokens, of };
  if (generations === 0 || (asked && longest === 0))
    return { outcome: 'inconclusive', evidence: 'no speculative generation ended properly', n: tokens, of };
  const short: Warning[] =
    longest >= LOSSLESS_TOKENS
      ? []
      : [
          {
            code: 'short-run',
            text: `the longest comparison has ${longest} tokens, fewer than ${LOSSLESS_TOKENS}${all ? ': the test of losslessness is not part of this run' : ''}`,
          },
        ];
  return {
    outcome: 'consistent',
    evidence: `${tokens} tokens of ${generations} generations are those of plain decoding; the longest has ${longest}`,
    wouldHaveCaught: 'one differing token',
    n: tokens,
    of,
    warnings: short,
  };
}

/** All that a generation shows of its bits, its times left out. */
function signature({ row, rounds }: Generation): string {
  return digestOf([rounds.map((round) => [round.c, round.d, round.a, round.e]), row.logitsDigest]);
}

/** again: the same cell and draws, also after the model was made anew. modes: equal but for how they were launched. */
function replicas(run: StoredNodeRun, what: 'again' | 'modes'): Said {
  const groups = new Map<string, Compared[]>();
  for (const entry of known(run)) {
    const { cell, generation } = entry;
    const { model, block, context, profile, mode } = cell;
    const tokens = taskTokens(cell, generation.row);
    // Draws of the corruption follow the repeat; the runs of the losslessness test share theirs.
    const draws = profile === null ? null : cell.group === 'lossless' ? 'lossless' : generation.row.repeat;
    const key = JSON.stringify([model, block, context, profile, tokens, draws, what === 'modes' ? null : mode]);
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  let compared = 0;
  let logits = 0;
  const differences: string[] = [];
  for (const group of groups.values()) {
    const chosen = what === 'again' ? group : oneOfEachMode(group);
    if (chosen.length < 2) continue;
    const [first, ...others] = chosen;
    for (const other of others) {
      compared += 1;
      if (first!.generation.row.logitsDigest !== null && other.generation.row.logitsDigest !== null) logits += 1;
      if (signature(other.generation) === signature(first!.generation)) continue;
      const [a, b] = [first!, other].map(({ cell, generation }) => `${cell.id} (generation ${generation.row.g})`);
      differences.push(`${b} is not ${a}: ${firstDifference(first!.generation, other.generation)}`);
    }
  }
  const of = 'pairs of generations';
  if (differences.length > 0) return { outcome: 'refuted', evidence: differences[0]!, n: compared, of };
  if (compared === 0) return { outcome: 'not testable here', evidence: 'nothing was run twice', n: 0, of };
  const evidence = `${compared} pairs have the same tokens, accepted drafts and experts; ${logits} of them were compared by the bits of the last logits too`;
  return {
    outcome: 'consistent',
    evidence,
    wouldHaveCaught: 'one bit in the last logits, or one token',
    n: compared,
    of,
  };
}

function oneOfEachMode(group: readonly Compared[]): Compared[] {
  const seen = new Map(group.map((entry) => [entry.cell.mode, entry]));
  return [...seen.values()];
}

function firstDifference(a: Generation, b: Generation): string {
  const [x, y] = [tokensOf(a), tokensOf(b)];
  const place = x.findIndex((id, i) => id !== y[i]);
  if (place >= 0) return `token ${place} is ${y[place]} and ${x[place]}`;
  const round = a.rounds.findIndex(
    (row, i) => digestOf([row.d, row.a, row.e]) !== digestOf([b.rounds[i]?.d, b.rounds[i]?.a, b.rounds[i]?.e]),
  );
  return round >= 0 ? `round ${round} differs in accepted drafts or experts` : 'the logits of the last step differ';
}

function acceptance(run: StoredNodeRun): Said {
  const { rounds, differences } = acceptanceDifferences(run);
  const of = 'rounds';
  if (differences.length > 0) return { outcome: 'refuted', evidence: differences[0]!, n: rounds, of };
  if (rounds === 0) return { outcome: 'not testable here', evidence: 'no speculative output to look at', n: 0, of };
  const evidence = `${rounds} rounds accepted what the corrupted continuation makes right`;
  return { outcome: 'consistent', evidence, wouldHaveCaught: 'one draft', n: rounds, of };
}

function sums(run: StoredNodeRun): Said {
  const { ranks, differences } = sumDifferences(run);
  const of = 'ranks compared';
  if (differences.length > 0) return { outcome: 'refuted', evidence: differences[0]!, n: ranks, of };
  const fault = run.collectives.flatMap((row) => (row.kind === 'fault' ? [row.text] : []))[0];
  if (fault !== undefined) return { outcome: 'inconclusive', evidence: fault, n: ranks, of };
  if (ranks === 0) {
    const lack = run.collectives.flatMap((row) => (row.kind === 'lack' && row.of === 'all' ? [row.reason] : []))[0];
    return { outcome: 'not testable here', evidence: lack ?? 'the run ended before it', n: 0, of };
  }
  const planted = run.collectives.flatMap((row) => (row.kind === 'planted' ? [row] : []));
  const unseen = planted.find(({ seen }) => seen === 0);
  if (unseen !== undefined) {
    const evidence = `the machine's own comparison did not see a mistake made on purpose: ${unseen.mistake}`;
    return { outcome: 'inconclusive', evidence, n: ranks, of };
  }
  const made = [...new Set(planted.map(({ mistake }) => mistake))].join('; ');
  return {
    outcome: 'consistent',
    evidence: `${ranks} ranks hold ${COLLECTIVE_VALUES} sums each as they were computed here, with random data and with data that cancel; the machine compared those of every timed launch`,
    wouldHaveCaught: `one bit of one sum${made === '' ? '' : `; made on purpose and seen: ${made}`}`,
    n: ranks,
    of,
  };
}

function books(run: StoredNodeRun): Said {
  const broken = nodeBooks(run);
  const faults = run.generations.filter(({ row }) => row.fault !== null);
  const n = run.generations.length;
  const of = 'generations';
  if (run.plan.stages.length === 0)
    return { outcome: 'not testable here', evidence: 'nothing was to be decoded', n, of };
  if (broken.length > 0) return { outcome: 'internally inconsistent', evidence: broken[0]!, n, of };
  const [first] = faults;
  if (first !== undefined) {
    const { cell, fault } = first.row;
    return { outcome: 'inconclusive', evidence: `${cell}: ${fault!.kind}: ${fault!.message}`, n, of };
  }
  return {
    outcome: 'consistent',
    evidence: `${n} generations add up`,
    wouldHaveCaught: 'one token or draft too many',
    n,
    of,
  };
}

function alone(run: StoredNodeRun): Said {
  const seen = run.looks.map((row) => ({ row, company: companyOf(row.gpus) }));
  const n = run.looks.length;
  const of = 'looks';
  const unseen = [...new Set(seen.flatMap(({ company }) => company.unseen))];
  const others = seen.filter(({ company }) => company.foreign.length > 0);
  const [first] = others;
  if (first !== undefined) {
    const { when, stage } = first.row;
    const where = when === 'between' ? `behind stage ${stage}` : `${when} the run`;
    const evidence = `${where}, another program was ${first.company.foreign.join('; ')}${others.length > 1 ? `; seen in ${others.length} of ${n} looks` : ''}`;
    return { outcome: 'refuted', evidence, n, of };
  }
  if (!seen.some(({ company }) => company.sees)) {
    const why = unseen.length === 0 ? 'no look was taken while the run was on its GPUs' : unseen.join('; ');
    return { outcome: 'not testable here', evidence: `other processes cannot be seen: ${why}`, n, of };
  }
  return {
    outcome: 'consistent',
    evidence: `${n} looks, before, behind every stage and after, show no other process`,
    wouldHaveCaught: 'a process that the driver lists at the time of a look; memory of an unlisted one before the run',
    n,
    of,
  };
}
