/**
 * Reads the provenance of a run off the machine it runs on: /proc and /sys, the allow-listed environment, `nvidia-smi`. What cannot be
 * read is null with the reason. Nothing else of the environment is looked at, and no host name, user or serial number is kept.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { basename } from 'node:path';
import { sha256 } from '../suite/canonical.ts';
import { digestOf } from './digests.ts';
import {
  ENVIRONMENT_ALLOWED,
  type FileDigest,
  type GpuState,
  type Known,
  knownOr,
  type Provenance,
  told,
  untold,
  untoldProvenance,
} from './provenance.ts';
import type { EngineCardRow } from './rows.ts';

export interface ProvenanceInput {
  /** Cards of the engines that run; their digests and numerics are repeated as a pair. */
  readonly cards: readonly EngineCardRow[];
  /** Paths of executables and libraries of the engines. */
  readonly binaries: readonly string[];
  /** Paths of device code, where it lies in files of its own. */
  readonly kernels: readonly string[];
  /** What the caller knows and the machine does not: any fields of the result. */
  readonly also?: (provenance: Provenance) => Provenance;
}

const NOT_ASKED = 'the caller did not say';

export function collectProvenance(input: ProvenanceInput): Provenance {
  const base = untoldProvenance(NOT_ASKED);
  const gpus = gpuStates();
  const noGpu = 'no NVIDIA driver answers on this machine';
  const provenance: Provenance = {
    ...base,
    code: {
      container: knownOr(containerDigest(), 'the run was not told which container image it is in'),
      binaries: listed(input.binaries, 'the engines name no binary'),
      kernels: listed(input.kernels, 'the engines have no device code in files of its own'),
    },
    model: { ...base.model, ...weightsOf(input.cards) },
    decoding: {
      ...base.decoding,
      echoed: told('in rounds.jsonl, on the first round of a session, where the engine echoes its parameters'),
    },
    system: {
      ...base.system,
      nodes: told(1),
      cpu: knownOr(cpus()[0]?.model.trim() || null, 'the system does not name its processor'),
      sockets: knownOr(sockets(), '/proc/cpuinfo does not say'),
      cores: told(availableParallelism()),
      caches: knownOr(caches(), '/sys does not say'),
      cpuClocks: knownOr(cpuClocks(), 'neither governor nor frequency can be read'),
      memoryGiB: told(Math.round((totalmem() / 2 ** 30) * 10) / 10),
      memoryConfiguration: untold('needs rights the run does not ask for'),
      gpus: gpus === null ? untold(noGpu) : told(gpus),
      topology: knownOr(gpus === null ? null : topology(), gpus === null ? noGpu : 'the driver shows no matrix'),
      gpuMemoryBandwidth: gpus === null ? untold(noGpu) : bandwidth(gpus),
    },
    software: {
      ...base.software,
      os: told(`${type()} ${release()}`),
      node: told(process.versions.node),
      driver: knownOr(gpus === null ? null : (smi('driver_version', 1)?.[0]?.[0] ?? null), noGpu),
      cuda: knownOr(gpus === null ? null : cudaOfDriver(), noGpu),
    },
    environment: Object.fromEntries(ENVIRONMENT_ALLOWED.map((name) => [name, process.env[name] ?? null])),
  };
  return input.also === undefined ? provenance : input.also(provenance);
}

/** Target and draft as one thing: a target refreshed without its draft is another pair. */
function weightsOf(
  cards: readonly EngineCardRow[],
): Pick<Provenance['model'], 'weightsDigest' | 'draftDigest' | 'pairDigest' | 'formats' | 'kvFormat'> {
  const digest = (values: readonly string[], what: string): Known<string> => {
    const all = [...new Set(values.filter((value) => value !== 'none'))];
    if (all.length === 0) return untold(`the engines cannot name their ${what}`);
    return all.length === 1
      ? told(all[0]!)
      : untold(`the engines have ${all.length} different ${what}; see their cards`);
  };
  const weightsDigest = digest(
    cards.map((card) => card.weightsDigest),
    'weights',
  );
  const draftDigest = digest(
    cards.map((card) => card.draftDigest),
    'drafts',
  );
  const whole = weightsDigest.value !== null && draftDigest.value !== null;
  const one = (values: readonly string[], what: string): Known<string> =>
    new Set(values).size === 1 ? told(values[0]!) : untold(`the engines differ in their ${what}; see their cards`);
  return {
    weightsDigest,
    draftDigest,
    pairDigest: whole
      ? told(digestOf([weightsDigest.value, draftDigest.value]))
      : untold('one of the two is not known'),
    formats: one(
      cards.map((card) => card.numerics.id),
      'numerics',
    ),
    kvFormat: one(
      cards.map((card) => card.numerics.kv),
      'caches',
    ),
  };
}

function listed(paths: readonly string[], reason: string): Known<FileDigest[]> {
  if (paths.length === 0) return untold(reason);
  try {
    return told(
      paths.map((path) => {
        const bytes = readFileSync(path);
        return { name: basename(path), sha256: sha256(bytes), bytes: bytes.length };
      }),
    );
  } catch {
    return untold('a file of the engines cannot be read');
  }
}

function containerDigest(): string | null {
  const digest = process.env.KILOTOKEN_CONTAINER_DIGEST;
  return digest !== undefined && /^sha256:[0-9a-f]{64}$/.test(digest) ? digest : null;
}

function text(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim() || null;
  } catch {
    return null;
  }
}

function sockets(): number | null {
  const ids = new Set(
    [...(text('/proc/cpuinfo') ?? '').matchAll(/^physical id\s*:\s*(\d+)/gm)].map((match) => match[1]),
  );
  return ids.size === 0 ? null : ids.size;
}

