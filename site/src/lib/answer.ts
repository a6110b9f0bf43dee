/**
 * What the record says of the claim, part by part: the outcome is the ledger's, what is known so far is quoted from the newest reports
 * with what it stands under. Nothing is computed here, and nothing of it decides a part: that takes the published weights on eight GPUs.
 */
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import type { ClaimRow, Report, Warning } from '../../../harness/report/schema.ts';
import { outcomes } from './audits.ts';
import { decimalsFor, range, rounded } from './format.ts';
import { distinct } from './groups.ts';
import { partsOf, sizeText, targetsOf, verdictsOf } from './parts.ts';
import { KINDS, WARNINGS } from './words.ts';

export interface Finding {
  readonly text: string;
  /** What it stands under. */
  readonly under: string;
  /** Where on the site it comes from, and what that is called. */
  readonly href: string;
  readonly from: string;
}

export interface Answer {
  readonly id: string;
  /** In the words of the ledger. */
  readonly claim: string;
  readonly outcome: ClaimRow['outcome'];
  readonly findings: readonly Finding[];
}

export interface Answered {
  /** One sentence for the whole claim. */
  readonly word: string;
  /** A part of it is undecided. Runs of other weights, or on fewer GPUs, decide none. */
  readonly open: boolean;
  readonly answers: readonly Answer[];
}

/** Labels, and behind them the words of the warnings that touch the numbers. */
const under = (labels: readonly string[], warnings: readonly Warning[]): string =>
  distinct([...labels, ...warnings.map(({ code }) => WARNINGS[code])]).join('; ');

/** Parts come from runs of different days and kernels, so the commit is said too. */
const bundle = ({ run }: NodeReport) => ({
  href: `node/${run.id}.html`,
  from: `bundle ${run.id}, commit ${run.commit.slice(0, 7)}`,
});

/** Ways of decoding whose output an audit compares with that of plain decoding. */
const COMPARED = ['greedy', 'match', 'coupled', 'reject'];

/** The assumed drafts are drawn, so that a run meets its assumption only nearly. */
function realised(report: NodeReport): string {
  const cell = report.cells.find(({ group, profile }) => group === 'headline' && profile?.target === 6.3);
  const length = cell?.figures.find(({ id }) => id === 'acceptance')?.figure;
  return length?.state === 'measured' ? `, ${rounded(length.value)} realised` : '';
}

function speed(nodes: readonly NodeReport[]): Finding[] {
  const row = targetsOf(nodes).find(({ target }) => target.id === 'speed-6.30');
  if (row === undefined) return [];
  const stands = [
    ...(row.measured === null ? [] : [{ ...row.measured, figure: row.target.figure, on: '8 x H200, all layers' }]),
    ...(row.elsewhere === null ? [] : [{ ...row.elsewhere, on: sizeText(row.elsewhere.size, row.elsewhere.report) }]),
  ];
  return stands.flatMap(({ figure, on, labels, report }) => {
    if (figure.state !== 'measured') return [];
    const { value, unit, interval, warnings } = figure;
    const around = interval === null ? '' : ` (${range(interval.low, interval.high, decimalsFor(value))})`;
    const text = `The shape of the model on ${on}: ${rounded(value)} ${unit}${around} at an assumed acceptance length of 6.30${realised(report)}`;
    return [{ text, under: under(labels, warnings), ...bundle(report) }];
  });
}

function lossless(report: Report, nodes: readonly NodeReport[]): Finding[] {
  const compared = report.verdicts.filter(({ id }) => COMPARED.includes(id));
  const part = partsOf(nodes).find(({ id }) => id === 'lossless');
  return [
    ...(compared.length === 0
      ? []
      : [
          {
            text: `Speculation beside plain decoding (${compared.map(({ id }) => id).join(', ')}): ${outcomes(compared)}`,
            under: under(
              [KINDS[report.model.kind].label],
              compared.flatMap(({ warnings }) => warnings),
            ),
            href: '#verdicts',
            from: 'verdicts below',
          },
        ]),
    ...(part === undefined
      ? []
      : verdictsOf(part.report, 'lossless')
          .filter(({ id }) => id === 'lossless')
          .map(({ outcome, evidence, warnings }) => ({
            text: `The shape of the model on ${sizeText(part.size, part.report)}, greedy: ${outcome}; ${evidence}`,
            under: under(part.report.labels, warnings),
            ...bundle(part.report),
          }))),
  ];
}

function acceptance(report: Report): Finding[] {
  const rows = report.acceptance.filter(
    ({ decoding, published, rawMicro }) => decoding === 'greedy' && published !== null && rawMicro.state === 'measured',
  );
  const scenarios = rows.filter(({ scenario }, i) => rows.findIndex((row) => row.scenario === scenario) === i);
  if (scenarios.length === 0) return [];
  const each = scenarios.map(({ scenario, rawMicro, published }) => {
    const here = rawMicro.state === 'measured' ? rounded(rawMicro.value) : '';
    return `${scenario} ${here} (claimed ${published!.value.toFixed(2)})`;
  });
  return [
    {
      text: `Tokens a verify step, greedy: ${each.join(', ')}`,
      under: under(
        [KINDS[report.model.kind].label],
        scenarios.flatMap(({ rawMicro }) => (rawMicro.state === 'measured' ? rawMicro.warnings : [])),
      ),
      href: '#acceptance',
      from: 'acceptance below',
    },
  ];
}

const undecided = (outcome: ClaimRow['outcome']): boolean =>
  outcome === 'not yet measured' || outcome === 'not testable here' || outcome === 'inconclusive';

function wordOf(found: readonly ClaimRow['outcome'][]): string {
  if (found.every(undecided)) return 'Neither confirmed nor refuted so far.';
  if (found.some((outcome) => outcome === 'refuted' || outcome === 'internally inconsistent'))
    return 'Refuted in part.';
  return found.some(undecided) ? 'Decided in part.' : 'Nothing found speaks against it.';
}

/** `nodes`: the newest first. A part whose claim the report does not name is left out; null where it names none. */
export function answerOf(report: Report, nodes: readonly NodeReport[]): Answered | null {
  const known = [
    ['speed-1000', speed(nodes)],
    ['lossless-speculation', lossless(report, nodes)],
    ['acceptance-coding', acceptance(report)],
  ] as const;
  const answers = known.flatMap(([id, findings]): Answer[] => {
    const claim = report.claims.find((row) => row.id === id);
    return claim === undefined ? [] : [{ id, claim: claim.claim, outcome: claim.outcome, findings }];
  });
  if (answers.length === 0) return null;
  return {
    word: wordOf(answers.map(({ outcome }) => outcome)),
    open: answers.some(({ outcome }) => undecided(outcome)),
    answers,
  };
}
