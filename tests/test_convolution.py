"""Convolutions on the CPU: the same as torch's in float64, whichever way they are computed."""

import copy
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from celladapt import convolution
from celladapt.convolution import Conv2d, ConvTranspose2d, rectified
from celladapt.losses import r1_penalty
from celladapt.networks import Discriminator, Segmenter, UNet

winograd = pytest.importorskip("celladapt.winograd", reason="numba, which compiles the transforms, is not installed")
numba = pytest.importorskip("numba")
winograd_kept, winograd_value = winograd._kept, winograd._value


def differences(layer: nn.Module, x: Tensor) -> dict[str, float]:
    """Largest error of output and gradients against torch's own layer in float64, in standard deviations of the true value."""
    own = torch.nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else torch.nn.Conv2d
    true = copy.deepcopy(layer).double()
    true.__class__ = own
    results = []
    for each, image in ((layer, x.clone()), (true, x.double())):
        image.requires_grad_(True)
        y = each(image)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape, dtype=torch.float64).to(y.dtype))
        results.append({"y": y.detach(), "x": image.grad, **{name: p.grad for name, p in each.named_parameters()}})
    return {name: float((results[0][name] - value).abs().max() / value.std()) for name, value in results[1].items()}


@pytest.mark.parametrize("size", [(1, 24, 24), (2, 25, 50), (3, 17, 22), (1, 100, 9)])
@pytest.mark.parametrize("channels", [(48, 64), (64, 48)])
def test_winograd_is_the_convolution(size: tuple[int, int, int], channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_ENOUGH_TILES", 1)
    monkeypatch.setattr(winograd, "CHUNK", 2**16)  # so that these images take several chunks
    torch.manual_seed(0)
    calls = count_calls(monkeypatch)
    layer = Conv2d(*channels, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(size[0], channels[0], *size[1:])
    assert max(differences(layer, x).values()) < 2e-4
    assert calls == ["convolve", "image_gradient", "filter_gradient"]


@pytest.mark.parametrize("size", [(1, 3, 20), (2, 18, 25), (1, 21, 50)])
def test_winograd_without_rows_of_zeros(size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convolution._ENOUGH_WORK, torch.float32, 1)
    layer = Conv2d(48, 48, 3, padding=(0, 1))
    x = torch.randn(size[0], 48, *size[1:])
    with torch.inference_mode():
        calls = count_calls(monkeypatch)
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=(0, 1)), atol=1e-4, rtol=1e-4)
    assert calls == ["convolve"]


@pytest.mark.parametrize("size", [(1, 24, 24), (3, 49, 42)])
@pytest.mark.parametrize("chunk", [2**14, 2**20])
def test_winograd_under_autocast_is_the_convolution_up_to_two_percent(
    size: tuple[int, int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "bf16_gains", lambda: True)
    monkeypatch.setattr(winograd, "CHUNK", chunk)  # several chunks, and one
    torch.manual_seed(0)
    calls = count_calls(monkeypatch)
    layer = Conv2d(64, 96, 3, padding=1).to(memory_format=torch.channels_last)
    true = copy.deepcopy(layer).double()
    x = torch.relu(torch.randn(size[0], 64, *size[1:])).requires_grad_(True)
    exact = x.detach().double().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    grad = torch.randn(y.shape)
    y.backward(grad.to(y.dtype))
    expected = F.conv2d(exact, true.weight, true.bias, padding=1)
    expected.backward(grad.double())
    assert calls == ["convolve", "image_gradient", "filter_gradient"]
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    pairs = {
        "y": (y, expected),
        "x": (x.grad, exact.grad),
        "weight": (layer.weight.grad, true.weight.grad),
        "bias": (layer.bias.grad, true.bias.grad),
    }
    for name, (mine, theirs) in pairs.items():
        assert float((mine.detach().double() - theirs.detach()).std() / theirs.detach().std()) < 0.02, name


def test_prediction_in_bf16_goes_that_way_far_from_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "bf16_gains", lambda: True)
    calls = count_calls(monkeypatch)
    for channels, side, expected in ((64, 512, []), (128, 96, []), (128, 128, ["convolve"])):  # few channels, a small image, both enough
        layer, x = Conv2d(channels, channels, 3, padding=(0, 1)).bfloat16(), torch.randn(1, channels, side, side).bfloat16()
        with torch.inference_mode():
            y = layer(x)
        assert calls == expected
        true = F.conv2d(x.double(), layer.weight.detach().double(), layer.bias.detach().double(), padding=(0, 1))
        assert float((y.double() - true).std() / true.std()) < 0.02


