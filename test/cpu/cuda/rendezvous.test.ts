/**
 * How the processes of a sharded reference find each other: real processes and sockets on this machine, with ranks that are late, missing,
 * doubled, started otherwise or killed, and connections that send garbage, stay silent or close. Every failure must be a sentence within
 * the time given. Compiles rendezvous_probe.cpp once per content.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const SOURCES = [
  'test/cpu/cuda/rendezvous_probe.cpp',
  'reference/fp8/launch.cpp',
  'reference/fp8/rendezvous.cpp',
  'reference/fp8/launch.h',
  'reference/fp8/rendezvous.h',
  'reference/fp8/fault.h',
];

function build(): string {
  const compiler = process.env.CXX ?? 'c++';
  const hash = createHash('sha256').update(compiler);
  for (const name of SOURCES) hash.update(readFileSync(path.join(ROOT, name)));
  const folder = path.join(ROOT, 'build/rendezvous-probe', hash.digest('hex').slice(0, 16));
  const file = path.join(folder, 'rendezvous_probe');
  if (existsSync(file)) return file;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${file}.${process.pid}`; // the rename is atomic, should two runs build at once
  const sources = SOURCES.filter((name) => name.endsWith('.cpp')).map((name) => path.join(ROOT, name));
  execFileSync(compiler, ['-std=c++20', '-O1', '-w', `-I${ROOT}`, ...sources, '-o', unfinished, '-pthread']);
  renameSync(unfinished, file);
  return file;
}

let program: string;
beforeAll(() => {
  program = build();
}, 600_000);

const alive: ChildProcess[] = [];
afterEach(() => {
  for (const child of alive.splice(0)) child.kill('SIGKILL');
});

interface Ended {
  readonly text: string;
  readonly status: number | null;
  readonly ms: number;
}

interface Process {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Resolves once the process has printed this. */
  readonly says: (text: string) => Promise<void>;
}

function start(args: readonly (string | number)[], env: NodeJS.ProcessEnv = process.env): Process {
  const began = performance.now();
  const child = spawn(program, args.map(String), { stdio: ['ignore', 'pipe', 'inherit'], env });
  alive.push(child);
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (status) => resolve({ text, status, ms: performance.now() - began }));
  });
  const says = async (wanted: string): Promise<void> => {
    while (!text.includes(wanted)) {
      if (child.exitCode !== null) throw new Error(`ended without "${wanted}": ${text}`);
      await sleep(10);
    }
  };
  return { child, ended, says };
}

async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** The limit of a rank whose own limit is not what is tested: never reached, however busy the machine. */
const PATIENT_MS = 40_000;
/** What a busy machine may add to a limit. A fault that is only noticed by another limit comes later than this. */
const SLACK_MS = 10_000;
/** How long a rank looks for trouble that is sure to come. */
const WATCH_MS = 25_000;

interface Who {
  readonly ranks?: number;
  readonly purpose?: number;
  readonly limit?: number;
  readonly address?: string;
}

function rank(index: number, port: number, who: Who = {}, ...after: (string | number)[]): Process {
  const { ranks = 2, purpose = 9, limit = PATIENT_MS, address = '127.0.0.1' } = who;
  return start(['meet', index, ranks, address, port, purpose, limit, ...after]);
}

/** A connection that is none of the ranks. */
async function stranger(port: number): Promise<net.Socket> {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('error', () => undefined);
    const connected = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    if (connected) return socket;
    await sleep(20);
  }
}

interface Relay {
  readonly port: number;
  /** Resolves once what the rank says first has been handed on to rank 0. */
  readonly handedOn: Promise<void>;
}

