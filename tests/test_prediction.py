from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.networks import Segmenter
from celladapt.prediction import CONTEXT, GRID, Model, fade, find_images, load_model, predict, windows


@pytest.fixture
def model() -> Model:
    """Random weights with statistics that make it sharp, as training would."""
    torch.manual_seed(0)
    network = Segmenter(4).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.05, 0.2)  # type: ignore[union-attr]
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
    return Model(network, Normalisation((0.5,) * 3, (0.2,) * 3), {"method": "none"}, "float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.tif", "c.jpg"):
        Image.fromarray(rng.integers(0, 255, (40, 52, 3), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_windows_cover_and_lie_on_the_grid() -> None:
    for length in [*range(1, 60), *range(480, 1400, 7)]:
        spans = windows(length, 512)
        assert spans[0].start == 0
        assert spans[-1].stop == length
        assert all(span.start % GRID == 0 and span.stop - span.start <= 512 for span in spans)
        total = np.zeros(length)
        for span in spans:
            total[span] += fade(span, length)
        assert total.min() > 0.4, length


def test_the_network_sees_no_further_than_the_context(model: Model) -> None:
    x = torch.zeros(1, 3, 512, 512, requires_grad=True)
    model.network(x)[0, 0, 256:272, 256:272].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert 256 - int(rows.min()) <= CONTEXT
    assert int(rows.max()) - 271 <= CONTEXT


def test_tiled_equals_whole(model: Model) -> None:
    image = np.random.default_rng(0).integers(0, 255, (560, 700, 3), np.uint8)
    whole, tiled = model.predict(image, 1024).probability, model.predict(image, 512).probability
    assert np.ptp(whole) > 0.05
    assert np.abs(whole - tiled).max() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (37, 51)])
def test_any_size_grey_and_deep(model: Model, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    prediction = model.predict(image)
    assert prediction.probability.shape == prediction.mask.shape == prediction.instances.shape == size
    deep = model.predict(image.astype(np.uint16) * 257)
    assert np.allclose(deep.probability, prediction.probability, atol=1e-4)


def test_an_array_that_is_no_image_is_refused(model: Model) -> None:
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(InputError, match="uint8"):
            model.predict(wrong)
    with pytest.raises(InputError, match="--tile"):
        model.predict(np.zeros((4, 4), np.uint8), 100)


def test_files(model: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = predict(model, folder, out, ("mask", "instances", "probability"))
    assert [w.image.name for w in written] == ["a.png", "b.tif", "c.jpg"]
    probability, instances = tifffile.imread(out / "b_probability.tif"), tifffile.imread(out / "b_instances.tif")
    mask = np.asarray(Image.open(out / "b_mask.png"))
    assert probability.dtype == np.float32
    assert instances.max() == written[1].nuclei
    assert np.array_equal(mask, (probability >= 0.5) * 255)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(InputError, match="--overwrite"):
        predict(model, folder, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    predict(model, folder, out, overwrite=True)


def test_one_bad_file_does_not_stop_the_others(model: Model, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:300])
    with pytest.raises(InputError, match=r"1 of 4 .*bad\.png"):
        predict(model, folder, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 3


def test_inputs(folder: Path, tmp_path: Path) -> None:
    assert [p.name for p in find_images(str(folder / "*.png"))] == ["a.png"]
    assert len(find_images([folder, folder / "a.png"])) == 3
    folder.rename(tmp_path / "images")
    assert len(find_images(tmp_path)) == 3
    (tmp_path / "images" / "a.bmp").write_bytes(b"")
    with pytest.raises(InputError, match="same output"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="names no image"):
        find_images("nothing*.png")


def test_a_model_file_predicts_as_the_model_did(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).integers(0, 255, (40, 52, 3), np.uint8)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_model(path, precision="float32")
        assert np.array_equal(loaded.predict(image).probability, model.predict(image).probability)
        assert loaded.about["method"] == "none"
