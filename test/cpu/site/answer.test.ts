/** The answer on the front page: the ledger decides it, and every number beside it says what it stands under. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { NodeReport } from '../../../harness/bench/node/report.ts';
import type { ClaimRow, Report } from '../../../harness/report/schema.ts';
import { answerOf } from '../../../site/src/lib/answer.ts';
import { parseNodeReport } from '../../../site/src/lib/node.ts';
import { sampleReport } from '../../support/sample-report.ts';
import { fakeBench, withFolder } from '../node/support.ts';

const CLAIMS = ['speed-1000', 'lossless-speculation', 'acceptance-coding'];

let node: NodeReport;
beforeAll(async () => {
  await withFolder(async (folder) => {
    await fakeBench({ directory: join(folder, 'run') });
    node = parseNodeReport(readFileSync(join(folder, 'run', 'report.json'), 'utf8'), 'report.json');
  });
});

function reportOf(...outcomes: ClaimRow['outcome'][]): Report {
  const claims = CLAIMS.map((id, i) => ({
    id,
    claim: `the claim ${id}`,
    source: '',
    finding: '',
    outcome: outcomes[i]!,
  }));
  const sample = sampleReport();
  const verdicts = ['greedy', 'match'].map((id) => ({ ...sample.verdicts[0]!, id, outcome: 'consistent' as const }));
  return { ...sample, verdicts, claims };
}

test('undecided parts leave the whole undecided, and what it takes is said', () => {
  const found = answerOf(reportOf('not yet measured', 'not testable here', 'inconclusive'), [node]);
  expect(found?.word).toBe('Neither confirmed nor refuted so far.');
  expect(found?.open).toBe(true);
  expect(found?.answers.map(({ claim }) => claim)).toEqual(CLAIMS.map((id) => `the claim ${id}`));
});

test.each([
  [['refuted', 'consistent', 'not yet measured'], 'Refuted in part.'],
  [['consistent', 'internally inconsistent', 'consistent'], 'Refuted in part.'],
  [['consistent', 'consistent', 'not testable here'], 'Decided in part.'],
  [['consistent', 'consistent', 'consistent'], 'Nothing found speaks against it.'],
] as [ClaimRow['outcome'][], string][])('%j', (outcomes, word) => {
  const found = answerOf(reportOf(...outcomes), []);
  expect([found?.word, found?.open]).toEqual([word, outcomes.some((outcome) => /^not /.test(outcome))]);
});

test('every finding says what it stands under and where it comes from', () => {
  const found = answerOf(reportOf('not yet measured', 'not testable here', 'not testable here'), [node])!;
  const [speed, lossless, acceptance] = found.answers.map(({ findings }) => findings);
  expect(speed![0]).toMatchObject({
    under: 'synthetic weights; assumed acceptance; synthetic cache; 4 of 8 GPUs',
    href: `node/${node.run.id}.html`,
    from: `bundle ${node.run.id}, commit ${node.run.commit.slice(0, 7)}`,
  });
  expect(speed![0]!.text).toMatch(
    /^The shape of the model on 4 x Fake GPU, 70 layers: [\d,]+ tokens\/s .*assumed.*6\.30, [\d.]+ realised$/,
  );
  expect(lossless!.map(({ under }) => under)).toEqual([
    'nano: a small trained stand-in, not the 1.02 T model',
    expect.stringMatching(/^synthetic weights; .*; short run$/),
  ]);
  expect(lossless![0]!.text).toBe('Speculation beside plain decoding (greedy, match): 2 consistent');
  // Warnings of the numbers themselves stand there too.
  expect(acceptance!.map(({ under }) => under)).toEqual([
    'nano: a small trained stand-in, not the 1.02 T model; repetitive output',
  ]);
  expect(acceptance![0]!.text).toMatch(/coding [\d.]+ \(claimed 6\.30\)/);
});

test('without benchmarks of a node no speed is named; without claims there is no answer', () => {
  const found = answerOf(reportOf('not yet measured', 'not testable here', 'not testable here'), [])!;
  expect(found.answers[0]!.findings).toEqual([]);
  expect(answerOf({ ...sampleReport(), claims: [] }, [node])).toBeNull();
});
