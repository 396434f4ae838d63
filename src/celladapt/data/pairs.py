"""The endless stream of training batches, in which batch k is a pure function of the seed and k.

So a resumed run sees what it would have seen, and the number of threads or processes changes nothing: process r of N takes slots
r·B ... r·B + B - 1 of the N·B images that step k draws.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celladapt.batch import Batch
from celladapt.classical import Verdict, witness
from celladapt.data.augment import AUGMENTATIONS, crop
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.data.sample import evenly
from celladapt.errors import InputError
from celladapt.shape import WITNESS

MOST_WITNESSED = 16  # images


class Opinion(NamedTuple):
    """What the classical segmentation makes of an image; kept when the image is dropped, as it takes longer to make than an image to read."""

    packed: NDArray[np.uint8]
    """Its mask, 8 pixels a byte."""
    verdict: Verdict


class Cache:
    """Decoded images and masks of one folder, the least recently used dropped beyond ``limit`` bytes."""

    def __init__(self, folder: Folder, limit: int = 2 * 2**30, classical: bool = False) -> None:
        self.folder, self.limit, self.classical = folder, limit, classical
        self._held: OrderedDict[str, tuple[NDArray[Any], NDArray[np.bool_]]] = OrderedDict()
        self._opinions: dict[str, Opinion] = {}
        self.bytes = 0
        self._lock = Lock()

    def __getitem__(self, stem: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Image [H, W, 3] uint8 or uint16, and masks [H, W, 1 or 2]: foreground (empty where the folder has no mask for it), and the classical one if asked for."""
        with self._lock:
            if stem in self._held:
                self._held.move_to_end(stem)
                return self._held[stem]
        image, labels = self.folder.pair(stem) if stem in self.folder.masks else (self.folder.image(stem), None)
        mask = np.zeros((*image.shape[:2], 1 + self.classical), bool)
        if labels is not None:
            mask[..., 0] = labels > 0
        if self.classical:
            if stem not in self._opinions:
                found = witness(image)
                self._opinions[stem] = Opinion(np.packbits(found.mask), found.verdict)
            mask[..., 1] = np.unpackbits(self._opinions[stem].packed, count=mask[..., 1].size).reshape(image.shape[:2])
        with self._lock:
            if stem not in self._held:
                self._held[stem] = (image, mask)
                self.bytes += image.nbytes + mask.nbytes
            while self.bytes > self.limit and len(self._held) > 1:
                _, (old, old_mask) = self._held.popitem(last=False)
                self.bytes -= old.nbytes + old_mask.nbytes
        return image, mask

    def verdict(self, stem: str) -> Verdict | None:
        """How far to believe the classical segmentation of the image; None where nobody asked for it."""
        if self.classical and stem not in self._opinions:
            self[stem]
        opinion = self._opinions.get(stem)
        return None if opinion is None else opinion.verdict


