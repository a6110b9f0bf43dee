/**
 * The inner loops by themselves: the exponential's error, the arithmetic E4M3 rounding against core's encoder, and every build of the
 * ops (portable, AVX2, AVX-512 as far as this machine runs them) bit for bit against one another. Compiles ops_probe.cpp
 * once per content.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const PROBE = path.join(ROOT, 'test', 'cpu', 'engine', 'ops_probe.cpp');
const FLAGS = ['-std=c++20', '-O2', '-ffp-contract=off', '-w', `-I${ROOT}`];

/** Compiled objects: the probe, the chooser, and ops.cpp in each of its builds. */
function objects(): { source: string; flags: string[] }[] {
  const cpu = path.join(ROOT, 'reference', 'cpu');
  const builds = process.arch === 'x64' ? ['x86_64_v3', 'x86_64_v4'] : [];
  return [
    { source: PROBE, flags: [] },
    { source: path.join(cpu, 'ops_select.cpp'), flags: [] },
    { source: path.join(cpu, 'ops.cpp'), flags: ['-DKT_OPS=portable'] },
    ...builds.map((build) => ({
      source: path.join(cpu, 'ops.cpp'),
      flags: [`-DKT_OPS=${build}`, `-march=${build.replaceAll('_', '-')}`],
    })),
  ];
}

function build(): string {
  const compiler = process.env.CXX ?? 'c++';
  const hash = createHash('sha256')
    .update([compiler, ...FLAGS].join(' '))
    .update(readFileSync(PROBE));
  for (const folder of ['core', 'reference/cpu']) {
    for (const name of readdirSync(path.join(ROOT, folder)).sort()) {
      if (/\.(h|cpp)$/.test(name)) hash.update(name).update(readFileSync(path.join(ROOT, folder, name)));
    }
  }
  const folder = path.join(ROOT, 'build', 'ops-probe', hash.digest('hex').slice(0, 16));
  const program = path.join(folder, 'ops_probe');
  if (existsSync(program)) return program;
  mkdirSync(folder, { recursive: true });
  const files = objects().map(({ source, flags }, i) => {
    const object = path.join(folder, `${process.pid}-${i}.o`);
    execFileSync(compiler, [...FLAGS, ...flags, '-c', source, '-o', object], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    return object;
  });
  const unfinished = `${program}.${process.pid}`; // the rename is atomic, should two runs build at once
  execFileSync(compiler, [...files, '-o', unfinished]);
  renameSync(unfinished, program);
  return program;
}

let program: string;
beforeAll(() => {
  program = build();
}, 600_000);

test.each([
  ['exponential', /worst relative error/],
  ['e4m3', /^ok/],
  ['builds', /portable and /],
])('%s', (what, mark) => {
  const run = spawnSync(program, [what], { encoding: 'utf8' });
  expect(run.stdout).toMatch(mark);
  expect(run.stdout).toMatch(/ok\n$/);
  expect(run.status).toBe(0);
});
