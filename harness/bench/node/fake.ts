/**
 * A machine without GPUs that behaves as one should, or with one known fault, so that everything around the kernels can be tested: its
 * tokens are a hash of model and position, its times a formula. No number it gives says anything about a real machine.
 */
import { createHash } from 'node:crypto';
import { EnvironmentError, InputError } from '../../engine.ts';
import type { GpuLook, GpuProcess } from '../../measure/gpus.ts';
import { Random } from '../../stats/philox.ts';
import { type FakeCollectiveFaults, fakeCollectives } from './fake-collectives.ts';
import {
  DeviceError,
  type NodeCapabilities,
  type NodeDescription,
  type NodeMachine,
  type NodeModel,
  type NodeModelSpec,
  type NodeRequest,
  type NodeRound,
  type NodeSequence,
} from './machine.ts';
import { gpuBytes, mixtureLayers, PRO, stepBytes } from './shape.ts';

export type FakeFault =
  /** With speculation, the token at this place of a long output is another one. */
  | { readonly kind: 'wrong-token'; readonly place: number }
  /** One GPU reads at this share of the others' rate, and all wait for it. */
  | { readonly kind: 'slow-gpu'; readonly gpu: number; readonly share: number }
  /** The n-th generation faults inside the kernel. */
  | { readonly kind: 'kernel-fault'; readonly generation: number; readonly message: string }
  | { readonly kind: 'nan-time'; readonly generation: number }
  /** One draft more than was right counts as accepted in one round, the tokens being those of the record. */
  | { readonly kind: 'accepts-wrong' }
  /** The same request gives other bits the second time. */
  | { readonly kind: 'other-bits' }
  /** A decode step never ends. */
  | { readonly kind: 'hangs'; readonly generation: number }
  | { readonly kind: 'foreign-memory'; readonly gpu: number; readonly bytes: number }
  /** Another process is on a GPU as soon as so many generations were asked for. */
  | {
      readonly kind: 'foreign-process';
      readonly gpu: number;
      readonly process: Omit<GpuProcess, 'own'>;
      readonly generation: number;
    }
  /** What the driver shows of processes: none at all, for a reason; an empty list; or lists in numbers of its own. */
  | { readonly kind: 'blind'; readonly how: 'no list' | 'hidden' | 'renumbered' }
  /** The driver never says what GPUs there are. */
  | { readonly kind: 'mute' }
  /** Nobody answers who is on the GPUs. */
  | { readonly kind: 'deaf'; readonly how: 'throws' | 'malformed' }
  /** A GPU is in use by a process that is on no list. */
  | { readonly kind: 'unlisted'; readonly gpu: number; readonly bytes: number }
  | { readonly kind: 'no-peer'; readonly from: number; readonly to: number }
  /** The all-reduce alone: harness/bench/node/fake-collectives.ts; `lack`: it cannot be measured at all; `faults`: a GPU does. */
  | ({ readonly kind: 'collectives'; readonly lack?: string; readonly faults?: string } & FakeCollectiveFaults)
  /** The reference turns out not to open. */
  | { readonly kind: 'no-reference'; readonly message: string }
  /** Says it has room and then has not. */
  | { readonly kind: 'out-of-memory'; readonly layers: number };

export interface FakeOptions {
  readonly gpus?: number;
  readonly memory?: number;
  readonly name?: string;
  readonly capabilities?: Partial<NodeCapabilities>;
  readonly readCeiling?: boolean;
  readonly collectives?: boolean;
  readonly fault?: FakeFault;
  /** Clock of the run, moved forward by what the formula says a call took; null: calls take no time. */
  readonly clock?: FakeClock;
  /** How many times longer everything takes than its formula says, to the clock alone. */
  readonly pace?: number;
}

/** A monotonic clock that moves only when told. */
export class FakeClock {
  #ns = 0n;
  readonly now = (): bigint => this.#ns;
  advance(ns: number): void {
    this.#ns += BigInt(Math.round(ns));
  }
}

/** Bytes a second of one fake GPU. */
const READ_RATE = 4e12;
const PREFILL_NS = 5e6;
const ALL: NodeCapabilities = { fp8Experts: null, reference: null, filledContext: null, sharedRouting: null };

export class FakeMachine implements NodeMachine {
  readonly #options: FakeOptions;
  #generations = 0;
  /** Whether this process would have been on the GPUs by now. */
  #held = false;
  #faulted = false;
  readonly readCeiling?: NonNullable<NodeMachine['readCeiling']>;
  readonly collectives?: NonNullable<NodeMachine['collectives']>;

