"""Outlines drawn in Aperio ImageScope (XML) as label images."""

from pathlib import Path
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import decode
from celladapt.errors import FileError

Polygon = list[tuple[float, float]]


def polygons(path: Path) -> list[Polygon]:
    """The vertices (x, y) of every ``<Region>``, in pixels and in the order of the file.

    Raises:
        FileError: damaged XML, a vertex without numbers, or a document type or entity, which could make a small file fill the memory.
    """
    found: list[Polygon] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "Region":
            found.append([])
        elif name == "Vertex" and found:
            found[-1].append((float(attributes["X"]), float(attributes["Y"])))

    def refuse(*_: object) -> None:
        raise FileError(path, "has a document type or entities, which ImageScope does not write", "do not use it; download it again")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise FileError(path, f"cannot be opened ({error.strerror})", "check its permissions") from error
    except expat.ExpatError as error:
        raise FileError(path, "is damaged or no XML file", "download it again") from error
    except (KeyError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(path, "has a vertex without X and Y", "download it again") from error
    return found


def outlines(path: Path, image: Path) -> NDArray[np.int32]:
    """(H, W) labels of the size of ``image``, one for each region; where regions overlap the earlier one keeps the pixels.

    That rule is the one of the organisers' own script. Regions with fewer than three vertices are left out.

    Raises:
        FileError: see `polygons`; an image that cannot be read.
    """
    from skimage.draw import polygon

    labels = np.zeros(decode(image).pixels.shape[:2], np.int32)
    number = 0
    for vertices in polygons(path):
        if len(vertices) < 3:
            continue
        x, y = np.array(vertices).T
        if not np.isfinite(x + y).all():
            raise FileError(path, "has a vertex that is not finite", "download it again")
        rows, columns = polygon(y, x, labels.shape)  # type: ignore[no-untyped-call]
        free = labels[rows, columns] == 0
        if free.any():
            number += 1
            labels[rows[free], columns[free]] = number
    return labels
