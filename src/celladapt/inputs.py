"""What files, folders and globs name: the images and slides to look at, and whether outputs could be taken for them."""

import errno
import glob
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from celladapt.data.folder import image_of_mask, list_images, subfolder
from celladapt.data.images import IMAGE_SUFFIXES
from celladapt.data.slide import SLIDE_SUFFIXES
from celladapt.errors import InputError
from celladapt.progress import say

NOTES = ".celladapt"
"""Folder in the output folder of ``predict``: a note on each image that is done, and what a slide has so far."""


def find_images(inputs: str | Path | Iterable[str | Path], outputs: bool = True) -> list[Path]:
    """Images and slides that ``inputs`` (files, folders, globs) name, in order of name, each once.

    Args:
        inputs: one or more.
        outputs: whether each is to have outputs of its own name.

    Raises:
        InputError: one names nothing, or two files would write the same output.
    """
    found: dict[tuple[str, str], Path] = {}  # by stem, and by the file itself, which can be named in several ways
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = Path(item)
        there = True
        try:
            path.stat()
        except OSError as error:
            there = False
            # Windows says of a name with * or ? not that it does not exist, but that it could not.
            if not isinstance(error, FileNotFoundError) and getattr(error, "winerror", None) != 123 and error.errno != errno.EINVAL:
                raise InputError(f"{item} cannot be looked at ({error.strerror}); check its name and permissions.") from None
        if there and path.is_dir() and path.suffix.lower() != ".zarr":
            folder = subfolder(path, "images") or path
            files = sorted([*list_images(folder), *(entry for entry in folder.iterdir() if _read_in_parts(entry))])
            if files and (unread := _folders_of_images(folder)):
                say(
                    f"{unread[0]}{f' ({len(unread)} such)' if len(unread) > 1 else ''} holds images that are not read; name it too, if they are to be."
                )
        elif there:
            files = [path]
        else:
            named = map(Path, glob.glob(str(item), recursive=True))
            # An output folder that is met on the way holds no images: the same command goes on, whatever it has written before.
            files = sorted(
                p
                for p in named
                if (p.suffix.lower() in IMAGE_SUFFIXES or _read_in_parts(p)) and (p.parent == path.parent or not (p.parent / NOTES).is_dir())
            )
        if not files:
            deeper = any(entry.is_dir() for entry in folder.iterdir()) if there and path.is_dir() else False
            hint = f" (what is in its folders is found by '{folder}/**/*.png')" if deeper else ""
            raise InputError(
                f"{item} names no image{hint}; give an image or slide, a folder of them or a glob (formats: {' '.join(sorted((*IMAGE_SUFFIXES, *SLIDE_SUFFIXES, '.zarr')))})."
            )
        for file in files:
            found.setdefault((file.stem, os.path.realpath(file)), file)
    if not found:
        raise InputError("There is no image to look at; give an image or slide, a folder of them or a glob.")
    images = list(found.values())
    known = {path.stem for path in images}
    if beside := [path for path in images if outputs and image_of_mask(path.stem, known)]:
        others = f" ({len(beside)} such)" if len(beside) > 1 else ""
        say(f"{beside[0]}{others} is segmented like an image; if it is a mask, keep masks in another folder.")
    stems: dict[str, Path] = {}
    same = str.casefold if sys.platform in ("darwin", "win32") else str  # whose disks know no difference between A and a
    for path in images if outputs else ():
        if path.stem in (".", ".."):
            raise InputError(f"{path} has no name that its outputs could have; rename it.")
        name = same(path.stem)
        if name in stems:
            raise InputError(f"{stems[name]} and {path} would write the same output; rename one, or predict them one by one, into different folders.")
        stems[name] = path
    return images


def _folders_of_images(folder: Path) -> list[Path]:
    """Folders in ``folder`` with images in them, but for masks and what ``predict`` has written."""
    found = []
    for path in sorted(folder.iterdir()):
        with suppress(OSError, InputError):  # a folder that may not be looked into
            other = path.name.startswith(".") or path.suffix.lower() == ".zarr" or path.name.lower() == "masks"
            if not other and path.is_dir() and not (path / NOTES).is_dir() and list_images(path):
                found.append(path)
    return found


def _read_in_parts(path: Path) -> bool:
    """Whether it is a slide by its name alone; hidden files are none."""
    return not path.name.startswith(".") and (
        (path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()) or (path.suffix.lower() == ".zarr" and path.is_dir())
    )


def check_out(images: Sequence[Path], out: Path) -> None:
    """Raise InputError where ``out`` is a file, not to be written to, or the folder of one of ``images``: outputs would be taken for inputs, or replace them."""
    try:
        above = next((folder for folder in (out, *out.absolute().parents) if folder.exists()), None)
    except OSError as error:
        raise InputError(f"{out} cannot be written to ({error.strerror}); choose another --out.") from None
    if above is None:
        raise InputError(f"{out} is on a disk that is not there; choose another --out.")
    if not above.is_dir():
        raise InputError(f"{above} is a file; give a folder as --out.")
    if not os.access(above, os.W_OK):
        raise InputError(f"{above} may not be written to; choose another --out, or change its permissions.")
    if (among := next((path for path in images if path.parent.resolve() == out.resolve()), None)) is not None:
        raise InputError(f"{out} holds {among.name}, which is to be segmented; choose another --out, or the outputs would be taken for images.")
