"""Criteria without target labels, against values worked out by hand and by plain loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from celladapt.classical import PLAUSIBLE, Verdict, Witness
from celladapt.selection import (
    CLUES,
    RING,
    agreement,
    consistency,
    contrast,
    entropy,
    infomax,
    likeness,
    pixel_entropy,
    scores,
    snd,
    solid,
    uncut,
)


def maps(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) for shape in shapes]


def h(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


def test_pixel_entropy() -> None:
    p = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(pixel_entropy(p), torch.tensor([0.0, h(0.25), math.log(2), 0.0], dtype=torch.float64))


def test_entropy() -> None:
    assert entropy([torch.tensor([[0.25, 0.5]]), torch.tensor([[0.0], [1.0]])]) == pytest.approx(-((h(0.25) + h(0.5)) / 2 + 0) / 2)


def test_a_moved_threshold_is_moved_back() -> None:
    logits = torch.tensor([-8.0, -1.0, 0.0, 0.5, 8.0], dtype=torch.float64)
    cut = torch.sigmoid(logits - math.log(0.8 / 0.2))
    torch.testing.assert_close(uncut(cut, 0.8), torch.sigmoid(logits))
    assert uncut(cut, 0.5) is cut
    assert uncut(torch.tensor([0.0, 1.0]), 0.9).tolist() == [0, 1]


def test_whether_a_mask_is_of_one_class_is_asked_of_the_mask_as_it_is_cut() -> None:
    said = [torch.full((8, 8), 0.7)]
    said[0][:4] = 0.9
    cut = [uncut(said[0], 0.2)]  # the way back from a threshold of 0.2 is the way to one of 0.8
    assert (cut[0] >= 0.5).float().mean() == 0.5
    assert entropy(said, cut) == pytest.approx(-(h(0.7) + h(0.9)) / 2)
    assert entropy(said) == pytest.approx(-(h(0.7) + h(0.9)) / 2 - math.log(2))


@pytest.mark.parametrize("p", [1e-9, 1e-3, 0.4, 0.6, 0.999])
def test_by_entropy_a_mask_of_one_class_is_below_any_other_however_sure(p: float) -> None:
    collapsed = [torch.full((64, 64), p), torch.full((32, 40), p)]
    unsure = [torch.full((64, 64), 0.49), torch.full((32, 40), 0.51)]
    assert entropy(collapsed) == pytest.approx(-h(p) - math.log(2), abs=1e-6)
    assert entropy(collapsed) < -math.log(2) + 1e-6 < entropy(unsure) + 1e-3
    assert entropy(collapsed) < entropy(unsure)
    assert entropy([torch.zeros(3, 3)]) > entropy([torch.full((3, 3), 0.1)]), "where all are empty the surest still leads"
    few = torch.zeros(200, 200)
    few[:5, :5] = 1
    assert entropy([few]) == 0, "a nucleus in one image is no collapse"


def test_infomax() -> None:
    half_sure = [torch.tensor([[0.9, 0.9], [0.1, 0.1]]), torch.tensor([[0.2, 0.2]])]
    marginal = (0.5 + 0.2) / 2
    assert infomax(half_sure) == pytest.approx(h(marginal) - (h(0.1) + h(0.2)) / 2, abs=1e-6)
    assert infomax([torch.tensor([[0.0, 1.0]])]) == pytest.approx(math.log(2))  # the best there is


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_infomax_of_a_constant_is_0_and_less_than_of_any_other(p: float) -> None:
    assert infomax([torch.full((4, 5), p), torch.full((2, 2), p)]) == pytest.approx(0, abs=1e-6)
    assert infomax(maps(1, (8, 8))) > 0.01


def plain_snd(p: Tensor, temperature: float) -> float:
    """Saito et al. 2021, equations 1 to 3, in plain loops over all pixels."""
    features = [(float(q), 1 - float(q)) for q in p.flatten()]
    features = [(a / math.hypot(a, b), b / math.hypot(a, b)) for a, b in features]
    total = 0.0
    for i, (a, b) in enumerate(features):
        weights = [math.exp((a * c + b * d) / temperature) for j, (c, d) in enumerate(features) if j != i]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    return total / len(features)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_snd_of_equal_pixels_is_the_log_of_the_number_of_the_others(p: float) -> None:
    assert snd([torch.full((3, 4), p)]) == pytest.approx(math.log(11), abs=1e-9)


def test_snd_of_two_tight_clusters() -> None:
    two = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])  # every pixel has two like it; those across weigh exp(-1 / 0.05)
    assert snd([two]) == pytest.approx(math.log(2), abs=1e-6)


def test_snd_of_one_pixel_is_finite() -> None:
    assert snd([torch.tensor([[0.4]])]) == 0


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_snd_against_plain_loops(temperature: float) -> None:
    several = maps(2, (5, 7), (1, 9), (6, 2))
    expected = sum(plain_snd(p, temperature) for p in several) / 3
    assert snd(several, temperature=temperature) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", [64, 256, 400, 512])
def test_snd_looks_at_the_whole_image(side: int) -> None:
    """What a sample of the pixels sees must not hang on the image's width: here a ridge along the diagonal that most of the image has no part in."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ridge = (0.5 + 0.5 * torch.sin(x / 3.0)) * ((x - y).abs() <= 1)
    flat = torch.zeros(side, side)
    assert abs(snd([ridge]) - snd([flat])) < 0.4


