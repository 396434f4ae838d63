"""Which checkpoint of a run to keep, as they come."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

COLLAPSED = 0.5
"""Share of the run's greatest infomax so far below which a segmenter, however sure, is taken to be on its way to an empty or full mask."""


@dataclass(frozen=True)
class Picked:
    """The checkpoint to keep, so far."""

    step: int = 0
    criterion: str = ""
    score: float | None = None
    uses_target_labels: bool = False
    infomax: float = 0.0
    """Of the checkpoint."""
    most: float = 0.0
    """The greatest infomax that any checkpoint of the run has had."""

    def after(self, step: int, criterion: str, scores: Mapping[str, float]) -> "Picked":
        """What is to be kept once a checkpoint has its scores: of those so far the one that ``criterion`` puts highest, the first of equals.

        An empty prediction is as sure as can be, so by entropy no checkpoint wins that has collapsed, while there is one that has not.

        Args:
            step: when it was made; its score by ``last``.
            criterion: name in ``scores``, or ``last``.
            scores: of ``selection.scores``.
        """
        infomax = scores.get("infomax", 0.0)
        most = max(self.most, infomax) if math.isfinite(infomax) else self.most
        score = float(step) if criterion == "last" else scores[criterion]
        # A score that is not a number never wins, and the first one always does.
        wins = self.score is None or not math.isfinite(self.score) or score > self.score
        if criterion == "entropy" and self.score is not None:
            wins = (wins or self.infomax < COLLAPSED * most) and not infomax < COLLAPSED * most
        return Picked(step, criterion, score, criterion == "labelled", infomax, most) if wins else replace(self, most=most)
