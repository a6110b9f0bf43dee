/**
 * Defects that no catalogue lists, of the same families: acceptance, residual, rows, randomness, state, ends. Each is put into the
 * oracle and met by the pull-request gate as anyone's engine would be; what the gate must not accuse is among them.
 */
import { describe, expect, it, vi } from 'vitest';
import { gateFixture, gateOn } from '../../../harness/mutants/layers.ts';
import { oracleSource } from '../../../harness/mutants/oracle-engine.ts';
import type { Defect } from '../../../harness/oracle/defects.ts';
import { CORRECT, type Hooks } from '../../../harness/oracle/hooks.ts';
import { findDefect } from '../../../harness/oracle/judge.ts';
import type { RoundView } from '../../../harness/oracle/round.ts';
import { argmax, normalised, oneHot, type Row } from '../../../harness/oracle/rows.ts';
import { STREAM } from '../../../harness/oracle/source.ts';
import { fixture } from '../oracle/support.ts';

vi.setConfig({ testTimeout: 600_000 });

const p = (view: RoundView, slot: number): Row => view.hooks.targetRow(view, slot);
const q = (view: RoundView, slot: number): Row => view.hooks.ratioRow(view, slot);
const weights = (row: Row, f: (value: number, id: number) => number): Row => normalised(row.map(f), row);

const NOT_LISTED: readonly (readonly [string, Partial<Hooks>])[] = [
  ['accepts by p / (q + 0.02)', { odds: (view, slot, d) => [p(view, slot)[d]!, q(view, slot)[d]! + 0.02] }],
  [
    'accepts by the square root of p / q',
    { odds: (view, slot, d) => [Math.sqrt(p(view, slot)[d]!), Math.sqrt(q(view, slot)[d]!)] },
  ],
  [
    'accepts a draft that the target ranks first',
    { unchecked: (view, slot) => view.draft(slot) === argmax(p(view, slot)) },
  ],
  [
    'ratio with p of the slot before',
    { odds: (view, slot, d) => [p(view, Math.max(slot - 1, 0))[d]!, q(view, slot)[d]!] },
  ],
  [
    'never accepts the last draft of a block',
    { odds: (view, slot, d) => (slot === view.k - 1 ? [0, 1] : CORRECT.odds(view, slot, d)) },
  ],
  [
    'residual not normalised: what is missing goes to the last token',
    {
      residual: (view, slot) => p(view, slot).map((value, id) => Math.max(value - q(view, slot)[id]!, 0)),
    },
  ],
  [
    'residual is its argmax',
    {
      residual: (view, slot, d) => {
        const row = CORRECT.residual(view, slot, d);
        return oneHot(row.length, argmax(row));
      },
    },
  ],
  [
    'residual from the target row of the first slot',
    {
      residual: (view, slot) => weights(p(view, 0), (value, id) => Math.max(value - q(view, slot)[id]!, 0)),
    },
  ],
  [
    'residual max(p - q / 2, 0)',
    { residual: (view, slot) => weights(p(view, slot), (value, id) => Math.max(value - q(view, slot)[id]! / 2, 0)) },
  ],
  [
    'half a percent of every residual leaks to its neighbour',
    {
      residual: (view, slot, d) => {
        const row = CORRECT.residual(view, slot, d);
        return row.map((value, id) => 0.995 * value + 0.005 * row[(id + 1) % row.length]!);
      },
    },
  ],
  [
    'bonus token from (p + q) / 2',
    {
      bonusRow: (view) => view.p(view.k).map((value, id) => (value + view.q(view.k - 1)[id]!) / 2),
    },
  ],
  [
    'drafts at another temperature than q says',
    {
      propose: (view, slot) => {
        const row = view.q(slot);
        const flat = weights(row, (value) => Math.sqrt(value));
        return view.source.pick(view.address(STREAM.draft, slot), flat);
      },
    },
  ],
  [
    'the draft stream without its round: refused drafts come again',
    {
      propose: (view, slot) => view.source.pick(view.address(STREAM.draft, slot, 0), view.q(slot)),
    },
  ],
  [
    'the residual draw reads the target stream of plain decoding',
    {
      drawResidual: (view, slot, row) => view.source.pick(view.address(STREAM.target, slot, 0), row),
    },
  ],
  [
    'the last kept token is missing from the cache',
    {
      cached: (_view, tokens) => (tokens.length > 1 ? tokens.slice(0, -1) : tokens),
    },
  ],
  [
    'two tokens of the cache change places',
    {
      cached: (_view, tokens) =>
        tokens.length > 1 ? [...tokens.slice(0, -2), tokens.at(-1)!, tokens.at(-2)!] : tokens,
    },
  ],
  [
    'a stop id that is a correction is not looked for',
    {
      emit: (emission) => {
        const last = emission.tokens.length - 1;
        const stops = emission.tokens.slice(0, last).some((token) => emission.stopIds.includes(token));
        return stops ? CORRECT.emit(emission) : CORRECT.emit({ ...emission, stopIds: [] });
      },
    },
  ],
  [
    'a limit that is one token generous',
    { emit: (emission) => CORRECT.emit({ ...emission, maxTokens: emission.maxTokens + 1 }) },
  ],
];

/** Lossless, fast, and none of the gate's business. */
const HARMLESS: readonly (readonly [string, Partial<Hooks>])[] = [
  [
    'the coin of the next position: a number that nothing else reads',
    { coinAddress: (view, slot) => view.address(STREAM.coin, slot + 1) },
  ],
  [
    'residual with the refused token taken out once more',
    {
      residual: (view, slot, d) => weights(CORRECT.residual(view, slot, d), (value, id) => (id === d ? 0 : value)),
    },
  ],
  ['ratio and row both times two', { odds: (view, slot, d) => [2 * p(view, slot)[d]!, 2 * q(view, slot)[d]!] }],
];

const gate = (title: string, change: Partial<Hooks>) => {
  const defect: Defect = { ...findDefect('M01'), id: 'X', title, change };
  return gateOn(oracleSource(gateFixture(fixture('e1'), null), 'reject', defect));
};

describe('not in the catalogue', () => {
  it.each(NOT_LISTED)('%s', async (title, change) => {
    const { verdict, checks, seed } = await gate(title, change);
    const open = checks
      .filter(({ outcome }) => outcome !== 'consistent')
      .map(({ id, evidence }) => `${id}: ${evidence}`);
    expect(verdict, `seed ${seed}; ${open.join('\n')}\nreplay: npx vitest run test/cpu/mutants/families.test.ts`).toBe(
      'refuted',
    );
  });

  it.each(HARMLESS)('let pass: %s', async (title, change) => {
    const { verdict, checks } = await gate(title, change);
    expect(
      checks.filter(({ outcome }) => outcome === 'refuted').map(({ id, evidence }) => `${id}: ${evidence}`),
    ).toEqual([]);
    expect(verdict).toBe('passed');
  });
});
