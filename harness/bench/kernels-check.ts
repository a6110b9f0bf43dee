/**
 * What must hold of a stored kernel bench: its figures follow from its samples, what was timed had been checked first, and nothing was
 * read from a cache by being small.
 */
import { isDeepStrictEqual } from 'node:util';
import { InputError } from '../engine.ts';
import { deriveFigures } from './kernels-figures.ts';
import { BenchKernels, type Figures, Peers } from './kernels-schema.ts';

/** Weights of a timed loop, at least: several times the L2. */
const ROTATED_BYTES = 200e6;
/** Distinct memory of a read rate, at least. */
const READ_BYTES = 2e9;

/** `what` begins the line. @throws InputError in one line for what is no such document */
export function readBenchKernels(value: unknown, what = 'kernel bench'): BenchKernels {
  return parsed(BenchKernels, value, what);
}

/** `what` begins the line. @throws InputError in one line for what is no such document */
export function readPeers(value: unknown, what = 'peers'): Peers {
  return parsed(Peers, value, what);
}

function parsed<T>(
  schema: {
    safeParse(value: unknown): { success: true; data: T } | { success: false; error: { issues: readonly Issue[] } };
  },
  value: unknown,
  what: string,
): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new InputError(`${what}: ${issue.path.join('.') || 'document'}: ${issue.message}`);
}

interface Issue {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** One line for each thing that does not hold; none for a document that stands. */
export function checkBenchKernels({ raw, figures }: BenchKernels): string[] {
  const findings: string[] = [];
  const derived = deriveFigures(raw);
  for (const key of Object.keys(derived) as (keyof Figures)[]) {
    if (!isDeepStrictEqual(figures[key], derived[key]))
      findings.push(`figures.${key} does not follow from the samples`);
  }
  for (const { ringKib, pageBytes, bytes } of raw.floors.reads) {
    if (bytes < READ_BYTES) findings.push(`reads of ${ringKib} KB rings, pages of ${pageBytes}: only ${bytes} bytes`);
  }
  for (const { op, m, weights, experts, arrangement, choice, check, copies, bytes } of raw.operations) {
    const name = `${op} ${weights} at ${m} rows (${arrangement})`;
    if (!(check.error <= check.bound)) findings.push(`${name}: error ${check.error} beyond ${check.bound}`);
    if (copies * bytes < ROTATED_BYTES) findings.push(`${name}: only ${copies * bytes} bytes rotated`);
    if (choice !== undefined && (choice === null) !== (experts === null))
      findings.push(`${name}: does not say of its experts, and of them alone, when they were chosen`);
    if (choice === 'before' && arrangement === 'chain') findings.push(`${name}: experts chosen before`);
  }
  for (const { peer, matrix, m, error, errorBound, copies, bytes } of raw.peers?.rows ?? []) {
    const name = `${peer} on ${matrix} at ${m} rows`;
    if (!(error <= errorBound)) findings.push(`${name}: error ${error} beyond ${errorBound}`);
    if (copies * bytes < ROTATED_BYTES) findings.push(`${name}: only ${copies * bytes} bytes rotated`);
  }
  if (raw.layers !== null && raw.layers.many <= raw.layers.few) findings.push('layers: no layers between the slices');
  return findings;
}
