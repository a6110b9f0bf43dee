"""The whole recipe, in phases that each leave a file: corpus, pretrain, fp8, fp4, rollouts, draft, finish.

    python3 train.py --data DIR --guard FILE --out DIR [--scale 1.0] [--seed 1] [--from PHASE]

--scale multiplies the number of steps (0.01 is a smoke test). One Hopper GPU; the time of each phase is printed and recorded.
"""
import argparse
import os
import time

import torch

import finish
from model import FP4, FP8, PRETRAIN
from phases import log, phase_corpus, phase_draft, phase_rollouts, phase_target

PHASES = {
    "corpus": phase_corpus,
    "pretrain": lambda a: phase_target(a, "pretrain", None, PRETRAIN, a.pretrain_steps, 128, 0.02, 4e-3, 100, True),
    "fp8": lambda a: phase_target(a, "fp8", "pretrain", FP8, a.fp8_steps, 64, 0.002, 3e-4, 20, False),
    "fp4": lambda a: phase_target(a, "fp4", "fp8", FP4, a.fp4_steps, 64, 0.003, 3e-4, 20, False),
    "rollouts": phase_rollouts,
    "draft": phase_draft,
    "finish": finish.main,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--guard", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", default="corpus", choices=PHASES)
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--fp8-steps", type=int, default=200)
    parser.add_argument("--fp4-steps", type=int, default=400)
    parser.add_argument("--rollouts", type=int, default=36000)
    parser.add_argument("--draft-steps", type=int, default=4000)
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    names = list(PHASES)
    for name in names[names.index(a.first):]:
        started = time.time()
        PHASES[name](a)
        log(f"phase {name}: {time.time() - started:.1f} s")


if __name__ == "__main__":
    main()
