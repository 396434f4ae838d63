"""The IoU to expect without masks."""

import math

import pytest

from celladapt import quality
from celladapt.quality import Expectation, Known, expected_iou, preference

PLAIN = {
    "criteria": [["agreement", 0.5, 0.25, 0.0, 1.0], ["contrast", 0.4, 0.1, 0.2, 0.6]],
    "weights": [0.6, 0.3],
    "intercept": 0.6,
    "radius": 0.1,
    "radius_alone": 0.3,
    "optimism": 0.15,
    "radius_known": 0.2,
    "radius_known_alone": 0.35,
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "calibration", lambda: PLAIN)


@pytest.mark.usefixtures("plain")
def test_by_hand() -> None:
    found = expected_iou({"agreement": 0.625, "contrast": 0.5, "other": 9.0})
    iou = math.sin(0.6 + 0.6 * 0.5 + 0.3 * 1) ** 2
    assert found == Expectation(pytest.approx(iou), pytest.approx(iou - 0.1), pytest.approx(iou + 0.1))  # type: ignore[arg-type]


@pytest.mark.usefixtures("plain")
def test_of_a_single_image_less_is_known() -> None:
    scores = {"agreement": 0.5, "contrast": 0.4}
    several, alone = expected_iou(scores), expected_iou(scores, alone=True)
    assert alone.iou == several.iou
    assert (alone.low, alone.high) == (pytest.approx(several.low - 0.2), pytest.approx(several.high + 0.2))


def test_where_the_classical_segmentation_is_mute_the_interval_says_that_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = {**PLAIN, "radius_unwitnessed": 1.0, "radius_alone_unwitnessed": 0.4}
    monkeypatch.setattr(quality, "calibration", lambda: fitted)
    scores = {"agreement": 0.5, "contrast": 0.4}
    seen, mute = (expected_iou({**scores, "witnessed": share}) for share in (0.5, 0.4))
    assert seen == expected_iou(scores)
    assert seen.told
    assert (mute.iou, mute.low, mute.high, mute.told) == (seen.iou, 0.0, 1.0, False)
    assert "cannot be told" in mute.words
    assert "0." not in mute.words, "no number that looks like one"
    alone = expected_iou({**scores, "witnessed": 0.0}, alone=True)
    assert (alone.iou, alone.high) == (seen.iou, pytest.approx(min(1.0, seen.iou + 0.4)))
    here, elsewhere = (expected_iou({**scores, "witnessed": 0.0}, known=Known(0.8, {**scores, "witnessed": share}, 1)) for share in (0.5, 1.0))
    assert here.high - here.low == pytest.approx(0.4), "masks of such images tell what it cannot"
    assert not elsewhere.told, "those of images that are not like these do not"


@pytest.mark.usefixtures("plain")
def test_a_criterion_beyond_what_was_fitted_counts_as_the_nearest_that_was() -> None:
    assert expected_iou({"agreement": 0.5, "contrast": 99.0}) == expected_iou({"agreement": 0.5, "contrast": 0.6})


@pytest.mark.usefixtures("plain")
def test_the_interval_stays_in_0_to_1() -> None:
    best, worst = expected_iou({"agreement": 1.0, "contrast": 0.6}), expected_iou({"agreement": 0.0, "contrast": 0.2})
    assert (best.iou, best.high) == (1, 1), "the sine falls again beyond a right angle"
    assert (worst.iou, worst.low) == (0, 0)


@pytest.mark.usefixtures("plain")
def test_nothing_is_promised_of_a_broken_network() -> None:
    assert expected_iou({"agreement": math.nan, "contrast": 0.5}) == Expectation(0.0, 0.0, 0.0)


