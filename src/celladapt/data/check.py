"""Find every fault of some domain folders before a run does, and sum up what is in them."""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from celladapt.data.folder import NO_IMAGE, NO_IMAGE_FOR, Folder, image_of_mask, layout, list_images, pair_up, same_image, same_stem, shape_mismatch
from celladapt.data.images import as_image, decode, read_mask
from celladapt.data.limits import TAKEN_CHANNELS
from celladapt.data.mask_look import MOST_COMPARED, OTHER_IMAGES, difference, light_of, of_other_images
from celladapt.data.slide import SLIDE_SUFFIXES
from celladapt.data.split import as_tiles
from celladapt.errors import FileError
from celladapt.instances import label_components, tells_apart
from celladapt.shell import as_typed

if TYPE_CHECKING:
    from rich.console import RenderableType


MOST_FOREGROUND = 0.6
"""Share of an image beyond which its mask is more likely to be inverted than that full of nuclei."""
TINY = 5.0
"""px, median diameter below which what masks mark is hardly nuclei: a nucleus of 5 µm seen at the lowest useful magnification has as many."""

CURES = {
    (".geojson", ".json", ".roi", ".zip", ".xml"): "export outlines as label images (docs/data.md has a script for QuPath)",
    (".npy", ".npz", ".mat", ".h5", ".hdf5"): "save the images, and the label image of each, as PNG or TIFF",
    tuple(SLIDE_SUFFIXES): "save regions of slides as PNG or TIFF to train on; `celladapt predict` reads the slides themselves",
    (".czi", ".lif", ".nd2", ".oib", ".oif", ".vsi", ".lsm"): "export them from the microscope's program, or with Bio-Formats, as OME-TIFF",
}
"""What to do with files that are not read, by how their names end."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file or folder (a fault), or worth knowing about it (a note)."""

    level: Literal["fault", "note"]
    path: Path
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}; {self.cure}."


@dataclass
class FolderSummary:
    """What one domain folder holds; of files that can be read."""

    folder: Path
    images: int = 0  # files, readable or not
    masks: int = 0
    widths: list[int] = field(default_factory=list)  # of each readable image, as are the next three
    heights: list[int] = field(default_factory=list)
    bits: set[int] = field(default_factory=set)  # per channel
    channels: set[int] = field(default_factory=set)
    diameters: list[float] = field(default_factory=list)  # of each nucleus: of the disc with its area, in pixels
    binary: int = 0  # masks with one value beside 0
    foreground_pixels: int = 0
    mask_pixels: int = 0

    @property
    def size_range(self) -> str:
        """Smallest to largest width × height in pixels, each side by itself."""
        return f"{_range(self.widths)}×{_range(self.heights)}" if self.widths else "–"

    @property
    def nuclei(self) -> int:
        """Nuclei in all masks: labels, or connected components of binary masks."""
        return len(self.diameters)

    @property
    def median_diameter(self) -> float | None:
        """In pixels; None without a nucleus."""
        return float(np.median(self.diameters)) if self.diameters else None

    @property
    def foreground(self) -> float | None:
        """Share of all mask pixels, in [0, 1]; None without a mask."""
        return self.foreground_pixels / self.mask_pixels if self.mask_pixels else None


