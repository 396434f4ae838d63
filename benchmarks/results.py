"""The section of the documentation on finished benchmarks, as Markdown.

    python -m benchmarks.results GRID [GRID ...]                        prints it
    python -m benchmarks.results GRID [GRID ...] --into docs/results.md  puts each where its folder's name marks its place

Tables, intervals and sentences are those of the report, so no number is typed. With ``--into`` the scores of every run and the figures are
copied into the folder ``results`` beside the document.
"""

import argparse
import shutil
from pathlib import Path

from benchmarks.documents import put
from celladapt.reporting import report
from celladapt.reporting.claims import claims_table
from celladapt.reporting.conditions import machine, notes
from celladapt.reporting.differences import compare
from celladapt.reporting.grid import read_grid
from celladapt.reporting.paired import UNCORRECTED
from celladapt.reporting.tables import long, markdown, short


def section(folder: Path, figures: str = "") -> str:
    """What a benchmark rests on, the paper's table (of many pairs a row for each), the paper's claims, all five measures, and every method against source-only.

    Args:
        folder: of the benchmark.
        figures: Markdown that shows its figures, below the table.

    Raises:
        InputError: ``folder`` holds no readable ``cells.csv``.
    """
    grid = read_grid(folder)
    comparisons = compare(grid)
    against = claims_table(grid, comparisons)
    first, *others = notes(grid)
    blocks = [
        f"{first} {machine(grid)}".strip(),
        markdown(short(grid)).strip(),
        "\n".join(f"- {note}" for note in others),
        figures,
        markdown(against).strip(),
        "\n".join(f"- {note}" for note in against.notes),
        "<details><summary>All measures, and every method against source-only</summary>",
        markdown(long(grid)).strip(),
    ]
    for pair in grid.pairs:
        blocks.append(f"Against source-only on {pair}:")
        blocks.append("\n".join(f"- {one.in_words()}." for one in comparisons.with_source_only(grid, pair)) or "- nothing can be compared.")
    return "\n\n".join(block for block in [*blocks, UNCORRECTED, "</details>"] if block) + "\n"


def copy_figures(folder: Path, document: Path) -> str:
    """Copy a benchmark's scores and figures beside ``document``; Markdown that shows the figures."""
    report(folder)
    place = document.parent / document.stem
    place.mkdir(exist_ok=True)
    shutil.copy(folder / "cells.csv", place / f"{folder.name}.csv")
    shown = []
    for figure, words in (("methods", "IoU of every method"), ("labels", "Target labels against IoU")):
        if (folder / f"{figure}.png").exists():
            shutil.copy(folder / f"{figure}.png", place / f"{folder.name}-{figure}.png")
            shown.append(f"![{words}]({place.name}/{folder.name}-{figure}.png)")
    return "\n\n".join(shown)


def main() -> None:
    """Print the sections of some benchmark folders, or put them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="Markdown file with a part <!-- begin NAME --> ... <!-- end NAME --> for each folder NAME")
    a = parser.parse_args()
    for grid in a.grids:
        if a.into:
            put(a.into, grid.name, section(grid, copy_figures(grid, a.into)))
        else:
            print(section(grid))


if __name__ == "__main__":
    main()
