/** Cells beside each other, what follows for a whole node, and the targets that were set before anything was measured. */
import { between, ratioBetween, spreadKnown, widened } from '../../measure/interval.ts';
import type { Measured } from '../../report/schema.ts';
import { mean } from '../../stats/averages.ts';
import { STACK_FORM } from './collectives.ts';
import { type CellSums, interval, LEVEL, readCeiling, told, untold } from './figures.ts';
import { BASE_CONTEXT, LONG_CONTEXT, type NodePlan, type PlanCell, type PlanModel } from './plan.ts';
import type { StoredNodeRun } from './reader.ts';
import type { NodeCollectives, NodeComparison, NodeTarget } from './report.ts';
import { PRO, stepBytes } from './shape.ts';

/** A cell with its sums; null where nothing of it counts. */
export type Sums = ReadonlyMap<string, CellSums>;

/** Words that stand beside every number of a cell. */
export function labelsOf(cell: PlanCell, model: PlanModel): string[] {
  return [
    'synthetic weights',
    ...(cell.profile === null ? [] : ['assumed acceptance']),
    ...(cell.promptTokens < cell.context ? ['synthetic cache'] : []),
    ...(model.gpus < 8 ? [`${model.gpus} of 8 GPUs`] : []),
    ...(model.layers < PRO.layers ? [`${model.layers} of ${PRO.layers} layers`] : []),
  ];
}

interface Place {
  readonly cell: PlanCell;
  readonly model: PlanModel;
  readonly sums: CellSums;
}

export class Comparer {
  readonly #run: StoredNodeRun;
  readonly #sums: Sums;
  readonly #collectives: NodeCollectives | undefined;

  constructor(run: StoredNodeRun, sums: Sums, collectives: NodeCollectives | undefined) {
    this.#run = run;
    this.#sums = sums;
    this.#collectives = collectives;
  }

