// Which operations a role of the resident kernel walks stands in instruction.h (has_part), what it does in them in kernel.cu. A launch of one instruction gives it to every role, so there a missing
// operation is not missed; in the resident kernel a role that is not told of one leaves the others waiting. The GPU in software runs windowed attention in such launches only, so the two texts are held together here.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

const read = (name: string) => readFileSync(new URL(`../../../kernels/persistent/${name}`, import.meta.url), 'utf8');
const named = (text: string) => new Set([...text.matchAll(/Op::(k\w+)/g)].map((found) => found[1]!));

const without = (all: Set<string>, some: Set<string>) => new Set([...all].filter((name) => !some.has(name)));

function one(text: string, pattern: RegExp): string {
  const found = [...text.matchAll(pattern)];
  if (found.length !== 1) throw new Error(`${pattern} stands ${found.length} times`);
  return found[0]![1]!;
}

/** The operations that has_part() gives to `role`. */
function toldOf(header: string, role: string): Set<string> {
  const all = new Set(
    [...one(header, /enum class Op : uint32_t \{(.*?)\n\};/gs).matchAll(/^ {2}(k\w+),/gm)].map((found) => found[1]!),
  );
  const short: Record<string, Set<string>> = {};
  for (const name of ['is_product', 'is_finishing'])
    short[name] = named(one(header, new RegExp(`bool ${name}\\(Op op\\) \\{ return (.*?); \\}`, 'g')));
  const said = one(header, new RegExp(`case Role::${role}: return (.*?);`, 'g'));
  if (said === '!is_finishing(op)') return without(all, short.is_finishing!);
  const parts = said.split(' || ').map((part) => short[part.replace('(op)', '')] ?? named(part));
  return new Set(parts.flatMap((part) => [...part]));
}

/** The operations of which `step` of kernel.cu does something. */
function workOf(kernel: string, step: string): Set<string> {
  const body = one(kernel, new RegExp(`void ${step}\\(const Instruction& ins.*?\\{\\n(.*?)\\n\\}`, 'gs'));
  const idle = [...body.matchAll(/case Op::(k\w+): return; {2}\/\/ finish\(\)/g)].map((found) => found[1]!);
  return without(named(body), new Set(idle));
}

describe('what a role is told of and what it does', () => {
  const header = read('instruction.h');
  const kernel = read('kernel.cu');
  for (const [role, step] of [
    ['kMath', 'math'],
    ['kFinish', 'finish'],
    ['kFetch', 'fetch'],
  ] as const) {
    test(`${role}: the same operations`, () => {
      expect(workOf(kernel, step).size).toBeGreaterThan(3);
      expect(toldOf(header, role)).toEqual(workOf(kernel, step));
    });
    test(`${role}: one that it is not told of is noticed`, () => {
      const last = [...workOf(kernel, step)].at(-1)!;
      const less = toldOf(header, role);
      less.delete(last);
      expect(less).not.toEqual(workOf(kernel, step));
    });
  }

  test('an operation taken from has_part is noticed', () => {
    const broken = header.replace(' || op == Op::kAttendWindow;', ';');
    expect(broken).not.toBe(header);
    expect(toldOf(broken, 'kFetch')).not.toEqual(workOf(kernel, 'fetch'));
  });
});
