"""Read the text, JSON and JSON lines that a run or a person has written."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from celladapt.errors import InputError


def read_text(path: Path, cure: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        cure: what to do where it cannot be read, the end of the sentence.

    Raises:
        InputError: it is missing, not a file, or unreadable.
        UnicodeDecodeError: it is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait without end
            raise InputError(f"{path} is not a file; {cure}.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {cure}.") from None


def read_json(path: Path, cure: str = "restore it from a copy") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: as ``read_text``; or it is damaged, or holds something else than an object.
    """
    try:
        value = json.loads(read_text(path, cure))
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged; {cure}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (it holds no JSON object); {cure}.")
    return value


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of JSON lines; damaged lines, as a kill leaves the last one, are left out, and an unreadable file has none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line))
    return values
