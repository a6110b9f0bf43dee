/**
 * Where the microseconds of a layer go: from the traced generations of a cell, each kind of operation of the last round over the number
 * of layers, medians over repeats. Tracing costs time itself, so these add up to more than a step of the timed cells.
 */

import { median } from '../../stats/averages.ts';
import { labelsOf } from './compare.ts';
import type { StoredNodeRun } from './reader.ts';
import type { NodeLayerOp, NodeLayerRow } from './report.ts';
import type { TraceRow } from './rows.ts';

export function layerTimes(run: StoredNodeRun): NodeLayerRow[] {
  return run.plan.cells.flatMap((cell): NodeLayerRow[] => {
    if (cell.group !== 'layers') return [];
    const model = run.plan.models.find(({ id }) => id === cell.model)!;
    const traced = run.generations.filter(
      ({ row, traces }) => row.cell === cell.id && row.fault === null && traces.length > 0,
    );
    if (traced.length === 0) return [];
    const names = [...new Set(traced.flatMap(({ traces }) => traces.map(({ op }) => op)))];
    const ops = names.map((op) => {
      const rows = traced.flatMap(({ traces }) => traces.filter((row) => row.op === op));
      return layerOp(op, rows, model.layers);
    });
    const sum = (of: (op: NodeLayerOp) => number): number => ops.reduce((total, op) => total + of(op), 0);
    return [
      {
        id: cell.id,
        layers: model.layers,
        gpus: model.gpus,
        speculation: cell.block > 1,
        repeats: traced.length,
        labels: ['traced', ...labelsOf(cell, model)],
        totalUs: sum((op) => op.totalUs),
        waitUs: sum((op) => op.waitUs),
        ops,
      },
    ];
  });
}

function layerOp(op: string, rows: readonly TraceRow[], layers: number): NodeLayerOp {
  const us = (of: (row: TraceRow) => number): number => median(rows.map(of)) / 1e3 / layers;
  return {
    op,
    count: rows[0]!.count,
    totalUs: us((row) => row.totalNs),
    mathUs: us((row) => row.mathNs),
    busyUs: us((row) => row.busyNs),
    slowestUs: us((row) => row.slowestNs),
    waitUs: us((row) => row.totalNs - row.busyNs),
  };
}
