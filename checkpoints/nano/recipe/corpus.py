"""Rows of the public data sets (see the card for the list and licences) as conversations, with held-out rows refused.

A row is {"scenario", "source", "messages", "tools"?}. Every user text and every problem statement is normalised and hashed; a
row whose hash is on the held-out list is dropped and counted. One row in fifty, chosen by a hash of its first user text, is kept
out of training for validation.
LIMIT: the split is by prompt text, so one MBPP task can be trained on in one language and held out in another; the card counts how many.
"""
import csv
import glob
import hashlib
import io
import json
import os
import re

csv.field_size_limit(1 << 30)


def normalise(text):
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def guard_key(text):
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:16]


def _lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def _json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def _user(text):
    return {"role": "user", "content": text.strip()}


def _assistant(text):
    return {"role": "assistant", "content": text.strip()}


def _pick(text, options):
    """A choice that depends on the row alone, so that the corpus is the same in every run."""
    return options[int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % len(options)]


def documented(code, text):
    """The code with the task as the docstring of its last top-level function, as a careful programmer would hand it over."""
    lines = code.split("\n")
    heads = [i for i, line in enumerate(lines) if re.match(r"def \w+\(.*\)\s*:\s*$", line)]
    if not heads:
        return code
    body = next((line for line in lines[heads[-1] + 1:] if line.strip()), "    pass")
    indent = re.match(r"\s*", body).group(0) or "    "
    return "\n".join(lines[:heads[-1] + 1] + [f'{indent}"""{text.strip()}"""'] + lines[heads[-1] + 1:])


def asked(question):
    """The last sentence of a problem: what it asks for."""
    sentences = [x.strip() for x in re.split(r"(?<=[.?!])\s+(?=[A-Z$\\\\])", question.strip()) if x.strip()]
    return sentences[-1]


def coding(root):
    for r in _lines(f"{root}/mbpp/mbpp.jsonl"):
        code = r["code"].replace("\r\n", "\n").replace("\t", "    ").strip()
        ask = _pick(r["text"], [
            r["text"],
            r["text"] + "\nYour code should pass this test:\n" + r["test_list"][0],
            "Write Python code. " + r["text"],
        ])
        yield "mbpp", [_user(ask), _assistant("```python\n" + documented(code, r["text"]) + "\n```")], None, [r["text"]]
    names = {"mbpp_release_v1": "python", "mbtsp_release_v1.2": "typescript", "mbcpp_release_v1.2": "cpp",
             "mbjsp_release_v1.2": "javascript", "mbgp_release_v1.1": "go"}
    for name, language in names.items():
        for r in _lines(f"{root}/mbxp/{name}.jsonl"):
            solution = r.get("canonical_solution")
            if not solution or not solution.strip():
                continue
            head = r["prompt"].strip("\n").replace("\t", "    ")
            body = solution.strip("\n").replace("\r\n", "\n").replace("\t", "    ")
            if len(head) + len(body) > 3000:
                continue
            ask = f"Complete this function.\n```{language}\n{head}\n```"
            yield "mbxp", [_user(ask), _assistant(f"```{language}\n{head}\n{body}\n```")], None, [r.get("description") or ask]
    for path in sorted(glob.glob(f"{root}/zeroeval-crux/*.json")):
        for r in _json(path):
            question = r["question"].split("[PYTHON]")[-1].split("[/PYTHON]")[0].strip()
            answer = _reasoned(r["output"][0])
            if answer:
                ask = "What is the output of this function for the given input?\n```python\n" + question.replace("??", "?") + "\n```"
                yield "zeroeval-crux", [_user(ask), _assistant(answer)], None, [question]


def _reasoned(output):
    """A model's {"reasoning", "answer"} output as prose with a closing answer line, or None if it does not parse."""
    text = output.strip()
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", text)
    try:
        d = json.loads(text, strict=False)
    except json.JSONDecodeError:
        m = re.search(r'"reasoning"\s*:\s*"(.*?)"\s*,\s*"answer"\s*:\s*"?(.*?)"?\s*\}?\s*$', text, re.S)
        if not m:
            return None
        d = {"reasoning": m.group(1).replace("\\n", "\n").replace("\\\\", "\\").replace('\\"', '"'), "answer": m.group(2)}
    if not isinstance(d, dict) or not isinstance(d.get("reasoning"), str):
        return None
    answer = d.get("answer")
    answer = answer if isinstance(answer, str) else json.dumps(answer)
    return f"{d['reasoning'].strip()}\n\nThe answer is {answer.strip()}."


