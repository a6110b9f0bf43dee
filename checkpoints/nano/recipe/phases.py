"""The phases of the recipe up to the trained draft. Each reads the files of the phases before it in --out and leaves one of its own."""
import json
import random
import time

import torch
import torch.nn.functional as F

import corpus
import synthetic
import tokenizer as tok
from chat import render
from draft import Draft, DraftConfig, round_to_bf16
from model import FP4, FP8, PRETRAIN, Config, Target
from optim import optimisers, set_rate

SCENARIOS = ("coding", "math", "agent", "chat")
GENERATED = {"coding": 45000, "math": 40000, "agent": 24000, "chat": 5000}
NATURAL_REPEATS = {"coding": 2, "math": 2, "agent": 2, "chat": 3}
LENGTH = 1024
DRAFT_LENGTH = 512  # roll-outs are cut here when the draft is distilled
JOINT_WEIGHT = 0.25
PROMPT_WEIGHT = 0.5  # loss weight of tokens the model will not have to produce
STOP = 1017
device = "cuda"


def log(*values):
    print(f"[{time.time() - log.start:7.1f}s]", *values, flush=True)


log.start = time.time()


# ---------------------------------------------------------------- corpus

def pack(documents, seed):
    """Documents end to end into rows of LENGTH + 1; each row starts at a document's start, the last one is cut."""
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    ids, flags, rows = [], [], []
    for i in order:
        ids += documents[i][0]
        flags += documents[i][1]
        if len(ids) > LENGTH:
            rows.append((ids[:LENGTH + 1], flags[:LENGTH + 1]))
            ids, flags = [], []
    return torch.tensor([r[0] for r in rows], dtype=torch.int16), torch.tensor([r[1] for r in rows], dtype=torch.bool)


