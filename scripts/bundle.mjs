/**
 * `npm run bundle`: one archive that runs on a GPU host with neither Node nor network: this Node binary, both addons, nano, the suites, the
 * compiled command line and the few packages it imports. What is not needed at run time (types, maps, symbols, the page builder) stays out.
 * The archive must not exceed 40 MB; it is made in build/bundle/. An argument names another folder that holds dist/ and build/Release/.
 * With --host it holds only what a clone lacks (no nano, suites, schemas, docs): test/gpu/unpack-host.sh puts both together.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const LARGEST = 40_000_000;
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const host = process.argv.includes('--host');
const built = resolve(process.argv.slice(2).find((argument) => !argument.startsWith('--')) ?? root);

function stop(line) {
  process.stderr.write(`bundle: ${line}\n`);
  process.exit(3);
}

function output(command, args) {
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : null;
}

if (process.platform !== 'linux') stop('the CUDA engines run on Linux only');
for (const tool of ['tar', 'xz', 'strip']) if (output(tool, ['--version']) === null) stop(`${tool} is missing`);
for (const addon of ['kilotoken.node', 'kilotoken_cuda.node']) {
  if (!existsSync(join(built, 'build/Release', addon)))
    stop(`build/Release/${addon} is not there; it takes nvcc and: npm run setup`);
}
if (!existsSync(join(built, 'dist/bin/kilotoken.js'))) stop('dist/ is not there; run: npm run setup');

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const name = `kilotoken-${version}-linux-${process.arch}${host ? '-host' : ''}`;
const folder = join(root, 'build/bundle');
const stage = join(folder, name);
rmSync(stage, { recursive: true, force: true });
mkdirSync(stage, { recursive: true });

/** Into the bundle: `from` of the repository, but for what `skip` matches in any path below it. */
function take(from, to = from, skip = /(?!)/) {
  cpSync(resolve(root, from), join(stage, to), {
    recursive: true,
    dereference: true,
    filter: (path) => !skip.test(path.slice(resolve(root, from).length)),
  });
}

function takeStripped(from, to) {
  take(from, to);
  chmodSync(join(stage, to), 0o755);
  execFileSync('strip', ['--strip-unneeded', join(stage, to)]);
}

for (const file of ['LICENSE', 'NOTICE', 'package.json', 'bin/kilotoken.mjs']) take(file);
if (!host) {
  for (const file of [
    'README.md',
    'docs/gpu.md',
    'docs/bench.md',
    'docs/node.md',
    'docs/engines.md',
    'schemas',
    'suites',
  ])
    take(file);
  for (const part of ['fp4', 'fp8', 'card.json']) take(`checkpoints/nano/${part}`);
}
take(join(built, 'dist'), 'dist', /\.map$/);
takeStripped(join(built, 'build/Release/kilotoken.node'), 'build/Release/kilotoken.node');
takeStripped(join(built, 'build/Release/kilotoken_cuda.node'), 'build/Release/kilotoken_cuda.node');
takeStripped(realpathSync(process.execPath), 'node/bin/node');

const nodeHome = dirname(dirname(realpathSync(process.execPath)));
const licence = [
  join(nodeHome, 'LICENSE'),
  join(nodeHome, 'share/doc/nodejs/LICENSE'),
  join(nodeHome, 'share/doc/nodejs/copyright'),
].find(existsSync);
if (licence === undefined)
  process.stderr.write("bundle: Node's licence was not found beside it; add it before you pass the archive on\n");
else take(licence, 'node/LICENSE');

/** Packages that the compiled files import, and what those depend on. */
const SKIP = /\.(d\.[cm]?ts|ts|map|md|flow)$|\/(src|test|tests|docs|example|examples|benchmark|bench|\.github)(\/|$)/i;
const require = createRequire(join(root, 'package.json'));
function packageFolder(from, name) {
  for (let at = from; ; at = dirname(at)) {
    const place = join(at, 'node_modules', name);
    if (existsSync(join(place, 'package.json'))) return place;
    if (at === dirname(at)) return null;
  }
}
function imported(path) {
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.js'))
    .flatMap((file) => [
      ...readFileSync(join(path, file), 'utf8').matchAll(/(?:from|import\()\s*['"]([^'".][^'"]*)['"]/g),
    ])
    .map(([, what]) => what)
    .filter((what) => !what.startsWith('node:') && !what.startsWith('/'))
    .map((what) => (what.startsWith('@') ? what.split('/').slice(0, 2) : what.split('/').slice(0, 1)).join('/'));
}
const packages = new Set();
function takePackage(name, from) {
  const place = packageFolder(from, name);
  if (place === null || packages.has(place)) return;
  packages.add(place);
  take(place, place.slice(root.length + 1), SKIP);
  const { dependencies = {} } = JSON.parse(readFileSync(join(place, 'package.json'), 'utf8'));
  for (const dependency of Object.keys(dependencies)) takePackage(dependency, place);
}
for (const name of new Set(['bin', 'harness', 'native'].flatMap((part) => imported(join(built, 'dist', part))))) {
  if (!require.resolve.paths(name)) continue; // one of Node's own
  takePackage(name, root);
}

const commit = output('git', ['rev-parse', 'HEAD']) ?? 'unknown';
const dirty = output('git', ['status', '--porcelain']) !== '';
writeFileSync(
  join(stage, 'bundle.json'),
  `${JSON.stringify({ name, version, commit, dirty, node: process.version }, null, 2)}\n`,
);
writeFileSync(
  join(stage, 'kilotoken'),
  '#!/bin/sh\n# Runs the command line with the Node beside it.\nhere=$(dirname "$(readlink -f "$0")")\nexec "$here/node/bin/node" "$here/bin/kilotoken.mjs" "$@"\n',
);
chmodSync(join(stage, 'kilotoken'), 0o755);

const archive = join(folder, `${name}.tar.xz`);
process.stderr.write('bundle: compressing, this takes minutes\n');
// Sorted, without owners and times: the same files give the same archive.
const tar = `tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C '${folder}' -cf - '${name}'`;
execFileSync('sh', ['-c', `${tar} | xz -T1 --x86 --lzma2=preset=9e,dict=64MiB > '${archive}'`], { stdio: 'inherit' });

const { size } = statSync(archive);
process.stdout.write(
  `${archive}: ${(size / 1e6).toFixed(1)} MB, packages ${[...packages]
    .map((place) => basename(place))
    .sort()
    .join(' ')}\n`,
);
if (size > LARGEST) {
  process.stderr.write(`bundle: more than the ${LARGEST / 1e6} MB it may have\n`);
  process.exit(1);
}
