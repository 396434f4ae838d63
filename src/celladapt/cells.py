"""Texts as cells of a CSV file, which people open in a spreadsheet."""

import csv
from collections.abc import Iterable
from typing import Any

_FORMULA = tuple("=+-@\t\n＝＋－＠")  # the wide ones in Japanese and Chinese Excel


def as_cell(value: Any) -> Any:
    """A value as a cell of a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe before it; what is no text stays, and so do numbers.

    One that begins with an apostrophe gets another, so that ``of_cell`` takes off what was put there and nothing else. A carriage return, which the csv module does not quote, becomes a space.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("'", *_FORMULA)) else text
    return text


def of_cell(text: str) -> str:
    """What ``as_cell`` was given, but for carriage returns."""
    return text[1:] if text.startswith("'") and text[1:].startswith(("'", *_FORMULA)) else text


def read_cells(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, column -> text as ``as_cell`` was given it; a cell without a column, or a column without a cell, is left out."""
    return [{key: of_cell(value) for key, value in row.items() if isinstance(value, str)} for row in csv.DictReader(lines)]