@dataclass
class CheckReport:
    """Findings in the order they were met, and one summary for each folder."""

    findings: list[Finding] = field(default_factory=list)
    summary: list[FolderSummary] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """What has to be mended."""
        return [finding for finding in self.findings if finding.level == "fault"]

    @property
    def notes(self) -> list[Finding]:
        """What is worth knowing."""
        return [finding for finding in self.findings if finding.level == "note"]

    @property
    def ok(self) -> bool:
        """True when there is no fault; notes do not count."""
        return not self.faults

    @property
    def verdict(self) -> str:
        """One sentence."""
        where = _count(len(self.summary), "folder")
        notes = f" and {_count(len(self.notes), 'note')}" if self.notes else ""
        if self.ok and not any(row.masks for row in self.summary):
            return f"No fault{notes} in {where}, but no mask either: one of these folders alone can be a target, not a source."
        if self.ok and self._full:
            return f"No fault{notes} in {where}, but the masks of {self._full[0].folder} mark most of the images as nuclei: look at them before training."
        if self.ok:
            return f"No fault{notes} in {where}: ready for training."
        return f"{_count(len(self.faults), 'fault')}{notes} in {where}: mend the faults before training."

    @property
    def _full(self) -> list[FolderSummary]:
        return [row for row in self.summary if (row.foreground or 0) > MOST_FOREGROUND]

    def __rich__(self) -> "RenderableType":
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        headings = ("folder", "images", "masks", "size\n(px)", "bits", "channels", "nuclei", "median\n⌀ (px)", "fore-\nground")
        table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        table.columns[0].overflow, table.columns[0].min_width = "fold", 12
        for row in self.summary:
            diameter = "–" if row.median_diameter is None else f"{row.median_diameter:.1f}"
            foreground = "–" if row.foreground is None else f"{row.foreground:.1%}"
            numbers = (row.size_range, _list(row.bits), _list(row.channels), str(row.nuclei), diameter, foreground)
            table.add_row(Text(str(row.folder)), str(row.images), str(row.masks), *numbers)
        lines = [Text.assemble(("fault ", "bold red"), str(finding)) for finding in self.faults]
        lines += [Text.assemble(("note  ", "yellow"), str(finding)) for finding in self.notes]
        return Group(table, *lines, Text(self.verdict, style="bold red" if not self.ok else "bold yellow" if self._full else "bold green"))


def check(folders: str | Path | Iterable[str | Path]) -> CheckReport:
    """Read every file of the domain folders and report all that is wrong, never stopping at the first fault.

    Faults: a missing or empty folder, a folder given twice, an unreadable file, two files of one stem, a mask without an image, a mask that is
    not of its image's size, two masks of one image, masks that all are empty, and images with the same pixels (compared after decoding) in one folder or across all of them, which would let a test image
    into training. Notes: images without a mask where others have one, blank images (not compared), stacks, channels that are not seen, masks that are empty, of classes, seem to be of other images, or mark most of an image or specks, masks beside their images, folders
    and files of unknown type, which are left out.
    """
    report, seen = CheckReport(), dict[bytes, tuple[Path, Path]]()
    resolved: set[Path] = set()
    for root in map(Path, [folders] if isinstance(folders, (str, Path)) else folders):
        if root.resolve() in resolved:
            report.findings.append(Finding("fault", root, "is given more than once", "name each folder once"))
        else:
            resolved.add(root.resolve())
            report.summary.append(_check_folder(root, report.findings, seen))
    return report


