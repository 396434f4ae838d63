"""The interval of a difference: exact where the answer is known, and about as sure as it says where it is simulated."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_ind, ttest_rel

from celladapt.reporting.differences import Comparison
from celladapt.reporting.paired import Difference, difference


def scores(seed: int, seeds: int = 3, images: int = 12) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0.3, 0.9, (seeds, images))


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_result_under_two_names_differs_by_exactly_nothing(seeds: int) -> None:
    a = scores(0, seeds)
    result = difference(a, a.copy())
    assert (result.mean, result.low, result.high) == (0.0, 0.0, 0.0)
    assert not result.significant
    assert result.in_words("a", "b").startswith("a and b have the same IoU on every image")


@pytest.mark.parametrize("seeds", [(1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize("groups", [None, ["p", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"]])
def test_a_constant_shift_is_found_exactly(seeds: tuple[int, int], groups: list[str] | None) -> None:
    images = scores(1, 1)
    a, b = (np.repeat(images, count, axis=0) for count in seeds)
    result = difference(a + 0.05, b, groups)
    assert result.mean == pytest.approx(0.05, abs=1e-12)
    assert result.low == pytest.approx(0.05, abs=1e-12)
    assert result.high == pytest.approx(0.05, abs=1e-12)
    assert result.significant
    assert result.seeds == seeds


def test_with_one_seed_each_it_is_the_paired_t_test() -> None:
    a, b = scores(2, 1), scores(3, 1)
    known = ttest_rel(a[0], b[0]).confidence_interval(0.95)
    result = difference(a, b)
    assert (result.low, result.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_where_seeds_alone_differ_it_is_welchs_test() -> None:
    a, b = np.array([0.6, 0.7, 0.65, 0.9]), np.array([0.5, 0.52, 0.55])
    known = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    result = difference(np.repeat(a[:, None], 8, axis=1), np.repeat(b[:, None], 8, axis=1))
    assert (result.low, result.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_the_order_of_the_two_turns_the_sign() -> None:
    result = difference(scores(2, 2), scores(3, 3))
    turned = -result
    assert (turned.mean, turned.low, turned.high, turned.seeds) == (-result.mean, -(result.high or 0), -(result.low or 0), (3, 2))


def test_images_that_repeat_a_patient_tell_less() -> None:
    """Eight patients of five equal images each are eight things, not forty."""
    a, b = (np.repeat(scores(seed, seeds=1, images=8), 5, axis=1) for seed in (4, 5))
    groups = [f"patient{index // 5}" for index in range(40)]
    alone, together = difference(a, b), difference(a, b, groups)
    assert alone.low is not None
    assert alone.high is not None
    assert together.low is not None
    assert together.high is not None
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    assert together.groups == 8
    assert together.images == 40
    one_each = difference(a[:, ::5], b[:, ::5])
    assert (together.low, together.high) == pytest.approx((one_each.low, one_each.high)), "each patient counts as one image would"


def test_seeds_that_differ_widen_the_interval() -> None:
    a, b = scores(6, 1), scores(7, 1)
    apart = np.array([[-0.1], [0.0], [0.1]])
    steady, shaky = difference(np.repeat(a, 3, axis=0), b), difference(a + apart, b)
    assert steady.mean == pytest.approx(shaky.mean)
    assert steady.low is not None
    assert shaky.low is not None
    assert shaky.low < steady.low - 0.02


def test_seeds_of_the_two_methods_are_drawn_apart() -> None:
    """Seeds are drawn for each method by itself: what two methods share by a seed (first weights, crops) makes the interval wide rather than narrow."""
    a, b = scores(6, 1), scores(7, 1)
    apart = np.array([[-0.1], [0.0], [0.1]])
    one, both = difference(a + apart, b), difference(a + apart, b + apart)
    assert one.low is not None
    assert both.low is not None
    assert both.low < one.low - 0.01


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(("image_sd", "of_a", "of_b"), [(0.03, 0.02, 0.02), (0.0, 0.04, 0.04), (0.0, 0.04, 0.0)])
def test_it_is_about_as_sure_as_it_says(seeds: int, image_sd: float, of_a: float, of_b: float) -> None:
    """Simulated methods of equal worth, whose images, seeds and noise differ: 95 % of the intervals should hold zero."""
    rng = np.random.default_rng(8)
    held = []
    for _ in range(1000):
        image = rng.normal(0.6, 0.1, 20)
        a, b = (image + rng.normal(0, image_sd, 20) + rng.normal(0, sd, (seeds, 1)) + rng.normal(0, 0.02, (seeds, 20)) for sd in (of_a, of_b))
        held.append(not difference(a, b).significant)
    assert (0.925 if seeds > 2 else 0.87) <= np.mean(held) <= 0.99


def test_too_few_images_or_patients_are_not_tested() -> None:
    few = difference(scores(0, images=2), scores(1, images=2))
    assert (few.low, few.high, few.significant) == (None, None, False)
    assert few.in_words("a", "b").endswith("; too few test images (2) for a test")
    patients = difference(scores(0), scores(1), ["p", "q", "r"] * 4)
    assert patients.in_words("a", "b").endswith("; too few groups of test images (3) for a test")
    assert difference(scores(0, images=6), scores(1, images=6)).low is not None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Difference(0.021, 0.004, 0.039, 22, (3, 3)), "a is 0.021 IoU above b (95 % interval 0.004 to 0.039, 22 images, 3 seeds)"),
        (Difference(-0.01, -0.03, 0.01, 22, (3, 3)), "a is 0.010 IoU below b, not significant: the 95 % interval −0.030 to 0.010 holds zero (22 images, 3 seeds)"),
        (Difference(-0.1, -0.2, -0.00004, 9, (1, 3), 7), "a is 0.100 IoU below b (95 % interval −0.200 to −4e-05, 9 images in 7 groups, 1 and 3 seeds)"),
        (Difference(0.1, 0.05, 0.2, 9, (1, 1)), "a is 0.100 IoU above b (95 % interval 0.050 to 0.200, 9 images, 1 seed, so it says nothing of other seeds)"),
    ],
)  # fmt: skip
def test_the_verdict_in_words(value: Difference, words: str) -> None:
    assert value.in_words("a", "b") == words


@pytest.mark.parametrize(
    ("a", "b", "groups"),
    [
        ([0.5, 0.6], [0.5, 0.6], None),
        ([[0.5, 0.6]], [[0.5]], None),
        ([[0.5, float("nan")]], [[0.5, 0.6]], None),
        ([[]], [[]], None),
        ([[0.5, 0.6]], [[0.5, 0.6]], ["p"]),
    ],
)
def test_what_is_no_pair_of_scores_is_refused(a: list[float], b: list[float], groups: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"scores must be|must cover the same images"):
        difference(a, b, groups)


@pytest.mark.parametrize(
    ("seeds", "other", "firm"),
    [((1, 1), "source_only", False), ((1, 3), "source_only", False), ((3, 3), "source_only", True), ((3, 1), "classical", True)],
)
def test_of_what_learns_one_seed_is_never_firm(seeds: tuple[int, int], other: str, firm: bool) -> None:
    found = Difference(0.1, 0.05, 0.2, 9, seeds)
    assert found.significant
    assert Comparison("a → b", "iou", "weakuda", other, found).firm == firm
