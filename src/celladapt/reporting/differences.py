"""Every two methods of a benchmark compared on every pair."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from celladapt.errors import InputError
from celladapt.reporting.grid import Grid, learns
from celladapt.reporting.paired import Difference, difference
from celladapt.reporting.reading import SOURCE_ONLY
from celladapt.reporting.rendering import METRICS

COMPARED = ("iou", "dice")


@dataclass(frozen=True)
class Comparison:
    """Method ``a`` less method ``b`` on a pair by one measure."""

    pair: str
    measure: str
    a: str
    b: str
    difference: Difference

    @property
    def firm(self) -> bool:
        """Whether it is significant, and each of the two that learns was trained with more than one seed."""
        return self.difference.significant and not any(
            seeds == 1 and learns(method) for method, seeds in zip((self.a, self.b), self.difference.seeds, strict=True)
        )

    def in_words(self, name: Callable[[str], str] = str) -> str:
        """One sentence without its full stop; ``name`` writes the methods."""
        return self.difference.in_words(name(self.a), name(self.b), METRICS[self.measure])


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a benchmark: by pair, measure and two methods, the later of the grid's order less the earlier."""

    every: list[Comparison]

    def find(self, pair: str, measure: str, a: str, b: str) -> Comparison | None:
        """``a`` less ``b``, in either order of the two; None where they share no scored image."""
        for one in self.every:
            if (one.pair, one.measure) == (pair, measure) and {one.a, one.b} == {a, b}:
                return one if one.a == a else Comparison(pair, measure, a, b, -one.difference)
        return None

    def with_source_only(self, grid: Grid, pair: str, measure: str = "iou") -> list[Comparison]:
        """Every other method less source-only, in the grid's order."""
        return [one for method in grid.methods if method != SOURCE_ONLY and (one := self.find(pair, measure, method, SOURCE_ONLY))]


def compare(grid: Grid) -> Comparisons:
    """Compare every two methods on the test images that all their runs on a pair have scored.

    Raises:
        InputError: a run's group pattern is not a regular expression.
    """
    every = []
    for pair in grid.pairs:
        for measure in COMPARED:
            scores = {method: [cell.images for cell in grid.of(pair, method) if cell.images] for method in grid.methods}
            for earlier, later in combinations([method for method in grid.methods if scores[method]], 2):
                stems = _shared([*scores[later], *scores[earlier]], measure)
                if stems:
                    a, b = (np.array([[run[stem][measure] for stem in stems] for run in scores[method]]) for method in (later, earlier))
                    every.append(Comparison(pair, measure, later, earlier, difference(a, b, _groups(grid, pair, stems))))
    return Comparisons(every)


def _shared(runs: list[dict[str, dict[str, float]]], measure: str) -> list[str]:
    """Stems that every run has scored by ``measure``, sorted."""
    return sorted(set.intersection(*({stem for stem, scores in run.items() if measure in scores} for run in runs)))


def _groups(grid: Grid, pair: str, stems: list[str]) -> list[str] | None:
    """Patient or slide of each test image by the pattern that the split kept them together by; None without one."""
    pattern = next((cell.run.group for cell in grid.cells if cell.pair == pair and cell.run and cell.run.group), "")
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"A run on {pair} has the group '{pattern}', which is not a regular expression ({error}).") from None
    return [group_of(compiled, stem) for stem in stems]


def group_of(pattern: re.Pattern[str], stem: str) -> str:
    """Name of an image's group, as the split makes it: the match's first parenthesis if there is one, the match, or without any the stem itself."""
    match = pattern.search(stem)
    if match is None:
        return stem
    return match[1] if pattern.groups and match[1] is not None else match[0]
