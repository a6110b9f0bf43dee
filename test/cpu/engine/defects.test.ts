/**
 * Known mistakes compiled into a build of the real decode loop: the normal build has no trace of them, the special one says so on
 * every card, decodes like the normal one while none is chosen, and each mistake is seen by a judge that knows nothing of it.
 *   replay   a round decided again from its own rows and numbers comes out otherwise
 *   audit    a number is read twice
 *   rows     a row is not the one that the tokens so far ask for
 *   law      emitted tokens or accepted counts do not follow theirs
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { openDefectBuild } from '../../../bin/support/defect-build.ts';
import type { Round, VerificationRule } from '../../../harness/engine.ts';
import type { TrainedModel } from '../../../harness/mutants/build.ts';
import { LOOP_ROWS, NETWORK_ROWS, NOT_IN_LOOP } from '../../../harness/mutants/catalogue.ts';
import { DEFECTS } from '../../../harness/oracle/defects.ts';
import { addon, addonFile, defectsAddonFile } from '../../../native/addon.ts';
import { CpuModel, ToyModel } from '../../../native/engines.ts';
import { checkpoint, decode, finish, GREEDY, randomIds, tinyVocabulary, tokensOf } from './checkpoints.ts';
import { chiSquare, keyed, observe } from './laws.ts';
import { audit, type Played, replay } from './replayer.ts';
import { acceptedLaw, plainLaw, randomTables, type Toy, targetRow, toyOf } from './toys.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const NANO = path.join(ROOT, 'checkpoints', 'nano', 'fp4');
const FOLDER = path.join(ROOT, 'build', 'defects');
const ALPHA = 1e-6;

let special: string;
beforeAll(() => {
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'] as ('ignore' | 'inherit')[] };
  execFileSync('cmake', ['-S', ROOT, '-B', FOLDER, '-DKILOTOKEN_DEFECTS=ON'], quiet);
  execFileSync('cmake', ['--build', FOLDER, '--parallel', '2'], quiet);
  special = defectsAddonFile();
}, 1_800_000); // a whole addon is compiled here, on a fresh machine

describe('the normal build', () => {
  test('has neither the titles of defects nor a way to choose one', () => {
    const build = addon(special);
    const titles = [...build.defects!(), ...build.networkDefects!()].map(({ title }) => title);
    expect(titles.length).toBeGreaterThanOrEqual(50);
    const normal = readFileSync(addonFile());
    const other = readFileSync(special);
    for (const title of titles) {
      expect(normal.includes(title)).toBe(false);
      expect(other.includes(title)).toBe(true); // twin: the search finds what is there
    }
    expect(addon().defects).toBeUndefined();
    expect(addon().networkDefects).toBeUndefined();
  });

  test('refuses to be given one', async () => {
    const model = await ToyModel.load(toyOf('e1').tables);
    expect(() => model.engine({ defect: 'M01' })).toThrow(/no defects compiled in/);
    expect(model.engine().card.defects).toEqual([]);
    const directory = await checkpoint('tiny', tinyVocabulary(6));
    await expect(CpuModel.load(directory, { defect: 'tap' })).rejects.toThrow(/no defects compiled in/);
  });
});

describe('the lists', () => {
  test('of the catalogue and of the build are the same', () => {
    const { defects, networkDefects } = addon(special);
    const inLoop = [...DEFECTS, ...LOOP_ROWS].map(({ id }) => id).filter((id) => NOT_IN_LOOP[id] === undefined);
    expect(
      defects!()
        .map(({ id }) => id)
        .sort(),
    ).toEqual(inLoop.sort());
    expect(networkDefects!()).toEqual(NETWORK_ROWS);
  });
});

describe('mistakes of the networks', () => {
  const ids = randomIds(5, 40, 1000);
  const rows = async (defect?: string) => {
    const model = await CpuModel.load(NANO, { addonFile: special, ...(defect === undefined ? {} : { defect }) });
    const [scored] = await model.scoreCases([ids], 8);
    const [drafted] = await model.draftCases([ids], 8);
    const { defects } = model.engine().card;
    await model.close();
    return { target: scored!.topLogprobs, draft: drafted!.topLogprobs, defects };
  };
  let correct: Awaited<ReturnType<typeof rows>>;
  let golden: TrainedModel['golden'];
  beforeAll(async () => {
    correct = await rows();
    golden = (await openDefectBuild())!.trained!.golden;
  });

  test('with none chosen the rows are those of the normal build', async () => {
    const model = await CpuModel.load(NANO);
    const [scored] = await model.scoreCases([ids], 8);
    expect(correct.target).toEqual(scored!.topLogprobs);
    await model.close();
  });

  test.each(NETWORK_ROWS.map(({ id, target }) => [id, target] as const))(
    '%s is seen by the golden rows (of the target: %s)',
    async (id, target) => {
      const found = await rows(id);
      expect(found.defects).toEqual(['compiled-in', id]);
      if (!target) expect(found.target).toEqual(correct.target);
      const { largest, bound } = await golden(id);
      expect(largest).toBeGreaterThan(bound);
    },
  );

  test('the twin: without one the golden rows hold', async () => {
    const { largest, bound } = await golden(null);
    expect(largest).toBeLessThan(bound);
  });

  test('one that the build does not know is refused', async () => {
    await expect(CpuModel.load(NANO, { addonFile: special, defect: 'M01' })).rejects.toThrow(/unknown defect "M01"/);
  });
});

describe('the special build', () => {
  test('says so on every card', async () => {
    const { tables } = toyOf('e1');
    const model = await ToyModel.load(tables, special);
    expect(model.engine().card.defects).toEqual(['compiled-in']);
    expect(model.engine({ defect: 'M07' }).card.defects).toEqual(['compiled-in', 'M07']);
    expect(() => model.engine({ defect: 'M99' })).toThrow(/unknown defect "M99"/);
    const cpu = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(6)), { addonFile: special });
    expect(cpu.engine({ defect: 'M20' }).card.defects).toEqual(['compiled-in', 'M20']);
    expect(cpu.engine().card.buildDigest).not.toBe((await ToyModel.load(tables)).engine().card.buildDigest);
    await cpu.close();
  });

  test.each(['match', 'reject', 'coupled'] as const)(
    'with none chosen decodes as the normal build: %s',
    async (rule) => {
      const facts = (round: Round) => ({ ...round, hostNs: null });
      for (let i = 0; i < 30; i++) {
        const tables = randomTables(String(i), { vocab: 3 + (i % 3), order: 1 + (i % 2), block: 2 + (i % 6) });
        const decoding = { ...GREEDY, temperature: i % 4, topP: 0.95, seed: String(i), maxTokens: 30, stopIds: [2] };
        const both = [];
        for (const file of [addonFile(), special]) {
          const engine = (await ToyModel.load(tables, file)).engine({ rule, replay: true });
          both.push((await decode(engine, randomIds(i, 4, tables.vocab), decoding)).map(facts));
        }
        expect(both[1]).toEqual(both[0]);
      }
    },
  );

  test.each(['M03', 'M20', 'M21', 'M22', 'M37', 'M38'])('a checkpoint decodes to an end with %s', async (defect) => {
    const cpu = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(6)), { addonFile: special });
    for (const rule of ['match', 'reject', 'coupled'] as const) {
      const decoding = { ...GREEDY, temperature: 1, maxTokens: 40, stopIds: [3] };
      const rounds = await decode(cpu.engine({ rule, defect }), randomIds(1, 8, 6), decoding);
      for (const token of tokensOf(rounds)) expect(token).toBeLessThan(6);
    }
    await cpu.close();
  });
});

interface Seen {
  replay: number;
  audit: number;
  rows: number;
}

/** What the judges find in sessions of an engine. A replay that cannot be followed counts as found. */
async function judge(toy: Toy, defect: string | undefined, rule: VerificationRule, sessions: number): Promise<Seen> {
  const model = await ToyModel.load(toy.tables, special);
  const engine = model.engine({ rule, replay: true, ...(defect === undefined ? {} : { defect }) });
  const seen: Seen = { replay: 0, audit: 0, rows: 0 };
  for (let s = 0; s < sessions; s++) {
    const decoding = { ...toy.decoding, seed: String(s), maxTokens: toy.decoding.maxTokens };
    const rounds = await finish(await engine.open(toy.prompt, decoding));
    const { blockSize } = engine.card;
    const played: Played = { rule, blockSize, decoding, prompt: toy.prompt, maxContext: toy.tables.maxContext, rounds };
    try {
      seen.replay += replay(played).differ;
    } catch {
      seen.replay += 1;
    }
    seen.audit += audit(played).repeated.length;
    const ids = [...toy.prompt];
    for (const round of rounds) {
      const asked = round.replay!.p.map((_, i) =>
        targetRow(toy.tables, [...ids, ...round.drafted.slice(0, i)], decoding),
      );
      if (asked.some((row, i) => row.some((p, id) => Math.abs(p - Math.exp(round.replay!.p[i]![id]!)) > 1e-9)))
        seen.rows += 1;
      ids.push(...round.committed);
    }
  }
  await model.close();
  return seen;
}

