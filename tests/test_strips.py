"""S over an image of any height, strip by strip, against S over the whole."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import NORMALISATION, picture, spread_model
from numpy.typing import NDArray

from celladapt.convolution import Conv2d, rectified
from celladapt.model import STRIP, Model
from celladapt.strips import GRID, LAG, SMALLEST, spans

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(NORMALISATION)


def in_strips(model: Model, image: NDArray[np.generic], rows: int, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    with monkeypatch.context() as patch:
        patch.setattr(Model, "_rows_at_a_time", lambda self, w: rows)
        return model.predict(image).probability


@pytest.mark.parametrize("shape", [(431, 40), (700, 90), (1100, 17), (95, 33)])
@pytest.mark.parametrize("rows", [SMALLEST, 64, 144])
def test_strips_equal_the_whole(model: Model, shape: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(1, *shape)
    x = NORMALISATION(image)[None]
    with torch.inference_mode():
        whole = model.network(x)[0, 0].numpy()
    assert np.ptp(whole) > 0.5, "a flat prediction would prove nothing"
    np.testing.assert_allclose(in_strips(model, image, rows, monkeypatch), whole, rtol=0, atol=5e-5)


def test_nothing_is_computed_twice(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much comes out of every 3x3 convolution in strips as in the whole image."""
    seen: list[int] = []
    monkeypatch.setattr(
        "celladapt.strips.rectified", lambda layer, x: (seen.append((y := rectified(layer, x)).shape[2] * y.shape[3] * y.shape[1]), y)[1]
    )
    image = picture(1, 400, 64)
    in_strips(model, image, 400, monkeypatch)
    whole, seen[:] = sum(seen), []
    in_strips(model, image, 64, monkeypatch)
    assert sum(seen) == whole


@pytest.mark.parametrize("level", [0, 4])
def test_a_broken_network_shows(model: Model, level: int) -> None:
    """What is no number stays that on its way through every ReLU."""
    network = copy.deepcopy(model.network)
    next(network.down[level].parameters()).data.fill_(torch.nan)
    assert np.isnan(Model(network, NORMALISATION).predict(picture(1, 64, 64)).probability).all()


@pytest.mark.parametrize("rows", [SMALLEST, 64, 80, 512])
def test_spans_cover_every_row_and_pool_as_the_whole(rows: int) -> None:
    for height in range(GRID, 1200, GRID):
        strips = spans(height, rows)
        assert (strips[0].start, strips[-1].stop) == (0, height)
        assert all(a.stop == b.start for a, b in pairwise(strips))
        assert all(0 < strip.stop - strip.start <= rows + LAG for strip in strips)
        assert all(strip.start % GRID == LAG for strip in strips[1:]), "two convolutions lag two rows at each of the levels"


def test_an_odd_number_of_rows_to_pool_would_not(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the comparison with the whole can fail."""
    image = picture(1, 431, 40)
    whole = model.predict(image).probability
    monkeypatch.setattr("celladapt.strips.LAG", 0)
    try:
        different = in_strips(model, image, 64, monkeypatch)
    except (RuntimeError, ValueError, IndexError):
        return
    assert not np.allclose(different, whole, rtol=0, atol=1e-3), "rows that no strip gave are whatever was in memory, not numbers too"


def test_no_layer_sees_more_than_a_strip_however_high_the_image(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Conv2d.forward
    monkeypatch.setattr(Conv2d, "forward", lambda layer, x: (seen.append(x.numel()), real(layer, x))[1])
    monkeypatch.setitem(STRIP, "cpu", 64 * 64 * 4)  # 64 rows of 64 pixels at width 4
    for height in (320, 1600):
        model.predict(picture(1, height, 64))
        # The last merge joins two maps of width 4; with the last strip comes what lagged, at most the 107 rows that S looks down.
        assert 8 * 64 * 64 < max(seen) < 8 * (64 + 107 + 3) * 64
