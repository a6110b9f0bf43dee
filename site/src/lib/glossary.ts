/**
 * GLOSSARY.md is a document of its own (one `#` title, `##` groups, `###` terms). In the page it is one section among
 * others: the title is dropped, the rest moves down one level, and every heading gets a `term-` anchor.
 */
import { slug } from './format.ts';

interface Node {
  type: string;
  value?: string;
  depth?: number;
  children?: Node[];
  data?: { hProperties?: { id: string } };
}

const plain = (node: Node): string => node.value ?? (node.children ?? []).map(plain).join('');

/** A remark plugin: changes the syntax tree in place. */
export function glossaryHeadings() {
  return (tree: object): void => {
    const root = tree as Node;
    root.children = (root.children ?? []).filter((node) => !(node.type === 'heading' && node.depth === 1));
    for (const node of root.children) {
      if (node.type !== 'heading' || node.depth === undefined) continue;
      node.depth += 1;
      node.data = { hProperties: { id: `term-${slug(plain(node))}` } };
    }
  };
}