def phase_corpus(a):
    natural, refused = corpus.load(a.data, a.guard)
    generated = synthetic.generate(a.seed, {k: max(200, int(v * min(1, a.scale * 4))) for k, v in GENERATED.items()})
    train = [r for r in natural if not r["validation"]]
    held = [r for r in natural if r["validation"]]
    text = lambda r: "".join(t for t, _ in render(r["messages"], r.get("tools")))
    sample = random.Random(a.seed)
    tokenizer = tok.train([text(r) for r in train] + [text(r) for r in sample.sample(generated, len(generated) // 3)])
    tok.write(tokenizer, f"{a.out}/tokenizer")
    tok.check_template(f"{a.out}/tokenizer", sample.sample(train, 200) + sample.sample(generated, 200))
    natural_docs, generated_docs = tok.encode(tokenizer, train), tok.encode(tokenizer, generated)
    documents = list(generated_docs)
    for row, doc in zip(train, natural_docs):
        documents += [doc] * NATURAL_REPEATS[row["scenario"]]
    ids, flags = pack(documents, a.seed)
    validation = {s: [] for s in SCENARIOS}
    for row, doc in zip(held, tok.encode(tokenizer, held)):
        if len(doc[0]) > 16:
            validation[row["scenario"]].append((doc[0][:LENGTH + 1], doc[1][:LENGTH + 1]))
    # prompts for roll-outs: every conversation up to one of its assistant turns
    fresh = synthetic.generate(a.seed + 1000, {k: max(50, int(v * a.scale)) for k, v in {"coding": 6000, "math": 4000, "agent": 6000, "chat": 800}.items()})
    def prompts(rows, every):
        texts, scenarios = [], []
        for r in rows:
            turns = [i for i, m in enumerate(r["messages"]) if m["role"] == "assistant" and i > 0]
            for i in (turns if every else sample.sample(turns, min(1, len(turns)))):
                texts.append("".join(t for t, _ in render(r["messages"][:i], r.get("tools"), True)))
                scenarios.append(r["scenario"])
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [(s, e.ids) for s, e in zip(scenarios, encoded) if len(e.ids) <= 640]
    rollout_prompts = prompts(train, False) + prompts(fresh, False)
    held_prompts = prompts(held, False)
    held_generated = prompts(synthetic.generate(a.seed + 2000, {"coding": 120, "math": 120, "agent": 120, "chat": 60}), False)
    report = {
        "natural_rows": len(train), "validation_rows": len(held), "refused_by_guard": refused, "generated_rows": len(generated),
        "natural_tokens_once": sum(len(d[0]) for d in natural_docs), "generated_tokens": sum(len(d[0]) for d in generated_docs),
        "packed_rows": len(ids), "packed_tokens": ids.numel(), "rollout_prompts": len(rollout_prompts),
        "bytes_per_token": sum(len(text(r).encode()) for r in train) / sum(len(d[0]) for d in natural_docs),
        "rows_by_source": {f"{s}/{n}": sum(1 for r in train if (r["scenario"], r["source"]) == (s, n)) for s, n in sorted({(r["scenario"], r["source"]) for r in train})},
    }
    torch.save({"ids": ids, "flags": flags, "validation": validation, "rollout_prompts": rollout_prompts, "held_prompts": held_prompts, "held_generated_prompts": held_generated, "report": report}, f"{a.out}/corpus.pt")
    log("corpus", json.dumps({k: v for k, v in report.items() if k != "rows_by_source"}))


# ---------------------------------------------------------------- target

@torch.no_grad()
def validate(model, data, p):
    """Mean loss (nats a token) of assistant tokens of held-out rows, per scenario."""
    out = {}
    for s, documents in data["validation"].items():
        total = count = 0
        documents = sorted(documents, key=lambda d: len(d[0]))
        for i in range(0, len(documents), 32):
            part = documents[i:i + 32]
            n = max(len(d[0]) for d in part)
            ids = torch.zeros(len(part), n, dtype=torch.long)
            keep = torch.zeros(len(part), n, dtype=torch.bool)
            for k, (x, f) in enumerate(part):
                ids[k, :len(x)], keep[k, :len(x)] = torch.tensor(x), torch.tensor(f)
            ids, keep = ids.to(device), keep.to(device)
            logits, _, _ = model(ids[:, :-1], p)
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(ids[:, 1:])
            total += (loss * keep[:, 1:]).sum().item()
            count += keep[:, 1:].sum().item()
        out[s] = round(total / max(count, 1), 4)
    return out


def block_loss(draft, taps, ids, anchors, valid, labels, targets, embed, head, gamma=4.0):
    """Weighted loss of a draft's blocks, and the mean number of leading drafts that match the labels.

    labels, valid [B, A, 7]; targets [B, A, 7, vocab] target probabilities, or None for labels alone. w_k = exp(-(k - 1) / gamma).
    """
    logp = F.log_softmax(draft(taps, ids, anchors, embed, head).float(), -1)
    loss = -logp.gather(-1, labels[..., None])[..., 0]
    if targets is not None:
        loss = 0.5 * loss - 0.5 * (targets * logp).sum(-1)
    w = valid * torch.exp(-torch.arange(7, device=ids.device) / gamma)
    agree = ((logp.argmax(-1) == labels) & valid).float().cumprod(-1).sum(-1)
    return (loss * w).sum() / w.sum(), (agree * valid[..., 0]).sum() / valid[..., 0].sum()


def train_target(a, model, data, p, steps, batch, muon_lr, adam_lr, warmup, joint, name, draft=None):
    """`joint` trains a draft beside the target on the data itself, its gradient reaching the target through the taps: the part that multi-token
    prediction plays in the pre-training of the real model, which makes the residual stream say something of the tokens further ahead.
    """
    ids, flags = data["ids"].to(device), data["flags"].to(device)
    opts = optimisers(model, muon_lr, adam_lr) + (optimisers(draft, 0.02, 2e-3) if joint else [])
    generator = torch.Generator(device).manual_seed(a.seed + hash_name(name))

    def loss_of(x, keep, anchors):
        logits, loads, taps = model(x[:, :-1], p, taps=joint)
        weight = torch.where(keep[:, 1:], 1.0, PROMPT_WEIGHT)
        loss = F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten(), reduction="none").view_as(weight)
        loss = (loss * weight).sum() / weight.sum()
        if not joint:
            return loss, loss, loads, loss
        where = anchors[..., None] + 1 + torch.arange(7, device=x.device)
        labels = x.gather(1, where.flatten(1)).view_as(where)
        ahead, accepted = block_loss(draft, taps, x[:, :-1], anchors, torch.ones_like(labels, dtype=torch.bool), labels, None, model.embed.detach(), model.head.detach())
        return loss + JOINT_WEIGHT * ahead, loss, loads, accepted

    compiled = torch.compile(loss_of) if a.scale >= 0.02 and joint else loss_of
    started = time.time()
    order = torch.randperm(len(ids), generator=generator, device=device)
    at = 0
    for step in range(steps):
        if at + batch > len(order):
            order, at = torch.randperm(len(ids), generator=generator, device=device), 0
        rows = order[at:at + batch]
        at += batch
        x, keep = ids[rows].long(), flags[rows]
        progress = step / steps
        set_rate(opts, min(1.0, (step + 1) / warmup) * (1 - progress if progress > 0.3 else 0.7) / 0.7)
        anchors = torch.randint(1, LENGTH - 8, (len(rows), 16), generator=generator, device=device)
        loss, own, loads, accepted = compiled(x, keep, anchors)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if joint:
            torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        for o in opts:
            o.step()
        model.zero_grad(set_to_none=True)
        if joint:
            draft.zero_grad(set_to_none=True)
            model.update_bias(loads.detach(), 0.002 * (1 - progress))
        if step % 100 == 0 or step == steps - 1:
            log(name, f"step {step}/{steps} loss {own.item():.4f} accepted {accepted.item():.3f} tokens/s {(step + 1) * batch * LENGTH / (time.time() - started):,.0f}")
    with torch.no_grad():  # the mask id is never an input of the target: its row is zero, as in the published checkpoint
        model.embed[DraftConfig().mask_id].zero_()
    losses = {"own": validate(model, data, p)}
    log(name, "validation", losses["own"])
    return losses, time.time() - started


def hash_name(name):
    return sum(ord(c) * 31 ** i for i, c in enumerate(name)) % 100003


def scaled(a, n):
    return max(3, int(n * a.scale))


def phase_target(a, name, previous, p, steps, batch, muon_lr, adam_lr, warmup, joint):
    data = torch.load(f"{a.out}/corpus.pt", weights_only=False)
    torch.manual_seed(a.seed)
    model = Target(Config()).to(device)
    draft = Draft().to(device) if joint else None
    if previous:
        model.load_state_dict(torch.load(f"{a.out}/{previous}.pt")["state"])
    before = validate(model, data, p) if previous else None
    losses, seconds = train_target(a, model, data, p, scaled(a, steps), batch, muon_lr, adam_lr, warmup, joint, name, draft)
    torch.save({"state": model.state_dict(), "draft": draft.state_dict() if joint else None, "validation": losses, "validation_before": before, "seconds": seconds,
                "steps": scaled(a, steps), "batch": batch, "muon_lr": muon_lr, "adam_lr": adam_lr}, f"{a.out}/{name}.pt")
    log(name, "validation before training at this precision", before)


# ---------------------------------------------------------------- draft

def load_target(a, name):
    model = Target(Config()).to(device)
    model.load_state_dict(torch.load(f"{a.out}/{name}.pt")["state"])
    return model.requires_grad_(False)


def roll(model, prompts, new_tokens, temperature, seed, batch=3072):
    """[(scenario, prompt ids)] -> [(scenario, prompt length, ids)], in length-sorted batches."""
    prompts = sorted(prompts, key=lambda x: len(x[1]))
    out = []
    for i in range(0, len(prompts), batch):
        part = prompts[i:i + batch]
        made = model.generate([x for _, x in part], FP4, new_tokens, temperature, STOP, seed + i)
        out += [(s, len(x), x + y) for (s, x), y in zip(part, made)]
        log("roll-out", f"T={temperature} {i + len(part)}/{len(prompts)} longest prompt {len(part[-1][1])}")
    return out


def phase_rollouts(a):
    data = torch.load(f"{a.out}/corpus.pt", weights_only=False)
    model = load_target(a, "fp4")
    torch.backends.cuda.matmul.allow_tf32 = True
    started = time.time()
    prompts = data["rollout_prompts"]
    random.Random(a.seed).shuffle(prompts)
    prompts = prompts[:max(256, int(a.rollouts * min(1, a.scale)))]
    greedy = roll(model, prompts, 256, 0.0, a.seed)
    warm = roll(model, prompts[: len(prompts) // 5], 256, 1.0, a.seed + 1)
    held = roll(model, data["held_prompts"], 256, 0.0, a.seed + 2)
    held_warm = roll(model, data["held_prompts"], 256, 1.0, a.seed + 3)
    held_generated = roll(model, data["held_generated_prompts"], 256, 0.0, a.seed + 4)
    torch.save({"train": greedy + warm, "held": held, "held_warm": held_warm, "held_generated": held_generated, "seconds": time.time() - started}, f"{a.out}/rollouts.pt")
    tokens = sum(len(x[2]) - x[1] for x in greedy + warm)
    log("roll-outs", f"{len(greedy) + len(warm)} sequences, {tokens:,} generated tokens")


def batch_of(rows):
    n = max(len(x[2]) for x in rows)
    n += -n % 128
    ids = torch.zeros(len(rows), n, dtype=torch.long)
    for i, (_, _, x) in enumerate(rows):
        ids[i, :len(x)] = torch.tensor(x)
    return ids.to(device), torch.tensor([x[1] for x in rows], device=device), torch.tensor([len(x[2]) for x in rows], device=device)


def target_view(model, ids):
    logits, _, taps = model(ids, FP4, taps=True, dtype=torch.float32)
    return logits, taps


def phase_draft(a):
    """Distils the draft, started from the joint phase, on the FP4 target's own continuations."""
    torch.backends.cuda.matmul.allow_tf32 = True
    model = load_target(a, "fp4")
    rolls = torch.load(f"{a.out}/rollouts.pt", weights_only=False)
    rows = [r for r in rolls["train"] if len(r[2]) - r[1] >= 3 and r[1] <= DRAFT_LENGTH - 64]
    ids_all = torch.zeros(len(rows), DRAFT_LENGTH, dtype=torch.int16)
    for i, (_, _, x) in enumerate(rows):
        ids_all[i, :min(len(x), DRAFT_LENGTH)] = torch.tensor(x[:DRAFT_LENGTH], dtype=torch.int16)
    ids_all = ids_all.to(device)
    prompt_all = torch.tensor([r[1] for r in rows], device=device)
    end_all = torch.tensor([min(len(r[2]), DRAFT_LENGTH) for r in rows], device=device)
    torch.manual_seed(a.seed)
    draft = Draft().to(device)
    draft.load_state_dict(torch.load(f"{a.out}/pretrain.pt")["draft"])
    embed, head = model.embed.bfloat16().float(), model.head.bfloat16().float()
    steps, anchors_per_row, batch = scaled(a, a.draft_steps), 40, min(96, len(rows))
    opts = optimisers(draft, 0.015, 1.5e-3)
    generator = torch.Generator(device).manual_seed(a.seed + 5)
    started = time.time()

    def loss_of(ids, prompt, end, u):
        with torch.no_grad():
            logits, _, taps = model(ids, FP4, taps=True)
            # an anchor is any position from the first generated token on that has a successor
            anchors = (prompt[:, None] + (u * (end - 1 - prompt)[:, None]).long()).clamp_max(DRAFT_LENGTH - 2)
            where = anchors[..., None] + 1 + torch.arange(7, device=ids.device)
            valid = where < end[:, None, None]
            inside = where.clamp_max(DRAFT_LENGTH - 1)
            labels = ids.gather(1, inside.flatten(1)).view_as(where)
            source = logits.gather(1, (inside - 1).flatten(1)[..., None].expand(-1, -1, logits.shape[-1])).view(*where.shape, -1)
            targets = torch.softmax(source.float(), -1)
        return block_loss(draft, taps, ids, anchors, valid, labels, targets, embed, head)

    compiled = torch.compile(loss_of) if a.scale >= 0.02 else loss_of
    for step in range(steps):
        at = torch.randint(0, len(rows), (batch,), generator=generator, device=device)
        u = torch.rand(batch, anchors_per_row, generator=generator, device=device)
        progress = step / steps
        set_rate(opts, min(1.0, (step + 1) / 100) * (1.0 if progress < 0.3 else (1 - progress) / 0.7))
        loss, accepted = compiled(ids_all[at].long(), prompt_all[at], end_all[at], u)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        for o in opts:
            o.step()
        draft.zero_grad(set_to_none=True)
        if step % 200 == 0 or step == steps - 1:
            log("draft", f"step {step}/{steps} loss {loss.item():.4f} accepted drafts at random anchors {accepted.item():.3f}")
    round_to_bf16(draft)
    report = {name: acceptance(model, draft, rolls[key], embed, head)
              for name, key in (("greedy", "held"), ("temperature 1", "held_warm"), ("greedy, generated rows of a fresh seed", "held_generated"))}
    log("draft acceptance on held-out rows", json.dumps(report))
    torch.save({"state": draft.state_dict(), "acceptance": report, "seconds": time.time() - started, "steps": steps}, f"{a.out}/draft.pt")


@torch.no_grad()
def acceptance(model, draft, rows, embed, head):
    """Acceptance length (bonus counted) per scenario: walk each stored continuation as the decode loop would.

    For greedy rows this is the speculative run itself; for sampled rows it is the `match` rule with the stored samples.
    """
    out = {}
    for s in SCENARIOS:
        rounds = tokens = 0
        macro, survival = [], [0] * 7
        part = [r for r in rows if r[0] == s and len(r[2]) - r[1] > 1]
        part.sort(key=lambda r: len(r[2]))
        for i in range(0, len(part), 32):
            chunk = part[i:i + 32]
            ids, _, _ = batch_of(chunk)
            _, taps = target_view(model, ids)
            made = max(len(x[2]) - x[1] for x in chunk)
            anchors = torch.tensor([[min(x[1] + k, len(x[2]) - 1) for k in range(made)] for x in chunk], device=device)
            best = torch.cat([draft(taps, ids, anchors[:, k:k + 64], embed, head, torch.float32).argmax(-1) for k in range(0, made, 64)], 1).tolist()
            for row, x in enumerate(chunk):
                at, n_rounds, n_tokens = x[1], 0, 0
                while at < len(x[2]) - 1:
                    drafts = best[row][at - x[1]]
                    accepted = 0
                    while accepted < 7 and at + 1 + accepted < len(x[2]) and drafts[accepted] == x[2][at + 1 + accepted]:
                        accepted += 1
                    if at + 1 + accepted >= len(x[2]) and accepted < 7:  # the text ends inside the block: a kept, cut round is left out
                        break
                    for k in range(accepted):
                        survival[k] += 1
                    n_rounds, n_tokens, at = n_rounds + 1, n_tokens + accepted + 1, at + accepted + 1
                rounds, tokens = rounds + n_rounds, tokens + n_tokens
                if n_rounds:
                    macro.append(n_tokens / n_rounds)
        out[s] = {"prompts": len(macro), "rounds": rounds, "micro": round(tokens / max(rounds, 1), 3), "macro": round(sum(macro) / max(len(macro), 1), 3),
                  "survival": [round(x / max(rounds, 1), 3) for x in survival]}
    return out
