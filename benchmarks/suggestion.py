"""Is it worth asking which images to annotate? Suggested images against images drawn at random, as many masks, the same split, budget and seed.

    python -m benchmarks.suggestion SOURCE:TARGET ... --out FOLDER [-k 3] [--seeds 3] [--draws 2] [--method weakssda] [--into docs/results.md]

For each seed: source-only is trained; ``suggest`` chooses k of its target training images by that model alone; the method is trained once with their masks
and, for each draw, once with the masks of k that were drawn. The table, a row for each pair: mean target test IoU over the seeds, and the difference of the suggested from the mean of the draws
of the same seed. Called again, it goes on where it stopped; another plan needs another folder. Where a target has few more than k training images the two choices are nearly the same. The table goes where ``<!-- begin suggestion -->`` marks its place.
"""

import argparse
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.documents import put, spread
from celladapt.adaptation import prepare
from celladapt.config import Config, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.split import choose_labelled
from celladapt.files import write_json
from celladapt.records import read_json
from celladapt.run import Run
from celladapt.side_by_side import carry_out_all, sensible_jobs
from celladapt.suggestion import suggest

SUGGESTED = "suggested"


@dataclass(frozen=True)
class Plan:
    """What is compared on every pair."""

    k: int
    seeds: int
    draws: int
    steps: int
    method: str


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


def compare(source: Path, target: Path, out: Path, plan: Plan) -> dict[str, list[list[float]]]:
    """Train everything for one pair in the folder ``out``.

    Returns:
        source_only, suggested and random -> for each seed, the target test IoU of each run.
    """
    plan_file = out / "plan.json"
    mine = {"source": str(source.absolute()), "target": str(target.absolute()), **asdict(plan)}
    if plan_file.exists() and read_json(plan_file) != mine:
        raise SystemExit(f"{out} holds a comparison of another plan; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(plan_file, mine)
    whole = Folder.open(target)
    bases = [begun(source, target, out / f"source{seed}", "source_only", seed, plan.steps) for seed in range(plan.seeds)]
    train({f"{out.name}, source_only, seed {seed}": run for seed, run in enumerate(bases)})
    runs: dict[str, list[list[Run]]] = {SUGGESTED: [], "random": []}
    for seed, base in enumerate(bases):
        split = base.splits[1]
        bare = linked(whole, split.train, [], out / "bare")
        todo = out / f"todo{seed}"
        if not todo.exists():
            suggest(base.path / "model.safetensors", bare, todo, plan.k, tile=4096)  # images whole, so that their masks are at hand
        chosen = {
            SUGGESTED: [sorted(path.stem for path in (todo / "masks").iterdir())],
            "random": [choose_labelled(split.train, str(plan.k), 1000 * seed + draw) for draw in range(plan.draws)],
        }
        for how, choices in chosen.items():
            runs[how].append([])
            for number, stems in enumerate(choices):
                name = f"{how}{seed}_{number}"
                folder = linked(whole, list(whole.images), [*stems, *split.test], out / f"{name}-data")
                split_file = (base.path / "split.json").absolute()
                runs[how][-1].append(begun(source, folder, out / name, plan.method, seed, plan.steps, split=split_file))
    train({f"{out.name}, {run.path.name}": run for group in runs.values() for some in group for run in some})
    return {"source_only": [[base.metrics["iou"]] for base in bases]} | {
        how: [[run.metrics["iou"] for run in some] for some in group] for how, group in runs.items()
    }


def row(pair: str, found: dict[str, list[list[float]]]) -> tuple[str, list[float]]:
    """A line of the table, and the difference of each seed."""
    means = {how: [statistics.mean(some) for some in group] for how, group in found.items()}
    gains = [one - other for one, other in zip(means[SUGGESTED], means["random"], strict=True)]
    cells = [*(spread(means[how]) for how in ("source_only", SUGGESTED, "random")), spread(gains, "+"), ", ".join(f"{gain:+.3f}" for gain in gains)]
    return f"| {pair} | {' | '.join(cells)} |", gains


def table(found: dict[str, dict[str, list[list[float]]]], plan: Plan) -> str:
    """Markdown."""
    rows, gains = zip(*(row(pair, scores) for pair, scores in found.items()), strict=True)
    each = [gain for some in gains for gain in some]
    return "\n".join(
        [
            f"IoU with {plan.k} masks, {plan.method}; {plan.seeds} seeds, {plan.steps} steps, preset `fast`, the last checkpoint; {plan.draws} random draws a seed, whose mean is compared.",
            "",
            "| pair | source-only | suggested | random | difference | by seed |",
            "|---|--:|--:|--:|--:|--:|",
            *rows,
            "",
            f"Suggested images are better in {sum(gain > 0 for gain in each)} of {len(each)} comparisons; the mean difference is {statistics.mean(each):+.3f} IoU.",
        ]
    )


def main() -> None:
    """Train everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="SOURCE:TARGET")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--method", default="weakssda")
    parser.add_argument("--into", type=Path)
    a = parser.parse_args()
    plan = Plan(a.k, a.seeds, a.draws, a.steps, a.method)
    found = {}
    for source, target in (map(Path, pair.rsplit(":", 1)) for pair in a.pairs):
        found[f"{source.name} → {target.name}"] = compare(source, target, a.out / f"{source.name}-to-{target.name}", plan)
        print(table(found, plan), flush=True)
    if a.into:
        put(a.into, "suggestion", table(found, plan))


if __name__ == "__main__":
    main()
