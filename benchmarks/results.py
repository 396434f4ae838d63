"""The Markdown table of a benchmark folder, from its cells.csv: ``python -m benchmarks.results GRID [GRID ...]``."""

import csv
import statistics
import sys
from pathlib import Path

MEASURES = ("iou", "dice", "aji", "pq", "f1")


def table(grid: Path) -> str:
    """Mean ± sample standard deviation over seeds of every pair and method; seconds of training."""
    with open(grid / "cells.csv", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    lines = ["| pair | method | seeds | IoU | Dice | AJI | PQ | F1 | seconds |", "|---|---|---|---|---|---|---|---|---|"]
    for pair, method in dict.fromkeys((cell["pair"], cell["method"]) for cell in cells):
        rows = [cell for cell in cells if (cell["pair"], cell["method"]) == (pair, method)]
        values = [[float(row[name]) for row in rows] for name in MEASURES]
        scores = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v) if len(v) > 1 else 0:.3f}" for v in values]
        lines.append(f"| {pair} | {method} | {len(rows)} | {' | '.join(scores)} | {statistics.mean(float(row['seconds']) for row in rows):.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(table(Path(argument)), end="\n\n")
