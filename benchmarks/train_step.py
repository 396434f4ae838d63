"""One CellSegUDA training step against the order of the released implementation, written plainly below.

    python -m benchmarks.train_step --json train_step.json

On a GPU it also measures the compiled step (``--compile``; the headline is the better one), training with batches drawn from files (images a second, the
GPU's idle share) and projects a run of the ``paper`` preset.

Both sides do the same mathematics on the same images. With one forward pass of a U-Net as the unit (a backward pass costs two), the plain step
spends 13: S runs twice on each image (4), R once (1), and S goes backward once on the source (2) and twice on the target (4), R once (2). Ours spends 9: S
runs once on each image (2), R once (1), and each goes backward once (6). The discriminator is small beside them.
"""

import statistics
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import clock, conditions, paired, parser, plain_layers, product_peak, publish
from benchmarks.noise import domain, pairs
from benchmarks.training_loop import loop, on_gpu, whole_run
from celladapt.batch import Batch
from celladapt.config import Config, MethodSpec, preset_options, with_options
from celladapt.convolution import pays, winograd
from celladapt.hardware import arithmetic, kept_memory, pick_device, tried_convolutions, uses_bf16
from celladapt.methods import build
from celladapt.step import take_step
from celladapt.train import make_optimizers

UNIT = 64.0e9  # floating-point operations of the published U-Net forward at 256 x 256
UNITS, PLAIN_UNITS = 9, 13
Way = Literal["eager", "compiled", "graphs"]
"""As it is; with ``--compile``; compiled and replayed as CUDA graphs, which training does not offer: measured to know whether it should."""


@dataclass(frozen=True)
class Side:
    """One way of taking a step, the networks that it moves, and images to take it on."""

    networks: nn.ModuleDict
    take: Callable[[Batch], object]
    images: Batch

    def step(self) -> object:
        """A step on the images."""
        return self.take(self.images)


def ours(width: int, side: int, batch: int, device: torch.device, precision: str = "auto", way: Way = "eager") -> Side:
    """A step as ``celladapt adapt`` takes it with the paper's losses alone, which the plain one has too. What an earlier call compiled is forgotten, since other sizes would be compiled for sizes that vary."""
    torch.manual_seed(0)
    method = build(MethodSpec.parse("cellseguda"), width)
    method.networks.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizers = make_optimizers(method, Config())
    if way != "eager":
        torch.compiler.reset()
        for network in method.networks.values():
            network.compile(mode="reduce-overhead" if way == "graphs" else "default")

    def take(images: Batch) -> object:
        if way == "graphs":
            torch.compiler.cudagraph_mark_step_begin()  # the two turns of a step share S's predictions, so that only a new step may overwrite them
        return take_step(method, images, optimizers, lambda: arithmetic(precision, device))

    return Side(method.networks, take, _images(side, batch, device).to(device))


def plain(width: int, side: int, batch: int, device: torch.device) -> Side:
    """The same step in float32 and the usual memory layout, in the order of the released script."""
    torch.manual_seed(0)
    method = build(MethodSpec.parse("cellseguda"), width)
    plain_layers(method.networks)
    S, D, R = (method.networks[name].to(device).train() for name in "SDR")
    adam_s, adam_d, adam_r = (torch.optim.Adam(network.parameters(), lr=rate) for network, rate in ((S, 5e-4), (D, 1e-3), (R, 1e-3)))

    def bce(logits: torch.Tensor, label: float) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def take(b: Batch) -> None:
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

    return Side(method.networks, take, _images(side, batch, device))


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
        if gpu:
            torch.cuda.synchronize()
    averages = seen.key_averages()
    spent = (
        {one.key: one.self_device_time_total for one in averages if on_gpu(one)} if gpu else {one.key: one.self_cpu_time_total for one in averages}
    )
    total = sum(spent.values())
    return [{"operator": name, "share": round(time / total, 3)} for name, time in sorted(spent.items(), key=lambda one: -one[1])[:10]]


