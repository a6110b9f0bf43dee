/** Calls that cannot work, from outside: one line that says what is wrong, the exit code of the caller's fault, and no work done first. */
import { generateKeyPairSync } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { kilotoken, onlyLine } from './cli.ts';

const scratch = mkdtempSync(join(tmpdir(), 'kilotoken-wrong-'));
const text = join(scratch, 'text');
writeFileSync(text, 'hello');
const key = join(scratch, 'key.pem');
writeFileSync(key, generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }));
const [endless, odd] = [join(scratch, 'endless'), join(scratch, 'odd')];
mkdirSync(endless);
symlinkSync('/dev/zero', join(endless, 'report.json'));
mkdirSync(join(odd, 'manifest.json'), { recursive: true });
const steady = join(scratch, 'steady.json');
writeFileSync(steady, '[1, 1, 1, 1, 1, 1, 1]');
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const NODE = 'results/node/20261121T080025Z-db6d634';
const AUDIT = 'results/20261121T045736Z-a2f080c';
const KERNELS = 'results/bench/20261121T172213Z-1f1e3fa.json';
const TOY = 'cmd:python3 examples/engine_toy.py';
const NANO = ['--checkpoint', 'checkpoints/nano/fp4'];
const nowhere = join(scratch, 'no', 'such', 'folder', 'x');

describe('one line, exit code', () => {
  it.each([
    // Where the results go is looked at before minutes of work.
    [2, ['mutants', '--out', nowhere], /no folder .*such\/folder/],
    [2, ['verify', '--engine', 'nano-cpu', '--junit', nowhere], /no folder .*such\/folder/],
    [2, ['overhead', '--out', scratch], /It is a folder, not a file/],
    [2, ['bench', 'kernels', '--json', nowhere], /no folder/],
    [3, ['verify', '--engine', 'nano-cpu', '--evidence', text], /cannot write .*text: it is a file, not a folder/],
    [3, ['publish', AUDIT, '--to', text], /cannot write .*: a part of the path is a file/],
    // What was given is not what is asked for.
    [
      2,
      ['diff', NODE, NODE],
      /manifest\.json: schema: this is kilotoken\/node@1; a run of audit \(kilotoken\/run@2\) is needed/,
    ],
    [2, ['export', NODE, '--format', 'parquet', '--out', nowhere], /this is kilotoken\/node@1/],
    [2, ['check', AUDIT, '--public-key', text], /text: is not a public key in PEM form/],
    [2, ['sign', AUDIT, '--key', text], /text: is not a private key in PEM form/],
    [2, ['check', AUDIT, '--build', scratch], /is a folder, not a file/],
    [2, ['enumerate', '--fixture', 'harness/fixtures/e1.json', '--rule', 'match', '--samples', '9'], /of --engine/],
    [2, ['score', ...NANO, '--tokens', join(scratch, 'none.json')], /none\.json: no such file/],
    [2, ['draft', ...NANO, '--tokens', scratch], /is a folder, not a file/],
    [2, ['generate', '--messages', text], /text: is not JSON: /],
    [2, ['enumerate', '--fixture', nowhere, '--rule', 'match'], /no such file/],
    [2, ['check', nowhere], /x: no such folder$/],
    [2, ['check', text], /text is not a run directory: it is a file$/],
    [2, ['report', 'results/node'], /name one of the \d+ runs in it, for instance results\/node\/2/],
    [2, ['bench', 'kernels', '--from', KERNELS, '--peers', nowhere], /--peers goes with a measurement/],
    [2, ['bench', 'kernels', '--from', KERNELS, '--json', KERNELS], /It is published; results\/ is append-only\.$/],
    [2, ['bench', 'node', '--profile', nowhere], /--profile .*x: no such file$/],
    [2, ['bench', 'node', '--profile', 'package.json'], /--profile profile package must be a list of 7 chances/],
    [2, ['bench', 'node', '--profile', steady, steady], /two acceptance profiles are called "steady"; .*agent, all/],
    [2, ['bench', 'node', '--only', 'headline', 'sweep'], /There is no group "sweep"; there are headline, lossless, /],
    [2, ['bench', 'node', '--repeats', '1000000'], /It must be a whole number, 1 to 1000\.$/],
    [2, ['bench', 'node', '--lossless-tokens', '99999999999'], /It must be a whole number, 16 to 1000000\.$/],
    [2, ['check', '--record', nowhere], /x: no such folder$/],
    [2, ['check', '--record', KERNELS], /\.json: no such folder$/],
    [
      2,
      ['check', '--record', 'results/node'],
      /the part of a record with its node benchmarks; name the folder above it$/,
    ],
    [2, ['audit', '--engine', 'cmd:python3 mine.py'], /judged by: kilotoken verify --engine \(docs\/engines\.md\)\.$/],
    [2, ['verify', '--engine', 'cmd:true', '--rule', 'match'], /--rule match: .*the one that its card states$/],
    [
      3,
      ['verify', '--engine', TOY, '--baseline', 'cmd:exit 1'],
      /the baseline cmd:exit 1 did not open: .*exit code 1$/,
    ],
    // What would not end, or cannot be read, is not opened.
    [2, ['check', endless], /endless\/report\.json: is a device or a pipe, not a file$/],
    [2, ['diff', AUDIT, endless], /endless\/report\.json: is a device or a pipe, not a file$/],
    [2, ['merge', nowhere, odd, endless], /odd\/manifest\.json: is a folder, not a file$/],
    [2, ['sign', AUDIT, '--key', key], /is published, .*: sign a run before it is published$/],
    [2, ['publish', NODE, '--sign', key], /is published, .*: sign a run before it is published$/],
    [2, ['report', AUDIT, '--out', scratch], /it exists already; name a new folder$/],
    [2, ['report', AUDIT, '--out', 'results/copy'], /results\/ takes runs by `kilotoken publish` alone$/],
    [2, ['report', scratch, '--out', nowhere], /holds no run: there is no manifest\.json$/],
    [2, ['bench', 'kernels', '--from', 'package.json'], /^error: package\.json: no kernel bench: schema: /],
    [2, ['publish', 'package.json'], /package\.json: no kernel bench: schema: /],
  ] as [number, string[], RegExp][])('%i: %j', async (code, args, line) => {
    const finished = await kilotoken(args);
    expect(onlyLine(finished)).toMatch(line);
    expect([finished.code, finished.stdout]).toEqual([code, '']);
  });
});
