/** Exit codes of every command, and what a failure looks like: one line, and a stack trace only for our own faults. */

export const EXIT = {
  /** Every check passed. */
  pass: 0,
  /** A check failed. */
  refuted: 1,
  /** Wrong usage or bad input. */
  input: 2,
  /** The machine lacks what was asked for. */
  environment: 3,
  /** Not enough evidence. */
  inconclusive: 4,
  /** A fault of kilotoken itself. */
  internal: 70,
  /** Interrupted; partial results are written and marked. */
  interrupted: 130,
} as const;

/** Errors are recognised by name: the two sides of the seam each have their own classes. */
export function explain(error: unknown): { readonly code: number; readonly text: string } {
  const failure = error instanceof Error ? error : new Error(String(error));
  if (failure.name === 'InputError') return { code: EXIT.input, text: `error: ${oneLine(failure.message)}` };
  if (failure.name === 'EnvironmentError')
    return { code: EXIT.environment, text: `error: ${oneLine(failure.message)}` };
  if (failure.name === 'DeviceError')
    return { code: EXIT.internal, text: `internal error: ${oneLine(failure.message)}` };
  return { code: EXIT.internal, text: `internal error: ${failure.stack ?? failure.message}` };
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' ');
}
