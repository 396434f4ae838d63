"""Each loss against a value worked out by hand."""

import math

import pytest
import torch

from celladapt.losses import Domain, domain_loss, soft_dice_loss


def test_soft_dice_by_hand() -> None:
    p, y = torch.tensor([[0.5, 1.0], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    # Σp·y = 1.5, Σp = 2, Σy = 2:  1 - (3 + 1) / (4 + 1)
    assert soft_dice_loss(p, y).item() == pytest.approx(1 - 4 / 5)


def test_soft_dice_is_over_the_whole_batch_not_a_mean_of_images() -> None:
    p, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    p[0], y[0] = 1.0, 1.0
    y[1] = 1.0  # the second image is missed wholly: per image 0 and 0.8, over the batch 1 - 9/13
    assert soft_dice_loss(p, y).item() == pytest.approx(1 - 9 / 13)


def test_soft_dice_of_two_empty_masks_is_zero() -> None:
    assert soft_dice_loss(torch.zeros(4), torch.zeros(4)).item() == 0


def test_soft_dice_gradient_by_hand() -> None:
    p = torch.tensor([0.5, 0.5], requires_grad=True)
    soft_dice_loss(p, torch.tensor([1.0, 0.0])).backward()
    # N = 2, M = 3:  -(2·y·M - N) / M²  ->  -(6 - 2) / 9 on the nucleus,  +2 / 9 off it
    assert p.grad is not None
    assert p.grad.tolist() == pytest.approx([-4 / 9, 2 / 9])


@pytest.mark.parametrize(("domain", "by_hand"), [(Domain.SOURCE, math.log(1 + math.e**2)), (Domain.TARGET, math.log(1 + math.e**-2))])
def test_domain_loss_by_hand(domain: Domain, by_hand: float) -> None:
    # One logit 2:  -log(1 - σ(2)) = log(1 + e²) as source (0),  -log σ(2) = log(1 + e⁻²) as target (1)
    assert domain_loss(torch.full((2, 1, 3, 3), 2.0), domain).item() == pytest.approx(by_hand, rel=1e-6)


def test_an_undecided_discriminator_costs_log_two_either_way() -> None:
    zeros = torch.zeros(1, 1, 2, 2)
    assert domain_loss(zeros, Domain.SOURCE).item() == pytest.approx(math.log(2)) == domain_loss(zeros, Domain.TARGET).item()
