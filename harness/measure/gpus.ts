/**
 * Who is on the GPUs of a run besides the run. A look says what the driver lists and what it could not be asked; what follows from looks
 * is said here, once, for benchmarks, audits and `doctor`. A process that nobody can see is never counted as one that is not there.
 */
import { z } from 'zod';

export const GpuProcess = z.strictObject({
  /** As the driver numbers it; in a container that can be another space of numbers than this process lives in. */
  pid: z.int().nonnegative(),
  /** Of /proc, where it is visible. */
  name: z.string().nullable(),
  /** Of the GPU's memory; null: the driver does not say. */
  bytes: z.number().nonnegative().nullable(),
  /** The process that looks, by its number. */
  own: z.boolean(),
});

export const GpuLook = z.strictObject({
  gpu: z.int().nonnegative(),
  /** All that compute or draw on it; null: no list was to be had. */
  processes: z.array(GpuProcess).nullable(),
  /** By anybody, without what the driver keeps for itself; null: not told. */
  usedBytes: z.number().nonnegative().nullable(),
  /** The process that looks is on this GPU itself, so that the list should have it. */
  held: z.boolean(),
  /** What could not be seen, and why. */
  unseen: z.array(z.string().min(1)),
});

export const GPU_LOOK = 'gpu-look';

/** A look as an event. */
export const GpuLookRow = z.strictObject({
  t_ns: z.number().nonnegative(),
  kind: z.literal(GPU_LOOK),
  /** before: before the first token; of a node benchmark also before it touched a GPU. between: behind a stage. after: when all was done. */
  when: z.enum(['before', 'between', 'after']),
  /** The stage behind which it was taken. */
  stage: z.string().nullable(),
  gpus: z.array(GpuLook).min(1),
  shard: z.int().positive().optional(),
});

export type GpuProcess = z.infer<typeof GpuProcess>;
export type GpuLook = z.infer<typeof GpuLook>;
export type GpuLookRow = z.infer<typeof GpuLookRow>;

/**
 * Memory that may be in use on a GPU that nobody uses, without what the driver keeps for itself. With a CUDA context of this process
 * that may be CONTEXT_BYTES: 0.52 GiB on four H200 (results/node), which any other process with a context doubles at least.
 */
const IDLE_BYTES = 256 * 2 ** 20;
export const CONTEXT_BYTES = 2 ** 30;

export interface Company {
  /** A sentence for each GPU with others on it. */
  readonly foreign: readonly string[];
  /** Memory that no listed process accounts for: perhaps others, perhaps not. */
  readonly doubts: readonly string[];
  readonly unseen: readonly string[];
  /** Whether the lists show what they should: this process, on every GPU where it is. */
  readonly sees: boolean;
}

/** What one look at all GPUs of a run shows. */
export function companyOf(looks: readonly GpuLook[]): Company {
  const foreign: string[] = [];
  const doubts: string[] = [];
  const unseen: string[] = [];
  const renumbered = ownNumbers(looks);
  let sees = looks.some(({ held }) => held);
  for (const look of looks) {
    const { gpu, processes, usedBytes, held } = look;
    for (const reason of look.unseen) unseen.push(`GPU ${gpu}: ${reason}`);
    if (processes === null) {
      sees = false;
      if (look.unseen.length === 0) unseen.push(`GPU ${gpu}: no list of processes`);
    }
    let others = (processes ?? []).filter(({ own }) => !own);
    let ambiguous = false;
    if (held && processes !== null && others.length === processes.length) {
      if (processes.length === 0) {
        sees = false;
        unseen.push(`GPU ${gpu}: the driver lists no process although this one is on it: processes are hidden here`);
      } else if (renumbered.size === 1) {
        const [pid] = renumbered;
        others = others.filter((process) => process.pid !== pid);
        unseen.push(
          `GPU ${gpu}: the driver numbers processes otherwise than this machine; pid ${pid} is taken for this run`,
        );
      } else ambiguous = true;
    }
    if (others.length > 0)
      foreign.push(
        `on GPU ${gpu}: ${others.map(processText).join(', ')}${ambiguous ? ', one of which may be this run' : ''}`,
      );
    else if (!held && usedBytes !== null && usedBytes > IDLE_BYTES)
      foreign.push(`on GPU ${gpu}: ${gib(usedBytes)} in use by a process that is not listed here`);
    const told = (processes ?? []).map(({ bytes }) => bytes);
    if (held && usedBytes !== null && told.length > 0 && told.every((bytes) => bytes !== null)) {
      const rest = usedBytes - told.reduce((sum, bytes) => sum + bytes!, 0);
      if (rest > CONTEXT_BYTES) doubts.push(`GPU ${gpu}: ${gib(rest)} are in use by no process that the driver lists`);
    }
  }
  return { foreign, doubts, unseen: [...new Set(unseen)], sees };
}

/** Numbers that this process may have for the driver where its own is not listed: those that are on every GPU where it should be. */
function ownNumbers(looks: readonly GpuLook[]): ReadonlySet<number> {
  const lists = looks
    .filter(({ held, processes }) => held && processes !== null && processes.length > 0)
    .map(({ processes }) => processes!);
  if (lists.length === 0 || lists.some((list) => list.some(({ own }) => own))) return new Set();
  const [first, ...rest] = lists.map((list) => new Set(list.map(({ pid }) => pid)));
  return new Set([...first!].filter((pid) => rest.every((list) => list.has(pid))));
}

function processText({ pid, name, bytes }: GpuProcess): string {
  return `pid ${pid}${name === null ? '' : ` (${name})`}${bytes === null ? '' : `, ${gib(bytes)}`}`;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** Longest wait for a driver to say who is on its GPUs. */
const LOOK_SECONDS = 10;

/** A look that came, or why it did not. */
export interface TakenLook {
  readonly told: readonly GpuLook[];
  readonly lack: string | null;
}

export async function takeLook(look: () => Promise<readonly GpuLook[]>, seconds = LOOK_SECONDS): Promise<TakenLook> {
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<never>((_, fail) => {
      timer = setTimeout(() => fail(new Error(`the driver did not answer within ${seconds} s`)), seconds * 1000);
    });
    return { told: z.array(GpuLook).parse(await Promise.race([look(), late])), lack: null };
  } catch (error) {
    return { told: [], lack: error instanceof z.ZodError ? 'the answer is malformed' : (error as Error).message };
  } finally {
    clearTimeout(timer);
  }
}

/** An entry for each of these GPUs, also for one that the look does not have: then with the reason. */
export function looksOf({ told, lack }: TakenLook, gpus: readonly number[]): GpuLook[] {
  const unseen = [lack ?? 'the driver does not name this GPU'];
  const blind = (gpu: number): GpuLook => ({ gpu, processes: null, usedBytes: null, held: false, unseen });
  return gpus.map((gpu) => told.find((entry) => entry.gpu === gpu) ?? blind(gpu));
}
