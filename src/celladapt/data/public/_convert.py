"""From the items of a data set to domain folders that appear when they are whole."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tomli_w

from celladapt.data.folder import shape_mismatch
from celladapt.data.images import write_image
from celladapt.data.public._archive import is_archive, unpack
from celladapt.data.public._set import Item, PublicSet
from celladapt.errors import FileError, InputError
from celladapt.files import staged, write_text
from celladapt.progress import Bar


def require_free(dst: Path) -> None:
    """Make sure that ``dst`` can be made.

    Raises:
        InputError: it is a file, or a folder with something in it.
    """
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError(f"{dst} exists and is not an empty folder; name a new folder or delete it.")


def convert_sources(name: str, chosen: PublicSet, sources: list[Path], dst: Path, shown: bool) -> list[Path]:
    """Write the domain folders of ``sources`` (one folder, or archives) below ``dst`` and return them.

    Unpacked files come first: the archives in a folder are opened only where nothing in it has the published layout.

    Raises:
        InputError: see `celladapt.data.public.convert`.
    """
    require_free(dst)
    for source in sources:
        if not source.exists():
            raise InputError(f"{source} does not exist; name the folder or archive of {name}.")
        if not source.is_dir() and not is_archive(source):
            raise InputError(f"{source} is neither a folder nor a zip or tar archive; name what was downloaded from {chosen.homepage}.")
    with staged(dst) as made, TemporaryDirectory(prefix=f".{dst.absolute().name}.", suffix=".part", dir=made.parent) as folder:  # both on one disk
        unpacked = Path(folder)
        try:
            domains = _write(name, chosen, _items(name, chosen, sources, unpacked, dst), made, shown)
        except InputError as error:  # name the files where the person has them
            home = sources[0] if sources[0].is_dir() else sources[0].parent
            raise InputError(str(error).replace(str(unpacked), str(home)).replace(str(made), str(dst))) from error
    return [dst / domain for domain in domains]


def _items(name: str, chosen: PublicSet, sources: list[Path], unpacked: Path, dst: Path) -> list[Item]:
    """The images of the sources, for ``dst``.

    Raises:
        InputError: none of them has the published layout.
    """
    archives = [source for source in sources if not source.is_dir()]
    if not archives:
        (folder,) = sources
        items = chosen.read(folder)
        if items:
            return items
        archives = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_archive(path))
    for archive in archives:
        unpack(archive, unpacked / archive.name, dst)
    items = chosen.read(unpacked) if archives else []
    if not items:
        where = ", ".join(map(str, sources))
        raise InputError(f"{where} has no {name} in its published layout, {chosen.layout}; name the folder or archive from {chosen.homepage}.")
    return items


def _write(name: str, chosen: PublicSet, items: list[Item], made: Path, shown: bool) -> list[str]:
    """Write every item and a ``dataset.toml`` for each domain; returns the domains."""
    seen: dict[tuple[str, str], Path] = {}
    for item in items:
        first = seen.setdefault((item.domain, item.stem), item.path)
        if first is not item.path:
            raise FileError(item.path, f"has the same name as {first}", "keep one copy of the data set in the folder")
    with Bar(f"converting {name}", len(items), shown=shown) as bar:
        for item in items:
            _write_item(item, made / item.domain)
            bar.step(item.stem)
    domains = sorted({item.domain for item in items})
    for domain in domains:
        facts: dict[str, Any] = {"name": name, "domain": domain, "what": chosen.what, "citation": chosen.citation, "licence": chosen.licence}
        facts |= {"homepage": chosen.homepage, "group": chosen.group}
        write_text(made / domain / "dataset.toml", tomli_w.dumps({key: value for key, value in facts.items() if value}))
    return domains


def _write_item(item: Item, folder: Path) -> None:
    image = item.image()
    write_image(folder / "images" / f"{item.stem}.png", image)
    if item.labels is None:
        return
    labels = item.labels()
    if labels.shape != image.shape[:2]:
        raise FileError(item.path, *_mismatch(image.shape, labels.shape))
    if labels.max(initial=0) >= 2**16:
        raise FileError(item.path, f"has labels up to {labels.max()}, more than 16 bits hold", "use the files as they were published")
    write_image(folder / "masks" / f"{item.stem}.png", labels.astype(np.uint16))


def _mismatch(image: tuple[int, ...], labels: tuple[int, ...]) -> tuple[str, str]:
    return f"and its annotation do not fit: the mask {shape_mismatch(image, labels)[0]}", "download the data set again"
