"""Does training ever wait for images? Batches a second of the loader alone, against what a step needs.

    python -m benchmarks.data_path --json data_path.json

A folder of images as they come from a slide (1000 x 1000, PNG) is written for it. The headline ratio is the time of a step over the time of a batch at
the threads that training uses (2, for a GPU 4): above 1 the loader keeps ahead. Then the same with other numbers of threads, the first pass (that decodes), the share
of a real loop that is spent waiting, and what a cache holds that is smaller than the images.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import clock, conditions, paired, parser, publish
from benchmarks.noise import domain, pairs
from benchmarks.train_step import ours
from celladapt.data.folder import Folder
from celladapt.data.pairs import Cache, Pairs
from celladapt.hardware import pick_device


def drain(stream: Pairs, start: int, stop: int, workers: int, pinned: bool = False) -> None:
    """Draw the batches and throw them away."""
    for _ in stream.between(start, stop, ahead=max(4, workers), workers=workers, pinned=pinned):
        pass


def waiting_share(stream: Pairs, step: Callable[[], object], start: int, stop: int, device: torch.device) -> float:
    """Share of a training loop's time that it spends waiting for its next batch, the loader and the step sharing the machine as they do in training."""
    batches = stream.on(device, start, stop)
    next(batches)
    waited = worked = 0.0
    while True:
        began = time.perf_counter()
        if next(batches, None) is None:
            break
        got = time.perf_counter()
        clock(step, device)
        waited, worked = waited + got - began, worked + time.perf_counter() - got
    return waited / (waited + worked)


def bounded(folder: Folder, limit: int) -> dict[str, float]:
    """MiB that a cache of at most ``limit`` bytes holds after every image went through it."""
    cache = Cache(folder, limit)
    whole = 0
    for stem in folder.images:
        image, mask = cache[stem]
        whole += image.nbytes + mask.nbytes
    return {"images_mib": whole / 2**20, "limit_mib": limit / 2**20, "held_mib": cache.bytes / 2**20}


def main() -> None:
    """Measure and publish."""
    a = parser(__doc__).parse_args()
    images, side, batches, turns = (4, 200, 10, 2) if a.quick else (24, 1000, 60, 5)
    device = pick_device("auto")
    gpu = device.type == "cuda"
    crop, batch, width = (64, 2, 8) if a.quick else (256, 8, 64) if gpu else (128, 4, 16)  # the presets default and fast
    before = conditions(device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = domain(Path(temporary), images, side)
        memory = bounded(folder, images * side**2)  # a quarter of what the images with their masks need
        stream = pairs(folder, crop, batch)
        epoch = -(-images // batch)  # batches in which every image comes for the first time
        cold = clock(lambda: drain(stream, 0, epoch, 2)) / epoch
        step = ours(width, crop, batch, device).step
        several = lambda: [step() for _ in range(5)]  # noqa: E731
        by_workers = {}
        for workers in (1, 2, 4, 8):
            times = paired(several, lambda workers=workers: drain(stream, batches, 2 * batches, workers, gpu), turns, device=device)
            by_workers[workers] = [ratio * batches / 5 for ratio in times.ratios], times.record()
        waited = waiting_share(stream, step, batches, 2 * batches, device)
    ratios, record = by_workers[4 if gpu else 2]
    low, median, high = np.percentile(ratios, [25, 50, 75]).round(3).tolist()
    publish(
        a.json,
        {
            "ratio": median,
            "quartiles": [low, high],
            "turns": turns,
            "what": f"a CellSegUDA step (width {width}) against a batch (2 x {batch} crops of {crop} from {side} x {side} images)",
            "step_seconds": record["slow_seconds"] / 5,
            "batch_seconds_by_threads": {str(workers): one["fast_seconds"] / batches for workers, (_, one) in by_workers.items()},
            "crops_per_second_by_threads": {str(workers): 2 * batch * batches / one["fast_seconds"] for workers, (_, one) in by_workers.items()},
            "first_pass_batch_seconds": cold,
            "share_of_training_spent_waiting": waited,
            "memory": memory,
            **before,
        },
    )


if __name__ == "__main__":
    main()
