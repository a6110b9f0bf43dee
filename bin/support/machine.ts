/** What this machine is: processor, memory, system, GPUs. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, freemem, release, totalmem, type } from 'node:os';
import type { Report } from '../../harness/report/schema.ts';

export interface Gpu {
  readonly name: string;
  readonly memory: string;
  readonly driver: string;
}

export function machine(): Report['machine'] {
  return {
    cpu: cpus()[0]?.model.trim() || 'unknown',
    cores: availableParallelism(),
    memoryGiB: Math.round((totalmem() / 2 ** 30) * 10) / 10,
    os: `${type()} ${release()}`,
    node: process.versions.node,
    gpus: gpus().map((gpu) => `${gpu.name}, ${gpu.memory}`),
  };
}

/** By nvidia-smi; empty when there is none or it finds no driver. */
export function gpus(): Gpu[] {
  const text = firstLineOf(
    'nvidia-smi',
    ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader'],
    true,
  );
  if (text === null) return [];
  return text.split('\n').flatMap((line) => {
    const [name, memory, driver] = line.split(',').map((cell) => cell.trim());
    return name && memory && driver ? [{ name, memory, driver }] : [];
  });
}

/** Output of a program (its first line, or all of it), or null when it is not there or fails. */
export function firstLineOf(program: string, args: readonly string[], whole = false): string | null {
  try {
    const text = execFileSync(program, args, {
      encoding: 'utf8',
      timeout: 10_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
    return whole ? text : (text.split('\n')[0] ?? '');
  } catch {
    return null;
  }
}

/** Instruction sets that the CPU engine's kernels may use, of those the processor has; null where it cannot be told. */
export function cpuFeatures(): string[] | null {
  try {
    const flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
    return ['avx2', 'fma', 'avx512f', 'avx512bw', 'avx512_bf16', 'amx_bf16', 'asimd'].filter((flag) =>
      flags.includes(flag),
    );
  } catch {
    return null;
  }
}

export function availableMemoryGiB(): number {
  try {
    const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (line !== null) return Number(line[1]) / 2 ** 20;
  } catch {}
  return freemem() / 2 ** 30;
}