def test_a_number_that_is_no_number_shows_in_bf16() -> None:
    x = torch.zeros(1, 32, 16, 16, dtype=torch.bfloat16)
    x[0, 3, 7, 7] = torch.nan
    y = winograd.convolve(x, torch.ones(32, 32, 3, 3))
    assert y[..., 6:9, 6:9].isnan().all()


def test_bf16_is_rounded_as_torch_rounds_it() -> None:
    """Ties, infinities, the largest and the smallest numbers among them."""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    bits[:10_000] = bits[:10_000] & 0xFFFF0000 | 0x8000
    x = np.concatenate([bits.view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, 3.4e38, 1e-45])])
    x = x[~np.isnan(x)]

    @numba.njit
    def there_and_back(x, kept, back):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            kept[i] = winograd_kept(x[i], kept)
            back[i] = winograd_value(kept[i])

    kept, back = np.empty(len(x), np.uint16), np.empty(len(x), np.float32)
    there_and_back(x, kept, back)
    expected = torch.from_numpy(x).bfloat16()
    assert (kept == expected.view(torch.uint16).numpy()).all()
    np.testing.assert_array_equal(back, expected.float().numpy())


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for dtype in (torch.float32, torch.bfloat16):
        convolution.winograd(dtype)  # which tries it out once
    for name in ("convolve", "image_gradient", "filter_gradient"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *values, name=name, real=real: (calls.append(name), real(*values))[1])
    return calls


def test_one_filter_tap_moves_the_image() -> None:
    """A filter that is 1 at its upper left and 0 elsewhere fetches the pixel above and to the left; zeros come in at the border."""
    x = torch.arange(2 * 30.0).reshape(1, 2, 5, 6)
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 0, 0, 0] = weight[1, 1, 0, 0] = 1
    expected = torch.zeros_like(x)
    expected[..., 1:, 1:] = x[..., :-1, :-1]
    torch.testing.assert_close(
        winograd.convolve(x, weight, torch.tensor([0.0, 0.5])), expected + torch.tensor([0.0, 0.5]).view(1, 2, 1, 1), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 4, stride=2, padding=1), nn.Conv2d(8, 1, 1, bias=False), nn.ConvTranspose2d(8, 8, 2, stride=2)],
    ids=["first", "discriminator", "head", "up"],
)
def test_filter_gradient_in_contiguous_layout_is_the_same(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "contiguous_is_faster", lambda: True)
    layer = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    layer.__class__ = ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else Conv2d
    x = torch.randn(2, layer.in_channels, 16, 24).to(memory_format=torch.channels_last)
    assert max(differences(layer, x).values()) < 1e-4


def test_an_in_place_activation_may_follow() -> None:
    layer, x = Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 32, 32)
    F.relu(layer(x), inplace=True).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv2d(64, 64, 3, padding=1), (64, 32, 32)),
        (Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), (1, 8, 32, 32)),
        (Conv2d(8, 8, 3, padding="same"), (1, 8, 32, 32)),
        (Conv2d(64, 64, 3, padding=1, groups=2), (1, 64, 32, 32)),
        (ConvTranspose2d(8, 8, 2, stride=2, groups=2), (1, 8, 16, 16)),
        (ConvTranspose2d(8, 8, 2, stride=2), (8, 16, 16)),
    ],
    ids=["unbatched", "reflect", "same", "groups", "transposed groups", "transposed unbatched"],
)
def test_other_kinds_of_layers_are_torch_s_own(layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "contiguous_is_faster", lambda: True)
    calls = count_calls(monkeypatch)
    assert max(differences(layer, torch.randn(shape)).values()) < 1e-4
    assert not calls


