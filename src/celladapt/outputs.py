"""What can be saved of a segmented image, of any size: one function for each word of ``--save``."""

import csv
import json
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celladapt import __version__
from celladapt.data.images import write_image
from celladapt.data.normalise import to_unit
from celladapt.data.tiff import resolution
from celladapt.errors import InputError, optional
from celladapt.files import atomic, staged
from celladapt.nuclei import Nuclei

TILE = 512
"""Side in pixels of the tiles of large TIFFs and of the chunks of OME-Zarr."""
LEVELS = 4
"""Of a pyramid: full size and halves of it."""
NAMES_IN_QUPATH = {
    "area": "Area", "perimeter": "Length", "major_axis": "Major axis", "minor_axis": "Minor axis", "circularity": "Circularity", "solidity": "Solidity",
    "eccentricity": "Eccentricity", "hematoxylin": "Hematoxylin OD mean", "eosin": "Eosin OD mean", "probability": "Probability mean",
}  # fmt: skip
GAP = 8
"""White pixels between the pictures of an overlay."""
LIBRARIES = {"zarr": "zarr", "parquet": "pyarrow.parquet"}
"""What these words need that not everybody has."""
_UNITS = {"px": "px", "px2": "px^2", "um": "µm", "um2": "µm^2"}
_COLOUR = [255, 227, 77]


Picture = tuple[NDArray[Any], NDArray[np.integer[Any]]]
"""An image [h, w, 3] uint8 or uint16 and its labels [h, w]."""