def math(root):
    for r in _lines(f"{root}/gsm8k/train.jsonl"):
        steps, final = re.sub(r"<<.*?>>", "", r["answer"]).split("####")
        yield "gsm8k", [_user(r["question"]), _assistant(f"{asked(r['question'])}\n\n{steps.strip()}\n\nThe answer is {final.strip()}.")], None, []
    for r in _lines(f"{root}/math/math_test_minus500.jsonl"):
        if "[asy]" in r["problem"] or "[asy]" in r["solution"] or len(r["solution"]) > 2500:
            continue
        yield "math", [_user(r["problem"]), _assistant(asked(r["problem"]) + "\n\n" + r["solution"])], None, []
    for folder, key in (("zeroeval-gsm", "question"), ("zeroeval-math-l5", "problem")):
        for path in sorted(glob.glob(f"{root}/{folder}/*.json")):
            for r in _json(path):
                answer = _reasoned(r["output"][0])
                if answer and len(answer) < 2500:
                    yield folder, [_user(r[key]), _assistant(asked(r[key]) + "\n\n" + answer)], None, []
    for name in ("dev", "test"):
        for r in _lines(f"{root}/aqua/{name}.json"):
            ask = r["question"] + "\nOptions: " + ", ".join(r["options"])
            yield "aqua", [_user(ask), _assistant(asked(r["question"]) + "\n\n" + r["rationale"] + f"\n\nThe answer is {r['correct']}.")], None, [r["question"]]


def _fix_types(value):
    if isinstance(value, dict):
        return {k: ("object" if k == "type" and v == "dict" else _fix_types(v)) for k, v in value.items()}
    return [_fix_types(v) for v in value] if isinstance(value, list) else value


def _first_choice(arguments):
    """BFCL lists the acceptable values of each argument; the first is taken, empty ones are left out."""
    out = {}
    for key, values in arguments.items():
        value = values[0] if isinstance(values, list) and values else values
        if value == "" or value is None:
            continue
        out[key] = _first_choice(value) if isinstance(value, dict) else value
    return out


def agent(root):
    for path in sorted(glob.glob(f"{root}/bfcl/BFCL_v4_*.json")):
        name = os.path.basename(path)
        answers_path = f"{root}/bfcl/possible_answer/{name}"
        if "multi_turn" in name or "web_search" in name or "memory" in name:
            continue
        answers = {r["id"]: r["ground_truth"] for r in _lines(answers_path)} if os.path.exists(answers_path) else {}
        for r in _lines(path):
            index = int(re.search(r"_(\d+)(?:-|$)", r["id"]).group(1))
            if index % 3 != 2:
                continue
            tools = [{k: _fix_types(v) for k, v in f.items() if k != "response"} for f in r["function"]]
            if len(json.dumps(tools)) > 3500:
                continue
            messages = [dict(m) for m in r["question"][0]]
            asked = [m["content"] for m in messages if m["role"] == "user"]
            if r["id"] in answers:
                calls = [{"name": n, "arguments": _first_choice(a)} for c in answers[r["id"]] for n, a in c.items()]
                messages.append({"role": "assistant", "content": "", "tool_calls": calls})
            elif "irrelevance" in name:
                messages.append(_assistant("None of the available functions can answer this request."))
            else:
                continue
            yield "bfcl", messages, tools, asked
    for path in sorted(glob.glob(f"{root}/taskmaster/TM-4-2024/data/*.json")):
        for d in _json(path):
            messages = []
            for u in d["utterances"]:
                messages.append({"role": u["speaker"], "content": u["text"]})
                pending = None
                for a in u["annotations"]:
                    if a["name"] == "api_call":
                        pending = a["value"]
                    elif a["name"] == "request" and pending:
                        messages.append({"role": "assistant", "content": "",
                                         "tool_calls": [{"name": pending, "arguments": a["value"]}]})
                    elif a["name"] == "response":
                        messages.append({"role": "tool", "content": a["value"]})
            if messages and messages[0]["role"] == "user" and sum(len(m["content"]) for m in messages) < 6000:
                yield "taskmaster", messages, None, []
    for path in sorted(glob.glob(f"{root}/taskmaster/TM-3-2020/reward/*.json")):
        for d in _json(path):
            messages = []
            turns = json.loads(d["context"]) + ([json.loads(d["generation"])] if d["reward"] > 0.5 else [])
            for t in turns:
                if t["role"] == "api":
                    messages.append({"role": "tool", "content": json.dumps(t["response"])})
                elif "api" in t:
                    for n, a in t["api"].items():
                        messages.append({"role": "assistant", "content": "", "tool_calls": [{"name": n, "arguments": a}]})
                else:
                    messages.append({"role": "user" if t["role"] == "user" else "assistant", "content": t["text"]})
            if messages and sum(len(m["content"]) for m in messages) < 5000:
                yield "taskmaster", messages, None, []
    for path in sorted(glob.glob(f"{root}/mint-bench/*/*.jsonl")):
        for r in _lines(path):
            history = r["state"]["history"]
            first = history[0]["content"]
            task = first.split("\n---\n")[-1].replace("Task:", "", 1).strip()
            messages = [{"role": "system", "content": "Solve the task. Think inside <thought>, run Python inside <execute>, "
                         "answer inside <solution>."}, _user(task)]
            for m in history[1:]:
                text = re.sub(r"^\s*Assistant:\s*", "", m["content"]) if m["role"] == "assistant" else m["content"]
                messages.append({"role": m["role"], "content": text.strip()[:2000]})
            while len(messages) > 3 and sum(len(m["content"]) for m in messages) > 5000:
                messages = messages[:-2]
            if messages[-1]["role"] == "assistant":
                yield "mint-bench", messages, None, [task]
    for path in sorted(glob.glob(f"{root}/swe-agent-demos/**/*.traj", recursive=True)):
        history = _json(path)["history"]
        turns = []
        for m in history:
            content = m["content"] if isinstance(m["content"], str) else " ".join(p.get("text", "") for p in m["content"])
            if m["role"] == "system" or not content.strip():
                continue
            turns.append({"role": "assistant" if m["role"] == "assistant" else "user", "content": content.strip()[:1200]})
        for i in range(1, len(turns) - 1, 2):  # windows of one observation, action, observation, action
            window = turns[i:i + 4]
            if window[0]["role"] == "user" and window[-1]["role"] == "assistant":
                yield "swe-agent-demos", window, None, []


