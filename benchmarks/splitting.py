"""What telling touching nuclei apart is worth, on exact masks and on those of models.

    python -m benchmarks.splitting DATA [--models RUN_OR_GRID ...] --json FILE [--into docs/splitting.md]

Every annotated domain folder in DATA: its masks are made binary, cut into nuclei again, and compared with the annotation, so that the annotation is what a
faultless splitter would give and all that is lost is lost by the splitter. Then the masks of trained models on the target test images of their own split; there a
faultless splitter is one that knows the annotation (``told_apart``), which bounds what any splitter can get out of such a mask. Touching nuclei must have
different labels in the annotation.
"""

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.documents import put
from celladapt import __version__
from celladapt.data.folder import Folder
from celladapt.data.sample import evenly
from celladapt.evaluation import score
from celladapt.files import write_json
from celladapt.instances import label_components, to_instances, to_mask
from celladapt.progress import Bar
from celladapt.reporting.paired import Difference, difference
from celladapt.run import Run

MEASURES = {"pq": "PQ", "aji": "AJI", "f1": "F1"}
SPLITTERS = COMPONENTS, CLEANED, OURS, TOLD = "components", "cleaned components", "to_instances", "told"

Scores = dict[str, dict[str, dict[str, float]]]
"""Stem -> splitter -> measure -> value."""


def told_apart(foreground: NDArray[np.bool_], truth: NDArray[np.int32]) -> NDArray[np.int32]:
    """What a splitter that knows the annotation makes of a foreground: labels (H, W), 0 = background, all of the foreground labelled.

    Each pixel goes to the annotated nucleus that is nearest, by ways within the foreground; a piece in which no nucleus is annotated is one by itself.
    """
    from skimage.segmentation import watershed

    labels: NDArray[np.int32] = watershed(ndimage.distance_transform_edt(truth == 0), truth * foreground, mask=foreground)
    alone = label_components(foreground & (labels == 0))
    return labels + np.where(alone > 0, alone + truth.max(), 0).astype(np.int32)


def split_and_score(probability: NDArray[Any], truth: NDArray[np.int32]) -> dict[str, dict[str, float]]:
    """Splitter -> measure -> value, of one image; ``probability`` may be a boolean mask."""
    ours = to_instances(probability)
    labels = {
        COMPONENTS: label_components(to_mask(probability)),
        CLEANED: label_components(ours > 0),
        OURS: ours,
        TOLD: told_apart(ours > 0, truth),
    }
    scores = {splitter: score(found, truth) for splitter, found in labels.items()}
    return {splitter: {measure: values[measure] for measure in MEASURES} for splitter, values in scores.items()}


def touching(truth: NDArray[np.int32]) -> int:
    """How many nuclei share a pixel edge with another one."""
    found: list[NDArray[np.int32]] = []
    for a, b in ((truth[1:], truth[:-1]), (truth[:, 1:], truth[:, :-1])):
        border = (a != b) & (a > 0) & (b > 0)
        found += [a[border], b[border]]
    return len(np.unique(np.concatenate(found)))


def exact(domain: Path, most: int) -> dict[str, Any]:
    """Scores on the binary annotation of at most ``most`` images of a domain, with how many nuclei there are and how many touch."""
    folder = Folder.open(domain)
    truths = {stem: folder.mask(stem) for stem in evenly(folder.labelled, most)}
    nuclei = sum(int(np.count_nonzero(np.unique(truth))) for truth in truths.values())
    scores = {stem: split_and_score(truth > 0, truth) for stem, truth in truths.items()}
    return {"nuclei": nuclei, "touching": sum(map(touching, truths.values())) / max(1, nuclei), "scores": scores}


def of_model(run: Run, most: int) -> dict[str, Any]:
    """Scores on a model's masks of at most ``most`` target test images of its run."""
    assert run.config.target
    folder = Folder.open(run.config.target)
    images = {stem: folder.pair(stem) for stem in evenly(run.splits[1].test, most)}
    scores = {stem: split_and_score(run.model.probability(image), truth) for stem, (image, truth) in images.items()}
    return {"method": run.config.method, "seed": run.config.seed, "target": run.config.target.name, "scores": scores}


def domains(data: Path) -> list[Path]:
    """Folders below ``data`` that hold ``images/`` and ``masks/``, in order."""
    return sorted(path.parent for path in data.rglob("masks") if path.is_dir() and (path.parent / "images").is_dir())


def runs(places: Iterable[Path]) -> dict[str, Run]:
    """Name -> finished run with a target: the places themselves where they are run folders, else what lies below them."""
    found = {}
    for place in places:
        for file in [place / "model.safetensors"] if (place / "config.toml").is_file() else sorted(place.rglob("model.safetensors")):
            run = Run(file.parent)
            if (file.parent / "config.toml").is_file() and file.exists() and run.config.target:
                found["/".join(file.parent.absolute().parts[-3:])] = run
    return found