class Segmented(Protocol):
    """A segmented image, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of what was segmented."""

    @property
    def downsample(self) -> float:
        """Pixels of the image at full resolution to one of these, along a side."""

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel at full resolution, if known."""

    @property
    def large(self) -> bool:
        """Whether it is read and written in parts."""

    def mask(self, y: int, x: int, h: int, w: int) -> NDArray[np.bool_]:
        """A part of the mask, [h, w]."""

    def instances(self, y: int, x: int, h: int, w: int) -> NDArray[np.integer[Any]]:
        """A part of the labels, [h, w], 0 background."""

    def probability(self, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """A part of the probabilities, [h, w]: float32 in [0, 1], or where the image is large their 256ths, rounded down, uint8."""

    def nuclei(self) -> Iterator[Nuclei]:
        """Measurements, some nuclei at a time, in order of label."""

    def pictures(self) -> list[Picture]:
        """The whole, made small enough to look at; then, of a large image, details at its own size."""


Writer = Callable[[Path, Segmented], None]


def write(word: str, path: Path, segmented: Segmented) -> None:
    """Write what ``word`` says to ``path``, atomically.

    Raises:
        InputError: ``path`` cannot be written, or a library is missing.
    """
    WRITERS[word][1](path, segmented)


def output_path(folder: Path, stem: str, word: str, large: bool) -> Path:
    """Where ``write`` is to put it."""
    ending = WRITERS[word][0]
    return folder / f"{stem}_{ending if not (large and word == 'mask') else 'mask.tif'}"


def check_words(words: Sequence[str]) -> None:
    """Raise InputError where one of ``words`` is none of ``WRITERS``, or needs a library that is missing."""
    if not words:
        raise InputError(f"--save is empty; choose from {', '.join(WRITERS)}.")
    for word in words:
        if word not in WRITERS:
            raise InputError(f"--save has '{word}'; choose from {', '.join(WRITERS)}.")
        if word in LIBRARIES:
            optional(LIBRARIES[word], f"--save {word}", "slides")


def _mask(path: Path, segmented: Segmented) -> None:
    if segmented.large:
        _pyramid(path, segmented, np.uint8, lambda *part: segmented.mask(*part).astype(np.uint8) * np.uint8(255))
    else:
        write_image(path, segmented.mask(0, 0, *segmented.shape))


def _instances(path: Path, segmented: Segmented) -> None:
    if segmented.large:
        _pyramid(path, segmented, np.uint32, segmented.instances)
    else:
        write_image(path, segmented.instances(0, 0, *segmented.shape), segmented.pixel_size)


def _probability(path: Path, segmented: Segmented) -> None:
    if segmented.large:
        _pyramid(path, segmented, np.uint8, segmented.probability)
    else:
        write_image(path, segmented.probability(0, 0, *segmented.shape), segmented.pixel_size)


def _pyramid(path: Path, segmented: Segmented, dtype: Any, read: Callable[[int, int, int, int], NDArray[Any]]) -> None:
    """Tiled, compressed BigTIFF with smaller levels, which QuPath, Fiji and OpenSlide show without loading it whole; memory for a tile at a time."""
    with atomic(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as tif:
        for level, (h, w) in enumerate(_levels(segmented.shape)):
            step = 2**level
            options: dict[str, Any] = {"subifds": LEVELS - 1} if level == 0 else {"subfiletype": 1}
            options |= resolution(None if segmented.pixel_size is None else segmented.pixel_size * segmented.downsample * step)
            tiles = (tile.astype(dtype, copy=False) for tile in _tiles(segmented.shape, step, read))
            tif.write(
                tiles,
                shape=(h, w),
                dtype=dtype,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="minisblack",
                metadata=None,
                maxworkers=1,
                **options,
            )


def _levels(shape: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-shape[0] // 2**level), -(-shape[1] // 2**level)) for level in range(LEVELS)]


def _tiles(shape: tuple[int, int], step: int, read: Callable[[int, int, int, int], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Tiles of every ``step``-th pixel, row by row; labels must not be averaged."""
    side = TILE * step
    for y in range(0, shape[0], side):
        for x in range(0, shape[1], side):
            part = read(y, x, min(side, shape[0] - y), min(side, shape[1] - x))[::step, ::step]
            tile = np.zeros((TILE, TILE), part.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _geojson(path: Path, segmented: Segmented) -> None:
    """A FeatureCollection of detections, as QuPath exports and opens them; coordinates in pixels at full resolution."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        comma = ""
        for nuclei in segmented.nuclei():
            for feature in features(nuclei, segmented.downsample, segmented.pixel_size):
                file.write(comma + "\n" + json.dumps(feature, separators=(",", ":"), ensure_ascii=False))
                comma = ","
        file.write("\n]}\n")


def features(nuclei: Nuclei, downsample: float, pixel_size: float | None) -> Iterator[dict[str, Any]]:
    """One GeoJSON feature for each nucleus, a QuPath detection with measurements."""
    table = nuclei.table(downsample, pixel_size)
    names = {column: _name_in_qupath(column) for column in table if not (pixel_size is not None and column.endswith(("_px", "_px2")))}
    columns = {name: np.round(table[column].astype(np.float64), 4).tolist() for column, name in names.items() if name}
    for number, line in enumerate(nuclei.outlines):
        ring = np.round(line * downsample, 2).tolist()
        ring[-1] = ring[0]
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"nucleus {int(nuclei.columns['label'][number])} {ring[0]}")),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "detection",
                "name": str(int(nuclei.columns["label"][number])),
                "classification": {"name": "Nucleus", "color": _COLOUR},
                "measurements": {name: values[number] for name, values in columns.items() if math.isfinite(values[number])},
            },
        }


def _name_in_qupath(column: str) -> str | None:
    """``area_um2`` -> ``Area µm^2``; None for what QuPath shows anyway."""
    name, _, unit = column.rpartition("_")
    if name in NAMES_IN_QUPATH and unit in _UNITS:
        return f"{NAMES_IN_QUPATH[name]} {_UNITS[unit]}"
    return NAMES_IN_QUPATH.get(column)


def _table(path: Path, segmented: Segmented) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        for number, nuclei in enumerate(segmented.nuclei()):
            table = nuclei.table(segmented.downsample, segmented.pixel_size)
            if number == 0:
                rows.writerow(table)
            rows.writerows(zip(*(_as_text(values) for values in table.values()), strict=True))


def _as_text(values: NDArray[Any]) -> list[str]:
    return [
        f"{value:.6g}" if values.dtype.kind == "f" and abs(value) < 1e5 else f"{value:.2f}" if values.dtype.kind == "f" else str(value)
        for value in values.tolist()
    ]


def _parquet(path: Path, segmented: Segmented) -> None:
    import pyarrow
    import pyarrow.parquet

    writer = None
    with atomic(path) as temporary, temporary.open("wb") as file:  # a name that is not UTF-8 pyarrow could not open
        try:
            for nuclei in segmented.nuclei():
                table = pyarrow.table(nuclei.table(segmented.downsample, segmented.pixel_size))
                writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def _overlay(path: Path, segmented: Segmented) -> None:
    """The image with the outlines of its nuclei; of a large one the whole with its nuclei tinted, and beside it details with outlines."""
    whole, *details = segmented.pictures()
    if not details:
        return write_image(path, _outlined(*whole))
    image, labels = whole
    picture = to_unit(image)
    picture[labels > 0] = np.array(_COLOUR, np.float32) / 255
    height = max(picture.shape[0], 200 * len(details))
    left = np.ones((height, picture.shape[1], 3), np.float32)
    left[: picture.shape[0]] = picture
    side = height // len(details)
    column = np.full((height, side, 3), 255, np.uint8)
    for number, detail in enumerate(details):
        shown = Image.fromarray(_outlined(*detail)).resize((side - GAP, side - GAP), Image.Resampling.LANCZOS)
        column[number * side : (number + 1) * side - GAP, GAP:] = np.asarray(shown)
    write_image(path, np.concatenate([np.rint(left * 255).astype(np.uint8), column], axis=1))


def _outlined(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """[H, W, 3] with the border of each nucleus in yellow on black, to be seen on stained tissue and on black alike."""
    from skimage.segmentation import find_boundaries

    picture = np.rint(to_unit(image) * 255).astype(np.uint8)
    picture[find_boundaries(labels, mode="outer")] = 0  # type: ignore[no-untyped-call]
    picture[find_boundaries(labels, mode="inner")] = _COLOUR  # type: ignore[no-untyped-call]
    return picture


def _zarr(path: Path, segmented: Segmented) -> None:
    """The labels as a multiscale OME-Zarr label image (NGFF 0.4, which napari, Fiji and QuPath read), written a chunk at a time."""
    import zarr

    levels, size = _levels(segmented.shape), segmented.pixel_size
    with staged(path, replace=True) as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=2)
        for level, (h, w) in enumerate(levels):
            array = group.create_array(
                str(level), shape=(h, w), chunks=(TILE, TILE), dtype="uint32", chunk_key_encoding={"name": "v2", "separator": "/"}
            )
            across = -(-w // TILE)
            for number, tile in enumerate(_tiles(segmented.shape, 2**level, segmented.instances)):
                if tile.any():
                    y, x = number // across * TILE, number % across * TILE
                    array[y : y + TILE, x : x + TILE] = tile[: h - y, : w - x]
        unit = {"unit": "micrometer"} if size is not None else {}
        first = segmented.downsample * (size or 1)
        group.attrs["multiscales"] = [
            {
                "version": "0.4",
                "name": "nuclei",
                "axes": [{"name": name, "type": "space", **unit} for name in ("y", "x")],
                "datasets": [
                    {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [first * 2**k] * 2}]} for k in range(len(levels))
                ],
                "metadata": {"method": "every second pixel", "version": f"celladapt {__version__}"},
            }
        ]
        group.attrs["image-label"] = {"version": "0.4"}


WRITERS: dict[str, tuple[str, Writer]] = {
    "mask": ("mask.png", _mask),
    "instances": ("instances.tif", _instances),
    "probability": ("probability.tif", _probability),
    "geojson": ("nuclei.geojson", _geojson),
    "table": ("nuclei.csv", _table),
    "parquet": ("nuclei.parquet", _parquet),
    "overlay": ("overlay.png", _overlay),
    "zarr": ("nuclei.ome.zarr", _zarr),
}
"""Word -> (what follows ``<stem>_`` in the file's name, what writes it)."""
