"""Deterministic splits by name and seed; images of one patient or slide stay together."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from celladapt.data.folder import Folder
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.records import read_json

TILES = (r"^(.+?)[ _-]*\[.*x=\d+.*\]$", r"^(.+?)[_-]x?\d+[_-]y?\d+$")
"""How names of tiles end, as QuPath and others write where in the slide they are; before it comes the slide's name."""


@dataclass(frozen=True)
class Split:
    """Stems of a folder in three disjoint sorted lists."""

    train: list[str]
    val: list[str]
    test: list[str]

    def __post_init__(self) -> None:
        stems = [*self.train, *self.val, *self.test]
        if len(stems) != len(set(stems)):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise InputError(f"The split names {twice} more than once; keep it in one of train, val and test.")


def make_split(folder: Folder, *, val: float, test: float, seed: int, group: str | None = None) -> Split:
    """Split a folder; the same names, fractions and seed give the same split on every machine.

    Groups are put in the order of sha256("seed:group"); the first go to test, the next to val, the rest to train.
    Groups with at least one mask are split three ways; groups without a mask (nothing to test against) into val and train only. Both parts are rounded
    fractions of the number of groups, at least 1 where the fraction is above 0 and enough groups are there, and train always gets at least 1. Of two labelled
    groups test is served before val. In a test group the images without a mask are left out of the split: they cannot be tested, and in training they would
    show the patient of the test images.

    Args:
        val, test: fractions in [0, 1) whose sum is below 1.
        group: a regular expression searched in each stem; stems of equal match (its first parenthesis, if there is one) stay together. A stem without a match
            is a group of its own. None: every image is a group.

    Raises:
        InputError: bad fractions, a malformed pattern, or one that matches no stem.
    """
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise InputError(f"val={val} and test={test} leave nothing to train on; give fractions from 0 whose sum is below 1.")
    groups = grouped(folder, group)
    labelled = [name for name, stems in groups.items() if any(stem in folder.masks for stem in stems)]
    unlabelled = [name for name in groups if name not in set(labelled)]
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for names, share in ((labelled, test), (unlabelled, 0.0)):
        ordered = _shuffle(names, seed)
        n_test = _part(share, len(ordered), len(ordered) - 1)
        n_val = _part(val, len(ordered), len(ordered) - 1 - n_test)
        for index, name in enumerate(ordered):
            part = "test" if index < n_test else "val" if index < n_test + n_val else "train"
            parts[part] += [stem for stem in groups[name] if part != "test" or stem in folder.masks]
    return Split(**{part: sorted(stems) for part, stems in parts.items()})


def matches(folder: Folder, pattern: str) -> bool:
    """Whether ``pattern`` is found in any image's name."""
    return any(re.search(pattern, stem) for stem in folder.images)


def group_pattern(folder: Folder, asked: str | None) -> str | None:
    """The pattern that tells patients apart in ``folder``: ``asked`` if any name matches it, else what its ``dataset.toml`` says."""
    return asked if asked is not None and matches(folder, asked) else folder.group


def as_tiles(folder: Folder) -> str | None:
    """A pattern by which the names in ``folder`` look like tiles of several slides, where nothing says that they are kept together; None where they do not."""
    if folder.group is not None:
        return None
    for pattern in TILES:
        slides = Counter(match[1] for stem in folder.images if (match := re.search(pattern, stem)))
        if sum(tiles > 1 for tiles in slides.values()) > 1:
            return pattern
    return None


def groups_of(folder: Folder, asked: str | None, stems: Iterable[str]) -> set[str]:
    """Names of the patients or slides that ``stems`` are from; empty where no pattern tells."""
    names = group_names(folder, group_pattern(folder, asked))
    return {names[stem] for stem in stems if stem in names}


