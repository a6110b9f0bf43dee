/**
 * Acceptance by what is known of a prompt: language, thinking mode, length of the context, temperature. A facet of which the
 * prompts say nothing is reported as absent, with the reason; it is never guessed.
 */

export interface FacetPrompt {
  readonly id: string;
  /** The prompt's tags, `lang:<code>` and `thinking:on|off` among them; undefined in runs that did not record them. */
  readonly tags: readonly string[] | undefined;
  readonly tokens: number;
}

export const FACETS = ['language', 'thinking', 'context'] as const;
export type Facet = (typeof FACETS)[number];

/** Upper ends of the classes of prompt length, tokens. */
const LENGTHS = [64, 256, 1024, 4096, 16384, 65536];

export interface FacetValue {
  readonly value: string;
  readonly prompts: readonly string[];
}

export type FacetSplit =
  | { readonly facet: Facet; readonly values: readonly FacetValue[] }
  | { readonly facet: Facet; readonly absent: string };

export function splitByFacet(facet: Facet, prompts: readonly FacetPrompt[]): FacetSplit {
  if (facet !== 'context' && prompts.every((prompt) => prompt.tags === undefined)) {
    return { facet, absent: 'this run did not record the tags of its prompts' };
  }
  const groups = new Map<string, string[]>();
  for (const prompt of prompts) {
    const value = valueIn(facet, prompt);
    const list = groups.get(value) ?? [];
    groups.set(value, list);
    list.push(prompt.id);
  }
  const known = [...groups.keys()].filter((value) => value !== UNSAID);
  if (known.length === 0) {
    const tag = facet === 'language' ? 'lang:<code>' : 'thinking:on or thinking:off';
    return { facet, absent: `no prompt of this run has a tag ${tag}` };
  }
  const order = facet === 'context' ? [...LENGTHS.keys(), LENGTHS.length].map(lengthName) : known.sort();
  const values = [...order, UNSAID].flatMap((value) => {
    const list = groups.get(value);
    return list === undefined ? [] : [{ value, prompts: list }];
  });
  return { facet, values };
}

const UNSAID = 'not said';

function valueIn(facet: Facet, prompt: FacetPrompt): string {
  if (facet === 'context') {
    const at = LENGTHS.findIndex((end) => prompt.tokens <= end);
    return lengthName(at < 0 ? LENGTHS.length : at);
  }
  const prefix = facet === 'language' ? 'lang:' : 'thinking:';
  return prompt.tags?.find((tag) => tag.startsWith(prefix))?.slice(prefix.length) ?? UNSAID;
}

function lengthName(i: number): string {
  const low = i === 0 ? 1 : LENGTHS[i - 1]! + 1;
  return i === LENGTHS.length ? `${low} tokens and more` : `${low} to ${LENGTHS[i]} tokens`;
}
