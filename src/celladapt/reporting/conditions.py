"""What the numbers of a benchmark rest on, in sentences: seeds, budget, split, spread, machine; and what a careful reader would object to."""

from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import Any

from celladapt.reporting.grid import LARGE_GAP, SUPERVISED, Cell, Grid, base, learns
from celladapt.reporting.reading import SOURCE_ONLY, mapping, number
from celladapt.reporting.rendering import METRICS, signed

GAP = "Gap closed: share of the way from source_only to supervised, in IoU, from the means over seeds; of a gap that is not significant it means little."
HARM = 0.01  # IoU, PQ or F1 below source-only that is more than noise: there adapting did harm
NAMED = 4  # pairs of which each is named in a sentence; of more the table says
# Options in which runs of one benchmark may differ without being on another budget.
ITS_OWN = {"source", "target", "method", "seed", "split", "device", "compile", "baseline", "keep_checkpoints", "checkpoint_every"}


def facts(grid: Grid) -> str:
    """Seeds, budget, split, selection and test images in one sentence, and loudly where runs differ in them."""
    seeds = f"{_count(len(grid.seeds), 'seed')} ({_span(grid.seeds)})"
    options = [cell.run.config for cell in grid.cells if cell.run and cell.run.config and cell.learns]
    groups = " or ".join(dict.fromkeys(cell.run.group for cell in grid.cells if cell.run and cell.run.group))
    parts = [seeds]
    if options:
        steps, width, crop, batch, split, pick = (
            " or ".join(dict.fromkeys(str(option[name]) for option in options if name in option))
            for name in ("steps", "width", "crop", "batch_size", "split_seed", "select")
        )
        budget = [
            text for value, text in ((steps, f"{steps} steps"), (width, f"width {width}"), (crop, f"crop {crop}"), (batch, f"batch {batch}")) if value
        ]
        parts += [", ".join(budget)] if budget else []
        parts += [f"split seed {split}"] if split else []
        parts += [f"images kept together by {groups}"] if groups else []
        parts += [f"checkpoint picked by {pick}"] if pick else []
    elif any(cell.learns for cell in grid.cells):
        parts.append("budget and split unknown, as no run folder says")
    parts.append(f"test images: {_all_tested(grid)}")
    differing = _differing(grid)
    return "; ".join(parts) + "." + (f" CAUTION: the runs DIFFER in {', '.join(differing)}." if differing else "")


def spread(grid: Grid) -> str:
    """What stands before and after ±."""
    if len(grid.seeds) > 1:
        return "Scores are means over test images; then mean ± sample standard deviation over seeds."
    return "Scores are means over test images. One seed: the spread over seeds is unknown."


def cautions(grid: Grid) -> list[str]:
    """Sentences on what makes the numbers less comparable or less sure than they look."""
    result = [
        f"Runs differ in {name}: " + "; ".join(f"{value} for {where}" for value, where in values.items()) + "."
        for name, values in _differing(grid).items()
    ]
    for pair in grid.pairs:
        cells = [cell for cell in grid.cells if cell.pair == pair]
        if len({tuple(sorted(cell.images)) for cell in cells if cell.images}) > 1:
            result.append(f"Runs on {pair} were NOT tested on the same images; comparisons use the {len(grid.test_images(pair))} that all share.")
        for part in ("source", "target", "test"):
            read = [
                cell for cell in cells if part != "source" or base(cell.method) != SUPERVISED
            ]  # which may have been trained beside another source
            prints = [mapping(cell.run.info.get("fingerprint")) for cell in read if cell.run]
            # What is in the folder beside that matters only where it is all that is known.
            name = f"{part}_training" if all(f"{part}_training" in known for known in prints) else part
            if len({known.get(name) for known in prints} - {None}) > 1:
                result.append(f"Runs on {pair} did NOT see the same {part} files: they changed between the runs.")
    result += [
        f"cells.csv does not agree with metrics.json of {cell.method} on {cell.pair}, seed {cell.seed}: {cell.scores['iou']:.3f} against {mean:.3f} IoU."
        for cell in grid.cells
        if "iou" in cell.scores and (mean := _mean(cell)) is not None and abs(mean - cell.scores["iou"]) > 1e-6
    ]
    return result


def no_gaps(grid: Grid) -> list[str]:
    """A sentence for each reason why no share of a gap can be given, with the pairs it holds for."""
    pairs: dict[str, list[str]] = {}
    for pair in grid.pairs:
        if reason := grid.no_gap(pair):
            pairs.setdefault(reason, []).append(pair)
    return [f"No gap to close on {', '.join(names)}: {reason}." for reason, names in pairs.items()]


def adapting(grid: Grid) -> list[str]:
    """Methods that learn and are neither of the two bounds."""
    return [method for method in grid.methods if learns(method) and method not in (SOURCE_ONLY, SUPERVISED)]