def group_names(folder: Folder, pattern: str | None) -> dict[str, str]:
    """Stem -> name of its patient or slide, as ``pattern`` tells; empty without one.

    Raises:
        InputError: as ``grouped``.
    """
    return {stem: name for name, stems in grouped(folder, pattern).items() for stem in stems} if pattern else {}


def choose_labelled(stems: Iterable[str], share: str, seed: int) -> list[str]:
    """A sorted subset of the stems: ``"10%"`` of them (rounded, at least 1) or a count, ``"3"``.

    A smaller share of the same stems and seed is a subset of a larger one, so that budgets can be compared.

    Raises:
        InputError: neither a percentage from 0 to 100 nor a whole number, or more than there are.
    """
    ordered = _shuffle(stems, seed)
    percent = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", share, re.ASCII)
    if percent and Fraction(percent[1]) <= 100:
        fraction = Fraction(percent[1]) / 100
        count = min(len(ordered), max(1, _round(fraction * len(ordered)))) if fraction else 0
    elif re.fullmatch(r"\s*\d{1,9}\s*", share, re.ASCII):
        count = int(share)
    else:
        raise InputError(
            f'"{share}" is no share of the images; give a percentage from 0% to 100%, such as 10%, or a whole number of images, such as 3.'
        )
    if count > len(ordered):
        raise InputError(f"{count} labelled images are asked for but there are {len(ordered)}; give at most {len(ordered)}, or a percentage.")
    return sorted(ordered[:count])


def save_splits(path: Path, source: Split, target: Split) -> None:
    """Write both splits as JSON."""
    write_json(path, {"source": asdict(source), "target": asdict(target)})


def load_splits(path: Path) -> tuple[Split, Split]:
    """Read back source and target; other keys of the file are not looked at.

    Raises:
        InputError: missing or malformed file, or a stem in two parts.
    """
    path, cure = Path(path), "write a new one, with train, val and test lists of names for source and target"
    value = read_json(path, cure)
    try:
        source, target = (_as_split(value[domain]) for domain in ("source", "target"))
    except InputError as error:
        raise InputError(f"{path} is not a valid split: {error}") from error
    except (KeyError, TypeError):
        raise InputError(f"{path} is not a split file; {cure}.") from None
    return source, target


def _as_split(value: dict[str, list[str]]) -> Split:
    lists = {part: value[part] for part in ("train", "val", "test")}
    if not all(isinstance(stems, list) and all(isinstance(stem, str) for stem in stems) for stems in lists.values()):
        raise TypeError
    return Split(**lists)


def grouped(folder: Folder, pattern: str | None) -> dict[str, list[str]]:
    """Group name -> stems, as ``pattern`` tells; without one every image is a group.

    Raises:
        InputError: it is malformed, or matches no stem.
    """
    if pattern is None:
        return {stem: [stem] for stem in folder.images}
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f'The group pattern "{pattern}" is not a regular expression ({error}); try for example "^[^_]+".') from error
    matches = {stem: compiled.search(stem) for stem in folder.images}
    if not any(matches.values()):
        raise InputError(f'The group pattern "{pattern}" matches no image name in {folder.root}, such as {next(iter(matches), "")}; correct it.')
    groups: dict[str, list[str]] = {}
    for stem, match in matches.items():
        name = stem if match is None else (match[1] if compiled.groups and match[1] is not None else match[0])
        groups.setdefault(name, []).append(stem)
    return groups


def _shuffle(names: Iterable[str], seed: int) -> list[str]:
    """Distinct names in an order that depends on nothing but each name and the seed."""
    return sorted(set(names), key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest(), name))


def _part(fraction: float, count: int, limit: int) -> int:
    """Rounded share of `count`, at least 1 when the fraction is above 0, at most `limit`."""
    return max(0, min(limit, max(1, _round(Fraction(str(float(fraction))) * count)))) if fraction > 0 else 0


def _round(value: Fraction) -> int:
    """To the nearest whole number, halves up (Python's round goes to the even one)."""
    return math.floor(value + Fraction(1, 2))
