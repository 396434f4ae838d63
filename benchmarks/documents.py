"""Generated parts of a Markdown document, and the numbers in them; a part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from celladapt.files import write_text


def put(document: Path, name: str, text: str) -> None:
    """Replace the part ``name`` of ``document`` by ``text``; the rest of the document stays as it is.

    Raises:
        SystemExit: the document has no such part.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = document.read_text(encoding="utf-8")
    new, count = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text.strip()}\n{end}", whole, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{document} has {count} parts '{name}'; write {begin} and {end} where it belongs, once.")
    write_text(document, new)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean ± sample standard deviation, which a single value has not; ``sign`` "+" shows that of the mean."""
    return f"{statistics.mean(values):{sign}.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
