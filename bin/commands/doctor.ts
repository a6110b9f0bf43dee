/** `kilotoken doctor`: what this machine has and lacks, each missing thing with the package that brings it. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { companyOf, takeLook } from '../../harness/measure/gpus.ts';
import { openCheckpoint } from '../../native/checkpoint/index.ts';
import { EXIT } from '../support/exit.ts';
import { availableMemoryGiB, cpuFeatures, firstLineOf, gpus, machine } from '../support/machine.ts';
import { note, paint, print, printJson } from '../support/output.ts';
import { ROOT } from '../support/repository.ts';

interface Finding {
  readonly name: string;
  /** `absent`: not there and not needed. `missing`: not there and needed. */
  readonly state: 'ok' | 'absent' | 'missing';
  readonly detail: string;
  /** What to install or run; null when nothing is missing. */
  readonly remedy: string | null;
}

export function doctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('say what this machine has for kilotoken and what it lacks')
    .option('--json', 'print one JSON document')
    .addOption(new Option('--require <what>', 'fail (exit code 3) without it').choices(['gpu']))
    .action(run);
}

async function run(options: { readonly json?: boolean; readonly require?: 'gpu' }): Promise<void> {
  // Before anything here is on a GPU itself.
  const users = await gpuUsers();
  const findings: Finding[] = [
    node(),
    await addon(),
    compiler(),
    program('cmake', ['--version'], 'apt install cmake'),
    cpu(),
    memory(),
    cuda(),
    gpu(options.require === 'gpu'),
    await cudaEngines(options.require === 'gpu'),
    users,
    ...(await checkpoints()),
  ];
  const missing = findings.filter((finding) => finding.state === 'missing');
  if (options.json) printJson({ machine: machine(), findings, missing: missing.map((finding) => finding.name) });
  else {
    for (const { name, state, detail, remedy } of findings) {
      const style = { ok: 'green', absent: 'dim', missing: 'red' } as const;
      print(
        `${paint(style[state], state.padEnd(8))}${name.padEnd(14)}${detail}${remedy === null ? '' : ` -> ${remedy}`}`,
      );
    }
  }
  if (missing.length > 0) {
    note(`Missing: ${missing.map((finding) => finding.name).join(', ')}`);
    process.exitCode = EXIT.environment;
  }
}

