"""What lies in an output folder: files that are not whole, and all that must be equal after the same work."""

import csv
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from celladapt import checkpoint
from celladapt.data.images import decode
from celladapt.files import TEMPORARY
from celladapt.locks import HOLDER

OF_THE_RUN = {"seconds", "started", "finished", "command"}
"""Fields that differ between two undisturbed runs."""
APPENDED = (".jsonl", ".log")
"""Logs, whose last line a kill may cut off; the next start cuts them back."""
PAGES = ("report.html",)
"""Which show dates and durations."""


def half_written(folder: Path) -> list[str]:
    """Sentences about the visible files below ``folder`` that cannot be read to their end; hidden names are no outputs yet."""
    found = []
    for file in _visible(folder):
        reader = READERS.get(file.suffix)
        if reader is None or file.name.endswith(APPENDED):
            continue
        try:
            reader(file)
        except Exception as error:
            found.append(f"{file.relative_to(folder)} is not whole ({type(error).__name__}: {error})")
    return found


def contents(folder: Path) -> dict[str, str]:
    """Every visible file below ``folder`` -> a digest of what must be equal after the same work: all of it but dates and durations.

    Left out: TensorBoard's events, logs of processes, and of a page all but that it is there and has an end."""
    return {str(file.relative_to(folder)): _digest(file) for file in _visible(folder) if "events" not in file.parts and file.suffix != ".log"}


def left_behind(folder: Path) -> list[str]:
    """Temporary files, and notes of who works there, which finished work has no more use for."""
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if TEMPORARY.fullmatch(file.name) or file.name == HOLDER]


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Sentences about what is missing, too much or other."""
    return [
        *(f"{name} is missing" for name in sorted(expected.keys() - found.keys())),
        *(f"{name} should not be there" for name in sorted(found.keys() - expected.keys())),
        *(f"{name} is another one" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]),
    ]


def _visible(folder: Path) -> list[Path]:
    parts = ((file, file.relative_to(folder).parts) for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file, names in parts if not any(name.startswith(".") or ".part" in name for name in names)]


def _digest(file: Path) -> str:
    content: Any
    if file.suffix == ".safetensors":
        tensors, about = checkpoint.load(file)
        content = [timeless(about), {name: hashlib.sha256(tensor.flatten().numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}]
    elif file.suffix == ".json":
        content = timeless(json.loads(file.read_text(encoding="utf-8")))
    elif file.suffix == ".csv":
        content = timeless(_table(file))
    elif file.name in PAGES:
        return "a page"
    elif file.name in ("table.md", "table.tex"):
        content = re.sub(r"\d+(?= (\||\\\\)$)", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)  # the last column is seconds
    else:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def timeless(value: Any) -> Any:
    """``value`` (as JSON has it) without ``OF_THE_RUN``, at any depth."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in OF_THE_RUN}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def _table(file: Path) -> list[dict[str, str]]:
    text = file.read_text(encoding="utf-8")
    assert text.endswith("\n"), "the last line is cut off"
    return list(csv.DictReader(text.splitlines()))


def _page(file: Path) -> None:
    assert file.read_text(encoding="utf-8").rstrip().endswith("</html>"), "the page has no end"


def _text(file: Path) -> None:
    assert file.read_text(encoding="utf-8").endswith("\n"), "the last line is cut off"


def _array(file: Path) -> None:
    with tifffile.TiffFile(file) as tif:
        for page in tif.series[0].levels:
            assert math.prod(np.asarray(page.asarray()).shape) > 0


READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _table,
    ".geojson": lambda file: json.loads(file.read_text(encoding="utf-8")),
    ".html": _page,
    ".json": lambda file: json.loads(file.read_text(encoding="utf-8")),
    ".md": _text,
    ".png": decode,
    ".safetensors": checkpoint.load,
    ".tex": _text,
    ".tif": _array,
    ".toml": lambda file: tomllib.loads(file.read_text(encoding="utf-8")),
}
