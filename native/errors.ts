/**
 * The failures this side reports in one line instead of a stack trace. They carry the same `name` as the harness's own
 * classes; the command line recognises them by that name, so that neither side imports the other.
 */

/** The caller's fault: a broken checkpoint, an id out of range, a context over the limit. Exit code 2. */
export class InputError extends Error {
  override readonly name = 'InputError';
}

/** The machine lacks what was asked for: memory, a device, a built addon. Exit code 3. */
export class EnvironmentError extends Error {
  override readonly name = 'EnvironmentError';
}

/** The model computed a row that no law can be made of: a NaN or infinite logit, or no token at all. Not the caller's fault. */
export class LogitsError extends Error {
  override readonly name = 'LogitsError';
}

/** A GPU faulted or did not answer in time. The process can use it no more. Exit code 70. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError';
}

/**
 * A string taken from a file, made fit for a one-line message: quoted, control characters escaped, cut at 120 characters.
 */
export function quote(text: string): string {
  const short = text.length > 120 ? `${text.slice(0, 117)}...` : text;
  return JSON.stringify(short);
}
