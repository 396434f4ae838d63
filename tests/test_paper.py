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


def test_three_steps_of_nuseguda_equal_the_plain_loop_in_float64() -> None:
    batches = [make_batch(size=2, seed=seed, dtype=torch.float64) for seed in range(3)]
    ours, plain = (make_method("nuseguda:r1=2") for _ in range(2))
    ours.networks.double()
    S, D, R, D_feature, D_image = (plain.networks.double()[key] for key in ("S", "D", "R", "D_feature", "D_image"))
    adam_d = torch.optim.Adam([*D.parameters(), *D_feature.parameters(), *D_image.parameters()], lr=1e-3)
    adam_sr = torch.optim.Adam([{"params": S.parameters(), "lr": 1e-4}, {"params": R.parameters(), "lr": 1e-3}])
    for b in batches:
        with torch.no_grad():
            p_s, p_t, drawn = S(b.image_s), S(b.image_t), R(S(b.image_t))
            f_s, f_t = (S.encode(images)[-1] for images in (b.image_s, b.image_t))
        p_s.requires_grad_(True)
        (slope,) = torch.autograd.grad(D(p_s).sum(), p_s, create_graph=True)  # one logit an image of 32 pixels
        adam_d.zero_grad()
        loss = bce(D(p_s), 0.0) + bce(D(p_t), 1.0) + 2 / 2 * slope.square().sum((1, 2, 3)).mean()
        loss = loss + bce(D_feature(f_s), 0.0) + bce(D_feature(f_t), 1.0) + bce(D_image(b.image_t), 1.0) + bce(D_image(drawn), 0.0)
        loss.backward()
        adam_d.step()
        adam_sr.zero_grad()
        p_s, p_t = S(b.image_s), S(b.image_t)
        loss = dice(p_s, b.mask_s) + 0.001 * bce(D(p_t), 0.0) + 0.01 * F.mse_loss(R(p_t), b.image_t)
        loss = loss + 0.001 * bce(D_feature(S.encode(b.image_t)[-1]), 0.0) + 0.001 * bce(D_image(R(p_t)), 1.0)
        loss = loss + 0.1 * dice(S(R(p_s)), b.mask_s)
        loss.backward()
        adam_sr.step()
    step(ours, *batches, config=Config(lr_s=1e-4, lr_d=1e-3, lr_r=1e-3))
    for (key, mine), theirs in zip(ours.networks.named_parameters(), plain.networks.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10, msg=lambda text, where=key: f"{where}: {text}")
