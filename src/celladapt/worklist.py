"""The folder of what to annotate first: images or tiles, empty masks to fill, a table, a contact sheet, and how to go on."""

import csv
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celladapt import contact_sheet
from celladapt.cells import as_cell
from celladapt.data.folder import Folder, subfolder
from celladapt.data.images import write_image
from celladapt.files import atomic, write_text
from celladapt.model import Model
from celladapt.reporting.reading import mapping
from celladapt.run import Run
from celladapt.shell import as_typed

if TYPE_CHECKING:
    from rich.table import Table

SIZES = ("steps", "width", "crop", "batch_size")
"""Options that say how long training takes."""
SHOWN = 48
"""Suggestions on the overview: a taller picture than this makes is of no use, and matplotlib would refuse it some day."""

Box = tuple[int, int, int, int]
"""x, y, width, height in px."""


@dataclass(frozen=True)
class Suggestion:
    """One image or tile to annotate."""

    rank: int
    """From 1, the first to annotate."""
    name: str
    """Stem of its files: the image's own, or ``<stem>_x<X>_y<Y>`` of a tile."""
    image: Path
    """The file that it is, or was cut from."""
    x: int
    y: int
    width: int
    height: int
    score: float
    """What its mask should teach, comparable within one call only."""
    cluster_size: int
    """Candidates that it stands for, itself counted."""
    uncertainty: float
    """Mean entropy of the prediction around predicted nuclei over ln 2, in [0, 1]; 0 without a nucleus."""
    nuclei: int
    """Predicted."""
    why: str
    """In words."""

    @property
    def box(self) -> Box:
        """Where it is in its image."""
        return self.x, self.y, self.width, self.height

    @property
    def whole(self) -> bool:
        """Whether it is an image of its own rather than a tile."""
        return self.name == self.image.stem


@dataclass(frozen=True)
class Suggestions:
    """The folder to annotate, and what is in it, best first."""

    path: Path
    items: list[Suggestion]
    next_steps: list[str]
    """Lines for the person."""

    def table(self) -> "Table":
        """Rank, name and reason."""
        from rich.table import Table
        from rich.text import Text

        table = Table("rank", "name", "why")
        for item in self.items:
            table.add_row(str(item.rank), Text(item.name), item.why)
        return table


def cut(image: NDArray[Any], box: Box) -> NDArray[Any]:
    """Those pixels of an image [H, W, C]."""
    x, y, width, height = box
    return image[y : y + height, x : x + width]


def write(out: Path, items: list[Suggestion], folder: Folder, model: Model) -> None:
    """Images, empty masks, ``suggestions.csv`` and ``overview.png`` of ``items``, cut from ``folder``, into ``out``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "name", "image", "x", "y", "width", "height", "score", "cluster_size", "uncertainty", "nuclei"])
    for item in items:
        place = (item.rank, as_cell(item.name), as_cell(item.image.name), *item.box)
        rows.writerow([*place, f"{item.score:.6g}", item.cluster_size, f"{item.uncertainty:.6g}", item.nuclei])
        if item.whole:
            with atomic(out / "images" / item.image.name) as temporary:
                shutil.copyfile(item.image, temporary)
        else:
            pixels = cut(folder.image(item.image.stem), item.box)
            grey = bool((pixels == pixels[..., :1]).all())
            suffix = ".png" if grey or pixels.dtype == np.uint8 else ".tif"  # PNG of 16-bit colour is read by few programs
            write_image(out / "images" / f"{item.name}{suffix}", np.ascontiguousarray(pixels[..., 0] if grey else pixels))
        write_image(out / "masks" / f"{item.name}.png", np.zeros((item.height, item.width), np.uint16))
    write_text(out / "suggestions.csv", text.getvalue())
    shown = items[:SHOWN]
    pictures = ((f"{item.rank}   {item.name[-40:]}", cut(folder.image(item.image.stem), item.box)) for item in shown)
    contact_sheet.draw(out / "overview.png", len(shown), pictures, model)


def next_steps(out: Path, items: list[Suggestion], folder: Folder, model: Model, run: Run | None) -> list[str]:
    """What a person does with the folder ``out``, a line each; with ``run``, the command goes on with its options and split, else with the size of the ``model``."""
    images = subfolder(folder.root, "images") or folder.root
    masks = f"the masks that you have filled, from {out / 'masks'} to {subfolder(folder.root, 'masks') or folder.root / 'masks'}"
    copies = masks if all(item.whole for item in items) else f"every image from {out / 'images'} to {images}, and {masks}"
    lines = [
        f"fill    the label images in {out / 'masks'}: number every nucleus from 1 (Fiji, napari, QuPath); left empty, one teaches that there is no nucleus",
        f"check   {as_typed('celladapt', 'data', 'check', out)} names those that are still empty",
        f"copy    {copies}",
    ]
    words: list[object] = ["celladapt", "adapt", "--method", "weakssda"]
    if run is not None:
        labels = ["--target-labels", "100%"] if run.config.target_labels != "100%" else []
        moved: list[object] = [] if run.config.target and run.config.target.resolve() == folder.root.resolve() else ["--target", folder.root]
        moved += [] if run.config.source and run.config.source.exists() else ["--source", "SOURCE"]
        words += ["--preset", run.path / "config.toml", *labels, "--split", out / "split.json", *moved]
    else:
        trained = mapping(model.about.get("config"))
        sizes = [word for name in SIZES if name in trained for word in (f"--{name.replace('_', '-')}", str(trained[name]))]
        words += ["--source", "SOURCE", "--target", folder.root, "--test-fraction", "0", *sizes]
    return [*lines, f"next    {as_typed(*words)}"]
