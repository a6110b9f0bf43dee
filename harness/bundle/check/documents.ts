/** Two JSON documents side by side: every path at which they differ. */

/** Figures may be recomputed on another processor; the last bits of a logarithm are not what a check is about. */
const RELATIVE = 1e-12;

export interface DocumentDifference {
  readonly path: string;
  /** Each side in a few words; `nothing` where it has no such member. */
  readonly stored: string;
  readonly computed: string;
}

export function compareDocuments(stored: unknown, computed: unknown, path = ''): DocumentDifference[] {
  if (Object.is(stored, computed)) return [];
  if (typeof stored === 'number' && typeof computed === 'number') {
    const close = Math.abs(stored - computed) <= RELATIVE * Math.max(Math.abs(stored), Math.abs(computed));
    return close ? [] : [differ(path, stored, computed)];
  }
  if (Array.isArray(stored) && Array.isArray(computed)) {
    if (stored.length !== computed.length) {
      return [{ path, stored: `${stored.length} entries`, computed: `${computed.length} entries` }];
    }
    return stored.flatMap((value, i) => compareDocuments(value, computed[i], `${path}[${i}]`));
  }
  if (isObject(stored) && isObject(computed)) {
    const keys = new Set([...Object.keys(stored), ...Object.keys(computed)]);
    return [...keys].flatMap((key) =>
      compareDocuments(stored[key], computed[key], path === '' ? key : `${path}.${key}`),
    );
  }
  return [differ(path, stored, computed)];
}

function differ(path: string, stored: unknown, computed: unknown): DocumentDifference {
  return { path, stored: shown(stored), computed: shown(computed) };
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length <= 120 ? text : `${text.slice(0, 117)}...`;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
