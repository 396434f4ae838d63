"""The one data set class: a domain folder with ``images/`` and optional ``masks/`` of the same stems."""

import hashlib
import tomllib
import unicodedata
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import IMAGE_SUFFIXES, read_image, read_mask, require_file
from celladapt.errors import FileError, InputError

NO_IMAGE = ("holds no image", "put PNG, TIFF, JPEG or BMP files there")
NO_IMAGE_FOR = ("is a mask without an image of the same name", "add the image or move the mask elsewhere")
MASK_ENDINGS = tuple(
    f"{dash}{word}"
    for dash in "_-"
    for word in ("mask", "masks", "cp_masks", "label", "labels", "labelled", "labeled", "seg", "segmentation", "instances")
)
"""What other programs put behind an image's name to make that of its mask."""
IMAGE_ENDINGS = ("", "_img", "_image", "_0000")
"""And what some put behind the name that both have, for the image: Cellpose's sets have ``000_img`` and ``000_masks``, nnU-Net's ``case_0000`` and ``case``."""


class Shown(Protocol):
    """A way of showing images and masks, see ``look.Match``."""

    def image(self, image: NDArray[Any]) -> NDArray[Any]:
        """(H, W, 3) uint8 or uint16 -> the same dtype."""

    def mask(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """(H, W) labels -> labels of the size that ``image`` gives."""


@dataclass(frozen=True)
class Folder:
    """The images of a domain and those of their masks that may be read.

    Both dictionaries go from stem to path in order of the stem; every mask has an image.
    """

    root: Path
    images: dict[str, Path]
    masks: dict[str, Path]
    shown: "Shown | None" = None
    """What is done to every image and mask that is read; None: they are as they are."""

    @classmethod
    def open(cls, root: Path) -> "Folder":
        """List a domain folder without decoding a file; hidden files and files of unknown type are left out.

        A folder that holds images directly, and no ``images/``, is a domain too. A mask may be called as its image, or as other programs call it, see ``pair_up``.

        Raises:
            InputError: no such folder, no image in it, two images of one stem, two masks of one image, a mask without an image.
        """
        root = Path(root)
        image_folder, mask_folder = layout(root)
        images, files = _by_stem(list_images(image_folder)), _by_stem(list_images(mask_folder) if mask_folder else [])
        if not images:
            raise FileError(image_folder, *NO_IMAGE)
        masks, strangers, second = pair_up(files, images)
        for path, first in second.items():
            raise FileError(path, *same_image(first))
        for path in strangers:
            raise FileError(path, *NO_IMAGE_FOR)
        return cls(root, images, masks)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> list[str]:
        """Stems that have a mask, in order."""
        return list(self.masks)

    def subset(self, stems: Iterable[str]) -> "Folder":
        """Only these images, with their masks.

        Raises:
            InputError: a stem is not in the folder.
        """
        wanted = self._known(stems)
        return replace(self, images={s: p for s, p in self.images.items() if s in wanted}, masks={s: p for s, p in self.masks.items() if s in wanted})

    def without_masks(self) -> "Folder":
        """The same images with no mask, so that none can be read by mistake."""
        return replace(self, masks={})

    def keep_masks(self, stems: Iterable[str]) -> "Folder":
        """The same images with the masks of these stems only; a stem without a mask stays without.

        Raises:
            InputError: a stem is not in the folder.
        """
        wanted = self._known(stems)
        return replace(self, masks={stem: path for stem, path in self.masks.items() if stem in wanted})

    @property
    def group(self) -> str | None:
        """Pattern in the images' names that tells patients or slides apart, where ``dataset.toml`` beside ``images/`` gives one.

        Raises:
            InputError: the file is there and cannot be read.
        """
        file = self.root / "dataset.toml"
        if not file.is_file():
            return None
        try:
            group = tomllib.loads(file.read_text(encoding="utf-8-sig")).get("group")
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(file, f"cannot be read ({error})", "mend or delete it") from None
        if not isinstance(group, str | None):
            raise FileError(file, "has a group that is no text", 'write it as group = "regular expression", or delete it')
        return group

    def image(self, stem: str) -> NDArray[Any]:
        """(H, W, 3) uint8 or uint16; see `read_image`."""
        self._known([stem])
        image = read_image(self.images[stem])
        return image if self.shown is None else self.shown.image(image)

    def mask(self, stem: str) -> NDArray[np.int32]:
        """(H, W) int32 labels, 0 = background; see `read_mask`.

        Raises:
            InputError: the image has no mask here, or its file cannot be read.
        """
        if stem not in self.masks:
            raise InputError(f"{self.root} has no mask for {stem}; add masks/{stem}.png or leave the image unlabelled.")
        mask = read_mask(self.masks[stem])
        return mask if self.shown is None else self.shown.mask(mask)

    def pair(self, stem: str) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Image (H, W, 3) and mask (H, W).

        Raises:
            InputError: as `image` and `mask`, or their sizes differ.
        """
        image, mask = self.image(stem), self.mask(stem)
        if image.shape[:2] != mask.shape:
            raise FileError(self.masks[stem], *shape_mismatch(image.shape, mask.shape))
        return image, mask

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the stems and the bytes of all images and masks, in order; independent of where the folder lies.

        Raises:
            InputError: a file cannot be opened.
        """
        total = hashlib.sha256()
        for kind, files in (("image", self.images), ("mask", self.masks)):
            for stem, path in files.items():
                total.update(f"{kind}\0{stem}\0{digest(path)}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each image file's bytes -> its stem; of equal files the last.

        Raises:
            InputError: a file cannot be opened.
        """
        return {digest(path): stem for stem, path in self.images.items()}

    def _known(self, stems: Iterable[str]) -> set[str]:
        wanted = set(stems)
        for stem in sorted(wanted - self.images.keys()):
            raise InputError(f"{self.root} has no image named {stem}; check the name or the folder.")
        return wanted


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; a file is read once as long as it is the same one, of the same size and times.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        about = path.stat()
        require_file(path)
        return _digest(path.absolute(), (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    except OSError as error:
        raise FileError(path, f"cannot be opened ({error.strerror})", "check that it exists and its permissions") from error


@lru_cache(maxsize=100_000)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def layout(root: Path) -> tuple[Path, Path | None]:
    """The folders of images and of masks (None: there is none) of a domain.

    Raises:
        InputError: no such folder, or neither ``images/`` nor an image in it.
    """
    if not root.exists():
        raise FileError(root, "does not exist", "check the path")
    if not root.is_dir():
        raise FileError(root, "is a file", "name the folder that holds images/")
    masks, image_folder = (subfolder(root, name) for name in ("masks", "images"))
    if image_folder:
        return image_folder, masks
    if list_images(root):
        return root, masks
    inside = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = f" (it holds {', '.join(f'{name}/' for name in inside[:3])})" if inside else ""
    raise FileError(
        root, f"has no images/ folder{found}", "put the images into images/ and, where annotated, label images of the same names into masks/"
    )


def subfolder(root: Path, name: str) -> Path | None:
    """The folder of that name in ``root``, or one that differs in case alone; None where there is none."""
    if (root / name).is_dir():
        return root / name
    with suppress(OSError):
        return next((path for path in sorted(root.iterdir()) if path.name.lower() == name and path.is_dir()), None)
    return None


def pair_up(masks: Mapping[str, Path], images: Collection[str]) -> tuple[dict[str, Path], list[Path], dict[Path, Path]]:
    """Which image each mask is of, from their stems: the one of its name, else that of which it has the name with an ending such as ``_mask``, with accents written in another way, or without ``.ome``.

    Returns:
        Stem of an image -> its mask, in order of the stem; masks of no image; and masks of an image that has one already -> that one.
    """
    plain = {composed(stem): stem for stem in images}
    found, strangers, second = {stem: path for stem, path in masks.items() if stem in images}, list[Path](), dict[Path, Path]()
    for stem, path in masks.items():
        if stem in images:
            continue
        ome = f"{stem}.ome"  # QuPath takes .ome.tif for the ending
        of = image_of_mask(stem, images) or plain.get(composed(stem)) or (ome if ome in images else None)
        if of is None:
            strangers.append(path)
        elif (first := found.setdefault(of, path)) != path:
            second[path] = first
    return dict(sorted(found.items())), strangers, second


def composed(name: str) -> str:
    """A name with each accented letter as one sign; a Mac may write two, a letter and an accent."""
    return unicodedata.normalize("NFC", name)


def image_of_mask(stem: str, images: Container[str]) -> str | None:
    """The stem of the image that a mask called ``stem`` is of as other programs call masks; None where there is no such image."""
    names = [stem[: -len(end)] for end in MASK_ENDINGS if stem.lower().endswith(end)]
    return next((name + end for name in (*names, stem) for end in IMAGE_ENDINGS if name + end != stem and name + end in images), None)


def list_images(folder: Path) -> list[Path]:
    """Image files by suffix, sorted by stem and name; hidden files are left out.

    Raises:
        InputError: the folder cannot be listed.
    """
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()]
    except OSError as error:
        raise FileError(folder, f"cannot be listed ({error.strerror})", "check its permissions") from error
    return sorted(files, key=lambda path: (path.stem, path.name))


def shape_mismatch(image: tuple[int, ...], mask: tuple[int, ...]) -> tuple[str, str]:
    """Problem and cure where a mask (H, W) does not fit its image (H, W, 3)."""
    turned = " as it is shown: a camera's tag has turned it" if image[:2] == mask[::-1] != mask else ""
    return f"is {mask[1]}×{mask[0]} pixels but its image is {image[1]}×{image[0]}{turned}", "export the mask at the size of its image"


def same_image(other: Path) -> tuple[str, str]:
    """Problem and cure where two masks are of one image."""
    return f"is of the same image as {other.name}", "keep one of the two or rename it"


def same_stem(other: Path) -> tuple[str, str]:
    """Problem and cure where two files have one stem."""
    return f"has the same stem as {other.name}", "keep one of the two or rename it"


def _by_stem(files: list[Path]) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for path in files:
        if path.stem in result:
            raise FileError(path, *same_stem(result[path.stem]))
        result[path.stem] = path
    return result
