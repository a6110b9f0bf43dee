"""How a conversation becomes text: the nano chat template, once as a Jinja file for the checkpoint and once as plain Python.

`render` must give the same text as `TEMPLATE` (checked on every corpus row's shape by `tokenizer.py --check`). The template is
ChatML-like: no default system prompt, tools listed one JSON object a line, calls inside <tool_call> tags.
"""
import json

SPECIALS = [  # in id order, placed at the end of the vocabulary
    "<|endoftext|>", "<|im_end|>", "<|im_start|>", "<tool_call>", "</tool_call>", "<think>", "</think>", "<|mask|>",
]

TEMPLATE = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{- '# Tools\\n' }}"
    "{%- for tool in tools %}{{- (tool.function if tool.function else tool) | tojson }}{{- '\\n' }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role != 'system' or not loop.first %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content %}{{- message.content }}{%- endif %}"
    "{%- if message.tool_calls %}"
    "{%- for call in message.tool_calls %}"
    "{%- set f = call.function if call.function else call %}"
    "{%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}"
    "{{- '<tool_call>\\n{\"name\": ' + (f.name | tojson) + ', \"arguments\": ' }}"
    "{%- if f.arguments is string %}{{- f.arguments }}{%- else %}{{- f.arguments | tojson }}{%- endif %}"
    "{{- '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def _call_text(call):
    f = call.get("function", call)
    arguments = f["arguments"]
    text = arguments if isinstance(arguments, str) else dumps(arguments)
    return '<tool_call>\n{"name": ' + dumps(f["name"]) + ', "arguments": ' + text + "}\n</tool_call>"


def render(messages, tools=None, add_generation_prompt=False):
    """Returns [(text, is_assistant_output)] pieces; joined they are the template's output."""
    pieces = []
    first = messages[0]
    if tools:
        head = "<|im_start|>system\n"
        if first["role"] == "system":
            head += first["content"] + "\n\n"
        head += "# Tools\n" + "".join(dumps(t.get("function", t)) + "\n" for t in tools)
        pieces.append((head + "<|im_end|>\n", False))
    elif first["role"] == "system":
        pieces.append(("<|im_start|>system\n" + first["content"] + "<|im_end|>\n", False))
    for i, message in enumerate(messages):
        if message["role"] == "system" and i == 0:
            continue
        body = message.get("content") or ""
        for k, call in enumerate(message.get("tool_calls") or []):
            body += ("\n" if k or message.get("content") else "") + _call_text(call)
        ours = message["role"] == "assistant"
        pieces.append(("<|im_start|>" + message["role"] + "\n", False))
        pieces.append((body + "<|im_end|>", ours))
        pieces.append(("\n", False))
    if add_generation_prompt:
        pieces.append(("<|im_start|>assistant\n", False))
    return pieces