def measured(way: Way, slow: Callable[[], object], size: tuple[int, int, int], device: torch.device, turns: int, peak: float) -> dict[str, Any]:
    """Our step taken ``way`` against the plain one, of width, side and batch ``size``: times, arithmetic, operators; on a GPU the real loop too."""
    width, side, batch = size
    fast = ours(*size, device, way=way)
    repeats = 10 if device.type == "cuda" else 1  # a step there is over sooner than the host's own jitter

    def several(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [step() for _ in range(repeats)]

    result = paired(several(slow), several(fast.step), turns, device=device).record()
    result |= {name: result[name] / repeats for name in ("slow_seconds", "fast_seconds")}
    flop = UNIT * (width / 64) ** 2 * (side / 256) ** 2 * batch
    achieved = UNITS * flop / result["fast_seconds"] / 1e9
    result |= {
        "images_per_second": 2 * batch / result["fast_seconds"],
        "gflops": achieved,
        "plain_gflops": PLAIN_UNITS * flop / result["slow_seconds"] / 1e9,
        "share_of_peak": achieved / peak,
        "operators": where_time_goes(fast.step),
    }
    if device.type == "cuda":
        with tempfile.TemporaryDirectory() as temporary:
            found = loop(fast, pairs(domain(Path(temporary), 24, 4 * side), side, batch), device, 50)
        result["loop"] = {**found, "share_of_peak": UNITS * flop / found["seconds_a_step"] / 1e9 / peak}
    return result


def without_tf32(slow: Callable[[], object], device: torch.device) -> float:
    """Seconds of the plain step where cuDNN must compute in float32 to the last digit, which is not torch's default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        slow()
        return statistics.median(clock(slow, device) for _ in range(5))
    finally:
        torch.backends.cudnn.allow_tf32 = before


def attempted(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``measure`` returns, or why it could not: a compiler that is not there must not cost the other figures."""
    try:
        return measure()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def main() -> None:
    """Measure and publish."""
    a = parser(__doc__)
    a.add_argument("--width", type=int, default=64)
    a.add_argument("--side", type=int, default=256)
    a.add_argument("--batch", type=int, help="8 on a GPU, as the default preset has it, and 1 on a CPU")
    a.add_argument("--turns", type=int, default=7)
    a.add_argument("--compile", action="store_true", help="time the compiled step on a CPU too")
    a = a.parse_args()
    device = pick_device("auto")
    gpu = device.type == "cuda"
    size, turns = ((16, 64, 1), 2) if a.quick else ((a.width, a.side, a.batch or (8 if gpu else 1)), a.turns)
    before = conditions(device)
    dtype = torch.bfloat16 if uses_bf16("auto", device) else torch.float32
    peak = product_peak(dtype, device)
    slow = plain(*size, device).step
    offered: list[Way] = ["eager", "compiled"] if gpu or a.compile else ["eager"]
    with tried_convolutions(device), nullcontext() if gpu else kept_memory():  # for both sides
        ways = {way: attempted(lambda way=way: measured(way, slow, size, device, turns, peak)) for way in offered}
    if not any("ratio" in one for one in ways.values()):
        raise SystemExit(f"no step could be measured: {ways['eager']['failed']}")
    best = max((way for way in offered if "ratio" in ways[way]), key=lambda way: ways[way]["ratio"])
    how = "bf16" if dtype == torch.bfloat16 else "float32"
    if not gpu and pays(dtype) and winograd(dtype):
        how += " with Winograd's convolutions"
    what = f"training step, width {size[0]}, {size[1]} x {size[1]}, batch {size[2]}, {how}"
    record = {**ways[best], "what": f"{what}, {best}" if len(offered) > 1 else what, "product_peak_gflops": peak, **before}
    if len(offered) > 1:
        record["ways"] = ways
    if gpu:
        config = with_options(Config(), preset_options("paper"))
        width, side, steps = (16, 64, 5) if a.quick else (config.width, 400, 50)
        record["plain_without_tf32_seconds"] = without_tf32(slow, device)
        record["paper"] = {
            way: attempted(
                lambda way=way: whole_run(ours(width, side, config.batch_size, device, config.precision, way), config, device, side, steps)
            )
            for way in offered
        }
        with tried_convolutions(device):  # last, since a fault in replaying could end all work on the GPU
            ways["graphs"] = attempted(lambda: measured("graphs", slow, size, device, turns, peak))
    publish(a.json, record)


if __name__ == "__main__":
    main()
