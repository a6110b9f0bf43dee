/** The ledger: well formed, with the published figures it must hold, and refused when damaged. */
import { describe, expect, test } from 'vitest';
import { loadClaims } from '../../../harness/suite/claims.ts';
import { scratch } from './scratch.ts';

const { write } = scratch();
const claims = await loadClaims(new URL('../../../suites/claims.json', import.meta.url).pathname);

test('holds the vendor figures a report sets beside its own', () => {
  const published = (scenario: string) =>
    claims
      .filter((claim) => claim.kind === 'acceptance' && claim.by === 'vendor' && claim.scenario === scenario)
      .map((claim) => claim.value);
  expect(published('coding')).toEqual([6.3]);
  expect(published('math')).toEqual([5.56]);
  expect(published('agent')).toEqual([4.29]);
  expect(published('chat')).toEqual([undefined]);
  expect(claims.find((claim) => claim.id === 'speed-1000')).toMatchObject({
    value: 1000,
    unit: 'tokens/s',
    date: '2026-06-08',
  });
});

test('has a claim of every kind, and says of every vendor claim what its source leaves out', () => {
  expect(new Set(claims.map((claim) => claim.kind))).toEqual(
    new Set(['speed', 'acceptance', 'losslessness', 'fidelity', 'economics', 'demo']),
  );
  expect(claims.filter((claim) => claim.by === 'vendor' && claim.unstated.length === 0)).toEqual([]);
});

test('observations carry no scenario, so that none is taken for a published figure', () => {
  expect(claims.filter((claim) => claim.by === 'observation' && claim.scenario !== undefined)).toEqual([]);
});

describe('refuses', () => {
  const claim = {
    id: 'a',
    claim: 'x',
    kind: 'speed',
    by: 'vendor',
    source: 's',
    sourceUrlOrPlace: 'p',
    stated: [],
    unstated: ['u'],
  };
  test.each<[string, string, RegExp]>([
    ['what is not JSON', '[{', /claims\.json: is not JSON/],
    ['an empty ledger', '[]', /Too small/],
    ['an unknown kind', JSON.stringify([{ ...claim, kind: 'hype' }]), /\[0\]\.kind/],
    ['a value without its unit', JSON.stringify([{ ...claim, value: 3 }]), /value and unit belong together/],
    ['an id used twice', JSON.stringify([claim, claim]), /\[1\]\.id: "a" is taken/],
    ['a verdict in the ledger', JSON.stringify([{ ...claim, verdict: 'refuted' }]), /Unrecognized key: "verdict"/],
    ['a date that is none', JSON.stringify([{ ...claim, date: '2026-06-31' }]), /\[0\]\.date/],
  ])('%s', async (_, text, message) => {
    await expect(loadClaims(write('claims.json', text))).rejects.toThrow(message);
  });
});
