/** Provenance: every field told or refused with a reason, nothing of the machine's secrets; and digests over canonical JSON as RFC 8785 has it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cardDigest, digestOf } from '../../../harness/bundle/digests.ts';
import { ENVIRONMENT_ALLOWED, Provenance, untoldProvenance } from '../../../harness/bundle/provenance.ts';
import type { EngineCardRow } from '../../../harness/bundle/rows.ts';
import { collectProvenance, gpuState } from '../../../harness/bundle/surroundings.ts';
import { canonicalJson, sha256 } from '../../../harness/suite/canonical.ts';

const CARD: EngineCardRow = {
  name: 'some',
  weightsDigest: sha256('weights'),
  draftDigest: 'none',
  numerics: { id: 'a=b', experts: 'x', linears: 'x', activations: 'x', kv: 'bf16' },
  device: 'none',
  topology: 'none',
  tensorParallel: 1,
  blockSize: 1,
  rule: 'match',
  buildDigest: 'none',
  vocabSize: 16,
  maxContext: 64,
  defects: [],
  syntheticAcceptance: null,
};

/** Every {value, reason} of a provenance, by its path. */
function leaves(value: unknown, path = ''): [string, { value: unknown; reason?: string }][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
  if ('value' in value) return [[path, value as { value: unknown; reason?: string }]];
  return Object.entries(value).flatMap(([key, member]) => leaves(member, path === '' ? key : `${path}.${key}`));
}

