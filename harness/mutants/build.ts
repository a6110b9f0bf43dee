/**
 * What the table needs of an engine that has the defects compiled in. The harness names no implementation: whoever runs the
 * table brings one, or null where there is none, and then every row says so.
 */
import type { Engine, EngineCard, Toy, VerificationRule } from '../engine.ts';
import type { EngineSource } from '../engines/plugin.ts';
import type { AcceptanceFloor } from '../gate/acceptance.ts';
import type { GatePrompt } from '../gate/observer.ts';
import type { ReferenceScores } from '../gate/reference.ts';

export interface NamedDefect {
  readonly id: string;
  readonly title: string;
}

export interface NetworkDefect extends NamedDefect {
  /** In the target, which plain decoding shares: speculation on and off are wrong alike. Else in the draft alone. */
  readonly target: boolean;
}

export interface OpenedToy {
  readonly rule: VerificationRule;
  readonly defect: string | null;
  readonly blockSize?: number;
  readonly tape?: readonly number[];
}

/** Golden rows of another implementation, and how far the engine's are from them. */
export interface GoldenRows {
  readonly rows: number;
  /** Largest difference of a log-probability, natural logarithm. */
  readonly largest: number;
  /** What FP32 sums explain. */
  readonly bound: number;
}

export interface TrainedModel {
  readonly name: string;
  /** Prompts the acceptance floor is measured on. */
  readonly prompts: readonly GatePrompt[];
  /** Engines over the weights, with a defect of the networks or of the loop, or none. The cards say which. */
  open(rule: VerificationRule, network: string | null, loop: string | null): Promise<EngineSource>;
  golden(network: string | null): Promise<GoldenRows>;
  /** What the gate is told of these weights beforehand, as whoever runs it would be told. */
  readonly stated: Stated;
}

export interface Stated {
  readonly acceptance: (card: EngineCard) => AcceptanceFloor | null;
  readonly reference: (card: EngineCard) => ReferenceScores | null;
}

export interface DefectBuild {
  readonly name: string;
  /** Defects of the decode loop. */
  readonly loop: readonly NamedDefect[];
  readonly networks: readonly NetworkDefect[];
  /** A toy inside the decode loop; rounds carry their rows and numbers. */
  openToy(toy: Toy, options: OpenedToy): Promise<Engine>;
  /** null: no weights here. */
  readonly trained: TrainedModel | null;
}

/** The same engine, and not a word of its defects: whether a judge sees them must not hang on a confession. */
export function undeclared(engine: Engine): Engine {
  const { openToy, generator, tapes } = engine;
  return {
    card: { ...engine.card, defects: [] },
    ...(generator === undefined ? {} : { generator }),
    ...(tapes === undefined ? {} : { tapes }),
    ...(openToy === undefined ? {} : { openToy: async (toy, options) => undeclared(await openToy(toy, options)) }),
    open: (prompt, decoding) => engine.open(prompt, decoding),
    score: (prefix, next) => engine.score(prefix, next),
    close: () => engine.close(),
  };
}
