"""Segment a slide of any size in the memory of some tiles, and go on where it stopped.

Two stages, each a tile at a time, on disk in between. The network sees a tile with as much around it as one of its outputs depends on, so tiles fit without a seam. Nuclei are
found in a window around the tile; the tile keeps those whose first pixel (of the topmost row, the leftmost) lies in it, whole, so that one that lies across tiles is found by
all of them and kept by one. While the network is at one tile, the next is read, and nuclei are found in those before it.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from celladapt import __version__
from celladapt.data.slide import View, overview
from celladapt.errors import InputError, optional
from celladapt.files import write_json, write_text
from celladapt.instances import to_instances
from celladapt.locks import HOLDER, LOCK
from celladapt.nuclei import Nuclei, around, measure
from celladapt.progress import say
from celladapt.records import read_json, read_json_lines
from celladapt.strips import GRID, HALO
from celladapt.tissue import find_tissue

MARGINS = (128, 512)
"""Pixels around a tile in which nuclei are looked for, the next one wherever a nucleus is cut by the window's edge, at last the side of a tile."""
SURROUND = 64  # px around tissue that are segmented too
DETAIL = 512
"""Side in pixels of the details on a picture of the slide."""
DETAILS = 3
_THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
_AHEAD = 2  # tiles that wait for the network, and for each thread behind it

_WIDE = Lock()

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]
"""[H, W, 3] uint8 or uint16 -> probability [H, W] in [0, 1]."""
Tile = tuple[int, int]
"""Row and column of a tile."""
Box = tuple[int, int, int, int]
"""y, x, height, width in pixels of the view."""
Found = tuple[Nuclei, NDArray[np.int32], Box] | Nuclei
"""Nuclei numbered from 1, their labels, and where those are; or nuclei that an earlier call has put in place."""


@dataclass(frozen=True)
class Rules:
    """What decides the result beside the model and the slide."""

    threshold: float
    min_size: int
    tissue: bool
    tile: int
    """Side of a tile in pixels of the view, a multiple of 64."""


