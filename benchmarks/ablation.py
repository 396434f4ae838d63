"""Why does adapting help or not at a small budget? One change at a time, every seed, the last checkpoint, one process a core.

    python -m benchmarks.ablation SOURCE TARGET --out FOLDER [--rows ROW ...] [--into docs/results.md]

Prints Markdown, or puts it into a document: mean target test IoU ± sample standard deviation over seeds, and the gain on another row, seed by seed: of a method on
source-only with as many steps of training, of WeakUDA without one of its parts on WeakUDA.
A warm start begins with the segmenter of the finished source-only run, so it has seen twice the steps: it is compared with source-only of 600.
"""

import argparse
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.documents import put, spread
from celladapt.adaptation import _conclude, prepare
from celladapt.config import Config, preset_options, with_options
from celladapt.loading import load_model
from celladapt.preparation import set_up
from celladapt.run import Run

STEPS = 300
PLAIN = {"match": False, "ema": 0.0, "lambda_bce": 0.0, "fit_threshold": False}
"""The source as it is, the weights of the last step, the method's own losses alone, masks cut at 1/2: one change at a time, also to what all methods get by default."""
USUAL = {"match": Config.match, "ema": Config.ema, "lambda_bce": Config.lambda_bce, "fit_threshold": Config.fit_threshold}
"""What all methods get by default."""


@dataclass(frozen=True)
class Variant:
    """One row: what differs from the preset ``fast`` with ``PLAIN``."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    warm: bool = False
    bar: str = "source_only"
    """The row it is compared with."""


GENTLE = {"lr_s": 3e-4, "lr_d": 5e-4}
VARIANTS = {
    "source_only": Variant("source_only"),
    "source_only, shared BN": Variant("source_only", {"batch_norm": "shared"}),
    "source_only, 600 steps": Variant("source_only", {"steps": 2 * STEPS}),
    "cellseguda": Variant("cellseguda"),
    "cellseguda, shared BN": Variant("cellseguda", {"batch_norm": "shared"}, bar="source_only, shared BN"),
    "cellseguda, no reconstruction": Variant("cellseguda:lambda_rec=0"),
    "cellseguda, λ_adv 0.01": Variant("cellseguda:lambda_adv=0.01"),
    "warm start, λ_adv 0": Variant("cellseguda:lambda_adv=0", GENTLE, warm=True, bar="source_only, 600 steps"),
    "warm start, λ_adv 0.01": Variant("cellseguda:lambda_adv=0.01", GENTLE, warm=True, bar="source_only, 600 steps"),
    "source_only, as by default": Variant("source_only", USUAL, bar="source_only, as by default"),
    "weakuda": Variant("weakuda", USUAL, bar="source_only, as by default"),
    "weakuda, no adversary": Variant("weakuda:lambda_adv=0", USUAL, bar="weakuda"),
    "weakuda, source as it is": Variant("weakuda", {**USUAL, "match": False}, bar="weakuda"),
    "weakuda, soft Dice alone": Variant("weakuda", {**USUAL, "lambda_bce": 0.0}, bar="weakuda"),
    "weakuda, weights of the last step": Variant("weakuda", {**USUAL, "ema": 0.0}, bar="weakuda"),
    "weakuda, shared BN": Variant("weakuda", {**USUAL, "batch_norm": "shared"}, bar="weakuda"),
}


def folder(out: Path, name: str, seed: int) -> Path:
    """Where a row's run of one seed is."""
    return out / name.replace(", ", "_").replace(" ", "_") / f"seed{seed}"


def train(source: Path, target: Path, out: Path, name: str, seed: int) -> str:
    """One run; one that is finished is left as it is."""
    variant, path = VARIANTS[name], folder(out, name, seed)
    values = {**preset_options("fast"), "steps": STEPS, "validate_every": 100, "select": "last", "baseline": False, **PLAIN, **variant.options}
    config = with_options(Config(), {**values, "method": variant.method, "seed": seed, "source": source.absolute(), "target": target.absolute()})
    run = Run.open(path) if (path / "config.toml").exists() else prepare(config, path)
    if not run.finished:
        trainer, notes = set_up(run)
        if variant.warm:
            trainer.method.networks["S"].load_state_dict(load_model(folder(out, "source_only", seed)).network.state_dict())
        trainer.train()
        _conclude(run, trainer, notes)
    return f"{name}, seed {seed}: {run.metrics['iou']:.3f}"


def main() -> None:
    """Train every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--into", type=Path, help="Markdown file with a part <!-- begin NAME --> ... <!-- end NAME --> for the folder NAME")
    parser.add_argument(
        "--rows", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="rows to train and print, with those they are compared with"
    )
    a = parser.parse_args()
    chosen = {name for row in a.rows for name in (row, VARIANTS[row].bar, VARIANTS[VARIANTS[row].bar].bar)}
    variants = {name: variant for name, variant in VARIANTS.items() if name in chosen}
    workers = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))
    with workers as pool:
        for warm in (False, True):  # a warm start needs its source-only run
            plan = [(name, seed) for name, variant in variants.items() for seed in range(a.seeds) if variant.warm == warm]
            for done in as_completed([pool.submit(train, a.source, a.target, a.out, *cell) for cell in plan]):
                print(done.result(), flush=True)
    iou = {name: [Run.open(folder(a.out, name, seed)).metrics["iou"] for seed in range(a.seeds)] for name in variants}
    lines = [f"| {a.source.name} → {a.target.name} | IoU | gain | against |", "|---|---|---|---|"]
    for name, values in iou.items():
        bar = VARIANTS[name].bar
        gains = [value - reference for value, reference in zip(values, iou[bar], strict=True)]
        lines.append(f"| {name} | {spread(values)} | {'' if name == bar else spread(gains)} | {'' if name == bar else bar} |")
    text = "\n".join(lines) + "\n"
    if a.into:
        put(a.into, a.out.name, text)
    else:
        print(f"\n{text}", end="")


if __name__ == "__main__":
    main()