def compared(scores: Scores, first: str, second: str, measure: str) -> Difference:
    """Two splitters on the same images, with an interval over images."""
    return difference(*([[splits[splitter][measure] for splits in scores.values()]] for splitter in (first, second)))


def exact_tables(record: dict[str, Any]) -> str:
    """Markdown: what there is, and what is lost on exact masks."""
    known = record["exact"]
    lines = ["| domain | images | nuclei | of these touch another |", "|---|--:|--:|--:|"]
    lines += [f"| {name} | {len(one['scores'])} | {one['nuclei']} | {one['touching']:.0%} |" for name, one in known.items()]
    lines += ["", "| domain | measure | components | `to_instances` | gain (95 % interval) | lost |", "|---|---|--:|--:|--:|--:|"]
    for measure, title in MEASURES.items():
        for name, one in known.items():
            scores = one["scores"]
            lost = 1 - _mean(scores, OURS, measure)
            lines.append(
                f"| {name} | {title} | {_spread(scores, COMPONENTS, measure)} | {_spread(scores, OURS, measure)} "
                f"| {_interval(compared(scores, OURS, COMPONENTS, measure))} | {lost:.3f} |"
            )
        before, after = (statistics.fmean(_mean(one["scores"], splitter, measure) for one in known.values()) for splitter in (COMPONENTS, OURS))
        lines.append(f"| **mean over domains** | {title} | {before:.3f} | {after:.3f} | {after - before:+.3f} | {1 - after:.3f} |")
    return "\n".join(lines)


def model_table(record: dict[str, Any]) -> str:
    """Markdown: what is lost on the masks of models, and how much of that by splitting."""
    lines = [
        "| target, method, test images | measure | components | cleaned components | `to_instances` | annotation known | gain over cleaned (95 % interval) | lost by splitting (95 % interval) |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for measure, title in MEASURES.items():
        for one in record["models"].values():
            scores = one["scores"]
            cells = [_spread(scores, splitter, measure) for splitter in SPLITTERS]
            cells += [_interval(compared(scores, *both, measure)) for both in ((OURS, CLEANED), (TOLD, OURS))]
            lines.append(f"| {one['target']}, {one['method']}, {len(scores)} | {title} | {' | '.join(cells)} |")
        means = {name: statistics.fmean(_mean(one["scores"], name, measure) for one in record["models"].values()) for name in SPLITTERS}
        gain, lost = means[OURS] - means[CLEANED], means[TOLD] - means[OURS]
        lines.append(f"| **mean over models** | {title} | {' | '.join(f'{mean:.3f}' for mean in means.values())} | {gain:+.3f} | {lost:+.3f} |")
    return "\n".join(lines)


def _mean(scores: Scores, splitter: str, measure: str) -> float:
    return statistics.fmean(splits[splitter][measure] for splits in scores.values())


def _spread(scores: Scores, splitter: str, measure: str) -> str:
    values = [splits[splitter][measure] for splits in scores.values()]
    return f"{statistics.fmean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _interval(one: Difference) -> str:
    ends = "" if one.low is None else f" ({one.low:+.3f} to {one.high:+.3f})"
    return f"{one.mean:+.3f}{ends}".replace("-", "−")


def main() -> None:
    """Split and score everything, write the figures, and put the tables into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder below which annotated domain folders lie")
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="RUN_OR_GRID", help="run folders, or folders of them")
    parser.add_argument("--most", type=int, default=1000, help="images of a domain or run at most, evenly chosen")
    parser.add_argument("--json", type=Path, required=True, help="file for the scores of every image")
    parser.add_argument("--into", type=Path, help="Markdown file with parts <!-- begin exact --> and <!-- begin models -->")
    a = parser.parse_args()
    folders, models = domains(a.data), runs(a.models)
    record: dict[str, Any] = {"celladapt": __version__, "exact": {}, "models": {}}
    with Bar("splitting", len(folders) + len(models)) as bar:
        for folder in folders:
            record["exact"][folder.relative_to(a.data).as_posix()] = exact(folder, a.most)
            bar.step(folder.name)
        for name, run in models.items():
            record["models"][name] = of_model(run, a.most)
            bar.step(name)
    write_json(a.json, record)
    for part, text in (("exact", exact_tables(record)), *([("models", model_table(record))] if models else [])):
        if a.into:
            put(a.into, part, text)
        else:
            print(text, end="\n\n")


if __name__ == "__main__":
    main()
