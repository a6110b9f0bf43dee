"""An engine for `kilotoken verify` in plain Python: a Markov chain over a tiny vocabulary, with speculation by the
reject rule, over its own chain or over tables that the gate hands it. The protocol is docs/engines.md; nothing but the
standard library is needed.

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
    vocab = len(raw)
    if t == 0:
        best = raw.index(max(raw))
        return [1.0 if i == best else 0.0 for i in range(vocab)]
    weights = [x ** (1 / t) if x > 0 else 0.0 for x in raw]
    order = sorted(range(vocab), key=lambda i: (-weights[i], i))
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
    return [weights[i] / total if i in kept else 0.0 for i in range(vocab)]


class Chain:
    """The engine's own model."""

    vocab, block, max_context = VOCAB, BLOCK, MAX_CONTEXT

    def target(self, tokens):
        return row("target", *tokens[-2:])

    def draft(self, tokens, offset):
        """The draft sees the committed tokens and how far ahead it looks, nothing else."""
        return [0.5 * a + 0.5 * b for a, b in zip(row("target", *tokens[-2:]), row("draft", tokens[-1], offset))]


class Toy:
    """Tables of logits from outside: null is a token of probability 0, "NaN" a broken row."""

    def __init__(self, tables):
        self.vocab, self.block, self.max_context = tables["vocab"], tables["block"], tables["maxContext"]
        self.tables = tables

    def context(self, tokens):
        index = 0
        for t in tokens[-self.tables["order"] :]:
            index = index * self.vocab + t
        return index

    def weights(self, logits):
        if any(x == "NaN" for x in logits) or all(x is None for x in logits):
            raise InputError("a row of logits is no law")
        top = max(x for x in logits if x is not None)
        return [0.0 if x is None else math.exp(x - top) for x in logits]

    def target(self, tokens):
        return self.weights(self.tables["target"][self.context(tokens)])

    def draft(self, tokens, offset):
        return self.weights(self.tables["draft"][self.context(tokens)][offset])


def draw(u, weights):
    """The first id whose cumulative sum exceeds u; the last one with mass where rounding leaves the sum short."""
    total = 0.0
    for i, w in enumerate(weights):
        total += w
        if total > u:
            return i
    return max(i for i, w in enumerate(weights) if w > 0)


def logs(values):
    """JSON has no infinity: null is log 0."""
    return [math.log(x) if x > 0 else None for x in values]


class InputError(Exception):
    pass


class Session:
    def __init__(self, model, prompt, decoding, block, lie, tape):
        if not prompt:
            raise InputError("the prompt is empty")
        if any(not 0 <= t < model.vocab for t in prompt):
            raise InputError("a prompt token is outside the vocabulary")
        if len(prompt) >= model.max_context:
            raise InputError("the prompt does not fit the context")
        self.model, self.tokens, self.decoding, self.block, self.lie = model, list(prompt), decoding, block, lie
        self.rng = random.Random(f"{decoding['seed']} {block}")
        self.tape, self.taped, self.used = tape, 0, []
        self.emitted, self.rounds, self.finished = 0, 0, False

    def fork(self):
        copy = Session(self.model, self.tokens, self.decoding, self.block, self.lie, self.tape)
        copy.rng.setstate(self.rng.getstate())
        copy.taped = self.taped
        copy.emitted, copy.rounds, copy.finished = self.emitted, self.rounds, self.finished
        return copy

    def uniform(self, stream, offset):
        """A number of this session, written down with its counter: no stream, position and round comes twice."""
        if self.tape:
            u = self.tape[self.taped % len(self.tape)]
            self.taped += 1
        else:
            u = self.rng.random()
        place = {"stream": stream, "position": len(self.tokens) + offset, "round": self.rounds}
        self.used.append({**place, "u": u})
        return u

    def verify(self, p, q, drafted):
        if self.decoding["temperature"] == 0:
            own = [r.index(1.0) for r in p]
            accepted = next((i for i, d in enumerate(drafted) if d != own[i]), len(drafted))
            return own[: accepted + 1], accepted
        out = []
        for i, d in enumerate(drafted):
            if self.uniform("accept", i) * q[i][d] < p[i][d] or self.lie == "always-accept":
                out.append(d)
                continue
            left = [max(a - b, 0.0) for a, b in zip(p[i], q[i])]
            mass = sum(left)
            rest = p[i] if self.lie == "residual-p" or mass == 0 else [x / mass for x in left]
            return [*out, draw(self.uniform("residual", i), rest)], i
        last = self.uniform("residual" if drafted else "target", len(drafted))
        return [*out, draw(last, p[-1])], len(drafted)

    def step(self):
        if self.finished:
            raise InputError("the session has ended")
        started = time.perf_counter_ns()
        self.used = []
        kind = "prefill" if self.rounds == 0 else "decode"
        block = 1 if kind == "prefill" else min(self.block, self.model.max_context - len(self.tokens))
        q = [processed(self.model.draft(self.tokens, i), self.decoding) for i in range(block - 1)]
        if self.decoding["temperature"] == 0:
            drafted = [r.index(1.0) for r in q]
        else:
            drafted = [draw(self.uniform("draft", i), r) for i, r in enumerate(q)]
        p = [processed(self.model.target(self.tokens + drafted[:i]), self.decoding) for i in range(block)]
        out, accepted = self.verify(p, q, drafted)
        committed, finish = [], None
        for t in out:
            committed.append(t)
            if t in self.decoding["stopIds"]:
                finish = "stop"
            elif self.emitted + len(committed) >= self.decoding["maxTokens"]:
                finish = "length"
            elif len(self.tokens) + len(committed) >= self.model.max_context:
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
            "replay": {"p": [logs(r) for r in p], "q": [logs(r) for r in q], "uniforms": self.used},
        }


def score(model, prefix, following):
    tokens, out = list(prefix), []
    for t in following:
        weights = model.target(tokens)
        out.append(weights[t] / sum(weights))
        tokens.append(t)
    return logs(out)


def card(model, block):
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
        "vocabSize": model.vocab,
        "maxContext": model.max_context,
        "defects": [],
        "syntheticAcceptance": None,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lie", choices=["always-accept", "residual-p"])
    lie = parser.parse_args().lie
    engines, sessions, handles = {}, {}, 0

    def keep(model, block, tape=None):
        nonlocal handles
        handles += 1
        engines[handles] = (model, block, tape)
        return {"engine": handles, "card": card(model, block), "toys": True, "tapes": True}

    def answer(request):
        nonlocal handles
        verb = request["verb"]
        if verb == "open_engine":
            return keep(Chain(), request.get("blockSize", BLOCK))
        if verb == "open_toy":
            toy = Toy(request["toy"])
            return keep(toy, request.get("blockSize", toy.block), request.get("tape"))
        if verb == "card":
            model, block, _ = engines[request["engine"]]
            return {"card": card(model, block)}
        if verb == "open":
            handles += 1
            model, block, tape = engines[request["engine"]]
            sessions[handles] = Session(model, request["prompt"], request["decoding"], block, lie, tape)
            return {"session": handles, "decoding": request["decoding"]}
        if verb == "step":
            return sessions[request["session"]].step()
        if verb == "fork":
            handles += 1
            sessions[handles] = sessions[request["session"]].fork()
            return {"session": handles}
        if verb == "score":
            return {"logprobs": score(engines[request["engine"]][0], request["prefix"], request["next"])}
        if verb == "close":
            sessions.pop(request.get("session"), None)
            if "engine" in request:
                engines.pop(request["engine"], None)
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
