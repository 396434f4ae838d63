"""The loop against the paper's training step, written out by hand with S run twice."""

import torch
import torch.nn.functional as F
from helpers import make_batch, make_method, step
from torch import Tensor

from celladapt.config import Config


def dice(p: Tensor, y: Tensor) -> Tensor:
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def bce(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def test_three_steps_equal_the_plain_loop_in_float64() -> None:
    batches = [make_batch(size=2, seed=seed, labelled=(seed == 1,), dtype=torch.float64) for seed in range(3)]
    for name, uses_labels in (("cellseguda", False), ("cellsegssda", True)):
        ours, plain = (make_method(name) for _ in range(2))
        ours.networks.double()
        S, D, R = (plain.networks.double()[key] for key in "SDR")
        adam_d = torch.optim.Adam(D.parameters(), lr=1e-3)
        adam_sr = torch.optim.Adam([{"params": S.parameters(), "lr": 1e-4}, {"params": R.parameters(), "lr": 1e-3}])
        for b in batches:
            # D first, on predictions that are cut from the graph.
            adam_d.zero_grad()
            (bce(D(S(b.image_s).detach()), 0.0) + bce(D(S(b.image_t).detach()), 1.0)).backward()
            adam_d.step()
            # Then S and R; D gets gradients here too, and forgets them.
            adam_sr.zero_grad()
            p_s, p_t = S(b.image_s), S(b.image_t)
            loss = dice(p_s, b.mask_s) + 0.001 * bce(D(p_t), 0.0) + 0.01 * F.mse_loss(R(p_t), b.image_t)
            if uses_labels and b.labelled_t.any():
                loss = loss + dice(p_t[b.labelled_t], b.mask_t[b.labelled_t])
            loss.backward()
            adam_sr.step()
        step(ours, *batches, config=Config(lr_s=1e-4, lr_d=1e-3, lr_r=1e-3))
        for (key, mine), theirs in zip(ours.networks.named_parameters(), plain.networks.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11, msg=lambda text, where=f"{name} {key}": f"{where}: {text}")
