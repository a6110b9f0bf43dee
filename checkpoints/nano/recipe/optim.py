"""Muon for the matrices, AdamW for embeddings, head, norms and vectors (Jordan et al. 2024, keller jordan's note on Muon)."""
import torch


@torch.no_grad()
def orthogonalise(g, steps=5):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix, batched over leading dimensions."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


def optimisers(model, muon_lr, adam_lr, names_for_adam=("embed", "head", "router", "mask_embedding")):
    matrices, rest = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and not any(n in name for n in names_for_adam) else rest).append(p)
    return [Muon(matrices, muon_lr), torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=rest[0].is_cuda)]


def set_rate(opts, fraction):
    for o in opts:
        for g in o.param_groups:
            g.setdefault("base", g["lr"])
            g["lr"] = g["base"] * fraction
