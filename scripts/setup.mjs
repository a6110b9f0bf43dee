/**
 * Brings a bare clone to a state where the CLI runs: checks the prerequisites by name, installs the locked packages, builds the addon and
 * compiles the TypeScript. Each step is skipped when its inputs have not changed since it last succeeded, so a warm call costs well under a
 * second. Plain JavaScript with no dependency, because it runs before there are any.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stampFile = join(root, 'build', 'setup-stamps.json');

/** The names under which the usual systems carry a missing tool. */
const PACKAGES = {
  cmake: 'Debian/Ubuntu: apt-get install cmake; Fedora: dnf install cmake; macOS: brew install cmake',
  'a C++ compiler': 'Debian/Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install',
  'make or ninja':
    'Debian/Ubuntu: apt-get install make (or ninja-build); Fedora: dnf install make; macOS: xcode-select --install',
};

function stop(line) {
  process.stderr.write(`setup: ${line}\n`);
  process.exit(3);
}

function found(...names) {
  return names.some((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0);
}

function checkPrerequisites() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (!((major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22)) {
    stop(
      `Node ${process.versions.node} is too old: 20.19, 22.12 or newer is needed (nodejs.org, or your system's nodejs package)`,
    );
  }
  const missing = [];
  if (!found('cmake')) missing.push('cmake');
  if (!found(...(process.env.CXX ? [process.env.CXX] : []), 'c++', 'g++', 'clang++')) missing.push('a C++ compiler');
  if (!found('ninja', 'make', 'gmake')) missing.push('make or ninja');
  if (missing.length > 0) stop(missing.map((name) => `${name} is missing. ${PACKAGES[name]}`).join('\nsetup: '));
}

function filesUnder(path, pattern) {
  const full = join(root, path);
  if (!existsSync(full)) return [];
  if (statSync(full).isFile()) return [path];
  return readdirSync(full, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const below = join(path, entry.name);
      if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : filesUnder(below, pattern);
      return pattern.test(entry.name) ? [below] : [];
    });
}

/** The CUDA compiler as CMakeLists.txt looks for it, or null. */
function cudaCompiler() {
  const { CUDACXX, CUDA_HOME, CUDA_PATH, PATH = '' } = process.env;
  const folders = [CUDA_HOME, CUDA_PATH, '/usr/local/cuda'].flatMap((home) => (home ? [join(home, 'bin')] : []));
  const places = [
    ...(CUDACXX ? [CUDACXX] : []),
    ...[...folders, ...PATH.split(delimiter)].map((at) => join(at, 'nvcc')),
  ];
  return places.find(existsSync) ?? null;
}

/** One digest over the names and bytes of a step's inputs. */
function digest(paths, pattern) {
  const hash = createHash('sha256').update(`${process.version} ${process.platform} ${process.arch}\n`);
  for (const file of paths.flatMap((path) => filesUnder(path, pattern))) {
    hash.update(`${file}\n`).update(readFileSync(join(root, file)));
  }
  return hash.digest('hex');
}

/** Throws, with what it printed already shown, when the command fails. */
async function run(label, command, args) {
  process.stderr.write(`setup: ${label}\n`);
  const started = Date.now();
  const child = spawn(command, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, npm_config_loglevel: 'error' },
  });
  const printed = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => printed.push(bytes));
  const ended = await new Promise((done) => {
    child.once('error', (error) => done(error.message));
    child.once('close', (code, signal) => done(code === 0 ? null : `exit ${signal ?? code}`));
  });
  if (ended !== null) {
    process.stderr.write(Buffer.concat(printed));
    throw new Error(`${label} failed (${command} ${args.join(' ')}, ${ended})`);
  }
  process.stderr.write(`setup: ${label}, ${((Date.now() - started) / 1000).toFixed(1)} s\n`);
}

const nvcc = cudaCompiler();

/** The packages first; what needs nothing but them is made side by side. */
const STAGES = [['packages'], ['addon', 'typescript']];

const STEPS = [
  {
    name: 'packages',
    label: 'installing the locked packages',
    inputs: () => digest(['package-lock.json'], /./),
    output: 'node_modules/typescript/package.json',
    run: (label) => run(label, 'npm', ['ci', '--no-audit', '--no-fund', '--prefer-offline']),
  },
  {
    name: 'addon',
    label: nvcc === null ? 'building the native addon' : 'building the native addons, CPU and CUDA',
    inputs: () =>
      `${nvcc ?? 'no nvcc'} ${digest(
        [
          'CMakeLists.txt',
          'core',
          'reference',
          'kernels',
          'native',
          'scripts/nvcc-checked.sh',
          'test/gpu/CMakeLists.txt',
        ],
        /\.(h|hpp|cc|cpp|cu|cuh|txt|cmake|sh)$/,
      )}`,
    output: 'build/Release/kilotoken.node',
    run: (label) => run(label, process.execPath, ['node_modules/cmake-js/bin/cmake-js', 'build', '--out', 'build']),
  },
  {
    name: 'typescript',
    label: 'compiling the TypeScript',
    inputs: () =>
      digest(
        ['tsconfig.json', 'tsconfig.build.json', 'package-lock.json', 'bin', 'harness', 'native', 'scripts'],
        /\.(ts|mjs|json)$/,
      ),
    output: 'dist/bin/kilotoken.js',
    run: (label) => run(label, process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']),
  },
];

/** `npx kilotoken` in the repository: npm links the binaries of dependencies, not a package's own. */
function linkCommand() {
  const link = join(root, 'node_modules', '.bin', 'kilotoken');
  if (existsSync(link)) return;
  mkdirSync(dirname(link), { recursive: true });
  symlinkSync(join('..', '..', 'bin', 'kilotoken.mjs'), link);
}

checkPrerequisites();
if (nvcc === null)
  process.stderr.write('setup: no CUDA compiler (nvcc): the CUDA engines are not built, everything else is\n');
let stamps = {};
try {
  stamps = JSON.parse(readFileSync(stampFile, 'utf8'));
} catch {
  // no earlier set-up, or one that was cut off: every step runs
}
async function make(step) {
  const inputs = step.inputs();
  if (stamps[step.name] === inputs && existsSync(join(root, step.output))) return;
  await step.run(step.label);
  stamps[step.name] = inputs;
  mkdirSync(dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, `${JSON.stringify(stamps, null, 2)}\n`);
}
for (const stage of STAGES) {
  // Each is let end before another's failure ends this process: a build that is left alone would disturb the next one.
  const made = await Promise.allSettled(STEPS.filter(({ name }) => stage.includes(name)).map(make));
  const failed = made.find(({ status }) => status === 'rejected');
  if (failed !== undefined) stop(failed.reason.message);
}
linkCommand();
