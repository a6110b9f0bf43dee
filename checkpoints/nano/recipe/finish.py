"""Last phase: validation of every precision, export, golden values, and card.json with all measured figures."""
import json
import os
import platform
import subprocess

import torch

import export
import golden
from draft import Draft
from model import FP4, FP8, PRETRAIN
from phases import SCENARIOS, load_target, log, validate


def main(a):
    data = torch.load(f"{a.out}/corpus.pt", weights_only=False)
    figures = {}
    for name, precision in (("pretrain", PRETRAIN), ("fp8", FP8), ("fp4", FP4)):
        figures[name] = validate(load_target(a, name), data, precision)
    figures["fp8 weights, experts rounded to MXFP4 without training"] = validate(load_target(a, "fp8"), data, FP4)
    log("validation", json.dumps(figures))

    ckpt = f"{a.out}/checkpoints"
    fp8, fp4 = load_target(a, "fp8").cpu(), load_target(a, "fp4").cpu()
    draft_file = torch.load(f"{a.out}/draft.pt", weights_only=False)
    draft = Draft()
    draft.load_state_dict(draft_file["state"])
    draft.requires_grad_(False)
    export.write_target(fp8, f"{ckpt}/fp8", False, f"{a.out}/tokenizer")
    export.write_target(fp4, f"{ckpt}/fp4", True, f"{a.out}/tokenizer")
    export.write_draft(draft, fp4.c, f"{ckpt}/fp4/dflash")

    # one held-out continuation per scenario, long enough to leave the sliding window where there is one
    held = torch.load(f"{a.out}/rollouts.pt", weights_only=False)["held"]
    sequences = [max((r[2] for r in held if r[0] == s), key=len)[:320] for s in SCENARIOS]
    positions = [sorted({0, 1, 17, 63, 127, 128, 129, 200, len(x) - 1} & set(range(len(x)))) for x in sequences]
    os.makedirs(f"{ckpt}/golden", exist_ok=True)
    for name in ("fp8", "fp4"):
        golden.write(f"{ckpt}/{name}", fp8.c, sequences, positions, f"{ckpt}/golden/{name}.safetensors")
    golden.write_draft(fp4, draft, [x[:n] for x, n in zip(sequences, (40, 300, 129, 7))], f"{ckpt}/golden/draft.safetensors")

    phases = {}
    for name in ("pretrain", "fp8", "fp4", "draft"):
        f = torch.load(f"{a.out}/{name}.pt", weights_only=False)
        phases[name] = {k: f[k] for k in ("seconds", "steps", "batch", "muon_lr", "adam_lr", "validation_before") if k in f}
    gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
    import transformers

    card = {
        "command": f"python3 train.py --data DIR --guard FILE --out DIR --scale {a.scale:g} --seed {a.seed} --pretrain-steps {a.pretrain_steps} --fp8-steps {a.fp8_steps} "
                   f"--fp4-steps {a.fp4_steps} --rollouts {a.rollouts} --draft-steps {a.draft_steps}",
        "seed": a.seed, "gpu": gpu, "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "parameters": {"target": sum(p.numel() for p in fp8.parameters()), "draft": sum(p.numel() for p in draft.parameters())},
        "corpus": data["report"], "phases": phases, "validation_loss_nats_per_token": figures,
        "acceptance_length_on_held_out_rows": draft_file["acceptance"],
        "acceptance_measured_by": "the recipe's PyTorch draft on the recipe's roll-outs; the harness measures it again with the engine",
    }
    with open(f"{ckpt}/card.json", "w") as f:
        json.dump(card, f, indent=1)
    log("card", json.dumps(card["acceptance_length_on_held_out_rows"]))
