"""An engine for `kilotoken verify` in plain Python: a Markov chain over a tiny vocabulary, with speculation by the
reject rule. The protocol is docs/engines.md; nothing but the standard library is needed.

    kilotoken verify --engine 'cmd:python3 examples/engine_toy.py' --gate pr
    kilotoken verify --engine 'cmd:python3 examples/engine_toy.py --lie always-accept' --gate pr    (refuted)
"""

import argparse
import hashlib
import json
import math
import random
import sys
import time

VOCAB = 6
BLOCK = 4
MAX_CONTEXT = 512


def row(*key):
    """A probability row that is a fixed function of the key."""
    words = hashlib.sha256(repr(key).encode()).digest()
    weights = [math.exp(3 * words[i] / 255) for i in range(VOCAB)]
    total = sum(weights)
    return [w / total for w in weights]


def processed(raw, decoding):
    """Temperature, then top-k, then top-p. Temperature 0 is greedy, ties to the lowest id."""
    t = decoding["temperature"]
    if t == 0:
        best = raw.index(max(raw))
        return [1.0 if i == best else 0.0 for i in range(VOCAB)]
    weights = [x ** (1 / t) for x in raw]
    order = sorted(range(VOCAB), key=lambda i: (-weights[i], i))
    if decoding["topK"] > 0:
        order = order[: decoding["topK"]]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += weights[i] / total
        if mass >= decoding["topP"]:
            break
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(VOCAB)]


def target_row(tokens, decoding):
    return processed(row("target", *tokens[-2:]), decoding)


def draft_row(tokens, offset, decoding):
    """The draft sees the committed tokens and how far ahead it looks, nothing else."""
    mixed = [0.5 * a + 0.5 * b for a, b in zip(row("target", *tokens[-2:]), row("draft", tokens[-1], offset))]
    return processed(mixed, decoding)


def draw(rng, weights):
    u = rng.random() * sum(weights)
    for i, w in enumerate(weights):
        u -= w
        if u < 0:
            return i
    return max(i for i, w in enumerate(weights) if w > 0)


def logs(values):
    """JSON has no infinity: null is log 0."""
    return [math.log(x) if x > 0 else None for x in values]


class InputError(Exception):
    pass


class Session:
    def __init__(self, prompt, decoding, block, lie):
        if not prompt:
            raise InputError("the prompt is empty")
        if any(not 0 <= t < VOCAB for t in prompt):
            raise InputError("a prompt token is outside the vocabulary")
        if len(prompt) >= MAX_CONTEXT:
            raise InputError("the prompt does not fit the context")
        self.tokens, self.decoding, self.block, self.lie = list(prompt), decoding, block, lie
        self.rng = random.Random(f"{decoding['seed']} {block}")
        self.emitted, self.rounds, self.finished = 0, 0, False

    def fork(self):
        copy = Session(self.tokens, self.decoding, self.block, self.lie)
        copy.rng.setstate(self.rng.getstate())
        copy.emitted, copy.rounds, copy.finished = self.emitted, self.rounds, self.finished
        return copy

    def step(self):
        if self.finished:
            raise InputError("the session has ended")
        started = time.perf_counter_ns()
        kind = "prefill" if self.rounds == 0 else "decode"
        block = 1 if kind == "prefill" else min(self.block, MAX_CONTEXT - len(self.tokens))
        q = [draft_row(self.tokens, i, self.decoding) for i in range(block - 1)]
        drafted = [draw(self.rng, r) for r in q]
        p = [target_row(self.tokens + drafted[:i], self.decoding) for i in range(block)]
        out, accepted = [], 0
        for i, d in enumerate(drafted):
            if self.lie == "always-accept" or self.rng.random() * q[i][d] < p[i][d]:
                out.append(d)
                accepted += 1
                continue
            left = [max(a - b, 0.0) for a, b in zip(p[i], q[i])]
            out.append(draw(self.rng, p[i] if self.lie == "residual-p" or sum(left) == 0 else left))
            break
        else:
            out.append(draw(self.rng, p[-1]))
        committed, finish = [], None
        for t in out:
            committed.append(t)
            if t in self.decoding["stopIds"]:
                finish = "stop"
            elif self.emitted + len(committed) >= self.decoding["maxTokens"]:
                finish = "length"
            elif len(self.tokens) + len(committed) >= MAX_CONTEXT:
                finish = "length"
            if finish:
                break
        self.tokens += committed
        self.emitted += len(committed)
        self.rounds += 1
        self.finished = finish is not None
        total = time.perf_counter_ns() - started
        return {
            "kind": kind,
            "committed": committed,
            "drafted": drafted,
            "accepted": accepted,
            "finish": finish,
            "deviceNs": None,
            "hostNs": {"draft": 0, "verify": total, "total": total},
            "replay": {"p": [logs(r) for r in p], "q": [logs(r) for r in q], "uniforms": []},
        }


def score(prefix, following):
    tokens, out = list(prefix), []
    for t in following:
        out.append(math.log(row("target", *tokens[-2:])[t]))
        tokens.append(t)
    return out


def card(block):
    return {
        "name": "toy-python",
        "weightsDigest": "sha256:" + hashlib.sha256(b"toy target").hexdigest(),
        "draftDigest": "sha256:" + hashlib.sha256(b"toy draft").hexdigest() if block > 1 else "none",
        "numerics": {"id": "toy=f64", "experts": "none", "linears": "none", "activations": "none", "kv": "none"},
        "device": "python",
        "topology": "none",
        "tensorParallel": 1,
        "blockSize": block,
        "rule": "reject",
        "buildDigest": "none",
        "vocabSize": VOCAB,
        "maxContext": MAX_CONTEXT,
        "defects": [],
        "syntheticAcceptance": None,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lie", choices=["always-accept", "residual-p"])
    lie = parser.parse_args().lie
    engines, sessions, handles = {}, {}, 0

    def answer(request):
        nonlocal handles
        verb = request["verb"]
        if verb == "open_engine":
            handles += 1
            engines[handles] = request.get("blockSize", BLOCK)
            return {"engine": handles, "card": card(engines[handles])}
        if verb == "card":
            return {"card": card(engines[request["engine"]])}
        if verb == "open":
            handles += 1
            block = engines[request["engine"]]
            sessions[handles] = Session(request["prompt"], request["decoding"], block, lie)
            return {"session": handles, "decoding": request["decoding"]}
        if verb == "step":
            return sessions[request["session"]].step()
        if verb == "fork":
            handles += 1
            sessions[handles] = sessions[request["session"]].fork()
            return {"session": handles}
        if verb == "score":
            return {"logprobs": score(request["prefix"], request["next"])}
        if verb == "close":
            sessions.pop(request.get("session"), None)
            return {}
        raise InputError(f"unknown verb {verb}")

    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"id": request["id"], "result": answer(request)}
        except InputError as error:
            reply = {"id": request["id"], "error": {"kind": "input", "message": str(error)}}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