def chat(root):
    for path in sorted(glob.glob(f"{root}/oasst-eval/*_sampling.json")):
        for p in _json(path)["prompts"]:
            for result in p["results"]:
                for output in result["outputs"][:1]:
                    yield "oasst-eval", [_user(p["prompt"]), _assistant(output)], None, []
    for tree in _lines(f"{root}/oasst-eval/en_100_tree.jsonl"):
        for reply in tree["prompt"].get("replies", []):
            yield "oasst-eval", [_user(tree["prompt"]["text"]), _assistant(reply["text"])], None, []
    for name in ("user_oriented_instructions", "seed_tasks"):
        for r in _lines(f"{root}/self-instruct-user/{name}.jsonl"):
            for case in r["instances"]:
                ask = r["instruction"] + ("\n" + case["input"] if case["input"] else "")
                yield "self-instruct-user", [_user(ask), _assistant(case["output"])], None, [r["instruction"]]
    for r in _json(f"{root}/wildbench-answers/Phi-3-mini-128k-instruct.json"):
        text = r.get("model_output")
        if text and len(text) > 40:
            yield "wildbench-answers", [_user("Continue."), _assistant(text[:4000])], None, []
    for name in ("deepseek67B", "yi34B"):
        for r in _lines(f"{root}/ifeval-answers/{name}.jsonl"):
            if r["response"].isascii():
                yield "ifeval-answers", [_user(r["prompt"]), _assistant(r["response"][:4000])], None, []


def load(root, guard_path):
    """All rows, with a `validation` flag, and a report of what was refused."""
    with open(guard_path, encoding="utf-8") as f:
        guard = {line.strip() for line in f if line.strip() and not line.startswith("#")}
    rows, refused = [], {}
    for scenario, reader in (("coding", coding), ("math", math), ("agent", agent), ("chat", chat)):
        for source, messages, tools, extra in reader(root):
            texts = [m["content"] for m in messages if m["role"] == "user" and m["content"]] + list(extra)
            if any(guard_key(t) in guard for t in texts):
                refused[source] = refused.get(source, 0) + 1
                continue
            if not any(m["role"] == "assistant" for m in messages):
                continue
            key = next((t for t in texts if t != "Continue."), messages[-1]["content"])
            validation = int(guard_key(key), 16) % 50 == 0
            row = {"scenario": scenario, "source": source, "messages": messages, "validation": validation}
            if tools:
                row["tools"] = tools
            rows.append(row)
    return rows, refused


if __name__ == "__main__":
    import collections
    import sys

    rows, refused = load(sys.argv[1], sys.argv[2])
    count, size = collections.Counter(), collections.Counter()
    for r in rows:
        count[r["scenario"], r["source"]] += 1
        size[r["scenario"], r["source"]] += sum(len(m["content"] or "") for m in r["messages"])
    for key in sorted(count):
        print(*key, count[key], f"{size[key] / 1e6:.2f} MB")
    print("refused", refused, "validation", sum(r["validation"] for r in rows))