function found(name: string, detail: string): Finding {
  return { name, state: 'ok', detail, remedy: null };
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const enough = (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22;
  if (enough) return found('node', process.versions.node);
  const remedy = 'install Node 20.19 or later (package nodejs)';
  return { name: 'node', state: 'missing', detail: `${process.versions.node} is too old`, remedy };
}

async function addon(): Promise<Finding> {
  try {
    const { addon: loadAddon } = await import('../../native/addon.ts');
    const sets = loadAddon().instructionSets();
    if (sets.length > 0) return found('addon', `built; instruction sets here: ${sets.join(', ')}`);
    const remedy = 'a processor with AVX2 and FMA';
    return {
      name: 'addon',
      state: 'missing',
      detail: 'built, but this processor has none of its instruction sets',
      remedy,
    };
  } catch (error) {
    const detail = (error as Error).message.split('\n')[0]!;
    return { name: 'addon', state: 'missing', detail, remedy: 'npm run setup' };
  }
}

function compiler(): Finding {
  for (const name of ['c++', 'g++', 'clang++']) {
    const version = firstLineOf(name, ['--version']);
    if (version !== null) return found('compiler', version);
  }
  return toBuild('compiler', 'no C++ compiler', 'apt install g++');
}

/** A tool that only building takes: a bundle is built. */
function toBuild(name: string, detail: string, remedy: string): Finding {
  if (existsSync(join(ROOT, 'bundle.json')))
    return { name, state: 'absent', detail: `${detail}; a bundle needs none`, remedy: null };
  return { name, state: 'missing', detail, remedy };
}

function program(name: string, args: readonly string[], remedy: string): Finding {
  const version = firstLineOf(name, args);
  return version === null ? toBuild(name, 'not found', remedy) : found(name, version);
}

function cpu(): Finding {
  const { cpu: model, cores } = machine();
  const features = cpuFeatures();
  return found(
    'cpu',
    `${model}, ${cores} cores, ${features === null ? 'features unknown' : features.join(' ') || 'no vector extension used'}`,
  );
}

function memory(): Finding {
  return found('memory', `${availableMemoryGiB().toFixed(1)} GiB available of ${machine().memoryGiB} GiB`);
}

function cuda(): Finding {
  const nvcc = firstLineOf('nvcc', ['--version'], true) ?? firstLineOf('/usr/local/cuda/bin/nvcc', ['--version'], true);
  const release = nvcc === null ? null : /release ([\d.]+)/.exec(nvcc)?.[1];
  if (release != null) return found('cuda', `compiler ${release}`);
  return { name: 'cuda', state: 'absent', detail: 'no CUDA compiler; the CPU engine needs none', remedy: null };
}

function gpu(required: boolean): Finding {
  const list = gpus();
  const [first] = list;
  if (first !== undefined)
    return found('gpu', `${list.map((entry) => `${entry.name} ${entry.memory}`).join('; ')}, driver ${first.driver}`);
  const detail = 'nvidia-smi finds none';
  if (!required) return { name: 'gpu', state: 'absent', detail: `${detail}; the CPU engine needs none`, remedy: null };
  return { name: 'gpu', state: 'missing', detail, remedy: 'a GPU and its driver (package nvidia-driver)' };
}

/** Whether engines can run on the GPU: what the CUDA runtime of this build finds. */
async function cudaEngines(required: boolean): Promise<Finding> {
  const name = 'cuda engines';
  const state = required ? 'missing' : 'absent';
  try {
    const { gpuReport } = await import('../../native/engines.ts');
    const { lack, name: device, capability, memory, freeMemory, driverCuda, runtimeCuda } = gpuReport();
    const version = (number: number): string => `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
    const build = `built with CUDA ${version(runtimeCuda)}`;
    if (lack !== '')
      return { name, state, detail: `${build}; ${lack}`, remedy: required ? 'a Hopper GPU and its driver' : null };
    const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1);
    return found(
      name,
      `${build}; ${device}, compute capability ${capability}, ${gib(freeMemory)} of ${gib(memory)} GiB free, driver for CUDA ${version(driverCuda)}`,
    );
  } catch (error) {
    return {
      name,
      state,
      detail: (error as Error).message.split('\n')[0]!,
      remedy: required ? 'nvcc, then npm run setup' : null,
    };
  }
}

/** Who is on the GPUs: measurements want them alone. What cannot be seen is said, not passed over. */
async function gpuUsers(): Promise<Finding> {
  const name = 'gpu users';
  const absent = (detail: string, remedy: string | null = null): Finding => ({ name, state: 'absent', detail, remedy });
  const { told: looks, lack } = await takeLook(async () => (await import('../../native/gpus.ts')).gpuLook());
  if (lack !== null) return absent(`not looked at: ${lack.split('\n')[0]!}`);
  if (looks.length === 0) return absent('no GPU to look at');
  const { foreign, unseen } = companyOf(looks);
  const blind = unseen.length === 0 ? '' : `; not seen: ${unseen.join('; ')}`;
  if (foreign.length > 0)
    return absent(
      `another program is ${foreign.join('; ')}${blind}`,
      'end it before `bench node`, which needs its GPUs to itself',
    );
  const listed = looks.filter(({ processes }) => processes !== null).map(({ gpu }) => gpu);
  if (listed.length === 0) return absent(`other programs cannot be seen${blind}`);
  return found(name, `no process is listed on GPU ${listed.join(', ')}${blind}`);
}

/** Every folder two levels below checkpoints/ that holds a config.json. */
async function checkpoints(): Promise<Finding[]> {
  const base = join(ROOT, 'checkpoints');
  const folders = (path: string): string[] =>
    existsSync(path)
      ? readdirSync(path)
          .map((name) => join(path, name))
          .filter((entry) => statSync(entry).isDirectory())
          .sort()
      : [];
  const found = folders(base)
    .flatMap(folders)
    .filter((folder) => existsSync(join(folder, 'config.json')));
  if (found.length === 0) return [{ name: 'checkpoint', state: 'absent', detail: `none below ${base}`, remedy: null }];
  return Promise.all(
    found.map(async (folder): Promise<Finding> => {
      const name = 'checkpoint';
      const label = folder.slice(ROOT.length + 1);
      try {
        const checkpoint = await openCheckpoint(folder);
        const digests = `weights ${await checkpoint.weightsDigest()}, draft ${await checkpoint.draftDigest()}`;
        return { name, state: 'ok', detail: `${label}: ${digests}`, remedy: null };
      } catch (error) {
        return {
          name,
          state: 'missing',
          detail: `${label} is broken: ${(error as Error).message}`,
          remedy: 'git checkout it anew',
        };
      }
    }),
  );
}
