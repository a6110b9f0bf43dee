/**
 * A check of plain JSON against a shape, small enough to read in one sitting. The page may use the report's types but not
 * the harness at run time, so the report is checked here a second time, by code that shares nothing with its writer.
 *
 * Every combinator is typed by what it checks: a field added to the schema's type without a check does not compile.
 */

/** Returns the value as `T`, or throws a ShapeError that names the place (`at`, a JSON path). Extra fields are let through. */
export type Check<T> = (value: unknown, at: string) => T;

export class ShapeError extends Error {
  override readonly name = 'ShapeError';
  constructor(at: string, expected: string, got: unknown) {
    super(`${at}: expected ${expected}, got ${describe(got)}`);
  }
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value !== null && typeof value === 'object') return 'an object';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export const text: Check<string> = (value, at) => {
  if (typeof value !== 'string') throw new ShapeError(at, 'a text', value);
  return value;
};

export const flag: Check<boolean> = (value, at) => {
  if (typeof value !== 'boolean') throw new ShapeError(at, 'true or false', value);
  return value;
};

export const number: Check<number> = (value, at) => {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new ShapeError(at, 'a finite number', value);
  return value;
};

export const integer: Check<number> = (value, at) => {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw new ShapeError(at, 'a whole number', value);
  return value;
};

export function oneOf<const T extends string>(...allowed: readonly T[]): Check<T> {
  return (value, at) => {
    const found = allowed.find((word) => word === value);
    if (found === undefined) throw new ShapeError(at, `one of ${allowed.map((w) => `"${w}"`).join(', ')}`, value);
    return found;
  };
}

export function nullable<T>(inner: Check<T>): Check<T | null> {
  return (value, at) => (value === null ? null : inner(value, at));
}

/** A field that may be missing; what is there must fit. */
export function optional<T>(inner: Check<T>): Check<T> {
  return (value, at) => (value === undefined ? (value as T) : inner(value, at));
}

export function listOf<T>(inner: Check<T>): Check<T[]> {
  return (value, at) => {
    if (!Array.isArray(value)) throw new ShapeError(at, 'a list', value);
    for (const [i, item] of value.entries()) inner(item, `${at}[${i}]`);
    return value as T[];
  };
}

export function object<T>(fields: { readonly [K in keyof T]-?: Check<T[K]> }): Check<T> {
  return (value, at) => {
    if (value === null || typeof value !== 'object' || Array.isArray(value))
      throw new ShapeError(at, 'an object', value);
    const record = value as Record<string, unknown>;
    for (const key of Object.keys(fields) as (keyof T & string)[]) fields[key](record[key], `${at}.${key}`);
    return value as T;
  };
}

/** A union told apart by its `state` field. */
export function byState<T extends { state: string }>(
  cases: {
    readonly [S in T['state']]: Check<Extract<T, { state: S }>>;
  },
): Check<T> {
  return (value, at) => {
    const state = oneOf(...(Object.keys(cases) as T['state'][]))(
      (value as { state?: unknown } | null)?.state,
      `${at}.state`,
    );
    return cases[state](value, at);
  };
}