const LONG = (name: string): Toy => {
  const toy = toyOf(name);
  return { ...toy, decoding: { ...toy.decoding, maxTokens: 16 } };
};

/** Defect, judge, fixture (run for 16 tokens), rule. */
const KILLS: [string, keyof Seen, string, VerificationRule][] = [
  ...[
    'M01',
    'M02',
    'M03',
    'M04',
    'M05',
    'M06',
    'M07',
    'M08',
    'M09',
    'M10',
    'M11',
    'M12',
    'M16',
    'M18',
    'M19',
    'M22',
    'M23',
  ]
    .concat(['M24', 'M25', 'M26', 'M27', 'M28', 'M29', 'M30', 'M31b', 'G02', 'G03'])
    .map((id): [string, keyof Seen, string, VerificationRule] => [id, 'replay', 'e1', 'reject']),
  ...['M03', 'M07', 'M09', 'M11', 'M12', 'M26'].flatMap((id) =>
    (['match', 'coupled'] as const).map((rule): [string, keyof Seen, string, VerificationRule] => [
      id,
      'replay',
      'e1',
      rule,
    ]),
  ),
  ...['M13', 'M14', 'M15'].map((id): [string, keyof Seen, string, VerificationRule] => [id, 'replay', 'e2', 'reject']),
  ['M30', 'audit', 'e1', 'reject'],
  ['M31b', 'audit', 'e1', 'reject'],
  ['M32', 'audit', 'e1', 'reject'],
  ['M32', 'audit', 'e1', 'match'],
  ['M32', 'audit', 'e1', 'coupled'],
  ['M20', 'rows', 'e1', 'reject'],
  ['M20', 'rows', 'e1', 'match'],
  ['M21', 'rows', 'e1', 'reject'],
  ['M21', 'rows', 'e1', 'coupled'],
  ['H04', 'replay', 'e1', 'reject'],
  ['M37', 'replay', 'stop', 'match'],
  ['M38', 'replay', 'e1', 'match'],
];