/** Stands between one rank and rank 0 at `port`, so that a test knows when rank 0 has been told of the rank. */
async function relay(port: number): Promise<Relay> {
  let done: () => void;
  const handedOn = new Promise<void>((resolve) => {
    done = resolve;
  });
  const server = net.createServer({ pauseOnConnect: true }, async (rank) => {
    const zero = await stranger(port);
    for (const socket of [rank, zero]) socket.on('error', () => undefined);
    rank.on('close', () => zero.destroy());
    zero.on('close', () => {
      rank.destroy();
      server.close();
    });
    rank.on('data', (bytes: Buffer) => zero.write(bytes, done));
    zero.on('data', (bytes: Buffer) => rank.write(bytes));
    rank.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { port: (server.address() as net.AddressInfo).port, handedOn };
}

test('eight ranks meet in any order and all hold what rank 0 gave', async () => {
  const port = await freePort();
  const processes = [5, 3, 7, 0, 1, 2, 6, 4].map((index) => rank(index, port, { ranks: 8 }));
  const texts = (await Promise.all(processes.map(({ ended }) => ended))).map(({ text, status }) => `${status} ${text}`);
  expect(new Set(texts).size).toBe(1);
  expect(texts[0]).toMatch(/^0 met [0-9a-f]{8}\n$/);
});

test('a rank may be late, and so may rank 0; a name is as good as a number', async () => {
  const port = await freePort();
  const early = rank(1, port, { address: 'localhost' });
  await sleep(600);
  const late = rank(0, port);
  expect((await early.ended).status).toBe(0);
  expect((await late.ended).status).toBe(0);
});

test('ranks that do not come are named, to rank 0 and to those who came', async () => {
  const port = await freePort();
  const zero = rank(0, port, { ranks: 4, limit: 3000 });
  const two = rank(2, port, { ranks: 4 });
  for (const { text, status, ms } of [await zero.ended, await two.ended]) {
    expect(text).toMatch(/^fault: 2 of 4 ranks did not come to 127\.0\.0\.1:\d+ within 3 s: 1, 3\n$/);
    expect(status).toBe(3);
    expect(ms).toBeLessThan(3000 + SLACK_MS);
  }
});

test('without a rank 0 the others say where they looked', async () => {
  const port = await freePort();
  const { text, status, ms } = await rank(1, port, { limit: 700 }).ended;
  expect(text).toBe(`fault: no rank 0 at 127.0.0.1:${port} within 0.7 s: Connection refused\n`);
  expect(status).toBe(3);
  expect(ms).toBeLessThan(700 + SLACK_MS);
});

test('two processes with one rank end all, and both are named', async () => {
  const port = await freePort();
  const zero = rank(0, port, { ranks: 3 });
  const one = rank(1, port, { ranks: 3 });
  await sleep(200);
  const again = rank(1, port, { ranks: 3 });
  for (const { ended } of [zero, one, again]) {
    const { text, status } = await ended;
    expect(text).toMatch(/^fault: two processes are rank 1: pid \d+ on \S+ and pid \d+ on \S+\n$/);
    expect(status).toBe(3);
  }
});

test('two processes with rank 0: the second is told that the port is taken', async () => {
  const port = await freePort();
  const zero = rank(0, port);
  (await stranger(port)).destroy(); // it listens
  const { text, status } = await rank(0, port).ended;
  expect(text).toContain(`rank 0 cannot listen on port ${port}: Address already in use (another process is rank 0`);
  expect(status).toBe(3);
  expect((await rank(1, port).ended).status).toBe(0);
  expect((await zero.ended).status).toBe(0);
});

test('another number of ranks and other options are refused', async () => {
  const port = await freePort();
  const zero = rank(0, port);
  const one = rank(1, port, { ranks: 4 });
  expect((await one.ended).text).toMatch(
    /^fault: rank 1 \(pid .*\) was started as one of 4 ranks, rank 0 as one of 2\n$/,
  );
  expect((await zero.ended).text).toBe((await one.ended).text);
  const next = await freePort();
  const zeroAgain = rank(0, next);
  const other = rank(1, next, { purpose: 8 });
  expect((await other.ended).text).toMatch(/^fault: rank 1 \(pid .*\) was started with other options than rank 0\n$/);
  expect((await zeroAgain.ended).status).toBe(3);
});

test('garbage, silence and early closes at rank 0 do not disturb the meeting', async () => {
  const port = await freePort();
  const zero = rank(0, port);
  const silent = await stranger(port);
  const garbage = await stranger(port);
  garbage.write('GET / HTTP/1.1\r\nHost: here\r\n\r\n');
  const flood = await stranger(port);
  flood.write(Buffer.alloc(100_000, 0x6b)); // begins like a hello
  const half = await stranger(port);
  half.write('ktranks1\x01\x00\x00');
  half.end();
  const short = await stranger(port);
  short.destroy();
  await sleep(100);
  const one = rank(1, port);
  expect((await one.ended).status).toBe(0);
  expect((await zero.ended).status).toBe(0);
  for (const socket of [silent, garbage, flood, half]) socket.destroy();
});

test('what is no rank 0 at the address is recognised: garbage, an early close, silence', async () => {
  const answers: [(socket: net.Socket) => void, number][] = [
    [(socket) => socket.write(Buffer.alloc(4096, 0x41)), PATIENT_MS],
    [(socket) => socket.destroy(), PATIENT_MS],
    [() => undefined, 800],
  ];
  const texts: string[] = [];
  for (const [answer, limit] of answers) {
    const server = net.createServer((socket) => {
      socket.on('error', () => undefined);
      answer(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as net.AddressInfo;
    const { text, status } = await rank(1, port, { limit }).ended;
    expect(status).toBe(3);
    texts.push(text.replace(String(port), 'PORT'));
    server.close();
  }
  expect(texts).toEqual([
    'fault: what answers at 127.0.0.1:PORT is no rank 0 of this program\n',
    'fault: rank 0 at 127.0.0.1:PORT closed the connection while the ranks met: it ended, or something else listens there\n',
    'fault: rank 0 at 127.0.0.1:PORT did not answer within 0.8 s\n',
  ]);
});

test('a rank that ends while the others are awaited ends the meeting', async () => {
  const port = await freePort();
  const zero = rank(0, port, { ranks: 3 });
  const between = await relay(port);
  const one = rank(1, between.port, { ranks: 3 });
  await between.handedOn;
  const killed = performance.now();
  one.child.kill('SIGKILL');
  expect((await zero.ended).text).toMatch(/^fault: rank 1 \(pid \d+ on \S+\) ended while the ranks met\n$/);
  expect(performance.now() - killed).toBeLessThan(SLACK_MS);
});

test('a killed rank is noticed by all at once; one that says goodbye is not', async () => {
  const port = await freePort();
  const zero = rank(0, port, { ranks: 4 }, 'watch', WATCH_MS);
  const one = rank(1, port, { ranks: 4 }, 'watch', WATCH_MS);
  const two = rank(2, port, { ranks: 4 }, 'hang');
  const three = rank(3, port, { ranks: 4 }, 'bye');
  await Promise.all([zero.says('met'), one.says('met'), two.says('met'), three.ended]);
  await sleep(300);
  const killed = performance.now();
  two.child.kill('SIGKILL');
  for (const { ended } of [zero, one])
    expect((await ended).text).toMatch(/trouble: rank 2 \(pid \d+ on \S+\) is gone: its process or machine ended\n$/);
  // By the closed connection: sooner than the 11 s after which a machine that fell silent is given up.
  expect(performance.now() - killed).toBeLessThan(SLACK_MS);
});

test('a killed rank 0 is noticed, and why a rank stops reaches all others', async () => {
  const port = await freePort();
  const zero = rank(0, port, { ranks: 3 }, 'watch', WATCH_MS);
  const one = rank(1, port, { ranks: 3 }, 'watch', WATCH_MS);
  const two = rank(2, port, { ranks: 3 }, 'tell', 'the GPU fell off');
  for (const { ended } of [zero, one]) expect((await ended).text).toMatch(/trouble: rank 2: the GPU fell off\n$/);
  await two.ended;
  const next = await freePort();
  const first = rank(0, next, {}, 'hang');
  const second = rank(1, next, {}, 'watch', WATCH_MS);
  await second.says('met');
  first.child.kill('SIGKILL');
  expect((await second.ended).text).toMatch(/trouble: rank 0 \(at 127\.0\.0\.1\) is gone/);
});

// ---- the environment ----

async function launch(env: Record<string, string>): Promise<string> {
  return (await start(['launch'], env).ended).text;
}

const place = { MASTER_ADDR: 'node7', MASTER_PORT: '29500' };

test('torchrun, Slurm and Open MPI say which rank this is', async () => {
  expect(await launch({ RANK: '3', WORLD_SIZE: '16', LOCAL_RANK: '3', ...place })).toBe(
    'torchrun: rank 3 of 16, local 3, node7:29500\n',
  );
  const agent = { RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0', TORCHELASTIC_USE_AGENT_STORE: 'True', ...place };
  expect(await launch(agent)).toBe('torchrun: rank 0 of 2, local 0, node7:29501\n');
  expect(await launch({ SLURM_PROCID: '9', SLURM_NTASKS: '16', SLURM_LOCALID: '1', ...place })).toBe(
    'Slurm: rank 9 of 16, local 1, node7:29500\n',
  );
  const mpi = { OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '1' };
  // mpirun inside a Slurm job of one task
  expect(await launch({ ...mpi, SLURM_PROCID: '0', SLURM_NTASKS: '1', SLURM_LOCALID: '0', ...place })).toBe(
    'Open MPI: rank 1 of 2, local 1, node7:29500\n',
  );
});

test('what is missing or no number in the environment is named', async () => {
  const full = { RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0', ...place };
  for (const name of ['WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'] as const) {
    const { [name]: _gone, ...rest } = full;
    expect(await launch(rest)).toMatch(new RegExp(`^fault: ${name} is not set \\(torchrun\\): `));
  }
  expect(await launch({})).toContain('not launched as ranks: none of RANK');
  expect(await launch({ ...full, RANK: 'two' })).toContain('RANK is "two", not a number');
  expect(await launch({ ...full, RANK: '2' })).toContain('RANK is 2 but WORLD_SIZE is 2');
  expect(await launch({ ...full, MASTER_PORT: '65535' })).toContain('MASTER_PORT is "65535"');
  expect(await launch({ ...full, MASTER_PORT: '0' })).toContain('MASTER_PORT is 0');
});
