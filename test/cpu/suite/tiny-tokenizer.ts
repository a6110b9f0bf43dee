/**
 * A tokenizer small enough to read: byte-level BPE with 256 bytes, a handful of merges and the special tokens of a
 * ChatML checkpoint at the end, as files of a checkpoint folder. The template prints what chat templates print: roles,
 * content, tools and calls as JSON.
 */

export const SPECIALS = ['<|endoftext|>', '<|im_end|>', '<|im_start|>', '<tool_call>', '</tool_call>'];

/** GPT-2's printable stand-in for each byte: itself where it is printable, else the next code point from 256 on. */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

const MERGES = [
  ['t', 'h'],
  ['th', 'e'],
  ['Ġ', 'the'],
  ['i', 'n'],
  ['i', 'm'],
  ['e', 'n'],
  ['en', 'd'],
  ['Ã', '©'],
  ['l', 'l'],
  ['<', '|'],
];

/** Ids: bytes 0 .. 255, merges from 256, specials last. */
export function tokenizerJson(): Record<string, unknown> {
  const tokens = [...byteCharacters(), ...MERGES.map((pair) => pair.join(''))];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, i) => ({
      id: tokens.length + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: !content.includes('tool'),
    })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: MERGES,
    },
  };
}

export const idOf = (special: string) => 256 + MERGES.length + SPECIALS.indexOf(special);

export const TEMPLATE = `{%- if tools %}<|im_start|>system
{% for tool in tools %}
{{ tool.function | tojson }}
{% endfor %}
<|im_end|>
{% endif %}
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}
<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}(no thinking)
{% endif %}
{% endif %}`;

/** The files of a checkpoint folder that concern words. */
export function tokenizerFiles(): Record<string, string> {
  return {
    'tokenizer.json': JSON.stringify(tokenizerJson()),
    'tokenizer_config.json': JSON.stringify({
      tokenizer_class: 'PreTrainedTokenizerFast',
      eos_token: '<|im_end|>',
      bos_token: null,
    }),
    'generation_config.json': JSON.stringify({ eos_token_id: [idOf('<|im_end|>'), idOf('<|endoftext|>')] }),
    'chat_template.jinja': TEMPLATE,
  };
}
