/**
 * A prompt: messages and tools in the form an OpenAI-compatible endpoint takes them, so that the same line goes to an
 * endpoint verbatim and to a local engine through the checkpoint's chat template.
 *
 * Prompts come from files that strangers hand over: unknown keys, dangling tool results and text that is not Unicode
 * are refused here, once, so that nothing behind this file has to ask.
 */
import { z } from 'zod';

/** Text that survives a round trip through UTF-8. */
const Text = z
  .string()
  .refine((text) => !/\p{Surrogate}/u.test(text), 'holds a lone surrogate, which is not Unicode text');
const Filled = Text.refine((text) => text.trim() !== '', 'is empty');
/** What endpoints accept as the name of a function. */
const FunctionName = z.string().regex(/^[a-zA-Z0-9_-]{1,64}$/, 'must be 1 to 64 of a-z, A-Z, 0-9, _ and -');

/** The arguments of a call, as JSON text of one object. */
const Arguments = Text.refine((text) => {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}, 'must be the JSON text of one object');

export const ToolCall = z.strictObject({
  id: z.string().min(1),
  type: z.literal('function'),
  function: z.strictObject({ name: FunctionName, arguments: Arguments }),
});

export const Tool = z.strictObject({
  type: z.literal('function'),
  function: z.strictObject({
    name: FunctionName,
    description: Text,
    /** A JSON Schema of type object. */
    parameters: z
      .record(z.string(), z.json())
      .refine((schema) => schema.type === 'object', 'must be a JSON Schema of type "object"'),
  }),
});

export const Message = z.discriminatedUnion('role', [
  z.strictObject({ role: z.literal('system'), content: Filled }),
  z.strictObject({ role: z.literal('user'), content: Filled }),
  z
    .strictObject({ role: z.literal('assistant'), content: Text, tool_calls: z.array(ToolCall).min(1).optional() })
    .refine(
      (turn) => turn.content.trim() !== '' || turn.tool_calls !== undefined,
      'holds neither text nor a tool call',
    ),
  z.strictObject({ role: z.literal('tool'), tool_call_id: z.string().min(1), content: Text }),
]);

export const Prompt = z
  .strictObject({
    /** Unique within its suite. */
    id: z.string().regex(/^\S{1,200}$/, 'must be 1 to 200 characters without white space'),
    /** Facets: topic, difficulty, `lang:<code>` of the prose, `thinking:on|off` where it matters. */
    tags: z.array(z.string().regex(/^\S+$/, 'must not hold white space')),
    messages: z.array(Message).min(1, 'needs at least one message'),
    tools: z.array(Tool).min(1, 'must hold a tool when it is there').optional(),
  })
  .superRefine((prompt, context) => {
    const complain = (path: (string | number)[], message: string) =>
      context.addIssue({ code: 'custom', path, message, input: prompt });
    const tools = new Set(prompt.tools?.map((tool) => tool.function.name));
    if (tools.size !== (prompt.tools?.length ?? 0)) complain(['tools'], 'names a function twice');
    if (new Set(prompt.tags).size !== prompt.tags.length) complain(['tags'], 'holds a tag twice');

    /** Calls of the latest assistant turn that have no result yet. */
    const open = new Set<string>();
    prompt.messages.forEach((message, i) => {
      const at = ['messages', i];
      if (message.role === 'system' && i > 0) complain(at, 'a system message must come first');
      if (message.role === 'tool') {
        if (!open.delete(message.tool_call_id)) complain(at, `answers no open tool call: ${message.tool_call_id}`);
        return;
      }
      if (open.size > 0) complain(at, `comes before the result of tool call ${[...open].join(', ')}`);
      open.clear();
      if (message.role === 'assistant') {
        for (const call of message.tool_calls ?? []) {
          if (!tools.has(call.function.name))
            complain(at, `calls a function that is not offered: ${call.function.name}`);
          if (open.has(call.id)) complain(at, `uses a tool call id twice: ${call.id}`);
          open.add(call.id);
        }
      }
    });
    const last = prompt.messages.at(-1);
    if (last !== undefined && last.role !== 'user' && last.role !== 'tool') {
      complain(['messages', prompt.messages.length - 1], 'the last message must be from the user or a tool');
    }
    if (open.size > 0) complain(['messages'], `lack the result of tool call ${[...open].join(', ')}`);
  });

export type ToolCall = z.infer<typeof ToolCall>;
export type Tool = z.infer<typeof Tool>;
export type Message = z.infer<typeof Message>;
export type Prompt = z.infer<typeof Prompt>;
