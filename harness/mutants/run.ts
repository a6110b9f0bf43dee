/**
 * Every defect of the catalogue through every layer that applies to it. A defect that nothing saw survives, also where no fixture
 * given could have shown it: not being looked at is no way to pass. What needs the build with defects compiled in and does not
 * have it was not run, which is neither.
 */
import { DEFECTS, type Defect } from '../oracle/defects.ts';
import type { Fixture } from '../oracle/fixture.ts';
import type { DefectBuild } from './build.ts';
import {
  type CatalogueRow,
  LOOP_ROWS,
  METRIC_ROWS,
  NETWORK_ROWS,
  NOT_IN_LOOP,
  OUTSIDE_REGISTRY,
  SHARED_ROWS,
} from './catalogue.ts';
import { admitsSynthetic, CLEAN_METRICS, chunksAsTokens, countsPastStop } from './doubles.ts';
import {
  chainSource,
  cheapestFirst,
  cleanOf,
  cleanOracle,
  type Found,
  gateFixture,
  gateRule,
  isOnChain,
  lookAtControl,
  lookAtEdges,
  lookAtLaw,
  lookAtLoop,
  lookAtMetric,
  lookAtSessions,
  lookThroughGate,
  loopThroughGate,
  metricOf,
  oracleThroughGate,
  secondsSince,
  trainedThroughGate,
  wrapped,
} from './layers.ts';
import { oracleSource } from './oracle-engine.ts';
import {
  type CleanRow,
  gateOf,
  isGate,
  type Layer,
  type Look,
  MUTANTS_SCHEMA_ID,
  type MutantRow,
  type MutantsReport,
} from './schema.ts';
import { acceptanceByPrompt, judgeFloor, judgeGolden, judgeTrainedReplay } from './trained.ts';

export interface MutantsInput {
  readonly fixtures: readonly Fixture[];
  /** null: absent. */
  readonly build: DefectBuild | null;
  /** Default: the whole registry, and the rows outside it. */
  readonly registry?: readonly Defect[];
  /** Ids to run. Default: all. */
  readonly only?: readonly string[];
  readonly progress?: (line: string) => void;
}

type Looks = readonly (readonly [Layer, Found])[];
interface Step {
  readonly layers: readonly Layer[];
  /** null: something it needs is absent. */
  readonly run: (() => Promise<Looks> | Looks) | null;
}

interface Case extends CatalogueRow {
  readonly steps: readonly Step[];
  readonly control: Defect | null;
  readonly note: string | null;
}

const ABSENT = 'not run: defect build absent; npm run build:defects';
const ALIKE =
  'of the target: plain decoding has it too, so that losslessness compares two wrong arms and cannot see it; only what was stated beforehand can: golden rows, reference scores, and the acceptance length because the draft was trained for another target';

export async function runMutants(input: MutantsInput): Promise<MutantsReport> {
  const started = performance.now();
  const lab = new Lab(input.fixtures, input.build);
  const wanted = new Set(input.only ?? []);
  const cases = lab
    .cases(input.registry ?? DEFECTS, input.registry === undefined)
    .filter(({ id }) => input.only === undefined || wanted.has(id));
  const rows: MutantRow[] = [];
  for (const [i, one] of cases.entries()) {
    input.progress?.(`${i + 1} of ${cases.length}, ${one.id}: ${one.title}`);
    rows.push(await rowOf(one));
  }
  const used = new Set(
    rows.flatMap(({ looks }) => looks.filter(({ outcome }) => outcome !== 'not run')).map(({ layer }) => layer),
  );
  const clean: CleanRow[] = [];
  input.progress?.('without a defect');
  for (const [layer, look] of lab.clean()) {
    if (!used.has(layer)) continue;
    const at = performance.now();
    clean.push({ layer, ...(await look()), seconds: secondsSince(at) });
  }
  const passed =
    clean.every(({ holds }) => holds) &&
    rows.every(({ outcome }) => outcome === 'killed' || outcome === 'control holds');
  return {
    schema: MUTANTS_SCHEMA_ID,
    fixtures: lab.fixtures.map(({ name }) => name),
    build: input.build?.name ?? null,
    passed,
    clean,
    defects: rows.sort((a, b) => rank(a) - rank(b)),
    notCovered: notCovered(new Set(rows.map(({ id }) => id))),
    seconds: secondsSince(started),
  };
}

