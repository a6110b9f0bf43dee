/** A small checkout with a document, a ledger and a record of one node benchmark over the fake machine, to be broken in one place at a time. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import { FIGURES_LEDGER, type FigureLedger, type Part } from '../../../harness/figures/ledger.ts';
import { find, numberOf, written } from '../../../harness/figures/prose.ts';
import { fakeBench } from '../node/support.ts';

export const DOCUMENT = 'FOUND.md';
export const RUN = 'node/20260101T000000Z-c0ffee0';

export interface Checkout {
  readonly root: string;
  /** As it is written; every figure of it holds. */
  readonly text: string;
  readonly ledger: FigureLedger;
  readonly report: NodeReport;
}

const SPEED = 'run > cells > headline/coding > figures > tokens-per-second';

/** Writes a checkout of which everything holds. */
export async function makeCheckout(root: string): Promise<Checkout> {
  const { report } = await fakeBench({
    directory: join(root, 'results', RUN),
    options: { groups: ['headline', 'layers'] },
  });
  mkdirSync(join(root, 'results/gpu'), { recursive: true });
  writeFileSync(join(root, 'results/gpu/checks-c0ffee0.txt'), 'first: 1200 checks\nsecond: 34 checks\nend\n');
  const speeds = report.cells.map(({ figures }) => measured(figures, 'tokens-per-second'));
  const share = 100 * measured(report.cells[0]!.figures, 'ceiling-share');
  const compared = report.verdicts.find(({ id }) => id === 'lossless')!.n;
  const text = `# A project

It has 3 rooms.

## Found

- Four GPUs decode **${speeds[0]!.toFixed(1)} tokens/s** in blocks of eight (FP8, 128K) and
  read at ${share.toFixed(2)} % of the rate; ${Math.min(...speeds).toFixed(0)} to ${Math.max(...speeds).toFixed(0)} by profile
  (\`results/${RUN}\`, \`${RUN.slice(5)}\`).
- No token of ${compared.toLocaleString('en-US')} differs. 1,234 checks (\`results/gpu/checks-*.txt\`) in 2 lines. Slower than ever.

## Else
`;
  const ledger: FigureLedger = {
    parts: [
      {
        document: DOCUMENT,
        runs: { run: RUN },
        complete: [{ from: '## Found', to: '## Else' }],
        figures: [
          {
            quote: '{} GPUs decode **{} tokens/s** in blocks of {}',
            from: ['run > machine > used', SPEED, 'run > cells > headline/coding > block'],
          },
          { quote: 'and read at {} %', from: [{ percent: SPEED.replace('tokens-per-second', 'ceiling-share') }] },
          {
            quote: '{} to {} by profile',
            from: [
              { least: ['run > cells > group=headline > figures > tokens-per-second'] },
              { most: ['run > cells > * > figures > tokens-per-second'] },
            ],
          },
          {
            quote: 'No token of {} differs',
            from: ['run > verdicts > lossless > n'],
            consistent: ['run > verdicts > lossless'],
          },
          {
            quote: '{} checks (`results/gpu/checks-*.txt`) in {} lines',
            from: [
              { sum: [{ log: 'gpu/checks-c0ffee0.txt', line: '(\\d+) checks' }] },
              { count: [{ log: 'gpu/checks-c0ffee0.txt', line: ' checks$' }] },
            ],
          },
          { quote: 'Slower than ever', below: [SPEED, { product: [SPEED, 2] }] },
        ],
        noMeasurement: [{ words: '128K', why: 'a length of contexts' }],
      },
    ],
  };
  const checkout = { root, text, ledger, report };
  write(checkout);
  return checkout;
}

export function measured(figures: NodeReport['cells'][number]['figures'], id: string): number {
  const found = figures.find((figure) => figure.id === id)?.figure;
  if (found?.state !== 'measured') throw new Error(`${id} is not measured`);
  return found.value;
}

/** Writes document and ledger anew, by default as they were. */
export function write(
  { root, text, ledger }: Checkout,
  changed: { readonly text?: string; readonly ledger?: unknown } = {},
): void {
  mkdirSync(join(root, 'suites'), { recursive: true });
  writeFileSync(join(root, DOCUMENT), changed.text ?? text);
  writeFileSync(join(root, FIGURES_LEDGER), JSON.stringify(changed.ledger ?? ledger));
}

/** A document in which every figure that its parts quote is one more in its last place. */
export function altered(text: string, parts: readonly Part[]): string {
  const slots = parts.flatMap(({ within, figures }) => {
    const start = within === undefined ? 0 : find(within.from, text)[0]!.start;
    return figures.flatMap(({ quote }) => find(quote, text).find((place) => place.start >= start)!.slots);
  });
  const others = slots.toSorted((a, b) => b.start - a.start);
  return others.reduce((changed, { start, end }) => {
    const said = text.slice(start, end);
    const last = 10 ** -(said.split('.')[1]?.length ?? 0);
    return changed.slice(0, start) + written(numberOf(said) + last, said) + changed.slice(end);
  }, text);
}
