"""Which of many images are likely to be segmented badly, to be looked at first: the expected IoU of each, without a mask."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from celladapt import contact_sheet
from celladapt.cells import as_cell
from celladapt.errors import InputError
from celladapt.expectation import clues_on, part
from celladapt.files import write_text
from celladapt.model import Predictor
from celladapt.prediction import find_images
from celladapt.progress import Bar
from celladapt.quality import LOW, Expectation, expected_iou

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 12
"""Images in the table and on the picture."""


@dataclass(frozen=True)
class Reviewed:
    """One image, and what to expect of its mask."""

    image: Path
    expected: Expectation


@dataclass(frozen=True)
class Review:
    """Images in the order in which to look at them, the lowest expected IoU first."""

    path: Path
    """The folder with ``review.csv`` and ``lowest.png``."""
    items: list[Reviewed]

    def table(self) -> "Table":
        """The first of them."""
        from rich.table import Table
        from rich.text import Text

        table = Table("image", "expected IoU", "interval", title=f"The lowest of {len(self.items)}" if len(self.items) > SHOWN else None)
        for item in self.items[:SHOWN]:
            iou, low, high = (f"{value:.2f}" for value in (item.expected.iou, item.expected.low, item.expected.high))
            table.add_row(Text(item.image.name), iou, f"{low} to {high}")
        return table

    @property
    def words(self) -> str:
        """For people."""
        low = sum(item.expected.iou < LOW for item in self.items)
        mean = sum(item.expected.iou for item in self.items) / len(self.items)
        return f"{len(self.items)} images, expected IoU {mean:.2f} on average, below {LOW} in {low}; estimated without masks"


def review(
    model: Predictor, inputs: str | Path | Iterable[str | Path], out: str | Path, pixel_size: float | None = None, at: float | None = None
) -> Review:
    """Order images by the IoU that can be expected of ``model`` on each, and write ``review.csv`` and a picture of the lowest, ``lowest.png``.

    Of an image larger than 512 x 512 pixels the middle is judged, of a slide the densest tissue. No mask is read.

    Args:
        model: any.
        inputs: as ``predict`` takes them.
        out: folder to make or to write into.
        pixel_size: µm per pixel of slides that do not say it.
        at: µm per pixel at which slides are seen; by default the model's own.

    Raises:
        InputError: there is no image, or some cannot be read: the others have been reviewed then.
    """
    out, at = Path(out), at or model.pixel_size
    images, items, failed = find_images(inputs), [], []
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; choose another --out.")
    with Bar("reviewing", len(images)) as bar:
        for image in images:
            try:
                items.append(Reviewed(image, expected_iou(clues_on(model, [part(image, pixel_size, at)]), alone=True)))
            except InputError as error:
                failed.append(str(error))
            bar.step(image.name)
    if not items:
        raise InputError(failed[0])
    items.sort(key=lambda item: (item.expected.iou, item.image))
    lowest = items[:SHOWN]
    shown = ((f"{item.expected.iou:.2f}   {item.image.name[-40:]}", part(item.image, pixel_size, at)) for item in lowest)
    contact_sheet.draw(out / "lowest.png", len(lowest), shown, model)
    write_text(out / "review.csv", _csv(items))
    if failed:
        raise InputError(f"{len(failed)} of {len(images)} images could not be reviewed; {out} has the others. The first: {failed[0]}")
    return Review(out, items)


def _csv(items: list[Reviewed]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "expected_iou", "low", "high"])
    for item in items:
        rows.writerow([as_cell(str(item.image)), *(f"{value:.4f}" for value in (item.expected.iou, item.expected.low, item.expected.high))])
    return text.getvalue()