/** Survivors, failing controls, what was not run, what the gate does not see, the rest. */
export function rank({ outcome, gate }: MutantRow): number {
  const order = ['survived', 'control fails', 'not run'].indexOf(outcome);
  return order >= 0 ? order : gate === 'killed' ? 4 : 3;
}

function notCovered(run: ReadonlySet<string>): MutantsReport['notCovered'] {
  const known = [...DEFECTS, ...OUTSIDE_REGISTRY];
  return known.filter(({ id }) => !run.has(id)).map(({ id, title }) => ({ id, title }));
}

async function rowOf({ id, title, steps, control, note }: Case): Promise<MutantRow> {
  const started = performance.now();
  const looks: Look[] = [];
  for (const { layers, run } of steps) {
    if (run === null) {
      const nothing = { where: 'nowhere', measure: ABSENT, distance: null, n: null, of: null, seconds: 0 };
      looks.push(...layers.map((layer) => ({ layer, outcome: 'not run' as const, ...nothing })));
      continue;
    }
    const at = performance.now();
    const seen = (await run()).flatMap(([layer, found]) => (found === null ? [] : [{ layer, ...found }]));
    // Judges of one set of sessions share its time.
    const seconds = secondsSince(at) / Math.max(1, seen.length);
    looks.push(...seen.map((look) => ({ ...look, seconds: Math.round(seconds * 1000) / 1000 })));
  }
  const gate = gateOf(looks);
  const base = { id, title, gate, looks, seconds: secondsSince(started) };
  if (control !== null) {
    const fails = controlFails(looks);
    return { ...base, outcome: fails === null ? 'control holds' : 'control fails', note: fails ?? note };
  }
  const killed = looks.some(({ outcome }) => outcome === 'killed');
  const absent = looks.some(({ outcome }) => outcome === 'not run');
  const outcome = killed ? 'killed' : absent ? 'not run' : 'survived';
  return { ...base, outcome, note: looks.length === 0 ? 'nothing here can show it' : note };
}

/** A control must be kept by every law of what is emitted, and seen by the acceptance. */
function controlFails(looks: readonly Look[]): string | null {
  const exact = looks.find(({ layer }) => layer === 'exact enumeration');
  if (exact !== undefined && exact.outcome !== 'killed') return exact.measure;
  const law = looks.find(({ layer, outcome }) => layer === 'loop: emitted law' && outcome === 'killed');
  if (law !== undefined) return `the law of the loop, ${law.where}: ${law.measure}`;
  const gate = looks.find(
    ({ layer, outcome, measure }) => isGate(layer) && outcome === 'killed' && /emission/.test(measure),
  );
  return gate === undefined ? null : `${gate.where}: ${gate.measure}`;
}

/** What the layers run on, and which of them apply to a defect. */
class Lab {
  readonly fixtures: readonly Fixture[];
  readonly #build: DefectBuild | null;
  readonly #gate: Fixture;
  #floor: readonly number[] | null = null;

  constructor(fixtures: readonly Fixture[], build: DefectBuild | null) {
    this.fixtures = cheapestFirst(fixtures);
    this.#build = build;
    // Rows of the gate's engines: second order and several drafts, where the fixtures have such.
    const rich = ({ order, block, decoding, rows }: Fixture) =>
      order >= 2 && block >= 3 && decoding.temperature > 0 && rows === 'probabilities';
    this.#gate = this.fixtures.find(rich) ?? this.fixtures[0]!;
  }

