"""Public data sets by name: download them, and turn their published layouts into our folders.

A data set's name is its file's name in this folder, so a new file is a new data set; files that begin with an underscore are shared parts. A file holds
one ``SET`` and one function that lists the images of an unpacked copy. Archives, folders, files and checksums are handled here.

What is written is a domain folder (``images/``, ``masks/``, ``dataset.toml``), or one of them for each domain where the published layout tells domains
apart. Images are lossless copies as PNG, 16 bits where they were published so; masks are PNG with 16-bit labels, 0 = background, or 0 and 1 where
the set has no instances.
"""

import pkgutil
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from celladapt.data.public._convert import convert_sources, require_free
from celladapt.data.public._download import cache_folder, download
from celladapt.data.public._set import Item, PublicSet, Remote
from celladapt.data.public._show import details, table
from celladapt.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Item", "PublicSet", "Remote", "convert", "describe", "fetch", "find", "names", "overview"]


def names() -> list[str]:
    """Every data set's name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> PublicSet:
    """The data set in the file ``name``.

    Raises:
        InputError: there is no such data set.
    """
    if name not in names():
        near = get_close_matches(name.lower(), names(), n=3)
        guess = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names())}."
        raise InputError(f"There is no public data set '{name}'; {guess}")
    found: PublicSet = import_module(f"{__name__}.{name}").SET
    return found


def convert(name: str, src: Path, dst: Path, shown: bool = True) -> list[Path]:
    """Turn a downloaded copy into our folders and return the domain folders.

    Args:
        src: the folder with the unpacked files (at any depth), the archive, or a folder that holds the archives.
        dst: a folder that does not exist or is empty. It appears when everything in it is written.
        shown: whether progress is printed.

    Raises:
        InputError: unknown name, ``dst`` in use, ``src`` without the published layout, damaged or unsafe files, full disk.
    """
    return convert_sources(name, find(name), [Path(src)], Path(dst), shown)


def fetch(name: str, out: Path | None = None, cache: Path | None = None, shown: bool = True) -> list[Path]:
    """Download, verify and convert a data set; returns the domain folders.

    A file that is in the cache with the right checksum is not downloaded again; a download that was cut short goes on where it stopped.

    Args:
        out: folder to make; ``data/NAME`` by default.
        cache: folder of the downloads; ``$CELLADAPT_DATA`` or the system's cache folder by default.
        shown: whether progress is printed.

    Raises:
        InputError: unknown name, a set that has to be asked for, ``out`` in use, no network, wrong checksum, full disk, and as `convert`.
    """
    chosen = find(name)
    out = Path("data") / name if out is None else Path(out)
    if not chosen.files:
        by_hand = f"then convert it with `celladapt data convert {name} SRC {out}`"
        raise InputError(f"{name} cannot be downloaded directly: {chosen.ask}; {by_hand}.")
    require_free(out)  # before hours of downloading
    folder = cache_folder(cache) / name
    return convert_sources(name, chosen, [download(name, chosen, remote, folder, shown) for remote in chosen.files], out, shown)


def overview() -> "Table":
    """All data sets, one row each."""
    return table({name: find(name) for name in names()})


def describe(name: str) -> str:
    """Everything about one data set: citation, licence, addresses, checksums.

    Raises:
        InputError: there is no such data set.
    """
    return details(name, find(name))
