/**
 * Every defect of the catalogue through the layers, to the first that sees it. A defect that nothing saw survives, also
 * where no fixture given could have shown it: not being looked at is no way to pass.
 */
import { DEFECTS, type Defect } from '../oracle/defects.ts';
import type { Fixture } from '../oracle/fixture.ts';
import { OUTSIDE_REGISTRY } from './catalogue.ts';
import {
  cheapestFirst,
  isOnChain,
  type Look,
  lookAtClean,
  lookAtControl,
  lookAtEdges,
  lookAtGate,
  lookAtLaw,
  lookAtSessions,
  secondsSince,
} from './layers.ts';
import { type Layer, MUTANTS_SCHEMA_ID, MutantOutcome, type MutantRow, type MutantsReport } from './schema.ts';

export interface MutantsInput {
  readonly fixtures: readonly Fixture[];
  /** Default: the whole registry, and the defects that only the gate's engine has. */
  readonly registry?: readonly Defect[];
  readonly progress?: (line: string) => void;
}

export async function runMutants(input: MutantsInput): Promise<MutantsReport> {
  const started = performance.now();
  const registry = input.registry ?? DEFECTS;
  const fixtures = cheapestFirst(input.fixtures);
  const onlyOnChain = input.registry === undefined ? OUTSIDE_REGISTRY.filter(({ id }) => isOnChain(id)) : [];
  const rows: MutantRow[] = [];
  for (const defect of registry) {
    input.progress?.(`${defect.id}: ${defect.title}`);
    rows.push(defect.effects.includes('acceptance') ? control(defect, fixtures) : await mutant(defect, fixtures));
  }
  for (const { id, title } of onlyOnChain) {
    input.progress?.(`${id}: ${title}`);
    rows.push(await throughLayers(id, title, [['pr gate', () => lookAtGate(id)]]));
  }
  const used = new Set(rows.flatMap(({ tried }) => tried));
  const checked: readonly Layer[] = ['edge vectors', 'exact enumeration', 'pr gate'];
  // Simulation compares with the correct sampler's own sessions, defect by defect.
  const clean = await lookAtClean(
    fixtures,
    checked.filter((layer) => used.has(layer)),
  );
  const rank = ({ outcome }: MutantRow): number => MutantOutcome.options.indexOf(outcome);
  const passed =
    clean.every(({ holds }) => holds) &&
    rows.every(({ outcome }) => outcome === 'killed' || outcome === 'control holds');
  return {
    schema: MUTANTS_SCHEMA_ID,
    fixtures: fixtures.map(({ name }) => name),
    passed,
    clean,
    defects: rows.sort((a, b) => rank(a) - rank(b)),
    notCovered: notCovered(new Set(rows.map(({ id }) => id))),
    seconds: secondsSince(started),
  };
}

function notCovered(run: ReadonlySet<string>): MutantsReport['notCovered'] {
  const known = [...DEFECTS, ...OUTSIDE_REGISTRY];
  return known.filter(({ id }) => !run.has(id)).map(({ id, title }) => ({ id, title }));
}

type Step = readonly [layer: Layer, look: () => Look | Promise<Look>];

function mutant(defect: Defect, fixtures: readonly Fixture[]): Promise<MutantRow> {
  return throughLayers(defect.id, defect.title, [
    ['edge vectors', () => lookAtEdges(defect)],
    ['exact enumeration', () => lookAtLaw(defect, fixtures)],
    ['seeded simulation', () => lookAtSessions(defect, fixtures)],
    ['pr gate', () => lookAtGate(defect.id)],
  ]);
}

async function throughLayers(id: string, title: string, steps: readonly Step[]): Promise<MutantRow> {
  const started = performance.now();
  const tried: Layer[] = [];
  for (const [layer, look] of steps) {
    const found = await look();
    if (found === null) continue;
    tried.push(layer);
    if (found !== 'nothing seen') {
      return { id, title, outcome: 'killed', found, reason: null, tried, seconds: secondsSince(started) };
    }
  }
  const reason = tried.length === 0 ? 'nothing here can show it' : null;
  return { id, title, outcome: 'survived', found: null, reason, tried, seconds: secondsSince(started) };
}

function control(defect: Defect, fixtures: readonly Fixture[]): MutantRow {
  const started = performance.now();
  const { id, title } = defect;
  const { found, reason } = lookAtControl(defect, fixtures);
  const outcome = found === null ? 'control fails' : 'control holds';
  return { id, title, outcome, found, reason, tried: ['exact enumeration'], seconds: secondsSince(started) };
}