def test_a_numba_that_does_not_work_costs_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("no locator available for the cache")

    monkeypatch.setattr(winograd, "convolve", broken)
    convolution.winograd.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no locator available"):
            assert convolution.winograd(torch.float32) is None
        assert Conv2d(64, 64, 3, padding=1)(torch.randn(1, 64, 32, 32)).shape == (1, 64, 32, 32)
    finally:
        convolution.winograd.cache_clear()


def test_a_numba_that_does_not_work_in_bf16_costs_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = winograd.convolve

    def broken(x: Tensor, *others: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16:
            raise RuntimeError("no such type")
        return real(x, *others)

    monkeypatch.setattr(winograd, "convolve", broken)
    monkeypatch.setattr(convolution, "bf16_gains", lambda: True)
    convolution.winograd.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no such type"), torch.autocast("cpu", torch.bfloat16):
            assert Conv2d(64, 64, 3, padding=1)(torch.randn(1, 64, 32, 32)).shape == (1, 64, 32, 32)
        assert convolution.winograd(torch.float32) is winograd
    finally:
        convolution.winograd.cache_clear()


@pytest.mark.parametrize(("vectors", "tiles", "expected"), [(True, False, True), (True, True, False), (False, False, False)])
def test_bf16_gains_where_it_was_tried(vectors: bool, tiles: bool, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert convolution.bf16_gains.__wrapped__() == expected


def test_going_backward_under_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    gradients = []
    layer, x = Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 160, 160)  # several chunks
    for cast in (False, True):
        layer.zero_grad()
        y = layer(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            y.sum().backward()
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad.clone())
    assert gradients[0].equal(gradients[1])


def test_numba_s_start_leaves_torch_s_threads_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets OpenMP's number, on which the last bits of a run depend."""
    before = torch.get_num_threads()
    monkeypatch.setattr(winograd, "convolve", lambda *_: torch.set_num_threads(before + 1))
    convolution.winograd.cache_clear()
    try:
        assert convolution.winograd(torch.float32) is winograd
        assert torch.get_num_threads() == before
    finally:
        convolution.winograd.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_each_time(dtype: torch.dtype) -> None:
    x, weight = torch.randn(1, 64, 40, 40, dtype=dtype), torch.randn(64, 64, 3, 3)
    for gradient in (winograd.convolve, winograd.image_gradient):
        assert gradient(x, weight).equal(gradient(x, weight))
    assert winograd.filter_gradient(x, x).equal(winograd.filter_gradient(x, x))


def test_without_numba_torch_convolves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    monkeypatch.setattr(convolution, "winograd", lambda _: None)
    assert max(differences(Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 32, 32)).values()) < 1e-4
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_arithmetic_is_torch_s_own(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    monkeypatch.setattr(convolution, "bf16_gains", lambda: True)
    layer, x = Conv2d(64, 64, 3, padding=1).to(dtype), torch.randn(1, 64, 32, 32, dtype=dtype)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1), atol=0, rtol=0)
    assert not calls


def test_a_small_image_does_not_wait_for_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    layer = Conv2d(64, 64, 3, padding=1)
    with torch.inference_mode():
        layer(torch.randn(1, 64, 64, 64))
        assert not calls
        layer(torch.randn(1, 64, 96, 96))
    assert calls == ["convolve"]


@pytest.mark.parametrize(("gains", "training"), [(False, True), (True, False)], ids=["no gain", "prediction"])
def test_autocast_is_torch_s_own(gains: bool, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "bf16_gains", lambda: gains)
    calls = count_calls(monkeypatch)
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
        assert Conv2d(64, 64, 3, padding=1)(torch.randn(1, 64, 64, 64)).dtype == torch.bfloat16
    assert not calls


