/** Who else uses the machine while it is timed: cores kept busy by other processes, and programs that hold the GPU. */
import { execFileSync } from 'node:child_process';
import { cpus } from 'node:os';

/** Starts counting; the function returned gives the cores that other processes kept busy meanwhile, on average. */
export function startForeignLoad(): () => number {
  const busy = (): number =>
    cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);
  const [busyBefore, ownBefore, wallBefore] = [busy(), process.cpuUsage(), performance.now()];
  return () => {
    const own = process.cpuUsage(ownBefore);
    const wall = Math.max(1, performance.now() - wallBefore);
    return Math.max(0, (busy() - busyBefore - (own.user + own.system) / 1000) / wall);
  };
}

/** Names of programs that hold a GPU, by nvidia-smi; null without the tool or a driver. `own`: this process and the idle audit that started it. */
export function gpuProcesses(own: readonly number[] = [process.pid, process.ppid]): string[] | null {
  try {
    const text = execFileSync('nvidia-smi', ['--query-compute-apps=pid,process_name', '--format=csv,noheader'], {
      encoding: 'utf8',
      timeout: 10_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return parseComputeApps(text, own);
  } catch {
    return null;
  }
}

/** Lines of `pid, name`. The name's folder is dropped: it may tell who ran what where. `[No data]` and the like are nvidia-smi's for a name it cannot see. */
export function parseComputeApps(text: string, own: readonly number[]): string[] {
  return text.split('\n').flatMap((line) => {
    const [pid, ...name] = line.split(',').map((cell) => cell.trim());
    if (!pid || !/^\d+$/.test(pid) || own.includes(Number(pid))) return [];
    const called = name.join(',').split(/[\\/]/).at(-1) ?? '';
    return [/^(\[.*\])?$/.test(called) ? 'a program without a name' : called];
  });
}