def _check_folder(root: Path, findings: list[Finding], seen: dict[bytes, tuple[Path, Path]]) -> FolderSummary:
    summary = FolderSummary(root)
    try:
        image_folder, mask_folder = layout(root)
        images, files = _list_stems(image_folder, findings), _list_stems(mask_folder, findings) if mask_folder else {}
    except FileError as error:
        findings.append(_fault(error))
        return summary
    masks, strangers, second = pair_up(files, images)
    summary.images, summary.masks = len(images), len(files)
    if not images:
        findings.append(Finding("fault", image_folder, *NO_IMAGE))
    _look_around(root, image_folder, mask_folder, images, findings)
    shapes, lights, turned = dict[str, tuple[int, ...]](), dict[str, NDArray[np.float32]](), list[Path]()
    stacks, four = list[tuple[Path, int]](), list[tuple[Path, int]]()
    for stem, path in images.items():
        try:
            raster = decode(path)
            pixels = as_image(raster)
        except FileError as error:
            findings.append(_fault(error))
            continue
        shapes[stem] = pixels.shape
        if stem in masks and len(lights) < MOST_COMPARED:
            lights[stem] = light_of(pixels)
        summary.heights.append(pixels.shape[0])
        summary.widths.append(pixels.shape[1])
        summary.bits.add(raster.bits)
        summary.channels.add(raster.channels)
        if raster.planes > 1:
            stacks.append((path, raster.planes))
        if raster.channels > TAKEN_CHANNELS:
            four.append((path, raster.channels))
        if raster.turned:
            turned.append(path)
        if pixels.min() == pixels.max():
            findings.append(Finding("note", path, "is blank (all its pixels are equal)", "leave it out unless that is meant"))
        else:
            _compare(root, path, pixels, findings, seen)
    if stacks:
        message = f"has {stacks[0][1]} planes or images, of which the first alone is read{_such(stacks)}"
        findings.append(Finding("note", stacks[0][0], message, "save the plane in focus, or a projection, if that is another one"))
    if four:
        message = f"has {four[0][1]} channels, of which the first {TAKEN_CHANNELS} are seen{_such(four)}"
        findings.append(Finding("note", four[0][0], message, "save the channel of the nuclei alone, if it is another one"))
    if turned:
        message = f"is turned by a tag that its camera wrote{_such(turned)}, as most viewers show it, and so is what is segmented"
        findings.append(Finding("note", turned[0], message, "see that its mask fits the image as it is shown, or save it upright, without the tag"))
    if strangers:
        problem, cure = NO_IMAGE_FOR
        names = f" ({len(strangers)} such: {_some([path.name for path in strangers])})" if len(strangers) > 1 else ""
        findings.append(Finding("fault", strangers[0], problem + names, cure))
    findings += [Finding("fault", path, *same_image(first)) for path, first in second.items()]
    if renamed := [(stem, path) for stem, path in masks.items() if path.stem != stem]:
        stem, path = renamed[0]
        findings.append(Finding("note", path, f"is taken for the mask of {stem}{_such(renamed)}", "rename it if it is of another image"))
    empty, classes, differences = list[Path](), list[tuple[Path, int]](), list[float]()
    for stem, path in masks.items():
        try:
            labels = read_mask(path)
        except FileError as error:
            findings.append(_fault(error))
            continue
        if stem in shapes and shapes[stem][:2] != labels.shape:
            findings.append(Finding("fault", path, *shape_mismatch(shapes[stem], labels.shape)))
        if stem in lights:
            differences.append(difference(lights.pop(stem), labels))
        foreground = int(np.count_nonzero(labels))
        summary.foreground_pixels += foreground
        summary.mask_pixels += labels.size
        if not foreground:
            empty.append(path)
        elif foreground > MOST_FOREGROUND * labels.size:
            findings.append(
                Finding(
                    "note", path, f"marks {foreground / labels.size:.0%} of the image as nuclei", "check that the background is 0, not the nuclei"
                )
            )
        values = np.unique(labels[labels > 0])
        summary.binary += values.size == 1
        if values.size > 1 and not tells_apart(labels):
            classes.append((path, values.size))
        nuclei, areas = np.unique(label_components(labels), return_counts=True)  # not bincount: label values can be huge
        summary.diameters += (2 * np.sqrt(areas[nuclei > 0] / np.pi)).tolist()
    if of_other_images(differences):
        findings.append(Finding("note", next(iter(masks.values())), *OTHER_IMAGES))
    for path in empty:
        cure = "right if there is none in the image; else annotate it, or delete the mask to leave the image unlabelled"
        findings.append(Finding("note" if len(empty) < len(masks) else "fault", path, "holds no nucleus", cure))
    if summary.median_diameter is not None and summary.median_diameter < TINY:
        message = f"marks nuclei that are {summary.median_diameter:.1f} px wide in the median"
        findings.append(Finding("note", mask_folder or root, message, "look whether these are nuclei, and masks of 0 and labels"))
    if classes:
        message = (
            f"holds {classes[0][1]} values, each in many pieces{_such(classes)}, which are taken for classes: each piece of one value is a nucleus"
        )
        cure = "see that each class is one of nuclei, and none is what lies around them; use one number a nucleus if AJI, PQ and F1 matter to you"
        findings.append(Finding("note", classes[0][0], message, cure))
    if summary.binary:
        message = f"holds {_count(summary.binary, 'mask')} with one value beside 0, in which touching nuclei count as one"
        findings.append(Finding("note", mask_folder or root, message, "use label images, one number a nucleus, if AJI, PQ and F1 matter to you"))
    with suppress(FileError):  # a dataset.toml that is damaged
        if pattern := as_tiles(Folder(root, images, masks)):
            message = "holds images with names like tiles of several slides, which a split would part"
            findings.append(Finding("note", image_folder, message, f"keep those of one slide together with --group {as_typed(pattern)}"))
    bare = [stem for stem in images if stem not in masks]
    if mask_folder and masks and bare:
        message = f"lacks a mask for {len(bare)} of {_count(len(images), 'image')} ({_some(bare)})"
        findings.append(Finding("note", mask_folder, message, "add the masks unless these are meant to be unlabelled"))
    return summary


