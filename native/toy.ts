/**
 * Tables of logits as a target and a draft inside the real engine: decode loop, caches, sampling and stop ids are the ones that
 * decode a checkpoint; only the networks are replaced by a look-up. What it emits has a law that can be enumerated.
 */
import { createHash } from 'node:crypto';
import type { Engine, Toy, ToyOptions } from '../harness/engine.ts';
import { addon, addonDigest, type CudaAddon, callAddon, type NativeModel } from './addon.ts';
import { InputError } from './errors.ts';
import {
  type CompiledDefects,
  checkedOptions,
  defectsOnCard,
  type EngineOptions,
  NativeEngine,
  processorName,
  sessionSettings,
  type ToyOpener,
} from './sessions.ts';

/**
 * A Markov target of order m and a draft whose rows depend on the committed prefix, anchor included, and the slot. A context is
 * the last m ids as a number in base V, the oldest the most significant digit; where a sequence has fewer, 0 stands for them.
 * Logits are kept as binary32; -Infinity is a token of probability 0.
 */
export interface ToyTables {
  readonly vocab: number;
  /** m, 1 or more. */
  readonly order: number;
  /** [vocab^order][vocab], flat. */
  readonly targetLogits: Float64Array | Float32Array;
  /** [vocab^order][block - 1][vocab], flat; empty with block 1. */
  readonly draftLogits: Float64Array | Float32Array;
  /** Longest block: the anchor and its drafts, 1 .. 64; 1 has no draft. */
  readonly block: number;
  /** Prompt and output together, 2 or more. */
  readonly maxContext: number;
  /** Lets tables hold NaN and +Infinity, so that what the engine does with a broken model can be seen. Default false. */
  readonly allowNan?: boolean;
}

/** Tables of a toy as the seam knows it. */
export function tablesOf({ target, draft, ...sizes }: Toy): ToyTables {
  return {
    ...sizes,
    targetLogits: Float64Array.from(target.flat()),
    draftLogits: Float64Array.from(draft.flat(2)),
  };
}

/** Opens toys that are decoded as an engine with these options decodes its own model. `where` as in ToyModel.load. */
export function toyOpener(options: EngineOptions, addonFile?: string, where: ToyPlace = 'cpu'): ToyOpener {
  return async (toy: Toy, { blockSize, tape }: ToyOptions) => {
    const model = await ToyModel.load(tablesOf(toy), addonFile, where);
    const { blockSize: _own, ...rest } = options;
    return model.engine({ ...rest, ...(blockSize === undefined ? {} : { blockSize }) }, tape);
  };
}

/** Which decode loop a toy runs in: the CPU's, or the stack's on the GPU. */
export type ToyPlace = 'cpu' | 'stack-cuda';

interface Digests {
  readonly weightsDigest: string;
  readonly draftDigest: string;
  readonly buildDigest: string;
}

const NUMERICS = {
  id: 'logits=fp32-table;kv=token-ids',
  experts: 'none',
  linears: 'none',
  activations: 'none',
  kv: 'token ids',
} as const;

export class ToyModel {
  readonly vocab: number;
  readonly block: number;
  readonly maxContext: number;
  readonly #native: NativeModel;
  readonly #digests: Digests;
  readonly #defects: CompiledDefects;
  readonly #addonFile: string | undefined;
  readonly #where: ToyPlace;
  readonly #device: string;

  private constructor(
    tables: ToyTables,
    native: NativeModel,
    digests: Digests,
    defects: CompiledDefects,
    addonFile: string | undefined,
    where: ToyPlace,
    device: string,
  ) {
    this.#addonFile = addonFile;
    this.#where = where;
    this.#device = device;
    this.vocab = tables.vocab;
    this.block = tables.block;
    this.maxContext = tables.maxContext;
    this.#native = native;
    this.#digests = digests;
    this.#defects = defects;
  }

  /**
   * @param addonFile another build of the addon
   * @param where 'stack-cuda' needs the build with the CUDA engines
   * @throws InputError for tables that do not have the sizes named or hold what is no logit, EnvironmentError without an addon
   */
  static async load(tables: ToyTables, addonFile?: string, where: ToyPlace = 'cpu'): Promise<ToyModel> {
    if (typeof tables !== 'object' || tables === null) throw new InputError('toy: tables expected');
    const { vocab, order, block, maxContext, allowNan = false } = tables;
    const targetLogits = binary32('targetLogits', tables.targetLogits);
    const draftLogits = binary32('draftLogits', tables.draftLogits);
    const build = addon(addonFile);
    const given = { vocab, order, block, maxContext, targetLogits, draftLogits, allowNan };
    const cuda = where === 'cpu' ? null : (build as CudaAddon);
    const native = await callAddon(() => (cuda === null ? build.loadToy(given) : cuda.loadStackToy(given)));
    const weightsDigest = digest(`toy target vocab=${vocab} order=${order}`, targetLogits);
    const draftDigest =
      block > 1 ? digest(`toy draft vocab=${vocab} order=${order} block=${block}`, draftLogits) : 'none';
    return new ToyModel(
      tables,
      native,
      { weightsDigest, draftDigest, buildDigest: await addonDigest(addonFile) },
      build.defects?.() ?? null,
      addonFile,
      where,
      cuda === null ? processorName() : cuda.gpu().name,
    );
  }

  /**
   * @param tape numbers that every session reads in place of uniforms, as in ToyOptions
   * @throws InputError for a rule or a block size that this toy cannot be decoded with
   */
  engine(options: EngineOptions = {}, tape?: readonly number[]): Engine {
    const { blockSize, rule, replay } = checkedOptions(options, this.block, 'the toy');
    const card = {
      name: `toy-${this.#where}`,
      ...this.#digests,
      numerics: NUMERICS,
      device: this.#device,
      topology: this.#where === 'cpu' ? 'one thread a session' : 'one GPU',
      tensorParallel: 1,
      blockSize,
      rule,
      vocabSize: this.vocab,
      maxContext: this.maxContext,
      defects: defectsOnCard(this.#defects, options.defect),
      syntheticAcceptance: null,
    };
    const onDevice = this.#where !== 'cpu';
    if (tape !== undefined && onDevice)
      throw new InputError('the stack draws its numbers on the GPU and reads no tape');
    const settings = sessionSettings(replay, options.defect);
    return new NativeEngine(
      this.#native,
      card,
      tape === undefined ? settings : { ...settings, tape: Float64Array.from(tape) },
      toyOpener({ ...options, rule, replay }, this.#addonFile, this.#where),
      onDevice,
    );
  }

  /** Sessions that are open stay usable; nothing new can be opened. */
  async close(): Promise<void> {
    this.#native.close();
  }
}

function binary32(name: string, table: unknown): Float32Array {
  if (table instanceof Float32Array) return table;
  if (table instanceof Float64Array) return new Float32Array(table);
  throw new InputError(`toy: ${name} must be a Float64Array or a Float32Array`);
}

/** sha256 of a line of sizes and the binary32 values, little-endian. */
function digest(sizes: string, table: Float32Array): string {
  const bytes = Buffer.from(table.buffer, table.byteOffset, table.byteLength);
  return `sha256:${createHash('sha256').update(`${sizes}\n`).update(bytes).digest('hex')}`;
}
