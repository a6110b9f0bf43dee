/**
 * The C++ half of DESIGN.md's room table: which folder an #include may reach. (dependency-cruiser checks the TypeScript half.)
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const ROOMS = [
  'core',
  'reference/cpu',
  'reference/fp8',
  'kernels/bench', // before the room it lies in
  'kernels',
  'native/engine',
  'native/cuda',
  'native/addon',
] as const;
type Room = (typeof ROOMS)[number];

/** Rooms each room may include from, besides itself. */
const MAY: Record<Room, readonly Room[]> = {
  core: [],
  'reference/cpu': ['core'],
  'reference/fp8': ['core', 'reference/cpu'],
  // The all-reduce is timed beside NCCL's, which the reference loads. The stack itself includes neither.
  'kernels/bench': ['core', 'kernels', 'reference/fp8'],
  kernels: ['core'],
  'native/engine': ['core', 'reference/cpu', 'kernels'],
  'native/cuda': ['native/engine', 'core', 'reference/cpu', 'reference/fp8', 'kernels', 'kernels/bench'],
  'native/addon': ['native/engine', 'native/cuda', 'core', 'reference/cpu', 'reference/fp8'],
};

/** Rooms that may see the CUDA toolkit. */
const CUDA_ROOMS: readonly Room[] = ['reference/fp8', 'kernels', 'kernels/bench', 'native/engine', 'native/cuda'];

const CUDA = /^(cuda|cooperative_groups|nccl|cub\/|thrust\/)/;

/** The room an include written in `from` lands in (a path from the root, else relative to the file), or null. */
function roomOf(include: string, from: string): Room | null {
  const roomAt = (file: string) => ROOMS.find((room) => file.startsWith(`${room}/`)) ?? null;
  return roomAt(include) ?? roomAt(path.posix.join(path.posix.dirname(from), include));
}

function violations(file: string, text: string): string[] {
  const room = ROOMS.find((candidate) => file.startsWith(`${candidate}/`))!;
  return [...text.matchAll(/^\s*#\s*include\s*([<"])([^>"]+)[>"]/gm)].flatMap(([, mark, include]) => {
    const target = mark === '"' ? roomOf(include!, file) : null;
    if (target !== null && target !== room && !MAY[room].includes(target)) return [`${file} includes ${include}`];
    if (include === 'napi.h' && room !== 'native/addon') return [`${file} includes napi.h`];
    if (CUDA.test(include!) && !CUDA_ROOMS.includes(room)) return [`${file} includes ${include}`];
    if (mark === '"' && target === null && include !== 'napi.h')
      return [`${file} includes ${include}, which is in no room`];
    return [];
  });
}

const files = ROOMS.flatMap((room) =>
  readdirSync(path.join(ROOT, room), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|hpp|cc|cpp|cu|cuh)$/.test(name))
    .map((name) => `${room}/${name}`),
);

test('every include stays within the rooms its room may use', () => {
  expect(files.length).toBeGreaterThan(40);
  expect(files.flatMap((file) => violations(file, readFileSync(path.join(ROOT, file), 'utf8')))).toEqual([]);
});

test.each([
  ['core/e4m3.h', '#include "reference/cpu/linear.h"'],
  ['reference/cpu/target.cpp', '#include <napi.h>'],
  ['reference/cpu/target.cpp', '#include "../../native/engine/model.h"'],
  ['reference/cpu/ops.h', '#include <cuda_runtime.h>'],
  ['kernels/ops/router.cu', '#include "reference/cpu/router.h"'],
  ['kernels/ops/router.cu', '#include "reference/fp8/router.cuh"'],
  ['kernels/ops/router.cu', '#include "kernels/bench/collectives.h"'],
  ['kernels/bench/floors.cu', '#include "reference/cpu/router.h"'],
  ['reference/fp8/target.cu', '#include "kernels/ops/router.cuh"'],
  ['native/addon/gpu_exports.cpp', '#include <cuda_runtime.h>'],
])('twin: %s with %s is caught', (file, line) => {
  expect(violations(file, line).length).toBe(1);
});
