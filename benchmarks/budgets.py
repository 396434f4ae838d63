"""What more steps bring: the scores of benchmarks that differ in their budget alone, as Markdown.

    python -m benchmarks.budgets 400=docs/results/tissue.csv 800=docs/results/tissue-800.csv [--into docs/results.md]

Every method on every pair that all the tables have; tables of the same budget are read as one.
"""

import argparse
import csv
import statistics
from pathlib import Path

from benchmarks.documents import put

Scores = dict[tuple[str, str], list[float]]
"""(pair, method) -> IoU of each seed."""


def read(files: list[Path]) -> Scores:
    """The IoU of each finished run in some ``cells.csv``."""
    scores: Scores = {}
    for file in files:
        with file.open(encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row["iou"]:
                    scores.setdefault((row["pair"], row["method"]), []).append(float(row["iou"]))
    return scores


def table(budgets: dict[str, Scores]) -> str:
    """A row for each pair and method, a column for each budget; mean ± sample standard deviation over seeds."""
    first, *others = budgets.values()
    lines = ["| pair | method | " + " | ".join(f"{steps} steps" for steps in budgets) + " |", "|---|---|" + "--:|" * len(budgets)]
    for pair, method in (key for key in first if len(first[key]) > 1 and all(key in other for other in others)):
        cells = (scores[pair, method] for scores in budgets.values())
        lines.append(f"| {pair} | {method} | " + " | ".join(f"{statistics.mean(c):.3f} ± {statistics.stdev(c):.3f}" for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or put it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="STEPS=CSV")
    parser.add_argument("--into", type=Path, help="Markdown file with a part <!-- begin budgets --> ... <!-- end budgets -->")
    a = parser.parse_args()
    files: dict[str, list[Path]] = {}
    for item in a.tables:
        steps, _, file = item.partition("=")
        files.setdefault(steps, []).append(Path(file))
    text = table({steps: read(of) for steps, of in files.items()})
    if a.into:
        put(a.into, "budgets", text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
