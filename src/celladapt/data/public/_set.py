"""What a public data set is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Remote:
    """One file to download."""

    url: str
    checksum: str | None
    """``md5:`` or ``sha256:`` and hexadecimal digits; None where no checksum is known."""
    name: str
    """File name in the cache."""


@dataclass(frozen=True)
class Item:
    """One published image, not yet read."""

    path: Path
    """Where it was found, for messages."""
    stem: str
    """Name without suffix in ``images/`` and ``masks/``."""
    image: Callable[[], NDArray[Any]]
    """Reads (H, W, 3) uint8, or (H, W) uint8 or uint16."""
    labels: Callable[[], NDArray[Any]] | None
    """Reads (H, W) whole numbers, 0 = background; None for an image without annotation."""
    domain: str = ""
    """Folder below the destination; empty where the set is one domain."""


@dataclass(frozen=True)
class PublicSet:
    """A data set: what to know about it, where it is, and how to read it."""

    what: str
    """Tissue, stain, magnification, annotation: one line."""
    citation: str
    licence: str
    size: str
    """Number of images, pixels, bytes where they are known."""
    homepage: str
    layout: str
    """The published layout in one line, for the message about a folder that has another."""
    read: Callable[[Path], list[Item]]
    """The images below an unpacked folder, in order; empty where the layout is not there.

    Raises:
        InputError: an image without its mask, or a file that cannot be listed.
    """
    files: tuple[Remote, ...] = ()
    """What to download; empty where that needs a person."""
    ask: str | None = None
    """Where to get it by hand, as half a sentence."""
    group: str | None = None
    """Regular expression on the stems whose match names the patient, slide or well; None where the set does not tell."""
