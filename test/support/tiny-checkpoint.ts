/**
 * A whole checkpoint folder for end-to-end tests: random weights in the published layout, a draft, and a byte-level
 * tokenizer whose every id the model can emit. It decodes nonsense at thousands of tokens a second.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { idOf, SPECIALS, tokenizerFiles, tokenizerJson } from '../cpu/suite/tiny-tokenizer.ts';
import { BASE_DRAFT_CONFIG, writeSyntheticCheckpoint } from './synthetic-checkpoint.ts';

const VOCAB = Object.keys((tokenizerJson().model as { vocab: object }).vocab).length + SPECIALS.length;
export const TINY = { vocab: VOCAB, maxContext: 512 };

export async function writeTinyCheckpoint(
  directory: string,
  options: { readonly draft?: boolean } = {},
): Promise<void> {
  const dflash = BASE_DRAFT_CONFIG.dflash_config as object;
  await writeSyntheticCheckpoint(directory, {
    seed: 3,
    experts: 'mxfp4',
    config: { vocab_size: VOCAB, max_position_embeddings: TINY.maxContext, eos_token_id: idOf('<|im_end|>') },
    draft:
      options.draft === false
        ? false
        : {
            vocab_size: VOCAB,
            max_position_embeddings: TINY.maxContext,
            dflash_config: { ...dflash, mask_token_id: idOf('<|endoftext|>') },
          },
  });
  for (const [name, text] of Object.entries(tokenizerFiles())) writeFileSync(join(directory, name), text);
}

/** A suite folder with `count` short prompts in each scenario. */
export function writeTinySuites(directory: string, count: number): void {
  for (const scenario of ['coding', 'math', 'agent', 'chat']) {
    mkdirSync(join(directory, scenario), { recursive: true });
    const lines = Array.from({ length: count }, (_, i) =>
      JSON.stringify({
        id: `${scenario}-${i}`,
        tags: [],
        messages: [{ role: 'user', content: `${scenario} ${'the end '.repeat(i % 3)}${i}?` }],
      }),
    );
    writeFileSync(join(directory, scenario, 'prompts.jsonl'), `${lines.join('\n')}\n`);
  }
}
