/**
 * Text to token ids and back, for one checkpoint folder: `tokenizer.json`, `tokenizer_config.json`, the chat template
 * (`chat_template.jinja`, else the one in tokenizer_config.json) and the stop ids of `generation_config.json`.
 *
 * Text is never trusted. Only the chat template can produce an added token: `encode` knows none, and `encodeChat` keeps
 * what messages and tools spell out as text (markers.ts).
 */
import { join } from 'node:path';
import { Template } from '@huggingface/jinja';
import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { InputError } from '../engine.ts';
import { sha256 } from './canonical.ts';
import { firstIssue, readText } from './jsonl.ts';
import { MarkerGuard, type Piece } from './markers.ts';
import type { Message, Tool } from './prompt.ts';

export interface ChatOptions {
  /** Passed to the template as `enable_thinking`; absent leaves the template's own default. */
  readonly thinking?: boolean;
}

export interface Tokenizer {
  /** Ids of plain text. Markers spelled in it stay text. */
  encode(text: string): number[];
  /** Text of ids. Added tokens are printed, unless `skipMarkers` leaves out those declared special. Bytes that do not make up UTF-8 become U+FFFD. */
  decode(ids: readonly number[], options?: { readonly skipMarkers?: boolean }): string;
  /** The template's text for a conversation, up to where the assistant's next turn begins. For reading: encode with `encodeChat`. */
  renderChat(messages: readonly Message[], tools?: readonly Tool[], options?: ChatOptions): string;
  /** Ids of the same. */
  encodeChat(messages: readonly Message[], tools?: readonly Tool[], options?: ChatOptions): number[];
  /** One more than the largest id. A checkpoint's embedding may have more rows. */
  readonly vocabSize: number;
  /** `sha256:<hex>` of tokenizer.json. */
  readonly digest: string;
  /** `sha256:<hex>` of the chat template. */
  readonly templateDigest: string;
  /** Ids that end a generation, ascending. */
  readonly stopIds: readonly number[];
}

const TokenText = z.union([z.string(), z.object({ content: z.string() }).transform((token) => token.content)]);
const Id = z.int().min(0);

const TokenizerFile = z.looseObject({
  model: z.looseObject({ type: z.string().optional(), vocab: z.record(z.string(), Id) }),
  added_tokens: z
    .array(
      z.looseObject({
        id: Id,
        content: z.string().min(1, 'an added token is empty'),
        // White space eaten around a marker would depend on what text stands there; no chat tokenizer wants it.
        lstrip: z.literal(false, 'added tokens that strip white space are not supported').optional(),
        rstrip: z.literal(false, 'added tokens that strip white space are not supported').optional(),
      }),
    )
    .default([]),
});

const TokenizerConfig = z.looseObject({
  bos_token: TokenText.nullish(),
  eos_token: TokenText.nullish(),
  chat_template: z.union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))]).nullish(),
});

const GenerationConfig = z.looseObject({ eos_token_id: z.union([Id, z.array(Id)]).nullish() });

