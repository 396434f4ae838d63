"""Each loss against a value worked out by hand."""

import math

import pytest
import torch
from torch import nn

from celladapt.losses import Domain, cross_entropy_loss, domain_loss, r1_penalty, self_information, soft_dice_loss


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


def test_cross_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25], [0.25, 0.125]]).view(2, 1, 1, 2)
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    first, second = (math.log(2) - math.log(0.75)) / 2, (math.log(4) + math.log(8)) / 2
    assert cross_entropy_loss(p, y, torch.ones(2)).item() == pytest.approx((first + second) / 2)
    assert cross_entropy_loss(p, y, torch.tensor([True, False])).item() == pytest.approx(first), "a mean over the images that count"
    p.requires_grad_(True)
    nothing = cross_entropy_loss(p, y, torch.zeros(2))
    (1e9 * nothing).backward()
    assert nothing.item() == 0
    assert p.grad is not None
    assert not p.grad.any()


def test_cross_entropy_of_a_prediction_that_could_not_be_more_wrong_is_finite_and_so_is_its_gradient() -> None:
    p = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).requires_grad_(True)
    loss = cross_entropy_loss(p, torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.ones(1))
    loss.backward()
    assert p.grad is not None
    assert math.isfinite(loss.item())
    assert p.grad.isfinite().all()


def test_cross_entropy_does_not_forget_background_where_nuclei_are_few() -> None:
    """As soft Dice does: its slope at a pixel of background falls with the overlap, which is small where nuclei are."""
    y = torch.zeros(1, 1, 100, 100)
    y[..., :2, :2] = 1
    slopes = []
    for loss in (lambda p: soft_dice_loss(p, y), lambda p: cross_entropy_loss(p, y, torch.ones(1))):
        p = torch.full((1, 1, 100, 100), 0.5, requires_grad=True)
        loss(p).backward()
        assert p.grad is not None
        slopes.append((p.grad[0, 0, -1, -1] / -p.grad[0, 0, 0, 0]).item())
    # Dice: N = 2·2 + 1, M = 5000 + 4 + 1:  N / (2·M - N);  cross-entropy: as steep off nuclei as on them
    assert slopes == pytest.approx([5 / 10005, 1])


@pytest.mark.parametrize(("domain", "by_hand"), [(Domain.SOURCE, math.log(1 + math.e**2)), (Domain.TARGET, math.log(1 + math.e**-2))])
def test_domain_loss_by_hand(domain: Domain, by_hand: float) -> None:
    # One logit 2:  -log(1 - σ(2)) = log(1 + e²) as source (0),  -log σ(2) = log(1 + e⁻²) as target (1)
    assert domain_loss(torch.full((2, 1, 3, 3), 2.0), domain).item() == pytest.approx(by_hand, rel=1e-6)


def test_an_undecided_discriminator_costs_log_two_either_way() -> None:
    zeros = torch.zeros(1, 1, 2, 2)
    assert domain_loss(zeros, Domain.SOURCE).item() == pytest.approx(math.log(2)) == domain_loss(zeros, Domain.TARGET).item()


def test_weights_of_images_are_factors_before_the_mean() -> None:
    logits = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3)
    zero, two = math.log(2), math.log1p(math.exp(2))
    assert domain_loss(logits, Domain.SOURCE, torch.tensor([1.0, 3.0])).item() == pytest.approx((zero + 3 * two) / 2, rel=1e-6)
    assert domain_loss(logits, Domain.SOURCE, torch.zeros(2)).item() == 0


def test_self_information_by_hand() -> None:
    p = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 1, 4)
    nucleus, background = self_information(p)[0, :, 0]
    assert nucleus.tolist() == pytest.approx([0, math.log(4) / 4, math.log(2) / 2, 0])
    assert background.tolist() == pytest.approx([0, 0.75 * math.log(4 / 3), math.log(2) / 2, 0])


def test_self_information_of_a_saturated_sigmoid_has_a_gradient_of_zero() -> None:
    logits = torch.tensor([-200.0, 0.0, 200.0]).view(1, 1, 1, 3).requires_grad_()
    self_information(torch.sigmoid(logits))[:, 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0, (math.log(2) - 1) / 4, 0])  # d/dp = -log p - 1, times p·(1 - p)


def test_r1_of_a_linear_discriminator_by_hand() -> None:
    D, p = nn.Conv2d(1, 1, 2, stride=2), torch.rand(3, 1, 2, 2)
    with torch.no_grad():
        D.weight.copy_(torch.tensor([1.0, -2.0, 0.0, 2.0]).view(1, 1, 2, 2))
    penalty = r1_penalty(D, p)
    assert penalty.item() == pytest.approx(1 + 4 + 4)  # ‖w‖² whatever p is
    penalty.backward()
    assert D.weight.grad is not None
    assert D.weight.grad.flatten().tolist() == pytest.approx([2, -4, 0, 4])
    assert r1_penalty(D, torch.rand(1, 1, 8, 6)).item() == pytest.approx(9), "a larger image of the same is no steeper"
