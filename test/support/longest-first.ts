/**
 * The order of the test files: those that take longest begin first, so that none of them is left to run alone on one core at the end. Times
 * of an earlier run would say the same, but a clean clone has none. A file that is not listed takes its turn after those that are.
 */
import type { TestSpecification } from 'vitest/node';
import { BaseSequencer } from 'vitest/node';

/** Every file of half a minute or more, the longest first. A test sees to it that each of them exists. */
export const LONG: readonly string[] = [
  'cpu/cuda/programs',
  'cpu/cuda/simt',
  'cpu/mutants/mutants',
  'cpu/results/record',
  'cpu/engine/defects',
  'e2e/verify',
  'e2e/audit',
  'cpu/gate/toys',
  'e2e/site',
  'cpu/gate/plugins',
  'e2e/check',
  'cpu/cuda/stack-load',
  'cpu/bundle/bytes',
  'cpu/bundle/forgeries',
  'e2e/mutants',
  'cpu/gate/defects',
  'cpu/harness/synthetic-command',
  'cpu/mutants/families',
  'cpu/node/run',
  'e2e/windows',
  'cpu/results/node',
];

/** Place of a file in the list, given its path; behind all of them where it is not listed. */
export function turn(path: string): number {
  const at = LONG.findIndex((name) => path.endsWith(`/test/${name}.test.ts`));
  return at === -1 ? LONG.length : at;
}

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => turn(a.moduleId) - turn(b.moduleId)); // stable
  }
}
