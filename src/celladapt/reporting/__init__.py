"""One self-contained HTML page from the files of a run folder, or of a benchmark's folder, with the tables and figures of the latter.

The page needs no network, no script and no other file, so it can be mailed, archived and printed.
"""

from pathlib import Path

from celladapt.errors import InputError
from celladapt.files import write_text
from celladapt.reporting.charts import write_charts
from celladapt.reporting.comparison import comparison_page
from celladapt.reporting.differences import compare
from celladapt.reporting.grid import read_grid
from celladapt.reporting.run import run_page
from celladapt.reporting.tables import write_tables

__all__ = ["report"]


def report(run: Path, finished: str | None = None) -> Path:
    """Write ``report.html`` in ``run`` from the files that lie there and return its path.

    ``finished`` is when a run came to its end, where its record does not say so yet: no run counts as finished before its page is there.

    A folder with ``run.json`` gives the page of one run, finished or not. A folder with ``cells.csv`` gives the comparison of the runs in it, and beside the
    page ``table.csv``, ``.md`` and ``.tex``, ``measures.csv``, ``comparisons.csv``, and the figures ``methods`` and ``labels`` as ``.png`` and ``.svg``.

    Raises:
        InputError: the folder is neither, its ``run.json`` or ``cells.csv`` cannot be read, or a file cannot be written.
    """
    run = Path(run)
    if (run / "run.json").is_file():
        html = run_page(run, finished)
    elif (run / "cells.csv").is_file():
        grid = read_grid(run)
        comparisons = compare(grid)
        write_tables(grid, comparisons)
        write_charts(grid)
        html = comparison_page(grid, comparisons)
    else:
        raise InputError(
            f"{run} is neither a run folder (no run.json) nor a comparison folder (no cells.csv); give a folder that celladapt has written."
        )
    page = run / "report.html"
    # A file name that is not UTF-8 reaches us with lone surrogates, which no encoder accepts.
    write_text(page, html.encode("utf-8", "replace").decode("utf-8"))
    return page
