/**
 * Stand-ins for the build with defects compiled in: the oracle's engine behind the same verbs. One that carries what it is asked to,
 * one whose defects have no effect, which every layer must let pass.
 */
import type { DefectBuild, TrainedModel } from '../../../harness/mutants/build.ts';
import { oracleSource } from '../../../harness/mutants/oracle-engine.ts';
import { DEFECTS } from '../../../harness/oracle/defects.ts';
import type { Fixture } from '../../../harness/oracle/fixture.ts';
import { fixture } from '../oracle/support.ts';

const PROMPTS = Array.from({ length: 24 }, (_, i) => ({ name: `${i}`, ids: [i % 4, (i >> 2) % 4, 1] }));

/** The same target and a draft that takes every token for its mirror image. */
const badlyDrafted = (good: Fixture): Fixture => ({
  ...good,
  draft: good.draft.map((slots) => slots.map((row) => [...row].reverse())),
});

/** `golden`: by network, the difference it shows. `slow`: networks whose draft is bad. */
export function trainedDouble(
  golden: Readonly<Record<string, number>>,
  slow: readonly string[],
  prompts: TrainedModel['prompts'] = PROMPTS,
): TrainedModel {
  return {
    name: 'trained double',
    prompts,
    open: async (rule, network, loop) => {
      const rows = network !== null && slow.includes(network) ? badlyDrafted(fixture('e1')) : fixture('e1');
      return oracleSource(rows, rule, DEFECTS.find((defect) => defect.id === loop) ?? null);
    },
    stated: {
      acceptance: ({ rule }) => ({ floor: rule === 'reject' ? 2.5 : 1.5, greedy: [], source: 'the test' }),
      reference: () => null,
    },
    golden: async (network) => ({ rows: 4, largest: golden[network ?? ''] ?? 1e-6, bound: 1e-3 }),
  };
}

/** `effect` false: sessions are correct whatever defect is asked for. */
export function buildDouble(effect: boolean, trained: TrainedModel | null = null): DefectBuild {
  return {
    name: 'double',
    loop: DEFECTS,
    networks: [],
    trained,
    openToy: async (toy, { rule, defect, blockSize, tape }) => {
      const found = effect ? (DEFECTS.find(({ id }) => id === defect) ?? null) : null;
      const engine = await oracleSource(fixture('e1'), rule, found).open({});
      return engine.openToy!(toy, {
        ...(blockSize === undefined ? {} : { blockSize }),
        ...(tape === undefined ? {} : { tape }),
      });
    },
  };
}
