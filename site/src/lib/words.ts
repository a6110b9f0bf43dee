/** The page's fixed wording that depends on a value of the report: outcomes, kinds of model, warnings. */
import type { ClaimRow, HonestyCheck, Report, Warning } from '../../../harness/report/schema.ts';

type AnyOutcome = ClaimRow['outcome'];

/** A mark stands before the word, so that an outcome is told by shape and text as well as by colour. */
export const OUTCOMES: Readonly<Record<AnyOutcome, { mark: string; tone: string }>> = {
  consistent: { mark: '\u25cf', tone: 'consistent' },
  refuted: { mark: '\u2715', tone: 'refuted' },
  inconclusive: { mark: '\u25d0', tone: 'open' },
  'not testable here': { mark: '\u25cb', tone: 'none' },
  'internally inconsistent': { mark: '\u2260', tone: 'refuted' },
  'not yet measured': { mark: '\u25cb', tone: 'none' },
};

/** What the size of effect beside a verdict means: only a consistent one would have been otherwise. */
export const reachOf = (outcome: AnyOutcome): string =>
  outcome === 'consistent' ? 'Would have been caught' : 'Smallest effect within reach of this test';

export const WARNINGS: Readonly<Record<Warning['code'], string>> = {
  'short-run': 'short run',
  'few-prompts': 'few prompts',
  'synthetic-weights': 'synthetic weights',
  'synthetic-acceptance': 'synthetic acceptance',
  'defects-compiled-in': 'defects compiled in',
  'foreign-load': 'foreign load',
  'no-correctness-verdict': 'no correctness verdict',
  'dirty-tree': 'dirty tree',
  'repetitive-output': 'repetitive output',
  'not-steady': 'not steady',
  throttled: 'throttled',
  cached: 'cached',
  'few-processes': 'few processes',
  assumed: 'assumed',
  invalid: 'invalid',
};

/** What a check of honesty came to, by mark, word and colour. */
export const CHECKS: Readonly<Record<HonestyCheck['outcome'], { mark: string; tone: string }>> = {
  clear: { mark: '\u25cf', tone: 'consistent' },
  found: { mark: '\u2715', tone: 'refuted' },
  'not checked': { mark: '\u25cb', tone: 'none' },
};

/** The parts of a page that an audit fills, by their anchors. */
export const AUDIT_PARTS: readonly (readonly [string, string])[] = [
  ['verdicts', 'Verdicts'],
  ['acceptance', 'Acceptance'],
  ['speed', 'Speed'],
  ['run', 'What was run'],
];

interface KindWords {
  /** Stands beside every group of numbers. */
  readonly label: string;
  /** The same within a line. */
  readonly short: string;
  readonly can: readonly string[];
  readonly cannot: readonly string[];
}

export const KINDS: Readonly<Record<Report['model']['kind'], KindWords>> = {
  nano: {
    label: 'nano: a small trained stand-in, not the 1.02 T model',
    short: 'nano, not the 1.02 T model',
    can: [
      'whether speculation changes what this implementation emits, token by token or in law, on these prompts;',
      'how many drafts this small model accepts per scenario, by the same definition as the published figures;',
      'how fast this implementation decodes with speculation on and off, on this machine.',
    ],
    cannot: [
      'how fast the 1.02 T model decodes on any machine;',
      'whether the published acceptance lengths hold: another model drafted for another target, so a figure near 6.30 is no support for it and a figure far from it is no refutation;',
      'what four-bit experts do to the quality of the real model.',
    ],
  },
  'pro-synthetic': {
    label: 'pro-synthetic: the 1.02 T shape with made-up weights',
    short: 'the 1.02 T shape with made-up weights',
    can: [
      'what depends on size alone: step time, tokens per second at a stated acceptance, scaling across GPUs;',
      'whether the kernels give the same bits with speculation on and off, at full shape.',
    ],
    cannot: [
      'how many drafts a trained model accepts: acceptance here is that of a draft nobody trained, or assumed where a warning says so;',
      'anything about the quality or meaning of the output, which is noise by construction.',
    ],
  },
  real: {
    label: 'real: a checkpoint that the caller named, known here by its digest alone',
    short: 'a checkpoint that the caller named',
    can: [
      'what this checkpoint emits, accepts and takes in time on these prompts and this machine;',
      'whether the published figures are met under the conditions printed below.',
    ],
    cannot: [
      'what the vendor ran: prompts, temperature, thinking mode, context length and GPU were not published;',
      'other prompts, other machines, other revisions of the weights.',
    ],
  },
};
