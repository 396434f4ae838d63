"""The section of the documentation on finished benchmarks, as Markdown: ``python -m benchmarks.results GRID [GRID ...]``.

Tables, intervals and sentences are those of the report, so no number is typed.
"""

import argparse
from pathlib import Path

from celladapt.reporting.conditions import machine, notes
from celladapt.reporting.differences import compare
from celladapt.reporting.grid import read_grid
from celladapt.reporting.paired import UNCORRECTED
from celladapt.reporting.tables import long, markdown, wide


def section(folder: Path) -> str:
    """What a benchmark rests on, the paper's table, all five measures, and every method against source-only.

    Raises:
        InputError: ``folder`` holds no readable ``cells.csv``.
    """
    grid = read_grid(folder)
    comparisons = compare(grid)
    first, *others = notes(grid)
    blocks = [
        f"{first} {machine(grid)}".strip(),
        markdown(wide(grid)).strip(),
        "\n".join(f"- {note}" for note in others),
        markdown(long(grid)).strip(),
    ]
    for pair in grid.pairs:
        blocks.append(f"Against source-only on {pair}:")
        blocks.append("\n".join(f"- {one.in_words()}." for one in comparisons.with_source_only(grid, pair)) or "- nothing can be compared.")
    return "\n\n".join([*blocks, UNCORRECTED]) + "\n"


def main() -> None:
    """Print the sections of some benchmark folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    print("\n".join(map(section, parser.parse_args().grids)), end="")


if __name__ == "__main__":
    main()
