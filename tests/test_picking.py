"""Which checkpoint is kept as they come: the best by a criterion, and by entropy none that has collapsed."""

import math

import pytest

from celladapt.picking import Picked


def kept(criterion: str, *scores: tuple[float, float]) -> Picked:
    """Of checkpoints 1, 2, ... with an entropy and an infomax each."""
    picked = Picked()
    for step, (entropy, infomax) in enumerate(scores, start=1):
        picked = picked.after(step, criterion, {"entropy": entropy, "infomax": infomax, "labelled": infomax})
    return picked


def test_the_highest_score_wins_and_the_first_of_equals() -> None:
    assert kept("infomax", (-0.5, 0.2), (-0.4, 0.3), (-0.3, 0.3)).step == 2
    assert kept("entropy", (-0.5, 0.2), (-0.3, 0.3), (-0.3, 0.2)).step == 2
    assert kept("last", (-0.1, 0.3), (-0.5, 0.2)).step == 2
    assert kept("labelled", (-0.5, 0.2)).uses_target_labels
    assert not kept("entropy", (-0.5, 0.2)).uses_target_labels


def test_a_score_that_is_no_number_never_wins_but_as_the_first() -> None:
    assert kept("entropy", (-0.5, 0.2), (math.nan, math.nan), (-0.6, 0.2)).step == 1
    assert kept("entropy", (math.nan, math.nan), (-0.6, 0.2), (-0.7, 0.2)).step == 2


def test_by_entropy_a_collapse_does_not_win_however_sure_it_is() -> None:
    steady, empty = (-0.3, 0.20), (-0.01, 0.005)
    assert kept("entropy", (-0.5, 0.15), steady, empty, empty).step == 2
    assert kept("infomax", (-0.5, 0.15), steady, empty).step == 2
    assert kept("entropy", (-0.5, 0.15), steady, (-0.2, 0.11)).step == 3, "surer, and less even classes: no collapse"


def test_one_that_was_kept_gives_way_when_better_ones_show_that_it_was_collapsed() -> None:
    empty, recovered = (-0.01, 0.005), (-0.3, 0.2)
    assert kept("entropy", empty, recovered).step == 2
    assert kept("entropy", empty, recovered, (-0.2, 0.18), empty).step == 3


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_what_was_seen_before_a_stop_counts_after_it(cut: int) -> None:
    """As a checkpoint of the training keeps it."""
    from dataclasses import asdict

    scores = [(-0.5, 0.3), (-0.6, 0.4), (-0.3, 0.21), (-0.2, 0.19)]
    picked = Picked()
    for step, (entropy, infomax) in enumerate(scores, start=1):
        picked = picked.after(step, "entropy", {"entropy": entropy, "infomax": infomax})
        if step == cut:
            picked = Picked(**asdict(picked))
    assert picked.step == 3