  get #plan(): NodePlan {
    return this.#run.plan;
  }

  #place(id: string): Place | null {
    const cell = this.#plan.cells.find((each) => each.id === id);
    const model = this.#plan.models.find((each) => each.id === cell?.model);
    const sums = this.#sums.get(id);
    return cell === undefined || model === undefined || sums === undefined ? null : { cell, model, sums };
  }

  /** `top` over `bottom`, of tokens a second or of the mean step; a reason where the two may not be held together. */
  #ratio(
    id: string,
    name: string,
    of: 'speed' | 'step',
    top: string,
    bottom: string,
    equal: readonly Same[] = SHAPE,
  ): NodeComparison {
    const what = of === 'speed' ? 'tokens per second' : 'mean step time';
    const formula = `${what} of ${top} over that of ${bottom}`;
    const [a, b] = [this.#place(top), this.#place(bottom)];
    if (a === null || b === null) {
      const missing = a === null ? top : bottom;
      return { id, name, formula, labels: [], figure: untold(`${missing} was not measured`) };
    }
    const labels = [...new Set([...labelsOf(a.cell, a.model), ...labelsOf(b.cell, b.model)])];
    const differs = equal.find((field) => a.model[field] !== b.model[field]);
    if (differs !== undefined) {
      const reason = `${top} has ${a.model[differs]} ${differs}, ${bottom} has ${b.model[differs]}: no ratio is taken between them`;
      return { id, name, formula, labels, figure: untold(reason) };
    }
    return { id, name, formula, labels, figure: ratioFigure(a.sums, b.sums, of) };
  }

  comparisons(): NodeComparison[] {
    const rows: NodeComparison[] = [
      this.#againstReference('reference', 'The stack against the plain FP8 reference', 'reference/plain'),
      this.#againstReference(
        'reference-graph',
        'The stack against the FP8 reference as a CUDA graph',
        'reference/graph',
      ),
      this.#ratio(
        'speculation',
        'Speculation on against off, resident kernel, tokens per second',
        'speed',
        'ablation/mxfp4/on/resident',
        'ablation/mxfp4/off/resident',
      ),
    ];
    for (const [word, text] of [
      ['on', 'with speculation'],
      ['off', 'without speculation'],
    ] as const) {
      const cell = (mode: string, experts = 'mxfp4'): string => `ablation/${experts}/${word}/${mode}`;
      rows.push(
        this.#faster(
          `persistent-graph-${word}`,
          `Resident kernel against CUDA graph, ${text}`,
          cell('resident'),
          cell('graph'),
        ),
        this.#faster(`graph-ops-${word}`, `CUDA graph against single launches, ${text}`, cell('graph'), cell('ops')),
        this.#faster(
          `formats-${word}`,
          `MXFP4 against FP8 experts, ${text}, resident kernel`,
          cell('resident'),
          cell('resident', 'fp8'),
        ),
      );
    }
    return [
      ...rows,
      this.#longContext(),
      ...[2, 4, 8].map((count) =>
        this.#faster(`gpus-${count}`, `${count} GPUs against 1, same layers`, `gpus/${count}/on`, 'gpus/1/on', [
          'layers',
          'experts',
          'engine',
        ]),
      ),
      ...[0.5, 1].map((share) =>
        this.#faster(
          `routing-${share}`,
          `Routing shared by ${share} against independent`,
          `routing/${share}/on`,
          this.#plan.cells.some(({ id }) => id === 'routing/0/on') ? 'routing/0/on' : 'ablation/mxfp4/on/resident',
        ),
      ),
    ];
  }

  /** How many times faster a step of `fast` is: at the same draws of acceptance also the ratio of tokens per second. */
  #faster(id: string, name: string, fast: string, slow: string, equal: readonly Same[] = SHAPE): NodeComparison {
    return this.#ratio(id, name, 'step', slow, fast, equal);
  }

  #longContext(): NodeComparison {
    const name = 'Step time at 128K context against 4K';
    return this.#ratio('long-context', name, 'step', `context/${LONG_CONTEXT}`, `context/${BASE_CONTEXT}`);
  }

  /** The headline where the reference has its layers, else the cell that has the reference's. */
  #besideReference(): string {
    const matched = this.#plan.cells.some((cell) => cell.id === 'matched/on');
    return matched ? 'matched/on' : `headline/${this.#plan.input.profiles[0]!.name}`;
  }

  #againstReference(id: string, name: string, bottom: string): NodeComparison {
    return this.#ratio(id, name, 'speed', this.#besideReference(), bottom);
  }

  /** Empty when the headline itself ran on 8 GPUs with all layers. */
  projections(): NodeComparison[] {
    return this.#plan.input.profiles.flatMap((profile) => {
      const place = this.#place(`headline/${profile.name}`);
      if (place === null || whole(place.model)) return [];
      const { cell, model, sums } = place;
      const labels = ['projection', ...labelsOf(cell, model)];
      const perRound = sums.tokens / sums.rounds;
      const bytes = stepBytes({
        layers: PRO.layers,
        experts: model.experts,
        speculation: true,
        distinct: sums.distinct,
        context: cell.context + cell.tokens / 2,
      });
      const byBytes = (sums.step * (bytes.total / 8)) / (sums.bytes.total / model.gpus);
      const byLayers = (sums.step * PRO.layers) / model.layers;
      const row = (how: string, formula: string, step: number): NodeComparison => ({
        id: `projection-${profile.name}-${how}`,
        name: `Tokens per second on 8 GPUs with ${PRO.layers} layers, ${profile.name} (${how === 'bytes' ? 'every byte as fast as here' : 'every layer as long as here'})`,
        formula,
        labels,
        figure: Number.isFinite(step)
          ? told(perRound / step, 'tokens/s', sums.generations.length, 'repeats')
          : untold('the engine does not say how many experts it touched'),
      });
      return [
        row(
          'bytes',
          'tokens a round / (mean step x bytes a GPU of the whole shape on 8 GPUs / bytes a GPU here); leaves out that narrower shards and more GPUs wait more',
          byBytes,
        ),
        row(
          'layers',
          `tokens a round / (mean step x ${PRO.layers} / layers here); leaves out that each of 8 GPUs reads less, and that more GPUs wait more`,
          byLayers,
        ),
      ];
    });
  }

  /** In the form in which the stack decodes; what was measured on fewer GPUs stands in the reason. */
  #exposed(): Measured {
    const { input } = this.#plan;
    // Runs that are older than the part say what they said.
    if (input.lacks.collectives === undefined)
      return untold(
        'this benchmark does not part a step into its waits; the kernels are measured alone by kilotoken bench kernels',
      );
    if (this.#collectives === undefined)
      return untold(input.lacks.collectives ?? 'not yet measured on 8 x H200: this run has no collectives');
    const gpu = this.#run.manifest.gpus[0]!.name;
    const of = (gpus: number): Measured | undefined =>
      this.#collectives!.exposed.find(({ id }) => id === `exposed-${gpus}-${STACK_FORM}`)?.figure;
    const here = of(8);
    if (gpu.includes('H200') && here !== undefined) return here;
    const fewer = (this.#plan.collectives?.gpus ?? []).flatMap((gpus) => {
      const figure = of(gpus);
      return figure?.state === 'measured' ? [`on ${gpus} x ${gpu} it is ${figure.value.toFixed(2)} us`] : [];
    });
    return untold(['not yet measured on 8 x H200', ...(fewer.length === 0 ? [] : [fewer.join(', ')])].join(': '));
  }

  targets(comparisons: readonly NodeComparison[]): NodeTarget[] {
    const { profiles } = this.#plan.input;
    const main = this.#place(`headline/${profiles[0]!.name}`)?.model ?? null;
    const gpu = this.#run.manifest.gpus[0]!.name;
    const here = main !== null && whole(main) && gpu.includes('H200');
    const lack = `not yet measured on 8 x H200 with all ${PRO.layers} layers: this run has ${main?.gpus ?? this.#plan.input.gpus} x ${gpu}${main === null ? ' and no headline' : ` and ${main.layers} layers`}`;
    const at = (target: number): CellSums | null => {
      const profile = profiles.find((each) => each.target === target);
      return profile === undefined ? null : (this.#sums.get(`headline/${profile.name}`) ?? null);
    };
    const of = (sums: CellSums | null, value: (sums: CellSums) => number | null, unit: string): Measured => {
      if (!here) return untold(lack);
      const found = sums === null ? null : value(sums);
      return found === null || Number.isNaN(found) || sums === null
        ? untold('the cell was not measured')
        : told(found, unit, sums.generations.length, 'repeats');
    };
    const row = (id: string): Measured => {
      if (!here) return untold(lack);
      return comparisons.find((each) => each.id === id)?.figure ?? untold('the cells were not measured');
    };
    const ceiling = readCeiling(this.#run, 8);
    // Draws that happened to accept more than was stated are not to reach a target.
    const speed =
      (target: number) =>
      (sums: CellSums): number =>
        Math.min(sums.tokensPerSecond, target / sums.step);
    const cut = (figure: Measured, sums: CellSums | null, target: number): Measured => {
      if (figure.state !== 'measured' || sums === null) return figure;
      const by = speed(target)(sums) / sums.tokensPerSecond;
      const { value, interval: around } = figure;
      return {
        ...figure,
        value: value * by,
        interval: around === null ? null : { ...around, low: around.low * by, high: around.high * by },
      };
    };
    const list: Omit<NodeTarget, 'outcome'>[] = [
      {
        id: 'speed-6.30',
        name: 'Tokens per second at acceptance 6.30, realised or stated, whichever gives fewer',
        unit: 'tokens/s',
        must: 1100,
        aim: 1600,
        better: 'higher',
        figure: of(at(6.3), speed(6.3), 'tokens/s'),
      },
      {
        id: 'speed-4.29',
        name: 'Tokens per second at acceptance 4.29, realised or stated, whichever gives fewer',
        unit: 'tokens/s',
        must: 750,
        aim: 1000,
        better: 'higher',
        figure: of(at(4.29), speed(4.29), 'tokens/s'),
      },
      {
        id: 'step',
        name: 'Verify and draft, a step',
        unit: 'ms',
        must: 5.7,
        aim: 4,
        better: 'lower',
        figure: of(at(6.3), (sums) => sums.step * 1e3, 'ms'),
      },
      {
        id: 'ceiling',
        name: 'Share of the measured read ceiling',
        unit: '',
        must: 0.58,
        aim: 0.82,
        better: 'higher',
        figure: of(at(6.3), (sums) => (ceiling === null ? null : sums.bytes.total / sums.step / ceiling), ''),
      },
      {
        id: 'all-reduce',
        name: 'In-kernel all-reduce, 8 x 6144, exposed',
        unit: 'us',
        must: 5,
        aim: 3,
        better: 'lower',
        figure: this.#exposed(),
      },
      {
        id: 'reference',
        name: 'Against the plain FP8 reference on the same node',
        unit: 'x',
        must: 10,
        aim: 20,
        better: 'higher',
        figure: cut(row('reference'), this.#sums.get(this.#besideReference()) ?? null, profiles[0]!.target),
      },
      {
        id: 'persistent',
        name: 'Resident kernel against the CUDA graph',
        unit: 'x',
        must: 1.15,
        aim: 1.4,
        better: 'higher',
        figure: row('persistent-graph-on'),
      },
      {
        id: 'context',
        name: 'Step time at 128K context against 4K',
        unit: 'x',
        must: 1.25,
        aim: 1.1,
        better: 'lower',
        figure: row('long-context'),
      },
    ];
    return list.map((target) => ({ ...target, outcome: outcomeOf(target) }));
  }
}

type Same = 'layers' | 'gpus' | 'experts' | 'engine';
/** What two cells share for a ratio between them to mean anything. */
const SHAPE: readonly Same[] = ['layers', 'gpus'];

function whole(model: PlanModel): boolean {
  return model.gpus === 8 && model.layers === PRO.layers;
}

function outcomeOf({ figure, must, aim, better }: Omit<NodeTarget, 'outcome'>): NodeTarget['outcome'] {
  if (figure.state !== 'measured') return 'not yet measured';
  const reaches = (mark: number): boolean => (better === 'higher' ? figure.value >= mark : figure.value <= mark);
  return reaches(aim) ? 'aim reached' : reaches(must) ? 'must reached' : 'missed';
}

function ratioFigure(a: CellSums, b: CellSums, of: 'speed' | 'step'): Measured {
  const values = (sums: CellSums): number[] =>
    sums.generations.map(({ row, rounds }) => {
      const n = of === 'speed' ? rounds.slice(1).reduce((sum, round) => sum + round.c.length, 0) : rounds.length - 1;
      return of === 'speed' ? n / row.decodeNs : row.decodeNs / n;
    });
  const [x, y] = of === 'speed' ? [a.tokensPerSecond, b.tokensPerSecond] : [a.step, b.step];
  const [ofA, ofB] = [values(a), values(b)];
  // Spreads are relative: the units of `values` and of x, y need not be the same.
  const spread = ratioBetween(mean(ofA), between(ofA), mean(ofB), between(ofB));
  const n = Math.min(ofA.length, ofB.length);
  if (!spreadKnown(spread)) return told(x / y, 'x', n, 'repeats of each');
  const scale = x / y / (mean(ofA) / mean(ofB));
  const ends = widened(x / y, { low: x / y, high: x / y }, 1, { ...spread, error: spread.error * scale }, LEVEL);
  const method = 'spread of the repeats of both sides to first order, degrees of freedom by Welch and Satterthwaite';
  return told(x / y, 'x', n, 'repeats of each', interval(ends.low, ends.high, method));
}
