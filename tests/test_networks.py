import pytest
import torch
from torch import nn

from celladapt.networks import Discriminator, FeatureDiscriminator, Segmenter, UNet, folded, pad_to_multiple, with_statistics_of


@pytest.mark.parametrize(
    ("network", "published"),
    [(lambda: Segmenter(), 14_788_929), (lambda: UNet(1, 3), 14_787_907), (lambda: Discriminator(), 2_762_689)],
    ids=["S", "R", "D"],
)
def test_parameter_counts_are_the_published_ones(network: object, published: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == published  # type: ignore[operator]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (5, 70), (33, 16)])
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    p = Segmenter(4).eval()(torch.randn(1, 3, *size))
    assert p.shape == (1, 1, *size)
    assert p.min() >= 0
    assert p.max() <= 1
    assert UNet(1, 3, 4).eval()(p).shape == (1, 3, *size)
    assert Discriminator(4)(p).numel() >= 1


def test_padding_leaves_the_image_where_it_was() -> None:
    x = torch.randn(1, 2, 10, 20)
    padded = pad_to_multiple(x, 16)
    assert padded.shape == (1, 2, 16, 32)
    assert torch.equal(padded[..., :10, :20], x)
    assert torch.equal(padded[..., 10, :20], x[..., 8, :])  # reflected, not zero
    assert pad_to_multiple(padded, 16) is padded


def test_the_discriminator_map_is_a_thirty_second() -> None:
    assert Discriminator(4)(torch.rand(2, 1, 128, 96)).shape == (2, 1, 4, 3)


def test_features_are_the_bottom_of_the_u_and_leave_the_prediction_as_it_is() -> None:
    network, x = Segmenter(4).eval(), torch.randn(2, 3, 70, 33)
    p, features = network(x, features=True)
    assert torch.equal(p, network(x))
    assert torch.equal(features, network.encode(x)[-1])
    assert features.shape == (2, 32, 5, 3)
    assert FeatureDiscriminator(4)(features).shape == (2, 1, 5, 3)


def test_a_place_at_the_bottom_sees_140_pixels() -> None:
    network = Segmenter(2).eval().double()
    with torch.no_grad():  # positive weights, so that no rectifier hides what a place sees
        for weight in network.parameters():
            weight.abs_()
    x = torch.rand(1, 3, 320, 320, dtype=torch.float64, requires_grad=True)
    network(x, features=True)[1][0, :, 10, 10].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 <= 140


def test_the_discriminator_takes_more_channels() -> None:
    assert Discriminator(4, inputs=2)(torch.rand(1, 2, 40, 20)).shape == (1, 1, 1, 1)


def test_bf16_probabilities_are_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Segmenter(4)(torch.randn(1, 3, 32, 32)).dtype == torch.float32


def test_statistics_are_those_of_the_batches_and_the_original_is_untouched() -> None:
    torch.manual_seed(0)
    network = Segmenter(4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    batches = [torch.randn(2, 3, 32, 32) * 3 + 1 for _ in range(3)]
    adapted = with_statistics_of(network, batches)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not adapted.training
    first_conv, first_norm = adapted.down[0][0], adapted.down[0][1]
    assert isinstance(first_norm, nn.BatchNorm2d)
    means = torch.stack([first_conv(x).mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(first_norm.running_mean, means, rtol=1e-4, atol=1e-5)


def test_folding_batch_normalisation_leaves_the_function_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    network = Segmenter(4).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                assert values is not None
                values.normal_(0, 0.5, generator=generator)
            for values in (module.running_var, module.weight.data):
                assert values is not None
                values.uniform_(0.3, 3, generator=generator)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    x = torch.randn(2, 3, 37, 50, generator=generator, dtype=torch.float64)
    fast = folded(network)
    torch.testing.assert_close(fast(x), network(x), rtol=0, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert all(values.equal(before[name]) for name, values in network.state_dict().items()), "the model that is saved must stay whole"