@dataclass(frozen=True)
class Work:
    """One slide being segmented, in a folder of its own; what the folder has is not done again."""

    view: View
    predict: Predict
    rules: Rules
    folder: Path
    identity: dict[str, Any]
    """What the folder's contents depend on; other contents are thrown away."""

    large = True

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the view."""
        return self.view.shape

    @property
    def downsample(self) -> float:
        """Pixels at full resolution to one of the view."""
        return self.view.downsample

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel at full resolution."""
        return self.view.slide.pixel_size

    @cached_property
    def tiles(self) -> dict[Tile, Box]:
        """The tiles with tissue, row by row, and the part of each that holds it."""
        (h, w), side = self.shape, self.rules.tile
        grid = [(i, j) for i in range(-(-h // side)) for j in range(-(-w // side))]
        return {tile: box for tile in grid if (box := self._inside(tile)) is not None}

    @cached_property
    def tissue(self) -> NDArray[np.bool_]:
        """[h, w] over the slide, at whatever scale; one pixel for all of it where the rules say so."""
        return find_tissue(overview(self.view.slide)) if self.rules.tissue else np.ones((1, 1), np.bool_)

    @property
    def pixels(self) -> int:
        """Pixels of the view that the network sees as part of a tile."""
        return sum(h * w for _, _, h, w in self.tiles.values())

    def run(self, more: Callable[[int], None], step: Callable[[], None]) -> None:
        """Both stages; ``more`` is told how many tiles the network has yet to see, ``step`` is called after each.

        Raises:
            InputError: the slide is damaged somewhere, or the folder cannot be written; what is done stays.
        """
        self._begin()
        stored = {(line[0], line[1]) for line in self._log()}
        waiting = deque(self.tiles)
        finding: deque[tuple[Tile, Future[Found]]] = deque()
        numbered = 0

        def commit() -> None:
            nonlocal numbered
            tile, future = finding.popleft()
            numbered = self._keep(tile, future.result(), numbered)

        try:
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(_THREADS) as finders:
                ahead: deque[tuple[Tile, Future[NDArray[Any]]]] = deque()
                left = deque(tile for tile in self.tiles if tile not in stored)
                more(len(left))
                while left or ahead or waiting:
                    while left and len(ahead) < _AHEAD:
                        tile = left.popleft()
                        ahead.append((tile, reader.submit(self._read, tile)))
                    if ahead:
                        tile, image = ahead.popleft()
                        self._store(tile, self.predict(image.result()))
                        stored.add(tile)
                        step()
                    while waiting and self._neighbours(waiting[0]) <= stored:
                        if len(finding) >= _THREADS * _AHEAD:
                            commit()
                        tile = waiting.popleft()
                        finding.append((tile, finders.submit(self._find, tile)))
                while finding:
                    commit()
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror}); free space or choose another output folder, then the same command goes on."
            ) from error

    def mask(self, y: int, x: int, h: int, w: int) -> NDArray[np.bool_]:
        """A part of the mask."""
        return np.asarray(_probability(self._array("probability")[y : y + h, x : x + w]) >= self.rules.threshold)

    def instances(self, y: int, x: int, h: int, w: int) -> NDArray[np.integer[Any]]:
        """A part of the labels."""
        return np.asarray(self._array("labels")[y : y + h, x : x + w])

    def probability(self, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """A part of the probabilities, in 256ths, rounded down."""
        return np.asarray(self._array("probability")[y : y + h, x : x + w])

    def nuclei(self) -> Iterator[Nuclei]:
        """Measurements of each tile's nuclei."""
        for tile in self.tiles:
            yield Nuclei.load(self._file(tile))

    def pictures(self) -> list[tuple[NDArray[Any], NDArray[np.integer[Any]]]]:
        """The overview and the nuclei on it, and details from where there are many, fewer and few."""
        image, (h, w) = overview(self.view.slide), self.shape
        rows, columns = (((np.arange(small) + 0.5) * full / small).astype(int) for small, full in zip(image.shape, (h, w), strict=False))
        labels, found = np.zeros(image.shape[:2], np.uint32), []
        for tile, (y, x, height, width) in self.tiles.items():
            down, across = slice(*np.searchsorted(rows, (y, y + height))), slice(*np.searchsorted(columns, (x, x + width)))
            labels[down, across] = self.instances(y, x, height, width)[rows[down, None] - y, columns[across] - x]
            nuclei = Nuclei.load(self._file(tile)).columns
            if len(nuclei["x"]):
                found.append((len(nuclei["x"]), float(np.median(nuclei["y"])), float(np.median(nuclei["x"]))))
        found.sort(reverse=True)
        pictures: list[tuple[NDArray[Any], NDArray[np.integer[Any]]]] = [(image, labels)]
        side = min(DETAIL, h, w)
        for _, middle, centre in found[:: max(1, -(-len(found) // DETAILS))] or [(0, h / 2, w / 2)]:
            top, left = int(min(max(0, middle - side / 2), h - side)), int(min(max(0, centre - side / 2), w - side))
            pictures.append((self.view.read(top, left, side, side), self.instances(top, left, side, side)))
        return pictures

    def forget(self) -> None:
        """Remove the folder, once all is written elsewhere."""
        with suppress(OSError):
            self._disown()
            shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def _zarr(self) -> Any:
        return optional("zarr", f"Segmenting {self.view.slide.path}", "slides")

    def _begin(self) -> None:
        """Make the folder, or take up what an earlier call left there of the same work."""
        about = {**self.identity, "version": __version__, "rules": asdict(self.rules), "shape": list(self.shape)}
        before = None
        with suppress(InputError):  # a damaged note is of no work
            before = read_json(self._note) if self._note.is_file() else None
        if before == about:
            lines = self._log()  # without what a kill cut off
            write_text(self.folder / "stored.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
            return
        if self.folder.exists():
            if left := len(self._log()):
                say(
                    f"{left} tiles that are there of {self.view.slide.path} are of another model, other settings or another state of it: it is begun anew."
                )
            self._disown()
            for item in self.folder.iterdir():
                if item.name not in (LOCK, HOLDER):
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
        (self.folder / "nuclei").mkdir(parents=True, exist_ok=True)
        for name, dtype in (("probability", "uint8"), ("labels", "uint32")):
            self._zarr.create_array(
                self.folder / f"{name}.zarr",
                shape=self.shape,
                chunks=(self.rules.tile if self.rules.tile < 1024 else self.rules.tile // 4,) * 2,
                dtype=dtype,
                fill_value=0,
            )
        write_json(self._note, about)

    @property
    def _note(self) -> Path:
        """What the folder's contents are of; while it is there, they are whole."""
        return self.folder / "work.json"

    def _disown(self) -> None:
        """Take away the note first, so that a folder which a kill leaves half emptied is not taken up."""
        self._note.unlink(missing_ok=True)

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        return {name: self._zarr.open_array(self.folder / f"{name}.zarr", mode="r+") for name in ("probability", "labels")}

    def _array(self, name: str) -> Any:
        return self._arrays[name]

    def _log(self) -> list[list[int]]:
        """Tiles whose probability is stored."""
        lines = read_json_lines(self.folder / "stored.jsonl")
        return [line for line in lines if isinstance(line, list) and len(line) == 2 and all(isinstance(value, int) for value in line)]

    def _inside(self, tile: Tile) -> Box | None:
        """The part of a tile that holds its tissue, on the network's grid; None without any."""
        tissue, (h, w), side = self.tissue, self.shape, self.rules.tile
        y0, x0 = tile[0] * side, tile[1] * side
        y1, x1 = min(h, y0 + side), min(w, x0 + side)
        sy, sx = tissue.shape[0] / h, tissue.shape[1] / w
        top, left = max(0, int((y0 - SURROUND) * sy)), max(0, int((x0 - SURROUND) * sx))
        part = tissue[top : int(np.ceil((y1 + SURROUND) * sy)), left : int(np.ceil((x1 + SURROUND) * sx))]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if not len(rows):
            return None

        def span(found: NDArray[np.intp], offset: int, scale: float, low: int, high: int) -> tuple[int, int]:
            start = int((found[0] + offset) / scale) - SURROUND
            end = int(np.ceil((found[-1] + 1 + offset) / scale)) + SURROUND
            return max(low, start // GRID * GRID), min(high, -(-end // GRID) * GRID)

        top, bottom = span(rows, top, sy, y0, y1)
        left, right = span(columns, left, sx, x0, x1)
        return (top, left, bottom - top, right - left) if bottom > top and right > left else None

    def _read(self, tile: Tile) -> NDArray[Any]:
        y, x, h, w = _grown(self.tiles[tile], HALO, self.shape)
        return self.view.read(y, x, h, w)

    def _store(self, tile: Tile, probability: NDArray[np.float32]) -> None:
        y, x, h, w = box = self.tiles[tile]
        top, left, *_ = _grown(box, HALO, self.shape)
        core = probability[y - top : y - top + h, x - left : x - left + w]
        self._array("probability")[y : y + h, x : x + w] = np.minimum(core * 256, 255).astype(np.uint8)
        with open(self.folder / "stored.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(tile) + "\n")

    def _neighbours(self, tile: Tile) -> set[Tile]:
        """The tile and those around it that have tissue."""
        i, j = tile
        return {(a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1)} & self.tiles.keys()

    def _file(self, tile: Tile) -> Path:
        return self.folder / "nuclei" / f"{tile[0]}_{tile[1]}.npz"

    def _find(self, tile: Tile) -> Found:
        """Nuclei whose first pixel lies in the tile, numbered from 1, and where they are."""
        if self._file(tile).is_file():
            return Nuclei.load(self._file(tile))
        side = self.rules.tile
        core = (tile[0] * side, tile[1] * side, side, side)
        for margin in (*(margin for margin in MARGINS if margin < side), side):
            y, x, *_ = window = _grown(core, margin, self.shape)
            with _WIDE if margin > MARGINS[0] else nullcontext():  # which need several times the memory: one at a time
                labels, probability, cut = self._seen(core, window)
            if not cut:
                break
        box = around(labels)
        part, y, x = labels[box], y + box[0].start, x + box[1].start
        nuclei = measure(part, probability[box], self.view.read(y, x, *part.shape)).moved(y, x)
        return nuclei, part, (y, x, *part.shape)

    def _seen(self, core: Box, window: Box) -> tuple[NDArray[np.int32], NDArray[np.float32], bool]:
        """Labels of the core's nuclei and probabilities in the window, and whether one of the nuclei is cut by its edge."""
        y, x, h, w = window
        probability = _probability(self._array("probability")[y : y + h, x : x + w])
        labels, cut = _owned(to_instances(probability, self.rules.threshold, self.rules.min_size), core, window, self.shape)
        return labels, probability, cut

    def _keep(self, tile: Tile, found: Found, numbered: int) -> int:
        """Put nuclei in place with the numbers that follow ``numbered``; return the last number. Done twice, it is the same."""
        if isinstance(found, Nuclei):
            return numbered + len(found)
        nuclei, part, (y, x, h, w) = found
        if len(nuclei):
            labels = self._array("labels")
            there = labels[y : y + h, x : x + w]
            np.copyto(there, part.astype(np.uint32) + np.uint32(numbered), where=part > 0)
            labels[y : y + h, x : x + w] = there
        Nuclei({**nuclei.columns, "label": nuclei.columns["label"] + numbered}, nuclei.outlines).save(self._file(tile))
        return numbered + len(nuclei)


def _probability(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The middle of what a 256th of probabilities was stored as; those of at least a half stay so."""
    return np.asarray((stored + np.float32(0.5)) / np.float32(256))


def _grown(box: Box, by: int, shape: tuple[int, int]) -> Box:
    """``box`` with ``by`` pixels more on each side, inside an image of ``shape``."""
    y, x, h, w = box
    top, left = max(0, y - by), max(0, x - by)
    return top, left, min(shape[0], y + h + by) - top, min(shape[1], x + w + by) - left


def _owned(labels: NDArray[np.int32], core: Box, window: Box, shape: tuple[int, int]) -> tuple[NDArray[np.int32], bool]:
    """Of a window's labels those whose first pixel lies in the core, numbered from 1; and whether one of them is cut by the window's edge."""
    y, x, h, w = window
    number, count, cut = np.zeros(int(labels.max(initial=0)) + 1, np.int32), 0, False
    inside = (y > 0, x > 0, y + h < shape[0], x + w < shape[1])  # edges of the window that are none of the slide
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        first = columns.start + int(np.argmax(labels[rows.start, columns] == label))
        if core[0] <= y + rows.start < core[0] + core[2] and core[1] <= x + first < core[1] + core[3]:
            count += 1
            number[label] = count
            touching = (rows.start == 0, columns.start == 0, rows.stop == h, columns.stop == w)
            cut = cut or any(edge and touched for edge, touched in zip(inside, touching, strict=True))
    return number[labels], cut
