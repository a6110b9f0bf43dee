/** `kilotoken verify` from outside: exit codes, JUnit, summary, annotations, JSON, interruption, and this repository's own engine. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { writeTinyCheckpoint } from '../support/tiny-checkpoint.ts';
import { kilotoken, onlyLine, ROOT } from './cli.ts';

vi.setConfig({ testTimeout: 600_000 });

const TOY = `cmd:python3 ${join(ROOT, 'examples/engine_toy.py')}`;
/** Runs the script that is its second argument; the process ends instead of giving more answers than the first says. */
const DYING = `
import builtins, os, runpy, sys
left, say = int(sys.argv[1]), print
def counted(*words, **how):
    global left
    left -= 1
    if left < 0:
        os._exit(1)
    say(*words, **how)
builtins.print = counted
sys.argv = [sys.argv[2]]
runpy.run_path(sys.argv[0], run_name='__main__')
`;
let scratch: string;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-verify-'));
  await writeTinyCheckpoint(join(scratch, 'tiny'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
afterEach(() => vi.unstubAllEnvs());

const verify = (...args: string[]) => kilotoken(['verify', ...args]);

describe('verify', () => {
  it('passes a clean engine: 0, JUnit, summary and one JSON document', async () => {
    const [xml, summary] = [join(scratch, 'out.xml'), join(scratch, 'summary.md')];
    const done = await verify('--engine', TOY, '--tokens', '12000', '--junit', xml, '--summary', summary, '--json');
    expect(done.code).toBe(0);
    const result = JSON.parse(done.stdout);
    expect(result.verdict).toBe('passed');
    expect(readFileSync(xml, 'utf8').match(/<testcase /g)).toHaveLength(result.checks.length);
    expect(readFileSync(summary, 'utf8')).toContain('kilotoken verify: passed');
  });

  it('refutes a lying one: 1, failures in JUnit, annotations in a workflow', async () => {
    vi.stubEnv('GITHUB_ACTIONS', 'true');
    const xml = join(scratch, 'bad.xml');
    const done = await verify('--engine', `${TOY} --lie always-accept`, '--junit', xml);
    expect(done.code).toBe(1);
    expect(readFileSync(xml, 'utf8')).toContain('<failure ');
    expect(done.stderr).toMatch(/^::error title=kilotoken law emission/m);
    expect(done.stdout).toMatch(/^refuted: /m);
  });

  it('blames no engine for a baseline that dies midway, and a baseline for no engine that does', async () => {
    const wrapper = join(scratch, 'dying.py');
    writeFileSync(wrapper, DYING);
    const dying = (answers: number): string =>
      `cmd:python3 ${wrapper} ${answers} ${join(ROOT, 'examples/engine_toy.py')}`;
    const spared = await verify('--engine', TOY, '--tokens', '1500', '--baseline', dying(30));
    expect([spared.code, spared.stdout]).toEqual([3, '']);
    expect(spared.stderr).toMatch(/^error: the baseline cmd:.* failed: plain\/.*: died: /m);
    const refuted = await verify('--engine', dying(100), '--tokens', '1500', '--baseline', TOY);
    expect(refuted.code).toBe(1);
    expect(refuted.stdout).toMatch(/^refuted +sessions /m);
  });

  it('holds an engine to what an earlier run measured, and to the state its record had', async () => {
    const [first, cut] = [join(scratch, 'first.json'), join(scratch, 'cut')];
    const quick = ['--engine', TOY, '--tokens', '1500', '--json', '--evidence', cut];
    const done = await verify(...quick);
    writeFileSync(first, done.stdout);
    const head = /Evidence head: (sha256:[0-9a-f]{64})/.exec(done.stderr)![1]!;
    const again = await verify(...quick, '--acceptance', first, '--evidence-head', head);
    const floor = JSON.parse(again.stdout).checks.find(({ id }: { id: string }) => id === 'acceptance floor');
    expect(floor.outcome).toBe('consistent');
    const record = join(cut, 'evidence.jsonl');
    const lines = readFileSync(record, 'utf8').trimEnd().split('\n');
    writeFileSync(record, `${lines.slice(0, 3).join('\n')}\n`);
    const tampered = await verify(...quick);
    expect(tampered.code).toBe(2);
    expect(onlyLine(tampered)).toContain('cut off at the end');
    rmSync(cut, { recursive: true });
    const fresh = await verify(...quick, '--evidence-head', head);
    expect(fresh.code).toBe(2);
    expect(onlyLine(fresh)).toContain('was cut, or it is another record');
  });

  it('remembers under --evidence', async () => {
    const evidence = join(scratch, 'evidence');
    expect((await verify('--engine', `${TOY} --lie residual-p`, '--evidence', evidence)).code).toBe(1);
    const honest = await verify('--engine', TOY, '--evidence', evidence, '--seed', '5');
    expect(honest.code).toBe(1);
    expect(honest.stdout).toContain('evidence is not discarded');
  });

  it.each([
    [['--engine', './no-such.mjs'], 2],
    [['--engine', 'something-else'], 2],
    [['--engine', 'cmd:'], 2],
    [['--engine', TOY, '--acceptance', '/nowhere.json'], 2],
    [['--engine', TOY, '--reference', '/nowhere.json'], 2],
    [['--engine', TOY, '--evidence-head', 'sha256:0'], 2],
    [['--engine', TOY, '--fidelity-margin', '0'], 2],
    [['--engine', 'cmd:no-such-command-anywhere 2>/dev/null'], 3],
    [['--engine', 'nano-cpu', '--checkpoint', '/nowhere'], 2],
  ])('%j exits with %i and one line', async (args, code) => {
    const done = await verify(...args);
    expect(done.code).toBe(code);
    expect(onlyLine(done)).toMatch(/^error: /);
    expect(done.stdout).toBe('');
  });

  it('refuses prompts outside the vocabulary', async () => {
    const prompts = join(scratch, 'prompts.json');
    writeFileSync(prompts, JSON.stringify({ cases: [{ ids: [1, 77] }] }));
    const done = await verify('--engine', TOY, '--prompts', prompts);
    expect(done.code).toBe(2);
    expect(done.stderr).toContain('prompt case 0 has token 77');
  });

  it('is interrupted cleanly: 130, nothing claimed', async () => {
    const slow = join(scratch, 'slow.py');
    const toy = readFileSync(join(ROOT, 'examples/engine_toy.py'), 'utf8');
    writeFileSync(slow, toy.replace('def step(self):', 'def step(self):\n        time.sleep(0.002)'));
    let sent = false;
    const done = await kilotoken(['verify', '--engine', `cmd:python3 ${slow}`, '--json'], {
      watch: (stderr, kill) => {
        if (!sent && stderr.includes('speculation on against off')) {
          sent = true;
          kill('SIGINT');
        }
      },
    });
    expect(done.code).toBe(130);
    expect(JSON.parse(done.stdout).verdict).toBe('interrupted');
  });

  it("judges this repository's engine under all three rules, on a tiny checkpoint", async () => {
    const done = await verify(
      '--engine',
      'nano-cpu',
      '--checkpoint',
      join(scratch, 'tiny'),
      '--tokens',
      '300',
      '--json',
    );
    const results = JSON.parse(done.stdout);
    expect(results.map((one: { card: { rule: string } }) => one.card.rule)).toEqual(['match', 'coupled', 'reject']);
    for (const { checks } of results) {
      const bad = checks.filter((check: { outcome: string }) => /refuted|inconsistent/.test(check.outcome));
      expect(bad).toEqual([]);
    }
    expect([0, 4]).toContain(done.code);
  });
});
