"""How good is a pick without labels? Every kept checkpoint of a benchmark is scored on the test images, afterwards.

    celladapt benchmark ... --keep-checkpoints --out GRID
    python -m benchmarks.selection GRID [GRID ...] [--into docs/results.md]

For each pair and method, averaged over seeds: test IoU of the last checkpoint, of the best one, and of the one that each criterion picks.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

import torch

from benchmarks.documents import put
from celladapt.data.folder import Folder
from celladapt.metrics import foreground
from celladapt.prediction import load_model
from celladapt.progress import Bar
from celladapt.run import Run
from celladapt.selection import snd

CRITERIA = ("infomax", "snd", "entropy", "consistency")


def trajectory(run: Run) -> dict[int, dict[str, float]]:
    """Step -> mean test IoU and SND of every kept checkpoint; kept beside the run, as it takes a while.

    SND is computed here, on whole validation images, rather than taken from the log.
    """
    file = run.path / "checkpoints" / "scores.json"
    if not file.exists():
        assert run.config.target
        folder = Folder.open(run.config.target)
        images = {stem: folder.pair(stem) for stem in run.splits[1].test}
        scores = {}
        for path in sorted((run.path / "checkpoints").glob("step_*.safetensors")):
            model = load_model(path)
            scores[int(path.stem.split("_")[1])] = {
                "iou": statistics.mean(foreground(model.predict(image).mask, truth > 0).iou for image, truth in images.values()),
                "snd": snd([torch.from_numpy(model.predict(folder.image(stem)).probability) for stem in run.splits[1].val[:6]]),
            }
        file.write_text(json.dumps(scores))
    return {int(step): score for step, score in json.loads(file.read_text()).items()}


def picks(run: Run) -> dict[str, float]:
    """Test IoU of the last and best checkpoint and of each criterion's pick."""
    kept = trajectory(run)
    iou = {step: score["iou"] for step, score in kept.items()}
    scores = {line["step"]: line for line in map(json.loads, (run.path / "validation.jsonl").read_text().splitlines())}
    for step, score in kept.items():
        scores[step]["snd"] = score["snd"]
    picked = {name: iou[max(scores, key=lambda step: scores[step][name])] for name in CRITERIA}
    return {"last": iou[max(iou)], "best": max(iou.values()), **picked}


def table(grids: list[Path]) -> str:
    """The Markdown table of some benchmark folders."""
    cells = []
    for grid in grids:
        with open(grid / "cells.csv", encoding="utf-8") as file:
            cells += [(grid, cell) for cell in csv.DictReader(file) if (grid / cell["run"] / "checkpoints").is_dir()]
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    with Bar("scoring checkpoints", len(cells)) as bar:
        for grid, cell in cells:
            groups.setdefault((cell["pair"], cell["method"]), []).append(picks(Run(grid / cell["run"])))
            bar.step()
    names = ["last", "best", *CRITERIA]
    lines = ["| pair | method | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for (pair, method), rows in groups.items():
        lines.append(f"| {pair} | {method} | " + " | ".join(f"{statistics.mean(row[name] for row in rows):.3f}" for name in names) + " |")
    everything = [row for rows in groups.values() for row in rows]
    regrets = {name: [row["best"] - row[name] for row in everything] for name in names}
    for word, of in (("mean", statistics.mean), ("largest", max)):
        lines.append(f"| **{word} regret** ({len(everything)} runs) | | " + " | ".join(f"{of(regrets[name]):.3f}" for name in names) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the Markdown table of some benchmark folders, or put it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="Markdown file with a part <!-- begin selection --> ... <!-- end selection -->")
    a = parser.parse_args()
    text = table(a.grids)
    if a.into:
        put(a.into, "selection", text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
