/** `kilotoken diff A B`: two runs side by side, down to the first token that differs. */
import type { Command } from 'commander';
import { type Alternatives, diffRuns, type RunDiff } from '../../harness/bundle/diff.ts';
import { readRun } from '../../harness/bundle/reader.ts';
import { EXIT } from '../support/exit.ts';
import { runDirectory } from '../support/options.ts';
import { paint, print, printJson, table } from '../support/output.ts';

/** Differing sessions and figures that are printed; --json has them all. */
const SHOWN = 10;

/** What a comparison has for a figure that one of the runs lacks. */
const NOT_MEASURED = 'not measured';

export function diffCommand(program: Command): void {
  program
    .command('diff')
    .argument('<a>', 'a run directory', runDirectory)
    .argument('<b>', 'another', runDirectory)
    .description(
      'compare two runs: conditions, tokens, verdicts, figures; exit 0 when tokens and verdicts are the same, else 1',
    )
    .option('--json', 'print the comparison as one JSON document')
    .action(async (a: string, b: string, options: { json?: boolean }) => {
      const diff = diffRuns(await readRun(a), await readRun(b));
      if (options.json) printJson(diff);
      else printDiff(diff);
      process.exitCode = diff.same ? EXIT.pass : EXIT.refuted;
    });
}

function printDiff(diff: RunDiff): void {
  print(`A ${diff.a}`);
  print(`B ${diff.b}`);
  section('Conditions', diff.conditions);
  const { tokens } = diff;
  section('Tokens', [
    `${tokens.sessions} sessions in both, ${tokens.onlyA} only in A, ${tokens.onlyB} only in B`,
    `${tokens.differing} differ in their tokens; ${tokens.otherRounds} more have the same tokens in other rounds`,
    ...tokens.first
      .slice(0, SHOWN)
      .flatMap((first) => [
        `session ${first.session}: ${first.text}`,
        `    A: ${likeliest(first.top5.a)}`,
        `    B: ${likeliest(first.top5.b)}`,
      ]),
  ]);
  section('Verdicts', diff.verdicts.length === 0 ? ['the same'] : diff.verdicts);
  print('');
  // Those of engines of other names have nothing to be compared with, and would fill the page.
  const compared = diff.figures.filter(({ a, b }) => ![a, b].includes(NOT_MEASURED));
  print(paint('bold', `Figures that differ: ${compared.length}`));
  const rows = compared
    .slice(0, SHOWN)
    .map(({ figure, a, b, overlap }) => [
      figure,
      a,
      b,
      overlap === null ? '' : overlap ? 'intervals overlap' : paint('yellow', 'intervals do not overlap'),
    ]);
  if (rows.length > 0) print(table([['figure', 'A', 'B', ''], ...rows]));
  if (compared.length > SHOWN) print(`and ${compared.length - SHOWN} more (--json)`);
  const single = diff.figures.length - compared.length;
  if (single > 0) print(`Measured in one run alone, or of engines of other names: ${single} (--json)`);
}

function section(title: string, lines: readonly string[]): void {
  print('');
  print(paint('bold', title));
  for (const line of lines.length === 0 ? ['the same'] : lines) print(line);
}

function likeliest(alternatives: Alternatives): string {
  if (alternatives === null) return 'no row on record';
  return alternatives.map(([token, logprob]) => `${token} (${logprob.toFixed(4)})`).join('  ');
}
