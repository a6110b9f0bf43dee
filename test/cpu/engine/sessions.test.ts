/**
 * Sessions from outside: where they end, what a fork shares, that several may step at once, and random sequences of open, step, fork
 * and close against a model that only knows the tokens of plain decoding.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Decoding, Engine, Session } from '../../../harness/engine.ts';
import { CpuModel } from '../../../native/engines.ts';
import { checkpoint, decode, finish, GREEDY, randomIds, SAMPLED, tinyVocabulary, tokensOf } from './checkpoints.ts';

const VOCAB = 6;
const MAX_CONTEXT = 64;
let model: CpuModel;
beforeAll(async () => {
  model = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(VOCAB)));
});
afterAll(() => model.close());

describe('the end of a session', () => {
  test.each([1, 4, 8])('the first stop id is emitted and is the last, block %i', async (blockSize) => {
    const engine = model.engine({ blockSize });
    for (let i = 0; i < 12; i++) {
      const prompt = randomIds(i, 4, VOCAB);
      const free = tokensOf(await decode(engine, prompt, { ...SAMPLED, maxTokens: 30 }));
      const stop = free[(i * 5) % 30]!;
      const rounds = await decode(engine, prompt, { ...SAMPLED, maxTokens: 30, stopIds: [stop] });
      expect(tokensOf(rounds)).toEqual(free.slice(0, free.indexOf(stop) + 1));
      expect(rounds.at(-1)!.finish).toBe('stop');
      expect(rounds.slice(0, -1).every((round) => round.finish === null)).toBe(true);
    }
  });

  test.each([1, 8])(
    'maxTokens is exact, and `accepted` counts what was accepted before the cut, block %i',
    async (blockSize) => {
      const engine = model.engine({ blockSize });
      let cut = 0;
      for (let maxTokens = 1; maxTokens <= 20; maxTokens++) {
        const rounds = await decode(engine, randomIds(3, 4, VOCAB), { ...GREEDY, maxTokens });
        expect(tokensOf(rounds).length).toBe(maxTokens);
        expect(rounds.at(-1)!.finish).toBe('length');
        for (const round of rounds.slice(1)) {
          expect(round.committed.length).toBeLessThanOrEqual(round.accepted + 1);
          if (round.committed.length < round.accepted + 1) cut += 1;
        }
      }
      expect(cut > 0).toBe(blockSize > 1);
    },
  );

  test('the block shrinks towards the context limit, and the sequence fills it exactly', async () => {
    for (let length = MAX_CONTEXT - 12; length < MAX_CONTEXT; length++) {
      const prompt = randomIds(length, length, VOCAB);
      const settings = { ...SAMPLED, maxTokens: 1000 };
      const rounds = await decode(model.engine(), prompt, settings);
      expect(tokensOf(rounds)).toEqual(tokensOf(await decode(model.engine({ blockSize: 1 }), prompt, settings)));
      expect(length + tokensOf(rounds).length).toBe(MAX_CONTEXT);
      expect(rounds.at(-1)!.finish).toBe('length');
      let tokens = length;
      for (const round of rounds) {
        if (round.kind === 'decode') expect(round.drafted.length).toBe(Math.min(8, MAX_CONTEXT - tokens) - 1);
        tokens += round.committed.length;
      }
    }
  });

  test('a finished session refuses to step, a closed one too', async () => {
    const session = await model.engine().open([1, 2], { ...GREEDY, maxTokens: 1 });
    expect((await session.step()).finish).toBe('length');
    await expect(session.step()).rejects.toMatchObject({ name: 'InputError', message: 'the session has finished' });
    await session.close();
    await session.close();
    await expect(session.step()).rejects.toMatchObject({ name: 'InputError', message: 'the session is closed' });
    await expect(session.fork()).rejects.toMatchObject({ name: 'InputError' });
  });
});

test('what a round reports', async () => {
  const rounds = await decode(model.engine({ replay: true, rule: 'reject' }), randomIds(1, 9, VOCAB), SAMPLED);
  for (const [i, round] of rounds.entries()) {
    expect(round.deviceNs).toBeNull();
    expect(round.hostNs.total).toBeGreaterThanOrEqual(round.hostNs.verify + round.hostNs.draft);
    expect(round.hostNs.draft > 0).toBe(true);
    expect(round.distinctExperts!.length).toBe(3); // mixture layers
    for (const count of round.distinctExperts!) expect(count >= 3 && count <= 8).toBe(true);
    expect(round.replay!.p.length).toBe(round.drafted.length + 1);
    expect(round.replay!.q.length).toBe(round.drafted.length);
    for (const row of [...round.replay!.p, ...round.replay!.q]) {
      expect(row.reduce((mass, logprob) => mass + Math.exp(logprob), 0)).toBeCloseTo(1, 12);
    }
    expect(
      new Set(round.replay!.uniforms.map(({ stream, position, round }) => `${stream} ${position} ${round}`)).size,
    ).toBe(round.replay!.uniforms.length);
    if (i === 0) expect(round.replay!.uniforms.map((use) => use.stream)).toEqual(['target']);
  }
  const { card } = model.engine({ rule: 'reject' });
  expect(card).toMatchObject({ name: 'cpu', blockSize: 8, rule: 'reject', vocabSize: VOCAB, maxContext: MAX_CONTEXT });
  expect(card.numerics.id).toBe('experts=mxfp4;linears=fp8-128x128;act=fp8-1x128;kv=bf16;rest=bf16;sum=fp32');
  for (const digest of [card.weightsDigest, card.draftDigest, card.buildDigest])
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
});

test('score of prefix and next is the tail of the whole', async () => {
  const ids = randomIds(8, 20, VOCAB);
  const engine = model.engine();
  const [whole] = await model.scoreCases([ids], 1);
  expect((await engine.score(ids.slice(0, 7), ids.slice(7))).logprobs).toEqual(whole!.nextLogprobs.slice(6));
  expect((await engine.score(ids, [])).logprobs).toEqual([]);
});

describe('forks', () => {
  test.each(['match', 'reject', 'coupled'] as const)(
    'continue as the original would, and leave it alone: %s',
    async (rule) => {
      const engine = model.engine({ rule });
      const prompt = randomIds(4, 6, VOCAB);
      const expected = tokensOf(await decode(engine, prompt, SAMPLED));
      for (let steps = 0; steps < 5; steps++) {
        const session = await engine.open(prompt, SAMPLED);
        const start: number[] = [];
        for (let i = 0; i < steps; i++) start.push(...(await session.step()).committed);
        const fork = await session.fork();
        const second = await fork.fork();
        expect([...start, ...tokensOf(await finish(fork))]).toEqual(expected);
        expect([...start, ...tokensOf(await finish(session))]).toEqual(expected);
        expect([...start, ...tokensOf(await finish(second))]).toEqual(expected);
      }
    },
  );

  test('outlive what they came from, and closing the model', async () => {
    const own = await CpuModel.load(await checkpoint('tiny', tinyVocabulary(VOCAB)));
    const engine = own.engine();
    const expected = tokensOf(await decode(engine, [1, 2, 3], GREEDY));
    const session = await engine.open([1, 2, 3], GREEDY);
    const first = await session.step();
    const fork = await session.fork();
    await session.close();
    await own.close();
    expect([...first.committed, ...tokensOf(await finish(fork))]).toEqual(expected);
    await expect(engine.open([1], GREEDY)).rejects.toMatchObject({ name: 'InputError' });
  });
});

describe('concurrency', () => {
  test('sessions that step at once give the tokens they give alone', async () => {
    const settings: [Engine, number[], Decoding][] = Array.from({ length: 12 }, (_, i) => [
      model.engine({ blockSize: 1 + (i % 8), rule: (['match', 'reject', 'coupled'] as const)[i % 3]! }),
      randomIds(i, 3 + 2 * i, VOCAB),
      { ...SAMPLED, seed: String(i), maxTokens: 30 },
    ]);
    const alone: number[][] = [];
    for (const setting of settings) alone.push(tokensOf(await decode(...setting)));
    const together = await Promise.all(settings.map((setting) => decode(...setting)));
    expect(together.map(tokensOf)).toEqual(alone);
  });

  test('a second step on a busy session is refused, and the first is unharmed', async () => {
    const engine = model.engine();
    const prompt = randomIds(9, 50, VOCAB);
    const expected = tokensOf(await decode(engine, prompt, { ...GREEDY, maxTokens: 8 }));
    const session = await engine.open(prompt, { ...GREEDY, maxTokens: 8 });
    const first = session.step();
    const busy = { name: 'InputError', message: 'the session is busy with another step' };
    await expect(session.step()).rejects.toMatchObject(busy);
    await expect(session.fork()).rejects.toMatchObject(busy);
    expect([...(await first).committed, ...tokensOf(await finish(session))]).toEqual(expected);
  });

  test('closing a busy session lets its step settle', async () => {
    const session = await model.engine().open(randomIds(9, 50, VOCAB), GREEDY);
    const step = session.step();
    await session.close();
    expect((await step).committed.length).toBe(1);
    await expect(session.step()).rejects.toMatchObject({ message: 'the session is closed' });
  });
});

describe('random sequences of commands', () => {
  interface World {
    engine: Engine;
    expected: number[][];
    prompts: number[][];
    sessions: Session[];
  }
  /** Per session: which prompt, how many tokens so far, whether it is over. */
  type Dumb = { prompt: number; emitted: number; over: boolean; closed: boolean }[];
  type Command = fc.AsyncCommand<Dumb, World>;

  class Open implements Command {
    private readonly prompt: number;
    constructor(prompt: number) {
      this.prompt = prompt;
    }
    check = () => true;
    async run(dumb: Dumb, world: World): Promise<void> {
      world.sessions.push(await world.engine.open(world.prompts[this.prompt]!, { ...SAMPLED, maxTokens: 20 }));
      dumb.push({ prompt: this.prompt, emitted: 0, over: false, closed: false });
    }
    toString = () => `open(${this.prompt})`;
  }

  class On implements Command {
    private readonly what: 'step' | 'fork' | 'close';
    private readonly which: number;
    constructor(what: 'step' | 'fork' | 'close', which: number) {
      this.what = what;
      this.which = which;
    }
    check = (dumb: Readonly<Dumb>) => dumb.length > 0;
    async run(dumb: Dumb, world: World): Promise<void> {
      const i = this.which % dumb.length;
      const state = dumb[i]!;
      const session = world.sessions[i]!;
      if (this.what === 'close') {
        await session.close();
        state.closed = true;
      } else if (state.closed || (this.what === 'step' && state.over)) {
        await expect(session[this.what]()).rejects.toMatchObject({ name: 'InputError' });
      } else if (this.what === 'fork') {
        world.sessions.push(await session.fork());
        dumb.push({ ...state });
      } else {
        const { committed, finish } = await session.step();
        const all = world.expected[state.prompt]!;
        expect(committed).toEqual(all.slice(state.emitted, state.emitted + committed.length));
        state.emitted += committed.length;
        expect(finish !== null).toBe(state.emitted === all.length);
        state.over = finish !== null;
      }
    }
    toString = () => `${this.what}(${this.which})`;
  }

  test.each([
    ['match', 4001],
    ['coupled', 4002],
    ['reject', 4003],
  ] as const)('%s, seed %i', async (rule, seed) => {
    const prompts = [0, 1, 2].map((i) => randomIds(70 + i, 2 + 5 * i, VOCAB));
    // `reject` promises a law, not tokens: what an undisturbed session of its own emits.
    const plain = model.engine({ blockSize: rule === 'reject' ? 8 : 1, rule });
    const expected: number[][] = [];
    for (const prompt of prompts) expected.push(tokensOf(await decode(plain, prompt, { ...SAMPLED, maxTokens: 20 })));
    const commands = fc.commands(
      [
        fc.nat(2).map((prompt) => new Open(prompt)),
        fc.nat(9).map((which) => new On('step', which)),
        fc.nat(9).map((which) => new On('step', which)),
        fc.nat(9).map((which) => new On('fork', which)),
        fc.nat(9).map((which) => new On('close', which)),
      ],
      { maxCommands: 60 },
    );
    const run = async (wrong: boolean, cmds: Iterable<Command>) => {
      const world: World = { engine: model.engine({ rule }), prompts, sessions: [], expected };
      if (wrong)
        world.expected = expected.map((tokens) => tokens.map((token, i) => (i === 2 ? (token + 1) % VOCAB : token)));
      try {
        await fc.asyncModelRun(() => ({ model: [] as Dumb, real: world }), cmds);
      } finally {
        for (const session of world.sessions) await session.close();
      }
    };
    const found = await fc.check(
      fc.asyncProperty(commands, (cmds) => run(false, cmds)),
      { seed, numRuns: 60 },
    );
    if (found.failed) {
      throw new Error(
        `${found.errorInstance}\nseed ${seed}, path ${found.counterexamplePath}: ${found.counterexample}\n` +
          `replay: npx vitest run test/cpu/engine/sessions.test.ts -t "${rule}, seed ${seed}"`,
      );
    }
    // The twin: one wrong token in the model is found.
    const broken = await fc.check(
      fc.asyncProperty(commands, (cmds) => run(true, cmds)),
      { seed, numRuns: 60, endOnFailure: true },
    );
    expect(broken.failed).toBe(true);
  });
});