describe('provenance', () => {
  it('of this machine tells or says why not, field by field', () => {
    const cards = [CARD, { ...CARD, blockSize: 8, draftDigest: sha256('draft') }];
    const provenance = collectProvenance({ cards, binaries: [import.meta.filename], kernels: [] });
    expect(Provenance.parse(provenance)).toEqual(provenance);
    const all = leaves(provenance);
    expect(all.length).toBeGreaterThan(35);
    expect(all.map(([path]) => path).sort()).toEqual(
      leaves(untoldProvenance('x'))
        .map(([path]) => path)
        .sort(),
    );
    for (const [path, leaf] of all) {
      if (leaf.value === null) expect(leaf.reason, path).toMatch(/\w/);
    }
    expect(provenance.model.pairDigest.value).toBe(digestOf([sha256('weights'), sha256('draft')]));
    expect(provenance.code.binaries.value![0]!.name).toBe('provenance.test.ts');
    expect(provenance.system.cores.value).toBeGreaterThan(0);
  });

  it('keeps nothing of the environment but the allow-list, and no name of host or user', () => {
    process.env.KILOTOKEN_TEST_SECRET = 'not to be written down';
    process.env.NCCL_PROTO = 'Simple';
    try {
      const provenance = collectProvenance({ cards: [CARD], binaries: [], kernels: [] });
      expect(Object.keys(provenance.environment)).toEqual([...ENVIRONMENT_ALLOWED]);
      expect(provenance.environment.NCCL_PROTO).toBe('Simple');
      const values = JSON.stringify(provenance);
      expect(values).not.toContain('not to be written down');
      expect(values).not.toContain(`"${hostname()}"`);
      expect(values).not.toContain(`"${userInfo().username}"`);
    } finally {
      delete process.env.KILOTOKEN_TEST_SECRET;
      delete process.env.NCCL_PROTO;
    }
  });

  it('refuses a field that is left out, and null without a reason', () => {
    const good = untoldProvenance('x');
    expect(Provenance.safeParse(good).success).toBe(true);
    const { cooling, ...system } = good.system;
    expect(Provenance.safeParse({ ...good, system }).success).toBe(false);
    expect(Provenance.safeParse({ ...good, system: { ...system, cooling: { value: null } } }).success).toBe(false);
    expect(Provenance.safeParse({ ...good, system: { ...system, cooling: null } }).success).toBe(false);
  });

  it('reads what the driver says of a GPU, and what it does not say', () => {
    const h100 =
      'index=0|NVIDIA H100 80GB HBM3|GPU-1|81559|96.00.74.00.11|Enabled|Disabled|Enabled|700.00|700.00|1980|2619|1980|2619|5|16';
    const state = gpuState(['0', ...h100.split('|').slice(1)]);
    expect(state).toMatchObject({
      index: 0,
      uuidDigest: { value: sha256('GPU-1') },
      memoryMiB: { value: 81559 },
      ecc: { value: true },
      mig: { value: false },
      powerCapW: { value: 700 },
      applicationClocksMhz: { value: { sm: 1980, memory: 2619 } },
      pcie: { value: 'gen 5 x16' },
    });
    const bare = gpuState(['1', 'Some GPU', ...new Array<string>(14).fill('[N/A]')]);
    for (const [, leaf] of leaves(bare))
      expect(leaf).toMatchObject({ value: null, reason: expect.stringMatching(/driver/) });
  });

  it('does not fail on a binary that cannot be read', () => {
    const folder = mkdtempSync(join(tmpdir(), 'kilotoken-'));
    try {
      writeFileSync(join(folder, 'there'), 'x');
      const binaries = [join(folder, 'there'), join(folder, 'gone')];
      expect(collectProvenance({ cards: [], binaries, kernels: [] }).code.binaries).toMatchObject({ value: null });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('a card is another card with any field changed', () => {
    const digest = cardDigest(CARD);
    expect(cardDigest({ ...CARD })).toBe(digest);
    for (const change of [{ defects: ['M01'] }, { buildDigest: 'x' }, { syntheticAcceptance: 'x' }, { blockSize: 2 }]) {
      expect(cardDigest({ ...CARD, ...change })).not.toBe(digest);
    }
  });
});

describe('canonical JSON', () => {
  it.each([
    // RFC 8785, appendix B: IEEE 754 bits and what they are written as.
    ['0000000000000000', '0'],
    ['8000000000000000', '0'],
    ['0000000000000001', '5e-324'],
    ['8000000000000001', '-5e-324'],
    ['7fefffffffffffff', '1.7976931348623157e+308'],
    ['ffefffffffffffff', '-1.7976931348623157e+308'],
    ['4340000000000000', '9007199254740992'],
    ['c340000000000000', '-9007199254740992'],
    ['4430000000000000', '295147905179352830000'],
    ['44b52d02c7e14af5', '9.999999999999997e+22'],
    ['44b52d02c7e14af6', '1e+23'],
    ['44b52d02c7e14af7', '1.0000000000000001e+23'],
    ['444b1ae4d6e2ef4e', '999999999999999700000'],
    ['444b1ae4d6e2ef4f', '999999999999999900000'],
    ['444b1ae4d6e2ef50', '1e+21'],
    ['3eb0c6f7a0b5ed8c', '9.999999999999997e-7'],
    ['3eb0c6f7a0b5ed8d', '0.000001'],
    ['41b3de4355555553', '333333333.3333332'],
    ['41b3de4355555554', '333333333.33333325'],
    ['41b3de4355555555', '333333333.3333333'],
    ['41b3de4355555556', '333333333.3333334'],
    ['41b3de4355555557', '333333333.33333343'],
    ['becbf647612f3696', '-0.0000033333333333333333'],
    ['43143ff3c1cb0959', '1424953923781206.2'],
  ])('writes the number %s as %s', (bits, text) => {
    expect(canonicalJson(Buffer.from(bits, 'hex').readDoubleBE())).toBe(text);
  });

  it('sorts keys by UTF-16 code units and escapes as RFC 8785, sections 3.2.2 and 3.2.3', () => {
    const keys = { '\u20ac': 1, '\r': 2, '\ufb33': 3, '1': 4, '\u{1f600}': 5, '\u0080': 6, '\u00f6': 7 };
    expect(Object.values(JSON.parse(canonicalJson(keys)))).toHaveLength(7);
    expect(canonicalJson(keys)).toBe('{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\u{1f600}":5,"\ufb33":3}');
    expect(canonicalJson({ string: '\u20ac$\u000f\nA\'B"\\\\"/', literals: [null, true, false] })).toBe(
      '{"literals":[null,true,false],"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
    expect(() => canonicalJson(Number.NaN)).toThrow(TypeError);
  });
});