def test_snd_does_not_change_its_input() -> None:
    (p,) = maps(3, (9, 9))
    before = p.clone()
    assert snd([p], pixels=16) == snd([p], pixels=16)
    assert torch.equal(p, before)


def test_consistency() -> None:
    equal = maps(4, (8, 9), (5, 5))
    assert consistency(equal, equal) == pytest.approx(1, abs=1e-4)
    assert consistency([torch.zeros(4, 4)], [torch.zeros(4, 4)]) == 0
    assert consistency([torch.ones(4, 4)], [torch.zeros(4, 4)]) == 0
    half = [torch.tensor([[1.0, 1.0, 0.0]])]
    other = [torch.tensor([[0.0, 1.0, 1.0]])]
    assert consistency(half, other) == pytest.approx(0.5, abs=1e-4)
    assert consistency(half + equal[:1], other + equal[:1]) == pytest.approx(0.75, abs=1e-4)
    with pytest.raises(ValueError, match="argument 2"):
        consistency(half, [])


def disc(side: int = 64, radius: float = 12) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (torch.hypot(y - side / 2, x - side / 2) <= radius).float()


def test_agreement_is_the_mean_iou_with_the_witness() -> None:
    p = torch.tensor([[0.9, 0.6, 0.1, 0.2]])
    c = torch.tensor([[True, False, False, False]])
    assert agreement([p, p], [seen(c), seen(p >= 0.5)]) == pytest.approx((0.5 + 1) / 2)
    assert likeness([p, p], [seen(c, 0.9), seen(p >= 0.5, 0.4)]) == pytest.approx((0.5 * 0.9 + 1 * 0.4) / 2)


def seen(mask: Tensor, solidity: float = 1.0) -> Witness:
    return Witness(mask.numpy(), Verdict(solidity, 0.0))


def test_a_witness_that_is_not_plausible_speaks_for_no_prediction() -> None:
    empty, p = torch.zeros(1, 4), torch.tensor([[0.9, 0.6, 0.1, 0.2]])
    nothing = Witness.of(empty.numpy() > 0)
    for criterion in (agreement, likeness):
        assert criterion([empty], [nothing]) == 0, "or an empty prediction would be held right"
        assert criterion([p, empty], [seen(p >= 0.5), nothing]) == criterion([p, p], [seen(p >= 0.5), nothing]) == 0.5
    assert agreement([p], [seen(p >= 0.5, PLAUSIBLE - 0.01)]) == 0


def test_contrast_by_hand() -> None:
    """Nuclei of 3 in every channel on a ground of 0, with one ground pixel of the ring raised: d² and v are worked out below."""
    mask = disc()
    image = (3 * mask).expand(3, -1, -1).clone()
    assert contrast([mask], [image]) == pytest.approx(1)  # each side of one colour
    near = int((mask[32] > 0).nonzero()[-1]) + 2
    image[:, 32, near] = 6
    ring = sum(
        1 for y in range(64) for x in range(64) if not mask[y, x] and mask[max(0, y - RING) : y + RING + 1, max(0, x - RING) : x + RING + 1].any()
    )
    mean, variance = 6 / ring, 36 / ring * (1 - 1 / ring) * ring / (ring - 1)
    d2, v = 3 * (3 - mean) ** 2, 3 * variance / 2
    assert contrast([mask], [image]) == pytest.approx(d2 / (d2 + v), rel=1e-5)


def test_contrast_sees_outlines_that_are_nowhere_and_masks_that_are_empty_or_full() -> None:
    generator = torch.Generator().manual_seed(0)
    image = disc().expand(3, -1, -1) + 0.3 * torch.randn(3, 64, 64, generator=generator)
    true, shifted = contrast([disc()], [image]), contrast([disc().roll(15, 0)], [image])
    assert true > 0.7 > 0.4 > shifted
    assert contrast([torch.zeros(64, 64)], [image]) == contrast([torch.ones(64, 64)], [image]) == 0


def test_every_criterion_of_a_segmenter_that_sees_brightness() -> None:
    images = [disc().expand(3, -1, -1), disc(40, 8).expand(3, -1, -1)]

    def found_by(predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return scores([predict(x) for x in images], predict, images, [Witness.of((image[0] > 0.5).numpy()) for image in images])

    found = found_by(lambda x: x[0].clamp(0.02, 0.98))
    criteria = {"infomax", "snd", "entropy", "consistency", "zoom", "contrast"}
    assert set(found) == criteria | set(CLUES)
    assert found["witnessed"] == 1
    assert found["solidity"] > 0.9
    assert found["likeness"] > 0.9
    assert found["agreement"] == 1
    assert found["zoom"] > 0.97
    assert found["contrast"] == pytest.approx(1)
    blind = found_by(lambda x: torch.full(x.shape[1:], 0.02))
    assert blind["agreement"] == blind["contrast"] == 0
    assert blind["solidity"] == 0


def test_solidity_counts_every_pixel_of_the_predictions_alike() -> None:
    """A square is its own convex hull; a right-angled L of three squares is 3/3.5 of its hull."""
    square, ell = np.zeros((64, 64), np.int32), np.zeros((64, 64), np.int32)
    square[10:20, 10:20] = 1
    ell[10:50, 10:30] = ell[30:50, 10:50] = 1
    of_ell = solid([ell])
    assert solid([square]) == 1
    assert of_ell == pytest.approx(6 / 7, abs=0.01)
    assert solid([square, ell]) == pytest.approx((100 + 1200 * of_ell) / 1300)
