"""Training as it runs, its batches drawn from files: the share of a GPU's time that is idle, and the time of a whole run.

Parts of ``python -m benchmarks.train_step``, which measures them where there is a GPU.
"""

import copy
import math
import tempfile
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import clock, wait
from benchmarks.noise import domain, pairs
from celladapt.batch import Batch
from celladapt.classical import Witness
from celladapt.config import Config
from celladapt.data.pairs import Pairs
from celladapt.hardware import arithmetic
from celladapt.networks import Segmenter
from celladapt.validate import Held, Validator


class Training(Protocol):
    """Networks, and how a step is taken with them."""

    @property
    def networks(self) -> nn.ModuleDict:
        """By name."""

    def take(self, batch: Batch) -> object:
        """One step on ``batch``, which is on the networks' device."""


def loop(training: Training, stream: Pairs, device: torch.device, steps: int, warm: int = 10) -> dict[str, float]:
    """Seconds of a step, images a second and, on a GPU, its idle share, over ``steps`` steps in a row.

    The first step (which compiles, where anything does) is timed apart, and ``warm`` more count nowhere. The profiler slows the host, so the time comes from
    one stretch of ``steps`` steps and what the GPU does in it from the next one.
    """
    batches = stream.on(device, 0, 1 + warm + 2 * steps)

    def advance(count: int) -> None:
        for batch in islice(batches, count):
            training.take(batch)

    first = clock(lambda: advance(1), device)
    advance(warm)
    seconds = clock(lambda: advance(steps), device)
    result = {"first_step_seconds": first, "seconds_a_step": seconds / steps, "images_per_second": 2 * stream.batch_size * steps / seconds}
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            advance(steps)
            wait(device)
        result["gpu_idle_share"] = max(0.0, 1 - busy_seconds(seen.events() or []) / seconds)
    return result


def busy_seconds(events: Iterable[Any]) -> float:
    """Seconds in which a GPU computed or copied, by a profile's ``events``. What overlaps counts once; spans that only carry a name do not count."""
    spans = sorted((one.time_range.start, one.time_range.end) for one in events if on_gpu(one))
    busy, until = 0.0, -math.inf
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy / 1e6


def on_gpu(event: Any) -> bool:
    """Whether ``event`` of a profile is work of a GPU."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation


def whole_run(
    training: Training, config: Config, device: torch.device, side: int, steps: int, source: int = 122, target: int = 8
) -> dict[str, float]:
    """A projection: all of ``config``'s steps on whole images of ``side`` x ``side``, from ``steps`` of them, and its validations, from one.

    Args:
        training: as ``config`` sets it up.
        source, target: validation images; by default 15 % of KIRC (810 images) and of TNBC (50).
    """
    with tempfile.TemporaryDirectory() as temporary:
        stream = pairs(domain(Path(temporary), 8, side), config.crop, config.batch_size, config.augment)
        found = loop(training, stream, device, steps)
        drawn = stream[0]
    image, mask = drawn.image_s[0], drawn.mask_s[0, 0] > 0
    held = [Held([image] * count, [mask] * count, [Witness.of(mask.numpy())] * count) for count in (source, target)]
    validator = Validator(*held, device, partial(arithmetic, config.precision, device))
    network = copy.deepcopy(training.networks["S"]).eval()
    assert isinstance(network, Segmenter)
    validation = clock(lambda: validator(network), device)
    validations = -(-config.steps // config.validate_every)
    total = found["first_step_seconds"] + config.steps * found["seconds_a_step"] + validations * validation
    return {**found, "validation_seconds": validation, "steps": config.steps, "validations": validations, "projected_seconds": total}
