"""Which of many images are likely to be segmented badly, to be looked at first: the expected IoU of each, without a mask."""

import csv
import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from celladapt import contact_sheet
from celladapt.cells import as_cell
from celladapt.errors import InputError, while_segmenting
from celladapt.expectation import clues_of, expected_by, part
from celladapt.files import write_text
from celladapt.inputs import check_out, find_images
from celladapt.loading import load_model
from celladapt.model import Prediction, Predictor
from celladapt.progress import Bar
from celladapt.quality import LOW, UNTOLD, Expectation, witnessed
from celladapt.units import check_pixel_size

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 12
"""Images in the table and on the picture."""
TABLE, PICTURE = "review.csv", "lowest.png"


@dataclass(frozen=True)
class Reviewed:
    """One image, and what to expect of its mask."""

    image: Path
    expected: Expectation
    nuclei: int
    """Found in the part that was judged. Where there are none the expected IoU is low, though it would be 1 if none are there to be found."""


@dataclass(frozen=True)
class Review:
    """Images in the order in which to look at them, the lowest expected IoU first, be its interval as wide as it may."""

    path: Path
    """The folder with ``review.csv`` (image, expected_iou and the interval low to high in [0, 1], nuclei found) and ``lowest.png``."""
    items: list[Reviewed]

    def table(self) -> "Table":
        """The first of them."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            "image", "expected IoU", "interval", "nuclei found", title=f"The lowest of {len(self.items)}" if len(self.items) > SHOWN else None
        )
        for item in self.items[:SHOWN]:
            low, high = (f"{value:.2f}" for value in (item.expected.low, item.expected.high))
            table.add_row(Text(item.image.name), _shown(item.expected), f"{low} to {high}", str(item.nuclei))
        return table

    @property
    def words(self) -> str:
        """For people."""
        told = [item.expected for item in self.items if item.expected.told]
        images = f"{len(self.items)} image{'s' if len(self.items) > 1 else ''}"
        if not told:
            return f"{images}: {UNTOLD}"
        low = sum(expected.iou < LOW for expected in told)
        of_them = f" of {len(told)} (of the others it cannot be told without masks)" if len(told) < len(self.items) else ""
        text = f"{images}, expected IoU{of_them} {sum(expected.iou for expected in told) / len(told):.2f} on average, estimated {told[-1].how}"
        return text + (f": {low} below {LOW}, look at their masks before using them" if low else "")


class SomeUnread(InputError):
    """Images that could not be reviewed, and ``done``, the review of those that could."""

    def __init__(self, sentence: str, done: Review) -> None:
        super().__init__(sentence)
        self.done = done


def review(
    model: Predictor | str | Path,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    pixel_size: float | None = None,
    at: float | None = None,
    overwrite: bool = False,
) -> Review:
    """Order images by the IoU that can be expected of a model on each, and write ``review.csv`` and a picture of the lowest, ``lowest.png``.

    Of an image larger than 512 x 512 px the middle is judged, of a slide the densest tissue. No mask is read.

    Args:
        model: a model, or its run folder or file. What it finds is judged at its probability of 0.5.
        inputs: as ``predict`` takes them.
        out: folder to make or to write into.
        pixel_size: µm per pixel of slides that do not say it.
        at: µm per pixel at which slides are seen; by default the model's own.
        overwrite: whether to replace an earlier review.

    Raises:
        InputError: there is no model or image, an option makes no sense, ``out`` is a file, the folder of an image, or has a review.
        SomeUnread: some images cannot be read; the others have been reviewed.
    """
    out = Path(out)
    check_pixel_size("--pixel-size", pixel_size)
    check_pixel_size("--at", at)
    images = find_images(inputs, outputs=False)
    check_out(images, out)
    if not overwrite and (existing := next((out / name for name in (TABLE, PICTURE) if (out / name).exists()), None)):
        raise InputError(f"{existing} exists already; choose another --out, or --overwrite to replace it.")
    loaded = load_model(model) if isinstance(model, str | Path) else model
    with while_segmenting(images[0], out):
        out.mkdir(parents=True, exist_ok=True)
    at = at or loaded.pixel_size
    looks: list[_Look] = []
    failed: list[str] = []
    with Bar("reviewing", len(images)) as bar:
        for image in images:
            try:
                with while_segmenting(image, out):
                    looks.append(_look(loaded, image, pixel_size, at))
            except InputError as error:
                failed.append(str(error))
            bar.step(image.name)
    if not looks:
        with suppress(OSError):  # something else is in it
            out.rmdir()
        raise InputError(failed[0])
    items = _judged(loaded, looks)
    items.sort(key=lambda item: (item.expected.iou, item.image))
    write_text(out / TABLE, _csv(items))
    lowest = items[:SHOWN]
    shown = ((f"{_shown(item.expected)}   {item.image.name[-40:]}", part(item.image, pixel_size, at)) for item in lowest)
    contact_sheet.draw(out / PICTURE, len(lowest), shown, loaded)
    done = Review(out, items)
    if failed:
        raise SomeUnread(f"{len(failed)} of {len(images)} images could not be reviewed: " + " ".join(failed), done)
    return done


class _Look(NamedTuple):
    image: Path
    found: dict[str, float]
    """``selection.clues`` of it."""
    nuclei: int


def _look(model: Predictor, image: Path, pixel_size: float | None, at: float | None) -> _Look:
    pixels = part(image, pixel_size, at)
    seen = Prediction(model.probability(pixels))
    return _Look(image, clues_of([seen], [pixels]), int(seen.instances.max(initial=0)))


def _judged(model: Predictor, looks: list[_Look]) -> list[Reviewed]:
    """Each image by itself, but that in one of few in which the classical segmentation is plausible it is so by accident."""
    believed = witnessed({"witnessed": fmean(look.found["witnessed"] for look in looks)})
    without = {} if believed else {"witnessed": 0.0}
    return [Reviewed(look.image, expected_by(model, look.found | without, alone=True), look.nuclei) for look in looks]


def _shown(expected: Expectation) -> str:
    return f"{expected.iou:.2f}" if expected.told else "?"


def _numbers(expected: Expectation) -> tuple[float, float, float]:
    return expected.iou, expected.low, expected.high


def _csv(items: list[Reviewed]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "expected_iou", "low", "high", "nuclei"])
    for item in items:
        rows.writerow([as_cell(str(item.image)), *(f"{value:.4f}" if item.expected.told else "" for value in _numbers(item.expected)), item.nuclei])
    return text.getvalue()
