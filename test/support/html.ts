/**
 * A strict reader for the pages this project builds: tags must nest, attributes must be quoted, a stray `<` is an error.
 * It exists to look at our own output, so whatever it does not know is a fault of the page.
 */
export interface Element {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: (Element | string)[];
  readonly parent: Element | null;
}

const VOID = new Set(['meta', 'link', 'br', 'hr', 'img', 'input', 'wbr', 'base', 'area', 'embed', 'source', 'col']);
const RAW = new Set(['style', 'script']);
const NAMED: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' };

function decode(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|([a-z]+));/gi, (whole, hex, decimal, name) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    const known = NAMED[name];
    if (known === undefined) throw new Error(`unknown entity ${whole}`);
    return known;
  });
}

const TAG = /<(\/?)([a-zA-Z][a-zA-Z0-9-]*)((?:\s+[^\s"'<>/=]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>=`]+))?)*)\s*(\/?)>/y;
const ATTRIBUTE = /([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>=`]+)))?/g;

/** The document's root element. Throws on markup that does not nest. */
export function parseHtml(html: string): Element {
  const source = html.replace(/^<!doctype html>/i, '');
  const root: Element = { name: '#document', attributes: new Map(), children: [], parent: null };
  let current = root;
  let at = 0;
  while (at < source.length) {
    if (RAW.has(current.name)) {
      const end = source.indexOf(`</${current.name}`, at);
      if (end < 0) throw new Error(`<${current.name}> is not closed`);
      if (end > at) {
        current.children.push(source.slice(at, end));
        at = end;
      }
    }
    const next = source.indexOf('<', at);
    if (next !== at) {
      current.children.push(decode(source.slice(at, next < 0 ? source.length : next)));
      at = next < 0 ? source.length : next;
      continue;
    }
    TAG.lastIndex = at;
    const match = TAG.exec(source);
    if (!match) throw new Error(`stray "<" before: ${source.slice(at, at + 60)}`);
    at = TAG.lastIndex;
    const [, closing, tag = '', attributes = '', selfClosing] = match;
    const name = tag.toLowerCase();
    if (closing) {
      if (current.name !== name || !current.parent) throw new Error(`</${name}> closes <${current.name}>`);
      current = current.parent;
      continue;
    }
    const element: Element = { name, attributes: readAttributes(attributes), children: [], parent: current };
    current.children.push(element);
    if (!selfClosing && !VOID.has(name)) current = element;
  }
  if (current !== root) throw new Error(`<${current.name}> is not closed`);
  return root;
}

function readAttributes(text: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const [, name = '', double, single, bare] of text.matchAll(ATTRIBUTE)) {
    found.set(name.toLowerCase(), decode(double ?? single ?? bare ?? ''));
  }
  return found;
}

const below = new WeakMap<Element, readonly Element[]>();

/** Everything below the element, in document order. Remembered: a parsed page does not change. */
export function descendants(element: Element): readonly Element[] {
  const known = below.get(element);
  if (known) return known;
  const found = element.children.flatMap((child) => (typeof child === 'string' ? [] : [child, ...descendants(child)]));
  below.set(element, found);
  return found;
}

export const all = (element: Element, name: string): Element[] => descendants(element).filter((e) => e.name === name);

export function byId(element: Element, id: string): Element {
  const found = descendants(element).find((e) => e.attributes.get('id') === id);
  if (!found) throw new Error(`no element with id ${id}`);
  return found;
}

/** Text as a reader sees it: white space collapsed. */
export function textOf(node: Element | string): string {
  const raw = (n: Element | string): string => (typeof n === 'string' ? n : n.children.map(raw).join(''));
  return raw(node).replace(/\s+/g, ' ').trim();
}
