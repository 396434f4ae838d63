"""Each nucleus measured: where it is, its size, shape, colour and stain, and how sure the model was."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from celladapt.errors import InputError
from celladapt.files import atomic
from celladapt.instances import polygons

LENGTHS = {"x": 1, "y": 1, "area": 2, "perimeter": 1, "major_axis": 1, "minor_axis": 1}
"""Measurements with a unit, and its power: told in pixels of the image at full resolution (``_px``), and in µm (``_um``) where the pixel size is known."""


@dataclass(frozen=True)
class Nuclei:
    """Measurements and outlines of some nuclei of one image."""

    columns: dict[str, NDArray[Any]]
    """Each [N]: ``label`` (int64), lengths without their unit in pixels of the image segmented (see ``LENGTHS``; x and y of the centroid, the pixel (0, 0) covers [0, 1]²), ``circularity``,
    ``solidity``, ``eccentricity`` in [0, 1], ``orientation`` (of the major axis in degrees from the rows, counter-clockwise, -90 to 90), mean ``red``, ``green``, ``blue`` in [0, 1],
    ``hematoxylin``, ``eosin`` (mean optical density of the stain), mean ``probability``."""
    outlines: list[NDArray[np.float64]]
    """Closed polygons [P, 2] of (x, y) in pixels of the image segmented."""

    def __len__(self) -> int:
        return len(self.outlines)

    def moved(self, y: int, x: int) -> "Nuclei":
        """The same nuclei in an image in which this one begins at (y, x)."""
        columns = {**self.columns, "x": self.columns["x"] + x, "y": self.columns["y"] + y}
        return Nuclei(columns, [line + np.array([x, y]) for line in self.outlines])

    def table(self, downsample: float, pixel_size: float | None) -> dict[str, NDArray[Any]]:
        """Columns with their units in the name.

        Args:
            downsample: pixels at full resolution to one of the image segmented, along a side.
            pixel_size: µm per pixel at full resolution, if known.
        """
        units = {"px": downsample, **({} if pixel_size is None else {"um": downsample * pixel_size})}
        lengths = {
            f"{name}_{unit}{power if power > 1 else ''}": self.columns[name] * scale**power
            for unit, scale in units.items()
            for name, power in LENGTHS.items()
        }
        return {
            "label": self.columns["label"],
            **lengths,
            **{name: values for name, values in self.columns.items() if name != "label" and name not in LENGTHS},
        }

    def save(self, path: Path) -> None:
        """Write to one ``.npz``, atomically."""
        lengths = np.array([len(line) for line in self.outlines], np.int64)
        points = np.concatenate(self.outlines) if self.outlines else np.zeros((0, 2))
        stored: dict[str, Any] = {"points": points, "lengths": lengths, **self.columns}
        with atomic(path) as temporary:
            np.savez(temporary, **stored)

    @classmethod
    def load(cls, path: Path) -> "Nuclei":
        """Read what ``save`` wrote.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                points = np.split(stored["points"], np.cumsum(stored["lengths"])[:-1]) if len(stored["lengths"]) else []
                return cls({name: stored[name] for name in stored.files if name not in ("points", "lengths")}, points)
        except Exception as error:  # a damaged zip raises dozens of types
            raise InputError(
                f"{path} is damaged ({type(error).__name__}); delete the folder {path.parents[1]}, and the same command begins that slide anew."
            ) from error


def measure(labels: NDArray[np.int32], probability: NDArray[np.float32], image: NDArray[Any]) -> Nuclei:
    """Measure nuclei numbered 1..n without a gap.

    Args:
        labels: [H, W], 0 background.
        probability: [H, W] in [0, 1].
        image: [H, W, 3] uint8 or uint16.
    """
    import shapely

    box = around(labels)
    top, left = box[0].start, box[1].start
    labels, probability, image = labels[box], probability[box], image[box]
    n = int(labels.max(initial=0))
    index = np.arange(1, n + 1)
    where = np.nonzero(labels)
    owner = labels[where]
    area = np.bincount(owner, minlength=n + 1)[1:].astype(np.float64)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(owner, values.astype(np.float64), minlength=n + 1)[1:] / np.maximum(area, 1))

    y, x = mean(where[0]) + 0.5, mean(where[1]) + 0.5
    dy, dx = where[0] + 0.5 - y[owner - 1], where[1] + 0.5 - x[owner - 1]
    long, short, angle = _axes(mean(dy * dy), mean(dx * dx), mean(dy * dx))
    unit = image[where] / np.float32(np.iinfo(image.dtype).max)
    outlines = polygons(labels)
    owners = np.repeat(np.arange(len(outlines)), [len(line) for line in outlines])
    shapes = shapely.polygons(shapely.linearrings(np.concatenate(outlines), indices=owners)) if outlines else np.array([], object)
    drawn, length, hull = shapely.area(shapes), shapely.length(shapes), shapely.area(shapely.convex_hull(shapes))
    hematoxylin, eosin = _stains(unit)
    columns: dict[str, NDArray[Any]] = {
        "label": index,
        "x": x + left,
        "y": y + top,
        "area": area,
        "perimeter": length,
        "major_axis": long,
        "minor_axis": short,
        "circularity": np.minimum(1, 4 * np.pi * drawn / np.maximum(length, 1e-9) ** 2),
        "solidity": np.minimum(1, drawn / np.maximum(hull, 1e-9)),
        "eccentricity": np.sqrt(1 - (short / np.maximum(long, 1e-9)) ** 2),
        "orientation": angle,
        **{name: mean(unit[:, channel]) for channel, name in enumerate(("red", "green", "blue"))},
        "hematoxylin": mean(hematoxylin),
        "eosin": mean(eosin),
        "probability": mean(probability[where]),
    }
    return Nuclei(columns, [line + np.array([left, top]) for line in outlines])


def around(labels: NDArray[np.int32]) -> tuple[slice, slice]:
    """Rows and columns that hold all nuclei of [H, W] labels, and a pixel more where there is one; one pixel where there is no nucleus."""
    found = ndimage.find_objects((labels > 0).view(np.uint8))
    if not found:
        return slice(0, 1), slice(0, 1)
    rows, columns = (slice(max(0, side.start - 1), side.stop + 1) for side in found[0])  # an outline at the edge of what is cut out is clipped
    return rows, columns


def _axes(
    yy: NDArray[np.float64], xx: NDArray[np.float64], yx: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Length of the major and the minor axis and the angle of the ellipse with these central second moments; a pixel is a square, hence the twelfth."""
    yy, xx = yy + 1 / 12, xx + 1 / 12
    root = np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    half = (yy + xx) / 2
    return 4 * np.sqrt(half + root), 4 * np.sqrt(np.maximum(half - root, 0)), np.degrees(0.5 * np.arctan2(-2 * yx, xx - yy))


def _stains(unit: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Optical density of haematoxylin and eosin of pixels [N, 3] in [0, 1], by the deconvolution of Ruifrok and Johnston (2001)."""
    from skimage.color import rgb2hed

    if not len(unit):
        return np.zeros(0), np.zeros(0)
    hed = rgb2hed(unit[:, None])[:, 0] * 6  # it divides by 6, the density of a millionth of the light
    return hed[:, 0], hed[:, 1]
