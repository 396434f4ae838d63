"""One image or slide: from its file to its outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import read_image, require_file
from celladapt.data.slide import open_slide, tiff_pixel_size, view_at
from celladapt.errors import FileError, InputError, while_segmenting
from celladapt.job import Job, Written
from celladapt.locks import alone
from celladapt.model import Prediction, Predictor
from celladapt.nuclei import Nuclei, measure
from celladapt.outputs import Picture
from celladapt.units import area_in_pixels
from celladapt.whole_slide import Rules, Work

_MOST_ENLARGED = 4


@dataclass(frozen=True)
class InMemory:
    """An image that was segmented whole; see ``outputs.Segmented``."""

    image: NDArray[Any]
    seen: Prediction
    pixel_size: float | None
    downsample = 1.0
    large = False

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        h, w = self.seen.probability.shape
        return h, w

    def mask(self, y: int, x: int, h: int, w: int) -> NDArray[np.bool_]:
        """A part of the mask."""
        return self.seen.mask[y : y + h, x : x + w]

    def instances(self, y: int, x: int, h: int, w: int) -> NDArray[np.integer[Any]]:
        """A part of the labels."""
        return self.seen.instances[y : y + h, x : x + w]

    def probability(self, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """A part of the probabilities."""
        return self.seen.probability[y : y + h, x : x + w]

    def nuclei(self) -> Iterator[Nuclei]:
        """All at once."""
        yield self._nuclei

    @cached_property
    def _nuclei(self) -> Nuclei:
        return measure(self.seen.instances, self.seen.probability, self.image)

    def pictures(self) -> list[Picture]:
        """Itself, as it is."""
        return [(self.image, self.seen.instances)]


def segment(model: Predictor, job: Job, more: Callable[[int], None] = lambda count: None, step: Callable[[], None] = lambda: None) -> Written:
    """Carry out one job.

    Args:
        model: as the job's fingerprint says.
        job: what to do; nothing is done where an earlier call has.
        more: told how many tiles a slide has, before the first.
        step: called after each tile.

    Raises:
        InputError: the file is at fault, or the outputs cannot be written.
    """
    if (written := job.written()) is not None:
        return written
    if job.slide:
        return segment_slide(model, job, more, step)
    return write_outputs(job, *segment_image(model, job))


def segment_image(model: Predictor, job: Job) -> tuple[NDArray[Any], Prediction, float | None]:
    """The image [H, W, 3] uint8 or uint16 that a job is about, what the model makes of it, and the µm per pixel that it was read at, where they are known.

    Raises:
        InputError: the file is at fault.
    """
    with while_segmenting(job.image, job.out):
        require_file(job.image)
        assert job.identity  # taken before the file is read
        size = job.settings.pixel_size or tiff_pixel_size(job.image)
        smallest = area_in_pixels(job.settings.min_size, size)
        image = read_image(job.image)
        return image, Prediction(model.probability(image), job.settings.threshold, smallest), size


def write_outputs(job: Job, image: NDArray[Any], seen: Prediction, size: float | None) -> Written:
    """Find the nuclei in what ``segment_image`` gave, and write what the job asks for.

    Raises:
        InputError: the outputs cannot be written.
    """
    with while_segmenting(job.image, job.out):
        areas = np.bincount(seen.instances.ravel())[1:]
        return job.finish(InMemory(image, seen, size), areas.size, float(seen.mask.mean()), float(np.median(areas)) if areas.size else 0.0)


def segment_slide(model: Predictor, job: Job, more: Callable[[int], None], step: Callable[[], None]) -> Written:
    """Segment a slide tile by tile, on from where an earlier call stopped, and write what the job asks for; the rest is as in ``segment``.

    Raises:
        InputError: the file is at fault, there is no tissue in it, or the outputs cannot be written.
    """
    settings = job.settings
    with while_segmenting(job.image, job.out), open_slide(job.image, settings.pixel_size) as slide:
        view = view_at(slide, settings.at or model.pixel_size)
        if view.scale < 1 / _MOST_ENLARGED:
            raise FileError(
                job.image,
                f"has {slide.pixel_size:.3g} µm per pixel and would be enlarged {1 / view.scale:.0f} times",
                "check --pixel-size, or choose --at",
            )
        smallest = area_in_pixels(settings.min_size, view.pixel_size)
        rules = Rules(settings.threshold, smallest, settings.tissue, settings.tile)
        work = Work(view, model.probability, rules, job.work, job.identity)
        if not work.tiles:
            raise InputError(f"{job.image} has no tissue that could be told from glass; --no-tissue segments all of it.")
        job.work.mkdir(parents=True, exist_ok=True)
        with alone(job.work):
            if (written := job.written()) is None:  # else another process was at it
                work.run(more, step)
                areas = np.concatenate([nuclei.columns["area"] for nuclei in work.nuclei()])
                median = float(np.median(areas)) if areas.size else 0.0
                written = job.finish(work, areas.size, float(areas.sum() / work.pixels), median, work.pixels / (work.shape[0] * work.shape[1]))
            work.forget()
        return written
