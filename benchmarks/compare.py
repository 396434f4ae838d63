"""Benchmarks that differ in one thing alone, side by side: their scores as Markdown.

    python -m benchmarks.compare "400 steps=docs/results/tissue.csv" "800 steps=docs/results/tissue-800.csv"
    python -m benchmarks.compare "bf16=fast/cells.csv" "float32=plain/cells.csv" --into docs/performance.md:precision

Every method on every pair that all the tables have; tables of the same label are read as one.
"""

import argparse
import csv
import statistics
from pathlib import Path

from benchmarks.documents import put

Scores = dict[tuple[str, str], dict[str, float]]
"""(pair, method) -> seed -> IoU."""


def read(files: list[Path]) -> Scores:
    """The IoU of each finished run in some ``cells.csv``."""
    scores: Scores = {}
    for file in files:
        with file.open(encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row["iou"]:
                    scores.setdefault((row["pair"], row["method"]), {})[row["seed"]] = float(row["iou"])
    return scores


def table(labelled: dict[str, Scores]) -> str:
    """A row for each pair and method, a column for each label; IoU, mean ± sample standard deviation over the seeds that all have, two at least."""
    first, *others = labelled.values()
    lines = ["| pair | method | " + " | ".join(labelled) + " |", "|---|---|" + "--:|" * len(labelled)]
    for pair, method in first:
        seeds = set.intersection(*(set(scores.get((pair, method), {})) for scores in (first, *others)))
        if len(seeds) > 1:
            cells = ([scores[pair, method][seed] for seed in sorted(seeds)] for scores in labelled.values())
            lines.append(f"| {pair} | {method} | " + " | ".join(f"{statistics.mean(c):.3f} ± {statistics.stdev(c):.3f}" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="LABEL=CSV")
    parser.add_argument("--into", metavar="FILE:PART", help="Markdown file with a part <!-- begin PART --> ... <!-- end PART -->")
    a = parser.parse_args()
    files: dict[str, list[Path]] = {}
    for item in a.tables:
        label, _, file = item.partition("=")
        files.setdefault(label, []).append(Path(file))
    text = table({label: read(of) for label, of in files.items()})
    if a.into:
        document, _, part = a.into.rpartition(":")
        put(Path(document), part, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