/** The tokenizer of the checkpoint in `dir`. Throws InputError naming the file that is missing or does not fit. */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const path = (name: string) => join(dir, name);
  const tokenizerText = await readText(path('tokenizer.json'));
  const file = parseJson(TokenizerFile, tokenizerText, path('tokenizer.json'));
  const config = parseJson(
    TokenizerConfig,
    await readText(path('tokenizer_config.json')),
    path('tokenizer_config.json'),
  );
  const generationText = await readIfPresent(path('generation_config.json'));
  const generation =
    generationText === null ? {} : parseJson(GenerationConfig, generationText, path('generation_config.json'));
  const templateText = (await readIfPresent(path('chat_template.jinja'))) ?? templateOf(config.chat_template);
  if (templateText === null) {
    throw new InputError(`${dir}: no chat template, neither chat_template.jinja nor in tokenizer_config.json`);
  }

  let full: HfTokenizer;
  let plain: HfTokenizer;
  let template: Template;
  try {
    full = new HfTokenizer(file, config);
    plain = new HfTokenizer({ ...file, added_tokens: [] }, config);
  } catch (error) {
    throw new InputError(`${path('tokenizer.json')}: ${(error as Error).message}`);
  }
  try {
    template = new Template(templateText);
  } catch (error) {
    throw new InputError(`${dir}: the chat template does not parse: ${(error as Error).message}`);
  }

  const markerIds = new Map(file.added_tokens.map((token) => [token.content, token.id]));
  const knownIds = new Set([...Object.values(file.model.vocab), ...markerIds.values()]);
  const guard = new MarkerGuard([...markerIds.keys()]);
  const stopIds = stopIdsOf(
    generation.eos_token_id,
    config.eos_token,
    (text) => markerIds.get(text) ?? file.model.vocab[text],
  );
  if (stopIds.length === 0)
    throw new InputError(`${dir}: neither generation_config.json nor tokenizer_config.json names an end token`);

  function encode(text: string): number[] {
    const ids: (number | undefined)[] = plain.encode(text, { add_special_tokens: false }).ids;
    if (!ids.every((id) => id !== undefined))
      throw new InputError(`${dir}: the vocabulary cannot spell ${JSON.stringify(text)}`);
    return ids;
  }

  function pieces(messages: readonly Message[], tools: readonly Tool[] | undefined, options: ChatOptions): Piece[] {
    // Roles steer the template and are one of four words; all else is untrusted.
    const roles = messages.map((message) => message.role);
    const bodies = messages.map(({ role: _, ...body }) =>
      'tool_calls' in body ? { ...body, tool_calls: parsedCalls(body.tool_calls) } : body,
    );
    return guard.render({ bodies, tools: tools ?? null }, (guarded) => {
      try {
        return template.render({
          messages: guarded.bodies.map((body, i) => ({ role: roles[i], ...body })),
          tools: guarded.tools,
          add_generation_prompt: true,
          bos_token: config.bos_token ?? '',
          eos_token: config.eos_token ?? '',
          ...(options.thinking === undefined ? {} : { enable_thinking: options.thinking }),
        });
      } catch (error) {
        throw new InputError(`${dir}: the chat template refuses the messages: ${(error as Error).message}`);
      }
    });
  }

  return {
    encode,
    decode(ids, { skipMarkers = false } = {}) {
      const stranger = ids.find((id) => !knownIds.has(id));
      if (stranger !== undefined) throw new InputError(`token id ${stranger} is not in the vocabulary`);
      if (ids.length === 0) return '';
      return full.decode([...ids], { skip_special_tokens: skipMarkers, clean_up_tokenization_spaces: false });
    },
    renderChat: (messages, tools, options = {}) =>
      pieces(messages, tools, options)
        .map((piece) => ('text' in piece ? piece.text : piece.marker))
        .join(''),
    encodeChat: (messages, tools, options = {}) =>
      pieces(messages, tools, options).flatMap((piece) =>
        'text' in piece ? encode(piece.text) : [markerIds.get(piece.marker)!],
      ),
    vocabSize: [...knownIds].reduce((most, id) => Math.max(most, id), -1) + 1,
    digest: sha256(tokenizerText),
    templateDigest: sha256(templateText),
    stopIds,
  };
}

function parseJson<T>(schema: z.ZodType<T>, text: string, path: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${path}: is not JSON (${(error as Error).message})`);
  }
  const result = schema.safeParse(value);
  if (!result.success) throw new InputError(`${path}: ${firstIssue(result.error)}`);
  return result.data;
}

async function readIfPresent(path: string): Promise<string | null> {
  try {
    return await readText(path);
  } catch (error) {
    if (error instanceof InputError && error.message.endsWith('no such file')) return null;
    throw error;
  }
}

function templateOf(entry: z.infer<typeof TokenizerConfig>['chat_template']): string | null {
  if (Array.isArray(entry)) return entry.find((named) => named.name === 'default')?.template ?? null;
  return entry ?? null;
}

function stopIdsOf(
  generation: number | number[] | null | undefined,
  eosToken: string | null | undefined,
  idOf: (text: string) => number | undefined,
): number[] {
  const fallback = eosToken == null ? undefined : idOf(eosToken);
  const ids = generation ?? fallback ?? [];
  return [...new Set([ids].flat())].sort((a, b) => a - b);
}

/** Calls with their arguments as objects, which is what published templates print. */
function parsedCalls(calls: Extract<Message, { role: 'assistant' }>['tool_calls']) {
  return calls?.map((call) => ({
    ...call,
    function: { ...call.function, arguments: JSON.parse(call.function.arguments) },
  }));
}
