/** A gate's result as other tools read it: JUnit XML, Markdown, workflow annotations, and plain lines for a person. */
import { type GateResult, isRefuting } from './result.ts';

/** Code points that XML 1.0 forbids even as character references, lone surrogates among them. */
function xmlSafe(text: string): string {
  let out = '';
  for (const character of text) {
    const code = character.codePointAt(0)!;
    const allowed =
      code === 9 ||
      code === 10 ||
      code === 13 ||
      (code >= 0x20 && code <= 0xd7ff) ||
      (code >= 0xe000 && code <= 0xfffd) ||
      code >= 0x10000;
    if (allowed) out += character;
  }
  return out.replace(/[<>&"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** One test case a check; what could not be tested or decided is skipped with its reason, never passed. */
export function junit(results: readonly GateResult[]): string {
  const suites = results.map((result) => {
    const cases = result.checks.map((check) => {
      const text = `${check.outcome}: ${check.evidence}`;
      const body = isRefuting(check)
        ? `<failure type="${xmlSafe(check.outcome)}" message="${xmlSafe(text)}"/>`
        : check.outcome === 'consistent'
          ? `<system-out>${xmlSafe(`${text}\nWould have caught: ${check.wouldHaveCaught ?? 'nothing said'}`)}</system-out>`
          : `<skipped message="${xmlSafe(text)}"/>`;
      return `    <testcase classname="${xmlSafe(`kilotoken.${result.gate}`)}" name="${xmlSafe(`${check.id}: ${check.question}`)}">${body}</testcase>`;
    });
    const failures = result.checks.filter(isRefuting).length;
    const skipped = result.checks.filter((check) => !isRefuting(check) && check.outcome !== 'consistent').length;
    const name = `kilotoken verify ${result.subject}, rule ${result.card?.rule ?? 'unknown'}: ${result.verdict}`;
    return `  <testsuite name="${xmlSafe(name)}" tests="${cases.length}" failures="${failures}" errors="0" skipped="${skipped}" time="${result.seconds}">\n${cases.join('\n')}\n  </testsuite>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n${suites.join('\n')}\n</testsuites>\n`;
}

export function markdown(result: GateResult): string {
  const cell = (text: string): string => text.replace(/[\\|`<>]/g, (c) => `\\${c}`).replace(/\s+/g, ' ');
  const rows = result.checks.map(
    (check) =>
      `| ${cell(check.id)} | **${check.outcome}** | ${cell(check.evidence)} | ${cell(check.wouldHaveCaught ?? '')} |`,
  );
  return [
    `### kilotoken verify: ${result.verdict}`,
    '',
    `${cell(result.subject)} against ${cell(result.baseline)}, rule ${result.card?.rule ?? 'unknown'}, gate ${result.gate}, seed ${result.seed}, run ${result.run}, ${result.tokens} tokens in ${result.seconds} s`,
    '',
    '| check | outcome | evidence | would have caught |',
    '|---|---|---|---|',
    ...rows,
    '',
  ].join('\n');
}

/** Workflow commands: an error for each refuted check, a warning for each open one. */
export function annotations(result: GateResult): string[] {
  const data = (text: string): string => text.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
  const property = (text: string): string => data(text).replace(/:/g, '%3A').replace(/,/g, '%2C');
  return result.checks
    .filter((check) => isRefuting(check) || check.outcome === 'inconclusive')
    .map(
      (check) =>
        `::${isRefuting(check) ? 'error' : 'warning'} title=${property(`kilotoken ${check.id}: ${check.outcome}`)}::${data(check.evidence)}`,
    );
}

export function plainLines(result: GateResult): string[] {
  const lines = result.checks.flatMap((check) => [
    `${check.outcome.padEnd(23)} ${check.id} (${check.n} ${check.of})`,
    `    ${check.question}`,
    `    ${check.evidence}`,
    ...(check.wouldHaveCaught === null ? [] : [`    Would have caught: ${check.wouldHaveCaught}.`]),
  ]);
  const rule = result.card === null ? '' : `, rule ${result.card.rule}`;
  return [
    ...lines,
    `${result.verdict}: ${result.subject}${rule}, ${result.tokens} tokens, ${result.seconds} s, seed ${result.seed}`,
  ];
}
