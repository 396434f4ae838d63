import math

import pytest
import torch

from celladapt.selection import consistency, entropy, infomax, snd


def test_entropy_by_hand() -> None:
    assert entropy([torch.full((2, 2), 0.5)]) == pytest.approx(-math.log(2))
    assert entropy([torch.tensor([[0.0, 1.0]])]) == 0


def test_infomax_by_hand_and_collapse() -> None:
    assert infomax([torch.tensor([[0.0, 1.0]])]) == pytest.approx(math.log(2))
    h = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert infomax([torch.tensor([[0.1, 0.9]])]) == pytest.approx(math.log(2) - h)
    for constant in (0.0, 0.3, 1.0):
        assert infomax([torch.full((8, 8), constant)]) == pytest.approx(0, abs=1e-6)


def test_snd_of_equal_pixels_is_the_log_of_their_number() -> None:
    assert snd([torch.full((5, 5), 0.3)]) == pytest.approx(math.log(24))


def test_snd_by_brute_force() -> None:
    p = torch.rand(1, 6, generator=torch.Generator().manual_seed(0)).double()
    features = [[v / math.hypot(v, 1 - v), (1 - v) / math.hypot(v, 1 - v)] for v in p[0].tolist()]
    total = 0.0
    for i, a in enumerate(features):
        weights = [math.exp((a[0] * b[0] + a[1] * b[1]) / 0.05) for j, b in enumerate(features) if j != i]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    assert snd([p]) == pytest.approx(total / 6)


def test_consistency() -> None:
    p = (torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    assert consistency([p], [p]) == pytest.approx(1, abs=1e-4)
    assert consistency([p], [1 - p]) == pytest.approx(0)
    assert consistency([torch.zeros(16, 16)], [torch.zeros(16, 16)]) == 0
