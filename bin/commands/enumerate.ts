/**
 * `kilotoken enumerate`: the exact law of a rule on a fixture, beside the law of plain decoding. Exit code 0 if they are
 * the same up to rounding, 1 if not: also for a defect, whose distance is the point of the run. With `--defect all` the
 * exit code is 0 if every defect that the fixture can show was told apart. With `--engine toy-cpu` the fixture runs inside
 * the C++ decode loop, and what comes out is counted and held against the exact law.
 */
import { type Command, Option } from 'commander';
import type { VerificationRule } from '../../harness/engine.ts';
import { InputError } from '../../harness/engine.ts';
import { DEFECTS } from '../../harness/oracle/defects.ts';
import { EMPIRICAL_ALPHA, EMPIRICAL_POWER, type Pearson } from '../../harness/oracle/empirical.ts';
import { type Acceptance, enumerate, LAW_TOLERANCE } from '../../harness/oracle/enumerate.ts';
import { type Fixture, readFixture } from '../../harness/oracle/fixture.ts';
import { type DefectRow, findDefect, invisible, judgeDefect } from '../../harness/oracle/judge.ts';
import { compareToy, sampleToy, toyOf } from '../../harness/oracle/toy.ts';
import { EXIT } from '../support/exit.ts';
import { wholeNumber } from '../support/options.ts';
import { print, printJson, table } from '../support/output.ts';
import { openToy } from '../support/toy.ts';

const SAMPLES = 20_000;

interface Options {
  readonly fixture: string;
  readonly rule: VerificationRule;
  readonly defect?: string;
  readonly engine?: 'toy-cpu';
  readonly samples?: number;
  readonly seed?: number;
  readonly json?: boolean;
}

export function enumerateCommand(program: Command): void {
  program
    .command('enumerate')
    .description('the exact law of a verification rule on a small model, against plain decoding')
    .requiredOption('--fixture <file>', 'a fixture (kilotoken/fixture@1, schemas/fixture.schema.json)')
    .addOption(
      new Option('--rule <rule>', 'verification rule').choices(['match', 'reject', 'coupled']).makeOptionMandatory(),
    )
    .option('--defect <id>', 'put one defect of the catalogue in, or `all` for a table of them')
    .addOption(
      new Option('--engine <engine>', 'run the fixture inside an engine instead, and compare its counts').choices([
        'toy-cpu',
      ]),
    )
    .option('--samples <n>', `sessions of that engine (default: ${SAMPLES})`, wholeNumber(1))
    .option('--seed <n>', 'seed of the first session; the others follow it (default: 1)', wholeNumber(0))
    .option('--json', 'print one JSON document')
    .action(run);
}

async function run(options: Options): Promise<void> {
  const fixture = readFixture(options.fixture);
  if (options.engine !== undefined) return inEngine(fixture, options);
  if (options.samples !== undefined || options.seed !== undefined)
    throw new InputError('--samples and --seed are of --engine: an exact law draws nothing');
  const { rule, defect, json } = options;
  const about = { fixture: fixture.name, rule, tolerance: LAW_TOLERANCE };
  if (defect === undefined) plain(fixture, about, json === true);
  else if (defect === 'all') catalogue(fixture, about, json === true);
  else single(fixture, about, defect, json === true);
}

async function inEngine(given: Fixture, options: Options): Promise<void> {
  const { rule, defect, samples = SAMPLES, seed = 1, json } = options;
  if (defect === 'all') throw new InputError('--engine takes one defect at a time');
  const { toy, fixture } = toyOf(given);
  const engine = await openToy(toy, { rule, ...(defect === undefined ? {} : { defect }) });
  const found = compareToy(await sampleToy(engine, fixture, samples, seed), fixture, rule);
  await engine.close();
  const tests = [found.emitted, ...(found.accepted === null ? [] : [found.accepted])];
  const lossless = tests.every(({ p }) => p >= EMPIRICAL_ALPHA);
  process.exitCode = lossless ? EXIT.pass : EXIT.refuted;
  const { name, buildDigest, defects } = engine.card;
  const about = { fixture: fixture.name, rule, engine: { name, buildDigest, defects }, samples, seed };
  if (json) {
    printJson({ ...about, alpha: EMPIRICAL_ALPHA, power: EMPIRICAL_POWER, consistent: lossless, ...found });
    return;
  }
  print(
    `${fixture.name}, rule ${rule}, ${name}${defects.length > 0 ? ` with ${defects.join(', ')}` : ''}: ${samples} sessions`,
  );
  print(`emitted tokens against plain decoding       ${statement(found.emitted)}`);
  if (found.accepted === null || found.firstRound === null)
    print('acceptance: a run of this length has no decode round');
  else {
    const { counted, exact } = found.firstRound;
    print(`accepted drafts of the first round          ${statement(found.accepted)}`);
    print(`acceptance length there, bonus counted      ${counted.toFixed(4)} counted, ${exact.toFixed(4)} exact`);
  }
}

