"""Is it worth asking which images to annotate? Suggested images against images drawn at random, as many masks, the same split, budget and seed.

    python -m benchmarks.suggestion SOURCE TARGET --out FOLDER [-k 3] [--seeds 3] [--method weakssda]

For each seed: source-only is trained; ``suggest`` chooses k of its target training images by that model alone; the method is trained once with their masks
and once with the masks of k that were drawn. Prints Markdown: mean target test IoU, and the paired difference.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from celladapt.adaptation import prepare
from celladapt.config import Config, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.split import choose_labelled
from celladapt.run import Run
from celladapt.side_by_side import carry_out_all, sensible_jobs
from celladapt.suggestion import suggest


def linked(folder: Folder, images: list[str], masks: list[str], out: Path) -> Path:
    """A domain of links to some images and some masks of ``folder``."""
    for name, stems, files in (("images", images, folder.images), ("masks", masks, folder.masks)):
        (out / name).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            link = out / name / files[stem].name
            if not link.exists():
                link.symlink_to(files[stem].absolute())
    return out


def begun(source: Path, target: Path, path: Path, method: str, seed: int, steps: int, **options: Any) -> Run:
    """The run in ``path``, made if it is not there."""
    values = {**preset_options("fast"), "steps": steps, "select": "last", "baseline": False, "fallback": False, **options}
    config = with_options(Config(), {**values, "method": method, "seed": seed, "source": source.absolute(), "target": target.absolute()})
    return Run.open(path) if (path / "config.toml").exists() else prepare(config, path)


def train(runs: dict[str, Run]) -> None:
    """Carry out all, side by side."""
    for name, failure in carry_out_all(runs, sensible_jobs(runs)):
        if failure is not None:
            raise SystemExit(f"{name}: {failure.sentence}")


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--method", default="weakssda")
    a = parser.parse_args()
    whole = Folder.open(a.target)
    bases = {f"source_only, seed {seed}": begun(a.source, a.target, a.out / f"source{seed}", "source_only", seed, a.steps) for seed in range(a.seeds)}
    train(bases)
    runs: dict[str, Run] = {}
    for seed, base in enumerate(bases.values()):
        split = base.splits[1]
        bare = linked(whole, split.train, [], a.out / "bare")
        if not (a.out / f"todo{seed}").exists():
            suggest(base.path / "model.safetensors", bare, a.out / f"todo{seed}", a.k, tile=4096)  # images whole, so that their masks are at hand
        chosen = {
            "suggested": sorted(path.stem for path in (a.out / f"todo{seed}" / "masks").iterdir()),
            "random": choose_labelled(split.train, str(a.k), seed),
        }
        for how, stems in chosen.items():
            target = linked(whole, list(whole.images), [*stems, *split.test], a.out / f"{how}{seed}-data")
            split_file = base.path / "split.json"
            runs[f"{how}, seed {seed}"] = begun(a.source, target, a.out / f"{how}{seed}", a.method, seed, a.steps, split=split_file.absolute())
    train(runs)
    iou = {how: [runs[f"{how}, seed {seed}"].metrics["iou"] for seed in range(a.seeds)] for how in ("suggested", "random")}
    gains = [one - other for one, other in zip(iou["suggested"], iou["random"], strict=True)]
    spread = " | ".join(
        f"{statistics.mean(v):.3f} ± {statistics.stdev(v) if len(v) > 1 else 0:.3f}" for v in (iou["suggested"], iou["random"], gains)
    )
    each = ", ".join(f"{gain:+.3f}" for gain in gains)
    print(f"| {a.source.name} → {a.target.name}, {a.k} masks, {a.method} | suggested | random | difference | each seed |\n|---|--:|--:|--:|--:|")
    print(f"| | {spread} | {each} |")


if __name__ == "__main__":
    main()