@dataclass(frozen=True)
class Stream:
    """One domain's images in the order and with the crops that ``seed`` gives."""

    folder: Folder
    normalisation: Normalisation
    side: int | Literal["whole"]
    augment: str
    seed: tuple[int, int]
    """The run's seed and the domain's number."""
    classical: bool = False
    """Whether the classical segmentation of each image goes along."""
    labelled_share: float = 0.0
    """At least this share of the draws are of images with a mask, where there are any, or half of it where a classical segmentation that may stand for masks goes along; if it is not 0, an image without one, in which the classical segmentation
    that goes along is not plausible or had to look closer, gives its draw to one that has a mask: it has nothing to teach that a mask does not say better."""
    cache: Cache = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", Cache(self.folder, classical=self.classical))

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """How far to believe the classical segmentation of as many images as are looked at, by stem; empty where nobody asked for it."""
        seen = evenly(list(self.folder.images), MOST_WITNESSED) if self.classical else []
        return {stem: verdict for stem in seen if (verdict := self.cache.verdict(stem))}

    @property
    def heard(self) -> bool:
        """Whether the classical segmentation has a say in this folder: in half of the images at least, of those that are looked at, it is passable."""
        return sum(verdict.passable for verdict in self.verdicts.values()) >= WITNESS * max(1, len(self.verdicts))

    def _verdict(self, stem: str) -> Verdict | None:
        """How far to believe the classical segmentation of the image; None where nobody asked for it, or it has no say."""
        return self.cache.verdict(stem) if self.heard else None

    def stem(self, n: int) -> str:
        """Image of draw ``n``."""
        stem = self._next(n)
        if stem in self.folder.masks or not self._chooses or self.stands(stem):
            return stem
        return self._in_order(self.folder.labelled, n, (*self.seed, 3))

    @property
    def _chooses(self) -> bool:
        """Whether images with a mask are drawn for those that have less to teach."""
        return self.classical and self.labelled_share > 0 and bool(self.folder.masks)

    def stands(self, stem: str) -> bool:
        """Whether the classical segmentation of the image may stand for a mask that it lacks: where it is passable; beside masks, which teach better, where it is plausible and did not have to look closer."""
        verdict = self._verdict(stem)
        if verdict is None or stem in self.folder.masks:
            return False
        return verdict.plausible and not verdict.closer if self.folder.masks else verdict.passable

    def _next(self, n: int) -> str:
        """Every epoch is one random order of all images. Labelled images, where they are too few, have draws of their own between."""
        labelled = self.folder.labelled
        share = self.labelled_share / 2 if self.classical else self.labelled_share
        if not len(labelled) < share * len(self.folder) or not labelled:
            return self._in_order(list(self.folder.images), n, self.seed)
        before, own = int(n * share), int((n + 1) * share)
        if own > before:
            return self._in_order(labelled, before, (*self.seed, 2))
        return self._in_order([stem for stem in self.folder.images if stem not in self.folder.masks], n - before, self.seed)

    @staticmethod
    def _in_order(stems: list[str], n: int, seed: tuple[int, ...]) -> str:
        epoch, place = divmod(n, len(stems))
        return stems[int(_order(len(stems), (*seed, epoch))[place])]

    def __getitem__(self, n: int) -> "Draw":
        """Draw ``n``."""
        stem = self.stem(n)
        image, masks = self.cache[stem]
        rng = np.random.default_rng((*self.seed, n, 1))
        if self.side != "whole":
            image, masks = crop(image, masks, self.side, rng)
        image, masks = AUGMENTATIONS[self.augment](image, masks, rng)
        planes = torch.from_numpy(masks.transpose(2, 0, 1).astype(np.float32))
        verdict = self._verdict(stem)
        plausible, trust = (verdict.plausible, verdict.trust) if verdict else (False, 0.0)
        known = stem in self.folder.masks, plausible, self.stands(stem), trust
        return Draw(self.normalisation(image), planes[:1], planes[1:], *map(torch.tensor, known))

    def draw(self, numbers: range) -> "Draw":
        """The draws in ``numbers``, one batch."""
        draws = [self[n] for n in numbers]
        if len({draw.image.shape for draw in draws}) > 1:
            raise different_sizes(self.folder.root)
        return Draw(*(torch.stack(tensors) for tensors in zip(*draws, strict=True)))


def different_sizes(root: Path) -> InputError:
    """Of images of ``root``, which a batch would have to hold whole."""
    return InputError(f"{root} has images of different sizes, which cannot share a batch whole; use --crop or --batch-size 1.")


class Draw(NamedTuple):
    """One crop of an image, or [B, ...] of several."""

    image: Tensor
    """[3, H, W] normalised"""
    mask: Tensor
    """[1, H, W] float32 in {0, 1}"""
    classical: Tensor
    """[1, H, W] float32 in {0, 1}, or [0, H, W] where nobody asked for it"""
    labelled: Tensor
    """Bool: whether there is a mask."""
    plausible: Tensor
    """Bool: whether the classical segmentation of the image has the shape of nuclei; false where nobody asked for it."""
    stands: Tensor
    """Bool: whether it may stand for a mask that the image lacks."""
    trust: Tensor
    """Float32 in [0, 1]: how far the outlines of the classical segmentation are to be trusted; 0 where nobody asked for it."""


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
        s, t = self._draw(self.source, numbers), self._draw(self.target, numbers)
        return Batch(s.image, s.mask, t.image, t.mask, t.labelled, t.classical, t.plausible, t.stands, t.trust)

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
    def _draw(stream: Stream | None, numbers: range) -> Draw:
        if stream is not None:
            return stream.draw(numbers)
        images, masks = torch.zeros(0, 3, 32, 32), torch.zeros(0, 1, 32, 32)
        none = torch.zeros(0, dtype=torch.bool)
        return Draw(images, masks, masks, none, none, none, torch.zeros(0))