  constructor(options: FakeOptions = {}) {
    this.#options = options;
    const { fault } = options;
    if (options.collectives !== false)
      this.collectives = async (gpus) => {
        if (fault?.kind !== 'collectives') return fakeCollectives(gpus);
        if (fault.lack !== undefined) throw new EnvironmentError(fault.lack);
        if (fault.faults !== undefined) throw new DeviceError(fault.faults);
        return fakeCollectives(gpus, fault);
      };
    if (options.readCeiling !== false) {
      this.readCeiling = async (gpus) => ({
        bytesPerSecond: Array.from({ length: gpus }, (_, gpu) => READ_RATE * this.#share(gpu)),
        method: 'a formula of a fake',
      });
    }
  }

  #share(gpu: number): number {
    const { fault } = this.#options;
    return fault?.kind === 'slow-gpu' && fault.gpu === gpu ? fault.share : 1;
  }

  async look(): Promise<readonly GpuLook[]> {
    const { gpus = 8, fault } = this.#options;
    if (fault?.kind === 'deaf') {
      if (fault.how === 'throws') throw new Error('the driver does not answer');
      return [{ gpu: 0 }] as unknown as GpuLook[];
    }
    const blind = fault?.kind === 'blind' ? fault.how : null;
    return Array.from({ length: gpus }, (_, gpu) => {
      const processes: GpuProcess[] = [];
      if (this.#held)
        processes.push({
          pid: blind === 'renumbered' ? 4711 : 100,
          name: 'node',
          bytes: 0.5e9,
          own: blind !== 'renumbered',
        });
      if (fault?.kind === 'foreign-process' && fault.gpu === gpu && this.#generations >= fault.generation)
        processes.push({ ...fault.process, own: false });
      const unlisted = fault?.kind === 'unlisted' && fault.gpu === gpu ? fault.bytes : 0;
      return {
        gpu,
        processes: blind === 'no list' ? null : blind === 'hidden' ? [] : processes,
        usedBytes: 4e6 + unlisted + processes.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0),
        held: this.#held,
        unseen: blind === 'no list' ? ['the management library of the driver cannot be loaded'] : [],
      };
    });
  }

  async describe(): Promise<NodeDescription> {
    if (this.#options.fault?.kind === 'mute') return new Promise(() => {});
    this.#held = true;
    const { gpus = 8, memory = 150.75e9, name = 'Fake GPU', capabilities, fault } = this.#options;
    return {
      lack: gpus === 0 ? 'no GPU is visible to the driver' : '',
      gpus: Array.from({ length: gpus }, (_, index) => ({
        index,
        name,
        memory,
        freeMemory: memory - 0.5e9 - (fault?.kind === 'foreign-memory' && fault.gpu === index ? fault.bytes : 0),
        peers: Array.from({ length: gpus }, (_, to) => to).filter(
          (to) => to !== index && !(fault?.kind === 'no-peer' && fault.from === index && fault.to === to),
        ),
      })),
      capabilities: { ...ALL, ...capabilities },
      buildDigest: `sha256:${createHash('sha256').update('fake').digest('hex')}`,
    };
  }

  async open(spec: NodeModelSpec): Promise<NodeModel> {
    const { memory = 150.75e9, capabilities, fault } = this.#options;
    const refused = spec.engine === 'reference' ? capabilities?.reference : null;
    if (refused != null) throw new EnvironmentError(refused);
    if (fault?.kind === 'no-reference' && spec.engine === 'reference') throw new EnvironmentError(fault.message);
    const need = gpuBytes({ ...spec, draft: spec.engine === 'stack' });
    if (need > memory || (fault?.kind === 'out-of-memory' && spec.layers >= fault.layers)) {
      throw new EnvironmentError(`out of memory: ${need} bytes of ${memory}`);
    }
    this.#options.clock?.advance(2e9 * (this.#options.pace ?? 1));
    return {
      weightBytes: Math.round(need * 0.9),
      generate: (request) => this.#generate(spec, request),
      // A GPU that faulted gives nothing back, and takes its time over it.
      close: async () => (this.#faulted ? new Promise(() => {}) : undefined),
    };
  }

  async #generate(spec: NodeModelSpec, request: NodeRequest): Promise<NodeSequence> {
    const { fault, clock, pace = 1 } = this.#options;
    const number = this.#generations++;
    if (request.prompt.length + request.filledContext + request.maxTokens > spec.maxContext)
      throw new InputError('the request exceeds the context of the model');
    const context = request.prompt.length + request.filledContext;
    const random = new Random('7', number);
    const rounds = roundsOf(spec, request, context, random, fault, number, Math.min(...this.#shares(spec.gpus)));
    // The reference takes the prompt along when it decodes.
    const together = spec.engine === 'reference';
    if (!together) clock?.advance(PREFILL_NS);
    const elapsed = rounds.reduce((sum, round) => sum + round.draftNs + round.verifyNs, 0);
    const text = JSON.stringify([rounds.map((round) => round.committed), fault?.kind === 'other-bits' ? number : 0]);
    return {
      decode: async () => {
        if (fault?.kind === 'hangs' && fault.generation === number) return new Promise(() => {});
        if (fault?.kind === 'kernel-fault' && fault.generation === number) {
          this.#faulted = true;
          throw new DeviceError(fault.message);
        }
        if (together) clock?.advance(PREFILL_NS);
        clock?.advance(pace * ((Number.isFinite(elapsed) ? elapsed : 1e6) + 20e3));
      },
      decoded: async () => ({ rounds, prefillNs: together ? PREFILL_NS : 0 }),
      logitsDigest: async () => `sha256:${createHash('sha256').update(text).digest('hex')}`,
      trace: async () =>
        request.trace
          ? ['linear', 'experts up', 'experts down'].map((op, i) => {
              const totalNs = 1000 * (i + 1) * spec.layers;
              return {
                op,
                count: spec.layers,
                totalNs,
                mathNs: 0.6 * totalNs,
                busyNs: 0.7 * totalNs,
                slowestNs: 0.8 * totalNs,
              };
            })
          : null,
      close: async () => {},
    };
  }

  #shares(gpus: number): number[] {
    return Array.from({ length: gpus }, (_, gpu) => this.#share(gpu));
  }
}

/** The token of a place in the output: of model and context, never of how it was reached. */
function tokenOf(spec: NodeModelSpec, context: number, place: number): number {
  const key = JSON.stringify([
    spec.engine,
    spec.experts,
    spec.layers,
    spec.gpus,
    spec.sharedRouting,
    spec.seed,
    context,
  ]);
  return createHash('sha256').update(`${key}/${place}`).digest().readUInt32LE(0) % PRO.vocab;
}

function roundsOf(
  spec: NodeModelSpec,
  request: NodeRequest,
  context: number,
  random: Random,
  fault: FakeFault | undefined,
  number: number,
  share: number,
): NodeRound[] {
  const { block, proposals, maxTokens } = request;
  const token = (place: number): number => {
    const right = tokenOf(spec, context, place);
    return fault?.kind === 'wrong-token' && block > 1 && fault.place === place && maxTokens > 512
      ? (right + 1) % PRO.vocab
      : right;
  };
  const times = (anchor: number, rows: number): { draftNs: number; verifyNs: number; distinctExperts: number[] } => {
    const expected = PRO.experts * (1 - (1 - PRO.expertsPerToken / PRO.experts) ** rows);
    const choice = new Random('11', anchor);
    const most = rows * PRO.expertsPerToken;
    const distinctExperts = Array.from({ length: mixtureLayers(spec.layers) }, () => {
      const touched = Math.round((1 - 0.3 * spec.sharedRouting) * expected + choice.uniform() * 4 - 2);
      return Math.min(most, Math.max(PRO.expertsPerToken, touched));
    });
    const distinct = distinctExperts.reduce((a, b) => a + b, 0) / Math.max(1, distinctExperts.length);
    const bytes = stepBytes({ ...spec, speculation: block > 1, distinct, context });
    const slow = (
      spec.engine === 'reference' ? { ops: 8, graph: 5, resident: 5 } : { ops: 3, graph: 1.6, resident: 1.3 }
    )[request.mode];
    const ns = (part: number): number =>
      Math.round((part / (spec.gpus * READ_RATE * share)) * 1e9 * slow * (0.98 + 0.04 * random.uniform()));
    const nan = fault?.kind === 'nan-time' && fault.generation === number;
    return { draftNs: nan ? Number.NaN : ns(bytes.draft), verifyNs: ns(bytes.total - bytes.draft), distinctExperts };
  };
  const rounds: NodeRound[] = [
    { committed: [token(0)], drafted: [], accepted: 0, finish: maxTokens === 1 ? 'length' : null, ...times(0, 1) },
  ];
  let cheated = false;
  for (let anchor = 0; anchor < maxTokens - 1; ) {
    const place = anchor;
    const drafted = proposals === null || block === 1 ? [] : proposals.slice(anchor + 1, anchor + block);
    let accepted = 0;
    while (accepted < drafted.length && drafted[accepted] === token(anchor + 1 + accepted)) accepted += 1;
    if (fault?.kind === 'accepts-wrong' && !cheated && accepted > 0 && accepted < drafted.length && anchor > 8) {
      cheated = true;
      accepted += 1;
    }
    const left = maxTokens - 1 - anchor;
    const committed = Array.from({ length: Math.min(accepted + 1, left) }, (_, i) => token(anchor + 1 + i));
    anchor += committed.length;
    const finish = anchor === maxTokens - 1 ? 'length' : null;
    rounds.push({ committed, drafted, accepted, finish, ...times(place, drafted.length + 1) });
  }
  return rounds;
}
