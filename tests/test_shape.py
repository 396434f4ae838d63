"""Telling nuclei by their shape: discs are, crosses and crumbs are not, and what a ragged piece holds is not known."""

import numpy as np
import pytest
import torch
from skimage.morphology import convex_hull_image

from celladapt.shape import cleaned, solidity, usual_area

Y, X = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
DISC = torch.hypot(Y - 20, X - 20) <= 11
WHOLE_RING = torch.hypot(Y - 20, X - 60) <= 11
RING = WHOLE_RING & (torch.hypot(Y - 20, X - 60) > 5)
CRUMB = torch.hypot(Y - 50, X - 80) <= 3
CROSS = ((Y - 65).abs() <= 2) & ((X - 40).abs() <= 22) | ((X - 40).abs() <= 2) & ((Y - 65).abs() <= 22)


def test_what_can_be_learned_from_a_prediction() -> None:
    p = (0.9 * (DISC | RING | CRUMB | CROSS).float() + 0.05)[None, None]
    nuclei, known = cleaned(p, torch.ones(len(p), dtype=torch.bool))
    assert nuclei.shape == known.shape == p.shape
    assert torch.equal(nuclei[0, 0], DISC | WHOLE_RING), "the ring is filled; neither crumb nor cross is a nucleus"
    assert torch.equal(known[0, 0], ~CROSS), "of the cross nothing is known, while the crumb is background"


def cleaned_one(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    nuclei, known = cleaned(mask.float()[None, None], torch.tensor([True]))
    return nuclei[0, 0], known[0, 0]


def test_ragged_pieces_do_not_make_nuclei_crumbs() -> None:
    comb = (Y >= 44) & (Y <= 92) & (X >= 2) & (X <= 92) & ((X % 8 < 4) | (Y >= 86))
    small = torch.hypot(Y - 20, X - 20) <= 5
    assert small.sum() < 0.2 * comb.sum()
    nuclei, known = cleaned_one(small | comb)
    assert torch.equal(nuclei, small)
    assert torch.equal(known, ~comb)


def test_what_may_be_a_nucleus_cut_by_the_border_is_not_unlearned() -> None:
    cut = torch.hypot(Y - 20, X - 97) <= 5
    assert 20 <= cut.sum() < 0.2 * DISC.sum()
    nuclei, known = cleaned_one(DISC | cut)
    assert torch.equal(nuclei, DISC)
    assert torch.equal(known, ~cut)


def test_what_is_far_larger_than_a_nucleus_is_not_learned() -> None:
    """Such as the lumen of a gland, which is filled when the nuclei around it touch."""
    discs = torch.zeros_like(DISC)
    for y in range(8, 96, 16):
        for x in (8, 24, 88):
            discs |= torch.hypot(Y - y, X - x) <= 6
    gland = torch.hypot(Y - 48, X - 56) <= 16
    assert gland.sum() > 5 * (torch.hypot(Y - 8, X - 8) <= 6).sum()
    nuclei, known = cleaned_one(discs | gland)
    assert torch.equal(nuclei, discs)
    assert torch.equal(known, ~gland)


def test_nothing_predicted_is_background_everywhere() -> None:
    nuclei, known = cleaned(torch.full((2, 1, 32, 32), 0.1), torch.tensor([True, True]))
    assert not nuclei.any()
    assert known.all()


def test_images_are_cleaned_one_by_one() -> None:
    p = torch.stack([part.float() for part in (DISC, RING, CROSS)])[:, None]
    together = cleaned(p, torch.ones(len(p), dtype=torch.bool))
    for n in range(3):
        for one, other in zip(cleaned(p[n : n + 1], torch.tensor([True])), together, strict=True):
            assert torch.equal(one[0], other[n])


def test_an_image_that_is_not_wanted_holds_nothing_that_is_known() -> None:
    p = torch.stack([DISC.float(), DISC.float()])[:, None]
    nuclei, known = cleaned(p, torch.tensor([False, True]))
    assert not nuclei[0].any()
    assert not known[0].any()
    assert torch.equal(nuclei[1, 0], DISC)


def test_solidity_by_hand() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 2:12] = 1
    assert solidity(labels) == 1
    labels[20:30, 2:12] = labels[30:36, 2:4] = 5  # a square with a tail
    hull = float(convex_hull_image(labels == 5).sum())
    assert solidity(labels) == pytest.approx((100 + 112 * 112 / hull) / 212)
    assert solidity(np.zeros((4, 4), np.int32)) == 0


def test_the_usual_area_counts_pixels_not_pieces() -> None:
    assert usual_area(np.array([1] * 30 + [100, 0])) == 100
    assert usual_area(np.array([0, 0])) == 0
    assert usual_area(np.zeros(0, int)) == 0