/** n, the statistic, the verdict at its level, and what would have been seen. */
function statement({ n, statistic, df, p, offSupport, smallestDistance }: Pearson): string {
  if (offSupport > 0) return `refuted: ${offSupport} of ${n} where the law has no mass`;
  const verdict = p < EMPIRICAL_ALPHA ? 'refuted' : 'consistent';
  const seen =
    smallestDistance === null
      ? 'nothing could have been caught'
      : `a law ${smallestDistance.toFixed(4)} away or more would have been caught with power ${EMPIRICAL_POWER}`;
  return `${verdict}: chi-square ${statistic.toFixed(1)}, ${df} degrees of freedom, p ${p.toExponential(1)}, level ${EMPIRICAL_ALPHA}, n ${n}; ${seen}`;
}

interface About {
  readonly fixture: string;
  readonly rule: VerificationRule;
  readonly tolerance: number;
}

function plain(fixture: Fixture, about: About, json: boolean): void {
  const { law, distance, offSupport, acceptance } = enumerate(fixture, about.rule);
  const lossless = distance <= LAW_TOLERANCE;
  process.exitCode = lossless ? EXIT.pass : EXIT.refuted;
  if (json) {
    printJson({ ...about, distance, offSupport, lossless, sequences: law.size, acceptance });
    return;
  }
  print(`${about.fixture}, rule ${about.rule}: ${law.size} sequences of up to ${fixture.tokens} tokens`);
  print(`total variation distance to plain decoding  ${distance.toExponential(2)} (tolerance ${LAW_TOLERANCE})`);
  printAcceptance(acceptance);
}

function printAcceptance(acceptance: Acceptance | null): void {
  if (acceptance === null) {
    print('acceptance: a run of this length has no decode round');
    return;
  }
  const { raw, kept, firstRound, rounds, histogram } = acceptance;
  print(`acceptance length, bonus counted            ${raw.toFixed(6)} raw, ${kept.toFixed(6)} kept`);
  print(`the same in the first decode round          ${firstRound.toFixed(6)} raw`);
  print(`decode rounds of a run                      ${rounds.toFixed(6)}`);
  print(`rounds with 0, 1, ... accepted drafts       ${histogram.map((share) => share.toFixed(4)).join(' ')}`);
}

function single(fixture: Fixture, about: About, id: string, json: boolean): void {
  const defect = findDefect(id);
  const reason = invisible(defect, fixture, about.rule);
  if (reason !== null) throw new InputError(`${defect.id} cannot be seen on fixture ${fixture.name}: ${reason}`);
  const row = judgeDefect(defect, fixture, about.rule);
  const lossless = row.state === 'enumerated' && row.distance <= LAW_TOLERANCE;
  process.exitCode = lossless ? EXIT.pass : EXIT.refuted;
  if (json) {
    printJson({ ...about, lossless, defect: row });
    return;
  }
  print(`${about.fixture}, rule ${about.rule}, defect ${row.id}: ${row.title}`);
  print(`anchor: ${row.anchor ?? 'none'}`);
  print(`changes: ${row.effects.join(', ')}`);
  print(measure(row));
  if (row.state === 'enumerated') printAcceptance(row.acceptance);
}

/** What was found, in a few words. */
function measure(row: DefectRow): string {
  switch (row.state) {
    case 'enumerated':
      return `distance ${row.distance.toExponential(2)}, off support ${row.offSupport.toExponential(2)}`;
    case 'simulated': {
      const ranks = row.disagreement === null ? '' : `, other tokens in ${row.disagreement.toFixed(4)} of them`;
      const { distance, logE, sessions } = row;
      const evidence = `e-value 10^${(logE / Math.LN10).toFixed(1)}, refuted from 10^${-Math.log10(EMPIRICAL_ALPHA)}`;
      return `distance ${distance.toFixed(4)} over ${row.tokens} tokens, ${sessions} sessions (${evidence})${ranks}`;
    }
    case 'edge':
      return `${row.wrong.length} of ${row.vectors} edge vectors wrong`;
    case 'invisible':
      return row.reason;
  }
}

function catalogue(fixture: Fixture, about: About, json: boolean): void {
  const rows = DEFECTS.map((defect) => judgeDefect(defect, fixture, about.rule));
  const unseen = rows.filter((row) => row.state !== 'invisible' && !row.seen);
  process.exitCode = unseen.length === 0 ? EXIT.pass : EXIT.refuted;
  const correct = enumerate(fixture, about.rule);
  if (json) {
    const { distance, acceptance } = correct;
    printJson({
      ...about,
      correct: { distance, acceptance },
      unseen: unseen.map(({ id }) => id),
      defects: rows,
    });
    return;
  }
  print(`${about.fixture}, rule ${about.rule}, without a defect: distance ${correct.distance.toExponential(2)}`);
  const order = (row: DefectRow): number => (row.state === 'invisible' ? 2 : row.seen ? 1 : 0);
  const sorted = [...rows].sort((a, b) => order(a) - order(b));
  const outcome = ['unseen', 'seen', 'invisible'];
  const cells = sorted.map((row) => [
    row.id,
    outcome[order(row)]!,
    row.state,
    row.state === 'enumerated' ? (row.acceptance?.raw.toFixed(3) ?? '-') : '-',
    measure(row),
    row.title,
  ]);
  print(table([['id', 'outcome', 'by', 'length', 'measure', 'defect'], ...cells], [3]));
}
