/** Two JSON documents side by side: every path at which they differ, in words. */

/** Figures may be recomputed on another processor; the last bits of a logarithm are not what a check is about. */
const RELATIVE = 1e-12;

export interface DocumentDifference {
  readonly path: string;
  readonly text: string;
  /** The stored document lacks the member altogether. */
  readonly added: boolean;
}

export function compareDocuments(stored: unknown, computed: unknown, path = ''): DocumentDifference[] {
  if (Object.is(stored, computed)) return [];
  if (typeof stored === 'number' && typeof computed === 'number') {
    const close = Math.abs(stored - computed) <= RELATIVE * Math.max(Math.abs(stored), Math.abs(computed));
    return close ? [] : [differ(path, stored, computed)];
  }
  if (Array.isArray(stored) && Array.isArray(computed)) {
    if (stored.length !== computed.length) {
      const text = `has ${stored.length} entries, the rows give ${computed.length}`;
      return [{ path, text: `${path} ${text}`, added: false }];
    }
    return stored.flatMap((value, i) => compareDocuments(value, computed[i], `${path}[${i}]`));
  }
  if (isObject(stored) && isObject(computed)) {
    const keys = new Set([...Object.keys(stored), ...Object.keys(computed)]);
    return [...keys].flatMap((key) => {
      const at = path === '' ? key : `${path}.${key}`;
      if (!(key in stored)) {
        return [{ path: at, text: `${at} is missing, the rows give ${shown(computed[key])}`, added: true }];
      }
      if (!(key in computed)) return [{ path: at, text: `${at} does not follow from the rows`, added: false }];
      return compareDocuments(stored[key], computed[key], at);
    });
  }
  return [differ(path, stored, computed)];
}

function differ(path: string, stored: unknown, computed: unknown): DocumentDifference {
  return { path, text: `${path} says ${shown(stored)}, the rows give ${shown(computed)}`, added: false };
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length <= 120 ? text : `${text.slice(0, 117)}...`;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