@pytest.mark.usefixtures("plain")
def test_masks_that_a_model_was_given_move_what_its_clues_promise() -> None:
    scores, there = {"agreement": 0.5, "contrast": 0.4}, {"agreement": 0.5, "contrast": 0.5}  # of which the angles are 0.6 and 0.9
    found = expected_iou(scores, known=Known(0.8, there, images=3))
    iou = math.sin(0.6 + math.asin(math.sqrt(0.8)) - 0.9 - 0.15) ** 2
    assert found == Expectation(pytest.approx(iou), pytest.approx(iou - 0.2), pytest.approx(iou + 0.2), 3)  # type: ignore[arg-type]
    assert "on 3 images whose masks it was given" in found.words
    assert "an image whose mask it was given" in expected_iou(scores, known=Known(0.8, there, 1)).words
    assert expected_iou(scores, known=Known(0.8, {"agreement": 0.0, "contrast": 0.2}, 1)).iou == 0.8, "no better than where it has learned"
    assert expected_iou(scores, known=Known(0.1, there, 1)).iou < expected_iou(scores).iou, "worse than it seemed"
    alone = expected_iou(scores, alone=True, known=Known(0.8, there, 3))
    assert (alone.iou, alone.low) == (found.iou, pytest.approx(iou - 0.35))
    for clues in ({"agreement": 0.5}, {"agreement": 0.5, "contrast": math.nan}):
        assert expected_iou(scores, known=Known(0.8, clues, 3)) == expected_iou(scores), "of a version with other clues"


def test_a_model_that_learned_from_the_classical_segmentation_is_promised_the_lower_of_two_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        quality, "calibration", lambda: {**PLAIN, "classical": {"criteria": [["contrast", 0.4, 0.1, 0.3, 0.6]], "weights": [0.2], "intercept": 0.7}}
    )
    agrees, fails = {"agreement": 0.9, "contrast": 0.5}, {"agreement": 0.0, "contrast": 0.2}
    found = expected_iou(agrees, classical=True)
    iou = math.sin(0.7 + 0.2 * 1) ** 2
    assert iou < expected_iou(agrees).iou
    assert found == Expectation(pytest.approx(iou), pytest.approx(iou - 0.1), pytest.approx(iou + 0.1))  # type: ignore[arg-type]
    assert expected_iou(fails, classical=True) == expected_iou(fails), "which is lower than any that was seen of such models"
    known = Known(0.8, agrees, 3)
    assert expected_iou(agrees, known=known, classical=True) == expected_iou(agrees, known=known), "its masks tell what agreeing is worth"


@pytest.mark.parametrize("header", [{}, {"classical": False}, {"classical": "yes"}, {"classical": None}])
def test_what_a_header_does_not_say_a_model_has_not_learned(header: dict[str, object]) -> None:
    assert not quality.may_know_classical(header)
    assert quality.may_know_classical({"classical": True})


@pytest.mark.parametrize(
    "entry",
    [
        None,
        3,
        {},
        {"iou": 2.0, "clues": {}, "images": 1},
        {"iou": "x", "clues": {}, "images": 1},
        {"iou": 0.5, "clues": {"a": "b"}, "images": 1},
        {"iou": 0.5, "clues": [], "images": 1},
        {"iou": 0.5},
    ],
)
def test_what_a_header_does_not_know_is_not_known(entry: object) -> None:
    assert Known.of({"known": entry}) is None
    assert Known.of({}) is None
    assert Known.of({"known": {"iou": 0.5, "clues": {"a": 1}, "images": 2}}) == Known(0.5, {"a": 1.0}, 2)


def test_a_low_one_warns() -> None:
    assert "low" in Expectation(0.3, 0.1, 0.5).words
    assert "low" not in Expectation(0.8, 0.7, 0.9).words


def test_who_agrees_with_a_witness_that_is_not_plausible_is_no_better_for_that() -> None:
    """The drawn tissue: source-only marks the stroma that the witness sees too, the adapted model whole nuclei."""
    silent = {"witnessed": 0.0, "agreement": 0.0}
    before, after = {**silent, "likeness": 0.49, "solidity": 0.866}, {**silent, "likeness": 0.41, "solidity": 0.898}
    assert preference(after) > preference(before)
    heard = {"witnessed": 1.0, "solidity": 0.9}
    assert preference({**heard, "agreement": 0.7}) > preference({**heard, "agreement": 0.5})


def test_the_stored_fit_tells_nothing_from_something() -> None:
    """A segmenter that sees nothing is not promised what one that fits the image and the witness is."""
    names = [row[0] for row in quality.calibration()["criteria"]]
    nothing = expected_iou(dict.fromkeys(names, 0.0))
    good = expected_iou(dict.fromkeys(names, 0.9))
    assert nothing.iou < 0.3
    assert good.iou > 0.6
