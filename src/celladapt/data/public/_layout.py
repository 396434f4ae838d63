"""Find files in a published layout at any depth, and pair images with their masks."""

import os
import re
from pathlib import Path

from celladapt.errors import FileError

IMAGES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
NO_MASK = ("has no mask in the published layout", "unpack all archives of the data set into one folder")


def files(root: Path, *suffixes: str) -> list[Path]:
    """Files below ``root`` that end in one of ``suffixes`` (lower case), in order of path; hidden files and ``__MACOSX`` are left out."""
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__MACOSX"]
        found += [Path(folder, name) for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    return sorted(found)


def below(root: Path, path: Path) -> list[str]:
    """The lower-case names of the folders between ``root`` and the file ``path``."""
    return [part.lower() for part in path.relative_to(root).parts[:-1]]


def beside(
    root: Path, images: str, masks: str, suffixes: tuple[str, ...] = IMAGES, mask_suffixes: tuple[str, ...] = IMAGES
) -> list[tuple[Path, Path]]:
    """Pairs of one stem from every folder ``images`` and the folder ``masks`` beside it (names in lower case).

    Raises:
        FileError: an image without a mask.
    """
    pairs = []
    known = {(path.parent.parent, path.stem): path for path in files(root, *mask_suffixes) if below(root, path)[-1:] == [masks]}
    for path in files(root, *suffixes):
        if below(root, path)[-1:] == [images]:
            mask = known.get((path.parent.parent, path.stem))
            if mask is None:
                raise FileError(path, *NO_MASK)
            pairs.append((path, mask))
    return pairs


def slug(text: str) -> str:
    """A folder name: lower case, letters and digits, hyphens between; safe whatever the text is."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"
