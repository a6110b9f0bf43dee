/** The toy engine of the addon: a fixture's tables decoded by the real loop, caches, sampling and stop code. */
import type { Engine, Toy, VerificationRule } from '../../harness/engine.ts';

export interface ToyChoice {
  readonly rule: VerificationRule;
  /** A defect of the build that has them compiled in; that build is opened then. */
  readonly defect?: string;
  readonly replay?: boolean;
}

/** @throws EnvironmentError without the addon, or without the defect build where a defect is asked for */
export async function openToy(toy: Toy, choice: ToyChoice): Promise<Engine> {
  const { ToyModel, tablesOf } = await import('../../native/engines.ts');
  const { defectsAddonFile } = await import('../../native/addon.ts');
  const { rule, defect, replay = false } = choice;
  const model = await ToyModel.load(tablesOf(toy), defect === undefined ? undefined : defectsAddonFile());
  return model.engine({ rule, replay, ...(defect === undefined ? {} : { defect }) });
}