def _look_around(root: Path, image_folder: Path, mask_folder: Path | None, images: dict[str, Path], findings: list[Finding]) -> None:
    """Note what may be annotations or images, and is not read as such."""
    if beside := [stem for stem in images if image_of_mask(stem, images)]:
        of = image_of_mask(beside[0], images)
        message = f"is taken for an image, like {of}{_such(beside)}"
        findings.append(Finding("note", images[beside[0]], message, "if it is the mask of that, move it to masks/"))
    read = [folder for folder in (image_folder, mask_folder) if folder]
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        with suppress(FileError):
            if any(folder.samefile(other) for other in read) or not list_images(folder):
                continue
            where = "from images/ and masks/ alone" if image_folder != root else f"from {root} itself, and masks from masks/"
            cure = "call it masks/ if it holds the masks" if not mask_folder else "move what is to be read into images/ or masks/"
            findings.append(Finding("note", folder, f"is not read, as images are read {where}", cure))


def _compare(root: Path, path: Path, pixels: NDArray[Any], findings: list[Finding], seen: dict[bytes, tuple[Path, Path]]) -> None:
    digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).digest()
    first_root, first = seen.setdefault(digest, (root, path))
    if first != path:
        cure = "delete one of the two" if first_root == root else "keep it in one folder only, or a test image can get into training"
        findings.append(Finding("fault", path, f"has the same pixels as {first}", cure))


def _list_stems(folder: Path, findings: list[Finding]) -> dict[str, Path]:
    """Stem to image file; two files of one stem and files of other types are reported."""
    stems: dict[str, Path] = {}
    files = list_images(folder)
    for path in files:
        first = stems.setdefault(path.stem, path)
        if first != path:
            findings.append(Finding("fault", path, *same_stem(first)))
    names = {path.name for path in files}
    entries = sorted(path for path in folder.iterdir() if path.name not in names and not path.name.startswith("."))
    inside = [path.name for path in entries if path.is_dir() and folder.name.lower() in ("images", "masks")]
    others = [path.name for path in entries if not path.is_dir()]
    if inside:
        message = f"holds {_count(len(inside), 'folder')} ({_some(inside)}), in which nothing is looked for"
        findings.append(Finding("note", folder, message, "move what is to be read up"))
    if others:
        message = f"holds {_count(len(others), 'entry', 'entries')} of unknown type ({_some(others)}), left out"
        cures = [cure for ends, cure in CURES.items() if any(name.lower().endswith(ends) for name in others)]
        findings.append(Finding("note", folder, message, (cures or ["move them elsewhere, or convert them to PNG or TIFF if they are images"])[0]))
    return stems


def _fault(error: FileError) -> Finding:
    return Finding("fault", error.path, error.problem, error.cure)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _such(files: Sequence[object]) -> str:
    return f" ({len(files)} such files)" if len(files) > 1 else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _list(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "–"


def _range(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)}–{max(values)}"
