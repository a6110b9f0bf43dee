/** `bench kernels` from outside: what a machine without a GPU says, and a stored document derived anew. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gpus } from '../../bin/support/machine.ts';
import { sampleBench } from '../support/bench-kernels.ts';
import { kilotoken, onlyLine } from './cli.ts';

let scratch: string;
const write = (name: string, document: unknown): string => {
  const path = join(scratch, name);
  writeFileSync(path, typeof document === 'string' ? document : JSON.stringify(document));
  return path;
};

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kilotoken-bench-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('bench kernels', () => {
  it.skipIf(gpus().length > 0)('without a GPU says so in one line and exits 3', async () => {
    const finished = await kilotoken(['bench', 'kernels']);
    expect(onlyLine(finished)).toMatch(/^error: /);
    expect(finished.code).toBe(3);
  });

  it('prints a stored document whose figures follow from its samples', async () => {
    const finished = await kilotoken(['bench', 'kernels', '--from', write('good.json', sampleBench())]);
    expect(finished.stderr).toBe('');
    expect(finished.stdout).toMatch(/Read rate, GB\/s; ceiling 5000/);
    expect(finished.stdout).toMatch(/qkv +fp8 +8 +stream +20\.0 +5\.00 .* 80\.0 % +two, graph +8\.00 +1\.60/);
    expect(finished.stdout).toMatch(/Left out among the peers: 1/);
    expect(finished.code).toBe(0);
  });

  it('names what does not follow, and exits 1', async () => {
    const document = sampleBench();
    document.raw.operations[0]!.spanUs[0] = 100;
    const finished = await kilotoken(['bench', 'kernels', '--from', write('edited.json', document)]);
    expect(onlyLine(finished)).toMatch(/figures\.operations does not follow from the samples/);
    expect(finished.code).toBe(1);
  });

  it.each([
    ['no JSON', 'nothing'],
    ['another document', { schema: 'kilotoken/mutants@2' }],
  ])('refuses %s in one line', async (_, document) => {
    const finished = await kilotoken(['bench', 'kernels', '--from', write('other.json', document)]);
    expect(onlyLine(finished)).toMatch(/^error: /);
    expect(finished.code).toBe(2);
  });

  it('refuses peers that are none before it measures', async () => {
    const finished = await kilotoken(['bench', 'kernels', '--peers', write('peers.json', {})]);
    expect(onlyLine(finished)).toMatch(/^error: .*peers\.json: no file of peers\/run\.py: /);
    expect(finished.code).toBe(2);
  });
});