def across(grid: Grid, name: Callable[[str], str] = str) -> list[str]:
    """What a benchmark of several pairs says as a whole: the mean share of a large gap that is closed, and where adapting did harm; ``name`` writes the methods."""
    methods = adapting(grid)
    gaps = {
        method: found
        for method in (*methods, *(method for method in grid.methods if methods and not learns(method)))
        if len(found := grid.large_gaps(method)) > 1
    }
    result = []
    if gaps:
        most = sum((grid.width(pair) or 0) >= LARGE_GAP for pair in grid.pairs)
        parts = [
            f"{name(method)} closes {as_percent(fmean(found.values()))} of the gap in the mean, {as_percent(median(found.values()))} in the median "
            f"({as_percent(min(found.values()))} to {as_percent(max(found.values()))}{f'; {len(found)} pairs' * (len(found) < most)})"
            for method, found in gaps.items()
        ]
        result.append(f"Over the {most} pairs on which {name(SUPERVISED)} is at least {LARGE_GAP} IoU above {name(SOURCE_ONLY)}: {'; '.join(parts)}.")
    for measure in ("iou", "pq", "f1") if len(grid.pairs) > 1 else ():  # a mask may be better, and its nuclei worse told apart
        parts = []
        for method in methods:
            means = {pair: (grid.entry(pair, method, measure).mean, grid.entry(pair, SOURCE_ONLY, measure).mean) for pair in grid.pairs}
            gains = {pair: here - low for pair, (here, low) in means.items() if here is not None and low is not None}
            worse = [f"{pair} ({signed(gain)})" for pair, gain in gains.items() if gain < -HARM]
            verdict = f"{len(worse)} of {len(gains)} pairs: {', '.join(worse)}" if worse else f"none of {len(gains)} pairs"
            parts += [f"{name(method)} on {verdict}"] if gains else []
        result += [f"Below {name(SOURCE_ONLY)} by more than {HARM} {METRICS[measure]}: {'; '.join(parts)}."] if parts else []
    return result


def as_percent(share: float) -> str:
    """A share as a whole number of percent, typeset."""
    return f"{100 * share:.0f} %".replace("-0 %", "0 %").replace("-", "−")


def failures(grid: Grid) -> list[str]:
    """One sentence for each failed run."""
    return [f"{cell.method} on {cell.pair}, seed {cell.seed}, failed: {cell.error}" for cell in grid.cells if cell.error]


def machine(grid: Grid) -> str:
    """Versions and hardware in one sentence; with the number of runs where they differ. "" where no run says."""

    def words(info: dict[str, Any]) -> str:
        versions = [f"{name} {info[name]}" for name in ("celladapt", "torch") if info.get(name)]
        place = [str(info[name]) for name in ("device", "arithmetic") if info.get(name)]
        counts = [_count(int(value), one) for name, one in (("threads", "thread"), ("processes", "process")) if (value := number(info.get(name)))]
        return ", ".join([*versions, *place, *(count for count in counts if count != "1 process")])

    known = _distinct((cell for cell in grid.cells if cell.learns), words)
    if not known:
        return ""
    return "Computed with " + "; ".join(f"{text} ({_count(runs, 'run')})" if len(known) > 1 else text for text, runs in known.items()) + "."


def notes(grid: Grid) -> list[str]:
    """All that a table must say below itself."""
    return [
        facts(grid),
        *cautions(grid),
        spread(grid),
        GAP,
        *across(grid),
        *no_gaps(grid),
        *failures(grid),
    ]


def tested(grid: Grid, pair: str) -> str:
    """How many test images the runs on a pair were scored on."""
    return " or ".join(map(str, _tested(grid, pair))) or "unknown"


def _tested(grid: Grid, pair: str) -> list[int]:
    return sorted({len(cell.images) for cell in grid.cells if cell.pair == pair and cell.images})


def _all_tested(grid: Grid) -> str:
    """The same of all pairs, each named while they are few."""
    if len(grid.pairs) <= NAMED:
        return ", ".join(tested(grid, pair) + (f" ({pair})" if len(grid.pairs) > 1 else "") for pair in grid.pairs)
    counts = [count for pair in grid.pairs for count in _tested(grid, pair)]
    several = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else f"{counts[0] if counts else 'unknown'}"
    return f"{several} a pair"


def _differing(grid: Grid) -> dict[str, dict[str, str]]:
    """Option -> value -> where it holds, for the options that are not the same in all runs that learn."""
    cells = [(cell, cell.run.config) for cell in grid.cells if cell.run and cell.run.config and cell.learns]
    result = {}
    for name in dict.fromkeys(name for _, config in cells for name in config if name not in ITS_OWN):
        values: dict[str, list[Cell]] = {}
        for cell, config in cells:
            values.setdefault(str(config.get(name, "none")), []).append(cell)
        if len(values) > 1:
            result[name] = dict(zip(values, _where(list(values.values())), strict=True))
    return result


def _where(parts: list[list[Cell]]) -> list[str]:
    """What tells each part from the others: its methods, else its pairs, else only how many runs it has."""
    for key in (lambda cell: cell.method, lambda cell: cell.pair):
        sets = [list(dict.fromkeys(map(key, part))) for part in parts]
        if sum(map(len, sets)) == len(set().union(*sets)):
            return [", ".join(names) for names in sets]
    return [_count(len(part), "run") for part in parts]


def _distinct(cells: Iterable[Cell], words: Callable[[dict[str, Any]], str]) -> Counter[str]:
    """What ``words`` makes of the runs' records -> how many runs; an empty text is left out."""
    return Counter(text for cell in cells if cell.run and (text := words(cell.run.info)))


def _mean(cell: Cell) -> float | None:
    values = [scores["iou"] for scores in cell.images.values() if "iou" in scores]
    return fmean(values) if values else None


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 'es' if word.endswith('s') else 's'}"


def _span(seeds: list[str]) -> str:
    """ "0-2" for 0, 1, 2; otherwise each."""
    numbers = [int(seed) for seed in seeds if seed.isdecimal()]
    unbroken = len(numbers) == len(seeds) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if unbroken else ", ".join(seeds)
