"""The endless stream of training batches, in which batch k is a pure function of the seed and k.

So a resumed run sees what it would have seen, and the number of threads or processes changes nothing: process r of N takes slots
r·B ... r·B + B - 1 of the N·B images that step k draws.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celladapt.batch import Batch
from celladapt.data.augment import AUGMENTATIONS, crop
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError


class Cache:
    """Decoded images and masks of one folder, the least recently used dropped beyond ``limit`` bytes."""

    def __init__(self, folder: Folder, limit: int = 2 * 2**30) -> None:
        self.folder, self.limit = folder, limit
        self._held: OrderedDict[str, tuple[NDArray[Any], NDArray[np.bool_]]] = OrderedDict()
        self.bytes = 0
        self._lock = Lock()

    def __getitem__(self, stem: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Image [H, W, 3] uint8 or uint16, and foreground [H, W] (empty where the folder has no mask for it)."""
        with self._lock:
            if stem in self._held:
                self._held.move_to_end(stem)
                return self._held[stem]
        if stem in self.folder.masks:
            image, labels = self.folder.pair(stem)
            mask = labels > 0
        else:
            image = self.folder.image(stem)
            mask = np.zeros(image.shape[:2], bool)
        with self._lock:
            if stem not in self._held:
                self._held[stem] = (image, mask)
                self.bytes += image.nbytes + mask.nbytes
            while self.bytes > self.limit and len(self._held) > 1:
                _, (old, old_mask) = self._held.popitem(last=False)
                self.bytes -= old.nbytes + old_mask.nbytes
        return image, mask


@dataclass(frozen=True)
class Stream:
    """One domain's images in the order and with the crops that ``seed`` gives."""

    folder: Folder
    normalisation: Normalisation
    side: int | Literal["whole"]
    augment: str
    seed: tuple[int, int]
    """The run's seed and the domain's number."""
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", Cache(self.folder))

    def stem(self, n: int) -> str:
        """Image of draw ``n``: every epoch is one random order of all images."""
        epoch, place = divmod(n, len(self.folder))
        return list(self.folder.images)[int(_order(len(self.folder), (*self.seed, epoch))[place])]

    def __getitem__(self, n: int) -> tuple[Tensor, Tensor, bool]:
        """Draw ``n``: image [3, H, W] normalised, mask [1, H, W] float32 in {0, 1}, whether it is labelled."""
        stem = self.stem(n)
        image, mask = self.cache[stem]
        rng = np.random.default_rng((*self.seed, n, 1))
        if self.side != "whole":
            image, mask = crop(image, mask, self.side, rng)
        image, mask = AUGMENTATIONS[self.augment](image, mask, rng)
        return self.normalisation(image), torch.from_numpy(mask.astype(np.float32))[None], stem in self.folder.masks

    def draw(self, numbers: range) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 3, H, W], masks [B, 1, H, W] and labelled [B] of the draws in ``numbers``."""
        images, masks, labelled = zip(*(self[n] for n in numbers), strict=True)
        if len({image.shape for image in images}) > 1:
            raise InputError(f"{self.folder.root} has images of different sizes, which cannot share a batch whole; use --crop or --batch-size 1.")
        return torch.stack(images), torch.stack(masks), torch.tensor(labelled)


@lru_cache(maxsize=16)
def _order(count: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng((*seed, 0)).permutation(count)


class Pairs:
    """Batches of source and target images for training.

    Args:
        source: stream of the source domain, or None where the method does not read it.
        target: stream of the target domain, likewise.
        batch_size: images of each domain in a batch of this process.
        rank: this process's number.
        processes: how many draw together.
    """

    def __init__(self, source: Stream | None, target: Stream | None, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.source, self.target = source, target
        self.batch_size, self.rank, self.processes = batch_size, rank, processes

    def __getitem__(self, step: int) -> Batch:
        """The batch of training step ``step`` (from 0)."""
        first = (step * self.processes + self.rank) * self.batch_size
        numbers = range(first, first + self.batch_size)
        image_s, mask_s, _ = self._draw(self.source, numbers)
        image_t, mask_t, labelled_t = self._draw(self.target, numbers)
        return Batch(image_s, mask_s, image_t, mask_t, labelled_t)

    def on(self, device: torch.device, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps ``start`` ... ``stop`` - 1 on ``device``, drawn as fast as that needs: a GPU takes more threads, and pinned memory."""
        gpu = device.type == "cuda"
        for batch in self.between(start, stop, ahead=8 if gpu else 4, workers=4 if gpu else 2, pinned=gpu):
            yield batch.to(device)

    def between(self, start: int, stop: int, ahead: int = 4, workers: int = 2, pinned: bool = False) -> Iterator[Batch]:
        """Batches of steps ``start`` ... ``stop`` - 1, prepared up to ``ahead`` of their use by ``workers`` threads."""

        def prepare(step: int) -> Batch:
            return self[step].pinned() if pinned else self[step]

        with ThreadPoolExecutor(workers, thread_name_prefix="pairs") as pool:
            waiting: list[Future[Batch]] = []
            try:
                for step in range(start, stop + ahead):
                    if step < stop:
                        waiting.append(pool.submit(prepare, step))
                    if step >= start + ahead:
                        yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    @staticmethod
    def _draw(stream: Stream | None, numbers: range) -> tuple[Tensor, Tensor, Tensor]:
        if stream is None:
            return torch.zeros(0, 3, 32, 32), torch.zeros(0, 1, 32, 32), torch.zeros(0, dtype=torch.bool)
        return stream.draw(numbers)