  cases(registry: readonly Defect[], whole: boolean): Case[] {
    const sampled = registry.map((defect) => this.#sampler(defect, DEFECTS.includes(defect)));
    if (!whole) return sampled;
    return [
      ...sampled,
      ...METRIC_ROWS.map((row) => this.#metric(row)),
      ...SHARED_ROWS.map((row) => ({ ...row, steps: this.#chain(row.id), control: null, note: null })),
      ...LOOP_ROWS.map((row) => ({ ...row, steps: this.#inLoop(row.id, null, true), control: null, note: null })),
      ...NETWORK_ROWS.map(({ id, title, target }) => ({
        id,
        title,
        steps: this.#network(id),
        control: null,
        note: target ? ALIKE : null,
      })),
    ];
  }

  #sampler(defect: Defect, known: boolean): Case {
    const { id, title } = defect;
    const control = defect.effects.includes('acceptance') ? defect : null;
    const { fixtures } = this;
    const oracle: Step[] =
      control === null
        ? [
            { layers: ['edge vectors'], run: () => [['edge vectors', lookAtEdges(defect)]] },
            { layers: ['exact enumeration'], run: () => [['exact enumeration', lookAtLaw(defect, fixtures)]] },
            { layers: ['seeded simulation'], run: () => [['seeded simulation', lookAtSessions(defect, fixtures)]] },
          ]
        : [
            {
              layers: ['exact enumeration'],
              run: () => [['exact enumeration', lookAtControl(defect, fixtures).look]],
            },
          ];
    // A defect of a test's own goes no further than the oracle: engines know defects by their ids.
    const reason = NOT_IN_LOOP[id];
    const engines = known
      ? [
          ...(reason === undefined ? this.#inLoop(id, defect, false) : []),
          this.#gateStep('pr gate: oracle', () => oracleThroughGate(this.#gate, defect)),
          ...this.#chain(id),
          ...(id === 'H04' ? [this.#declared()] : []),
        ]
      : [];
    const note = known && reason !== undefined ? `not in the C++ loop: ${reason}` : null;
    return { id, title, steps: [...oracle, ...engines], control, note };
  }

  #gateStep(layer: Layer, look: () => Promise<Found>): Step {
    return { layers: [layer], run: async () => [[layer, await look()]] };
  }

  #chain(id: string): Step[] {
    if (!isOnChain(id)) return [];
    return [this.#gateStep('pr gate: fake engine', () => lookThroughGate(chainSource(id), 'Markov engine'))];
  }

  #declared(): Step {
    const source = wrapped(this.#correct(), admitsSynthetic);
    return this.#gateStep('pr gate: fake engine', () => lookThroughGate(source, 'admitted on the card'));
  }

  #correct() {
    return oracleSource(gateFixture(this.#gate, null), 'reject', null);
  }

  #metric(row: CatalogueRow): Case {
    const metric = metricOf(row.id);
    const steps: Step[] = [];
    if (metric !== undefined) {
      steps.push({
        layers: ['metric recount'],
        run: async () => [['metric recount', await lookAtMetric(this.#gate, metric)]],
      });
      const wrap = row.id === 'H01' ? countsPastStop : chunksAsTokens;
      steps.push(
        this.#gateStep('pr gate: fake engine', () => lookThroughGate(wrapped(this.#correct(), wrap), 'retold rounds')),
      );
    }
    return { ...row, steps: [...steps, ...this.#chain(row.id)], control: null, note: null };
  }

  #inLoop(id: string, defect: Defect | null, floor: boolean): Step[] {
    const build = this.#build;
    const trained = build?.trained ?? null;
    const layers: Layer[] = ['loop: replay'];
    return [
      { layers, run: build === null ? null : () => lookAtLoop(build, id, defect, this.fixtures) },
      {
        layers: ['trained: replay'],
        run:
          trained === null
            ? null
            : async () => {
                const { killed, ...sight } = await judgeTrainedReplay(trained, id);
                const outcome = killed ? ('killed' as const) : ('not seen' as const);
                return [['trained: replay', { outcome, where: `${trained.name}, reject`, ...sight }]];
              },
      },
      ...(floor ? [this.#floorStep(null, id)] : []),
      {
        layers: ['pr gate: loop'],
        run:
          build === null
            ? null
            : async () => [['pr gate: loop', await loopThroughGate(build, this.#gate, id, gateRule(defect))]],
      },
    ];
  }

  #floorStep(network: string | null, loop: string | null): Step {
    const trained = this.#build?.trained ?? null;
    return {
      layers: ['trained: acceptance floor'],
      run:
        trained === null
          ? null
          : async () => {
              const correct = await this.#correctLengths();
              const lengths = await acceptanceByPrompt(await trained.open('match', network, loop), trained.prompts);
              const { killed, ...sight } = judgeFloor(correct, lengths);
              const outcome = killed ? ('killed' as const) : ('not seen' as const);
              return [['trained: acceptance floor', { outcome, where: `${trained.name}, greedy`, ...sight }]];
            },
    };
  }

  async #correctLengths(): Promise<readonly number[]> {
    const trained = this.#build!.trained!;
    this.#floor ??= await acceptanceByPrompt(await trained.open('match', null, null), trained.prompts);
    return this.#floor;
  }

  #network(id: string): Step[] {
    const trained = this.#build?.trained ?? null;
    return [
      {
        layers: ['trained: golden rows'],
        run:
          trained === null
            ? null
            : async () => {
                const { killed, ...sight } = await judgeGolden(trained, id);
                const outcome = killed ? ('killed' as const) : ('not seen' as const);
                return [['trained: golden rows', { outcome, where: trained.name, ...sight }]];
              },
      },
      this.#floorStep(id, null),
      {
        layers: ['pr gate: trained'],
        run: trained === null ? null : async () => [['pr gate: trained', await trainedThroughGate(trained, id, null)]],
      },
    ];
  }

  /** What has no defect, layer by layer. */
  clean(): [Layer, () => Promise<Pick<CleanRow, 'holds' | 'measure'>>][] {
    const build = this.#build;
    const trained = build?.trained ?? null;
    const gate = async (layer: Layer, look: Promise<NonNullable<Found>>) => cleanOf(layer, await look);
    const rows: [Layer, () => Promise<Pick<CleanRow, 'holds' | 'measure'>>][] = [
      ['edge vectors', async () => cleanOracle('edge vectors', this.fixtures)],
      ['exact enumeration', async () => cleanOracle('exact enumeration', this.fixtures)],
      [
        'metric recount',
        async () => {
          const looks = await Promise.all(
            Object.values(CLEAN_METRICS).map((metric) => lookAtMetric(this.#gate, metric)),
          );
          const holds = looks.every(({ outcome }) => outcome === 'not seen');
          return { holds, measure: looks.map(({ measure }) => measure).join('; ') };
        },
      ],
      ['pr gate: oracle', () => gate('pr gate: oracle', oracleThroughGate(this.#gate, null))],
      ['pr gate: fake engine', () => gate('pr gate: fake engine', lookThroughGate(chainSource(null), 'Markov engine'))],
    ];
    if (build !== null) {
      let loop: Promise<[Layer, NonNullable<Found>][]> | null = null;
      const judged = async (layer: Layer) => {
        loop ??= lookAtLoop(build, null, null, this.fixtures);
        const look = (await loop).find(([name]) => name === layer)?.[1];
        return look === undefined ? { holds: false, measure: 'not judged' } : cleanOf(layer, look);
      };
      const names: Layer[] = ['edge vectors', 'books', 'replay', 'counters', 'rows', 'emitted law', 'accepted law'].map(
        (name) => `loop: ${name}` as Layer,
      );
      rows.push(...names.map((layer): (typeof rows)[number] => [layer, () => judged(layer)]));
      rows.push(['pr gate: loop', () => gate('pr gate: loop', loopThroughGate(build, this.#gate, null, 'reject'))]);
    }
    if (trained !== null) {
      const seen = ({ killed, measure }: { killed: boolean; measure: string }) => ({ holds: !killed, measure });
      rows.push(
        ['trained: replay', async () => seen(await judgeTrainedReplay(trained, null))],
        ['trained: golden rows', async () => seen(await judgeGolden(trained, null))],
        [
          'trained: acceptance floor',
          async () => {
            const correct = await this.#correctLengths();
            const again = await acceptanceByPrompt(await trained.open('match', null, null), trained.prompts);
            return seen(judgeFloor(correct, again));
          },
        ],
        ['pr gate: trained', () => gate('pr gate: trained', trainedThroughGate(trained, null, null))],
      );
    }
    return rows;
  }
}
