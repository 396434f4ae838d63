"""One CellSegUDA training step against the order of the released implementation, written plainly below.

    python -m benchmarks.train_step --json train_step.json

Both sides do the same mathematics on the same images. With one forward pass of a U-Net as the unit (a backward pass costs two), the plain step
spends 13: S runs twice on each image (4), R once (1), and S goes backward once on the source (2) and twice on the target (4), R once (2). Ours spends 9: S
runs once on each image (2), R once (1), and each goes backward once (6). The discriminator is small beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import conditions, paired, parser, product_peak, publish
from celladapt.batch import Batch
from celladapt.config import Config, MethodSpec
from celladapt.hardware import arithmetic, pick_device, uses_bf16
from celladapt.methods import build
from celladapt.train import make_optimizers, take_step

UNIT = 64.0e9  # floating-point operations of the published U-Net forward at 256 x 256
UNITS, PLAIN_UNITS = 9, 13


@dataclass(frozen=True)
class Side:
    """One way of taking a step, and the networks that it moves."""

    networks: nn.ModuleDict
    step: Callable[[], object]


def ours(width: int, side: int, batch: int, device: torch.device, precision: str = "auto") -> Side:
    """A step as ``celladapt adapt`` takes it."""
    torch.manual_seed(0)
    method = build(MethodSpec.parse("cellseguda"), width)
    method.networks.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizers = make_optimizers(method, Config())
    images = _images(side, batch, device)
    return Side(method.networks, lambda: take_step(method, images.to(device), optimizers, lambda: arithmetic(precision, device)))


def plain(width: int, side: int, batch: int, device: torch.device) -> Side:
    """The same step in float32 and the usual memory layout, in the order of the released script."""
    torch.manual_seed(0)
    method = build(MethodSpec.parse("cellseguda"), width)
    S, D, R = (method.networks[name].to(device).train() for name in "SDR")
    adam_s, adam_d, adam_r = (torch.optim.Adam(network.parameters(), lr=rate) for network, rate in ((S, 5e-4), (D, 1e-3), (R, 1e-3)))
    b = _images(side, batch, device)

    def bce(logits: torch.Tensor, label: float) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def step() -> None:
        for optimizer in (adam_s, adam_d, adam_r):
            optimizer.zero_grad()
        D.requires_grad_(True)
        (bce(D(S(b.image_s).detach()), 0.0) + bce(D(S(b.image_t).detach()), 1.0)).backward()
        adam_d.step()
        D.requires_grad_(False)
        p_s = S(b.image_s)
        (1 - (2 * (p_s * b.mask_s).sum() + 1) / (p_s.sum() + b.mask_s.sum() + 1)).backward()
        p_t = S(b.image_t)
        (0.001 * bce(D(p_t), 0.0)).backward(retain_graph=True)
        (0.01 * F.mse_loss(R(p_t), b.image_t)).backward()
        adam_s.step()
        adam_r.step()

    return Side(method.networks, step)


def _images(side: int, batch: int, device: torch.device) -> Batch:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(batch, 3, side, side, generator=draw) for _ in range(2)]
    masks = [(torch.rand(batch, 1, side, side, generator=draw) > 0.7).float() for _ in range(2)]
    return Batch(*(x.to(device) for x in (images[0], masks[0], images[1], masks[1])), torch.zeros(batch, dtype=torch.bool, device=device))


def where_time_goes(step: Callable[[], object], steps: int = 3) -> list[dict[str, Any]]:
    """Operators by the share of the step's time that they themselves take, the greatest first."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            step()
    spent = {one.key: one.self_device_time_total if gpu else one.self_cpu_time_total for one in seen.key_averages()}
    total = sum(spent.values())
    return [{"operator": name, "share": round(time / total, 3)} for name, time in sorted(spent.items(), key=lambda one: -one[1])[:10]]


def main() -> None:
    """Measure and publish."""
    a = parser(__doc__)
    a.add_argument("--width", type=int, default=64)
    a.add_argument("--side", type=int, default=256)
    a.add_argument("--batch", type=int, default=1)
    a.add_argument("--turns", type=int, default=7)
    a = a.parse_args()
    width, side, turns = (16, 64, 2) if a.quick else (a.width, a.side, a.turns)
    device = pick_device("auto")
    before = conditions(device)
    fast = ours(width, side, a.batch, device).step
    times = paired(plain(width, side, a.batch, device).step, fast, turns, device=device).record()
    flop = UNIT * (width / 64) ** 2 * (side / 256) ** 2 * a.batch
    dtype = torch.bfloat16 if uses_bf16("auto", device) else torch.float32
    peak = product_peak(dtype, device)
    achieved = UNITS * flop / times["fast_seconds"] / 1e9
    publish(
        a.json,
        {
            **times,
            "what": f"training step, width {width}, {side} x {side}, batch {a.batch}",
            "images_per_second": 2 * a.batch / times["fast_seconds"],
            "gflops": achieved,
            "plain_gflops": PLAIN_UNITS * flop / times["slow_seconds"] / 1e9,
            "product_peak_gflops": peak,
            "share_of_peak": achieved / peak,
            "operators": where_time_goes(fast),
            **before,
        },
    )


if __name__ == "__main__":
    main()