@pytest.mark.parametrize(("dtype", "coarse"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_threads_do_not_change_the_result(dtype: torch.dtype, coarse: float) -> None:
    x, weight = torch.randn(1, 64, 40, 40, dtype=dtype), torch.randn(64, 64, 3, 3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(winograd.convolve(x, weight))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, atol=coarse, rtol=1e-5)


def test_callers_at_once_get_their_own_results() -> None:
    weight = torch.randn(64, 64, 3, 3)
    images = [torch.randn(1, 64, 40, 40) for _ in range(4)]
    alone = [winograd.convolve(x, weight) for x in images]
    together: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: together.update({i: winograd.convolve(images[i], weight)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        torch.testing.assert_close(together[i], alone[i], atol=1e-4, rtol=1e-5)


def test_every_convolution_of_the_networks_may_take_the_fast_way() -> None:
    for network in (Segmenter(4), UNet(1, 3, 4), Discriminator(4)):
        layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
        assert layers
        assert all(isinstance(layer, (Conv2d, ConvTranspose2d)) for layer in layers)


def test_the_discriminator_has_a_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "contiguous_is_faster", lambda: True)
    torch.manual_seed(0)
    D = Discriminator(32).to(memory_format=torch.channels_last)
    true, p = copy.deepcopy(D).double(), torch.rand(2, 1, 64, 96)
    r1_penalty(D, p).backward()
    r1_penalty(true, p.double()).backward()
    for (name, mine), theirs in zip(D.named_parameters(), true.parameters(), strict=True):
        if "bias" in name:
            assert theirs.grad is None or not theirs.grad.any(), "a LeakyReLU's slope has no derivative"
        else:
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.std()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("inputs", "outputs", "padding"), [(3, 16, (0, 1)), (32, 16, (0, 1)), (64, 64, (1, 1))])
def test_relu_at_the_end_of_a_convolution(
    dtype: torch.dtype, inputs: int, outputs: int, padding: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Conv2d(inputs, outputs, 3, padding=padding).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(1, inputs, 40, 48).to(dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        y = rectified(layer, x)
        torch.testing.assert_close(y, torch.relu(layer(x)), atol=1e-6, rtol=1e-6)
        assert y.is_contiguous(memory_format=torch.channels_last)
        monkeypatch.setattr(convolution, "_onednn_rectifies", lambda _: False)
        torch.testing.assert_close(rectified(layer, x), torch.relu(layer(x)), atol=0, rtol=0)


def test_relu_at_the_end_lets_a_gradient_through() -> None:
    layer, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 20, 20)
    rectified(layer, x).sum().backward()
    assert layer.weight.grad is not None
    wanted = torch.autograd.grad(torch.relu(layer(x)).sum(), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, wanted, atol=0, rtol=0)


def test_relu_at_the_end_of_winograd_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convolution._ENOUGH_WORK, torch.float32, 1)
    calls = count_calls(monkeypatch)
    layer, x = Conv2d(48, 48, 3, padding=1), torch.randn(1, 48, 20, 24)
    with torch.inference_mode():
        assert torch.equal(rectified(layer, x), torch.relu(layer(x)))
    assert calls == ["convolve", "convolve"]


def test_relu_goes_along_in_prediction_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(convolution, "_onednn_rectifies", lambda dtype: asked.append(dtype))
    layer, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 20, 20)
    rectified(layer, x)
    with torch.inference_mode():
        rectified(layer.double(), x.double())
        with torch.autocast("cpu", torch.bfloat16):
            rectified(layer.float(), x)
        assert not asked
        rectified(layer, x)
    assert asked == [torch.float32]


def test_relu_goes_along_only_where_onednn_convolves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert convolution._onednn_rectifies(torch.float32) == torch.backends.mkldnn.enabled
    assert not convolution._onednn_rectifies(torch.bfloat16), "there its operator refuses what torch's own convolution does"
    with torch.backends.mkldnn.flags(enabled=False):
        assert not convolution._onednn_rectifies(torch.float32)