function caches(): string | null {
  const found = [0, 1, 2, 3].flatMap((i) => {
    const at = (name: string): string | null => text(`/sys/devices/system/cpu/cpu0/cache/index${i}/${name}`);
    const [level, kind, size] = [at('level'), at('type'), at('size')];
    return level === null || size === null ? [] : [`L${level} ${kind ?? ''} ${size}`.replace(/\s+/g, ' ')];
  });
  return found.length === 0 ? null : found.join(', ');
}

function cpuClocks(): string | null {
  const governor = text('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor');
  const mhz = /^cpu MHz\s*:\s*([\d.]+)/m.exec(text('/proc/cpuinfo') ?? '')?.[1] ?? null;
  const parts = [governor === null ? null : `governor ${governor}`, mhz === null ? null : `${mhz} MHz at the start`];
  return parts.some((part) => part !== null) ? parts.filter((part) => part !== null).join(', ') : null;
}

const GPU_FIELDS = [
  'index',
  'name',
  'uuid',
  'memory.total',
  'vbios_version',
  'ecc.mode.current',
  'mig.mode.current',
  'persistence_mode',
  'power.limit',
  'power.default_limit',
  'clocks.applications.graphics',
  'clocks.applications.memory',
  'clocks.max.sm',
  'clocks.max.memory',
  'pcie.link.gen.max',
  'pcie.link.width.max',
] as const;

function gpuStates(): GpuState[] | null {
  const lines = smi(GPU_FIELDS.join(','), GPU_FIELDS.length);
  return lines === null || lines.length === 0 ? null : lines.map(gpuState);
}

/** One GPU from the cells of GPU_FIELDS. */
export function gpuState(cells: readonly string[]): GpuState {
  const cell = (name: (typeof GPU_FIELDS)[number]): string => cells[GPU_FIELDS.indexOf(name)] ?? '';
  const absent = (name: (typeof GPU_FIELDS)[number]) => untold(`the driver says "${cell(name)}"`);
  const said = (name: (typeof GPU_FIELDS)[number]): string | null =>
    /^\[?(N\/A|Not Supported|Unknown Error|Insufficient Permissions|)\]?$/i.test(cell(name)) ? null : cell(name);
  const number = (name: (typeof GPU_FIELDS)[number]): Known<number> => {
    const value = Number.parseFloat(said(name) ?? '');
    return Number.isFinite(value) && value > 0 ? told(value) : absent(name);
  };
  const enabled = (name: (typeof GPU_FIELDS)[number]): Known<boolean> =>
    said(name) === null ? absent(name) : told(/^enabled$/i.test(cell(name)));
  const clocks = (sm: (typeof GPU_FIELDS)[number], memory: (typeof GPU_FIELDS)[number]) => {
    const [a, b] = [number(sm), number(memory)];
    return a.value === null || b.value === null ? absent(sm) : told({ sm: a.value, memory: b.value });
  };
  const pcie = [said('pcie.link.gen.max'), said('pcie.link.width.max')];
  return {
    index: Number(cell('index')),
    name: cell('name'),
    uuidDigest: said('uuid') === null ? absent('uuid') : told(sha256(cell('uuid'))),
    memoryMiB: number('memory.total'),
    vbios: knownOr(said('vbios_version'), 'the driver does not say'),
    ecc: enabled('ecc.mode.current'),
    mig: enabled('mig.mode.current'),
    persistence: enabled('persistence_mode'),
    powerCapW: number('power.limit'),
    defaultPowerCapW: number('power.default_limit'),
    applicationClocksMhz: clocks('clocks.applications.graphics', 'clocks.applications.memory'),
    maxClocksMhz: clocks('clocks.max.sm', 'clocks.max.memory'),
    pcie: pcie[0] === null || pcie[1] === null ? untold('the driver does not say') : told(`gen ${pcie[0]} x${pcie[1]}`),
  };
}

/** Memory rates of published data sheets, bytes per second of one GPU; the first name that is contained decides. */
const BANDWIDTHS: readonly (readonly [RegExp, number])[] = [
  [/H200/, 4.8e12],
  [/H100 NVL/, 3.9e12],
  [/H100 PCIe/, 2.04e12],
  [/H100/, 3.35e12],
  [/B200/, 8e12],
  [/A100.*80GB/, 2.039e12],
  [/A100/, 1.555e12],
];

function bandwidth(gpus: readonly GpuState[]): Known<number> {
  const found = BANDWIDTHS.find(([name]) => name.test(gpus[0]!.name));
  return found === undefined ? untold(`no data sheet rate is kept for ${gpus[0]!.name}`) : told(found[1]);
}

function topology(): string | null {
  return output('nvidia-smi', ['topo', '-m']);
}

function cudaOfDriver(): string | null {
  return /CUDA Version:\s*([\d.]+)/.exec(output('nvidia-smi', []) ?? '')?.[1] ?? null;
}

function smi(fields: string, cells: number): string[][] | null {
  const said = output('nvidia-smi', [`--query-gpu=${fields}`, '--format=csv,noheader,nounits']);
  if (said === null) return null;
  const lines = said.split('\n').map((line) => line.split(',').map((cell) => cell.trim()));
  return lines.every((line) => line.length === cells) ? lines : null;
}

function output(program: string, args: readonly string[]): string | null {
  try {
    return (
      execFileSync(program, args, {
        encoding: 'utf8',
        timeout: 10_000,
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim() || null
    );
  } catch {
    return null;
  }
}