describe('every mistake is seen', () => {
  test.each(['e1', 'e2', 'stop'])('the correct loop on %s is not accused', async (name) => {
    for (const rule of ['match', 'reject', 'coupled'] as const)
      expect(await judge(LONG(name), undefined, rule, 150)).toEqual({ replay: 0, audit: 0, rows: 0 });
  });

  test.each(KILLS)('%s by %s on %s under %s', async (defect, by, name, rule) => {
    expect((await judge(LONG(name), defect, rule, 150))[by]).toBeGreaterThan(0);
  });

  /** The gross ones by the law of whole sequences alone, within 3000 runs: what an outsider could see. */
  test.each(['M02', 'M03', 'M04', 'M06', 'M07', 'M10', 'M12', 'M16', 'M20', 'M23', 'M26'])(
    '%s by the emitted law',
    async (defect) => {
      const toy = toyOf('e1');
      const model = await ToyModel.load(toy.tables, special);
      const law = plainLaw(toy);
      const clean = await observe(toy, model.engine({ rule: 'reject' }), 3000, 1);
      const broken = await observe(toy, model.engine({ rule: 'reject', defect }), 3000, 1);
      expect(chiSquare(clean.emitted, law)).toBeGreaterThan(ALPHA);
      expect(chiSquare(broken.emitted, law)).toBeLessThan(ALPHA);
    },
  );

  test.each(['G02', 'G03'])('%s keeps the law and is seen by the accepted count alone', async (defect) => {
    const toy = toyOf('e1');
    const model = await ToyModel.load(toy.tables, special);
    const { emitted, accepted } = await observe(toy, model.engine({ rule: 'reject', defect }), 3000, 1);
    expect(chiSquare(emitted, plainLaw(toy))).toBeGreaterThan(ALPHA);
    expect(chiSquare(accepted, keyed(acceptedLaw(toy)))).toBeLessThan(ALPHA);
  });
});
