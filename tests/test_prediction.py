"""From images to masks and nuclei: strips that agree with the whole, every kind of image, and what is written where."""

import copy
import errno
import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NORMALISATION, picture, spread_model
from numpy.typing import NDArray

from celladapt import prediction
from celladapt.convolution import Conv2d, rectified
from celladapt.data.images import read_image, read_mask, write_image
from celladapt.errors import InputError
from celladapt.inputs import find_images
from celladapt.loading import load_model
from celladapt.model import STRIP, Model
from celladapt.prediction import predict
from celladapt.strips import GRID, LAG, SMALLEST, spans

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(NORMALISATION)


# --- strips ---------------------------------------------------------------------------------------


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


def test_a_model_whose_weights_change_predicts_with_the_new_ones(model: Model) -> None:
    image = picture(3, 40, 50)
    changing = Model(copy.deepcopy(model.network), model.normalisation, precision="float32")
    before = changing.predict(image).probability
    np.testing.assert_array_equal(changing.predict(image).probability, before)
    with torch.no_grad():
        changing.network.head.bias += 1
    higher = changing.predict(image).probability
    assert (higher >= before).all()
    assert higher.mean() > before.mean() + 0.01
    changing.network.load_state_dict(model.network.state_dict())
    np.testing.assert_array_equal(changing.predict(image).probability, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bf16_gives_almost_the_mask_of_float32(model: Model, dtype: type) -> None:
    """Of probabilities that are spread over all of [0, 1]; a trained model's are surer, so fewer of its pixels are near the threshold."""
    image = picture(4, 128, 160, dtype)
    exact = model.predict(image)
    fast = Model(model.network, model.normalisation, precision="bf16").predict(image)
    assert np.ptp(exact.probability) > 0.5
    difference = np.abs(fast.probability - exact.probability)
    assert 0 < difference.mean() < 0.01
    assert (fast.mask != exact.mask).mean() < 0.02


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 700), (37, 51), (16, 16), (17, 1)])
def test_odd_sizes(model: Model, shape: tuple[int, int]) -> None:
    prediction = model.predict(picture(2, *shape))
    assert prediction.probability.shape == prediction.mask.shape == prediction.instances.shape == shape
    assert prediction.probability.dtype == np.float32
    assert prediction.mask.dtype == bool
    assert prediction.instances.dtype == np.int32
    assert np.isfinite(prediction.probability).all()
    assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
    np.testing.assert_array_equal(prediction.mask, prediction.probability >= 0.5)


def test_sixteen_bits_and_grey(model: Model) -> None:
    image = picture(3, 40, 50)
    expected = model.predict(image).probability
    np.testing.assert_allclose(model.predict(image.astype(np.uint16) * 257).probability, expected, atol=1e-5)
    grey = image[..., 0]
    np.testing.assert_array_equal(model.predict(grey).probability, model.predict(np.repeat(grey[..., None], 3, axis=2)).probability)
    assert np.abs(model.predict(grey).probability - expected).max() > 1e-3


def test_the_image_is_normalised_as_the_model_says(model: Model) -> None:
    image = picture(4, 32, 32)
    with torch.no_grad():
        expected = model.network(NORMALISATION(image)[None])[0, 0].numpy()
    np.testing.assert_allclose(model.predict(image).probability, expected, atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((8, 8), bool),
        np.zeros((0, 8), np.uint8),
    ],
)
def test_other_arrays_are_refused(model: Model, array: NDArray[np.generic]) -> None:
    with pytest.raises(InputError, match="give uint8 or uint16"):
        model.predict(array)


# --- models on disk -------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same_from_its_file_and_its_folder(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "run" / "model.safetensors")
    image = picture(5, 37, 51)
    expected = model.predict(image).probability
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors", str(tmp_path / "run")):
        loaded = load_model(path, "cpu", "float32")
        np.testing.assert_array_equal(loaded.predict(image).probability, expected)
        assert loaded.normalisation == NORMALISATION
        assert loaded.about["method"] == "none"
        assert not loaded.network.training


def test_loading_and_predicting_draw_no_random_numbers(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    model.predict(picture(5, 16, 16))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # a flipped bit can make the width 0
def test_damaged_models_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for content in (b"", whole[:100], whole[: 8 + size], whole[:-1], whole + b"\0", b"\xff" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors"):
            load_model(tmp_path)
    start = whole.index(b"width")
    for place in range(start, start + 60):  # the numbers that the model is built with
        for bit in range(0, 8, 2):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                load_model(path, "cpu")
            except InputError:
                continue
            assert chr(flipped[place]).isdigit(), flipped[place - 5 : place + 5]  # another number cannot be told from the right one
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "none")


def test_other_checkpoints_are_not_models(model: Model, tmp_path: Path) -> None:
    from celladapt import checkpoint

    path = tmp_path / "last.safetensors"
    weights = model.network.state_dict()
    normalisation = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    for about in ({"step": 3}, {"width": 4}, {"width": "four", "normalisation": normalisation}, {"width": 5, "normalisation": normalisation}, [1], 3):
        checkpoint.save(path, weights, about)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"last\.safetensors"):
            load_model(path)


# --- files in, files out --------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A domain folder of three small images of several kinds."""
    root = tmp_path / "slides"
    write_image(root / "images" / "a.b 1.png", picture(6, 40, 30))
    write_image(root / "images" / "c.tif", picture(7, 33, 47, np.uint16))
    write_image(root / "images" / "d.png", picture(8, 20, 20)[..., 0])
    write_image(root / "masks" / "d.png", np.ones((20, 20), np.uint8))
    (root / "images" / "notes.txt").write_text("no image")
    (root / "images" / ".hidden.png").write_bytes(b"")
    return root


def test_outputs_hold_the_prediction_under_the_right_names(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    written = predict(model, images, out, ("mask", "instances", "probability"))
    assert [w.image.name for w in written] == ["a.b 1.png", "c.tif", "d.png"]
    kinds = ("mask.png", "instances.tif", "probability.tif")
    assert visible(out) == {f"{stem}_{kind}" for stem in ("a.b 1", "c", "d") for kind in kinds}
    for w in written:
        prediction = model.predict(read_image(w.image))
        assert w.outputs == {kind.split(".")[0]: out / f"{w.image.stem}_{kind}" for kind in kinds}
        mask = np.asarray(read_mask(w.outputs["mask"]))
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 255, prediction.mask)
        np.testing.assert_array_equal(read_mask(w.outputs["instances"]), prediction.instances)
        np.testing.assert_array_equal(_tiff(w.outputs["probability"]), prediction.probability)
        assert _tiff(w.outputs["instances"]).dtype == np.uint32
        assert _tiff(w.outputs["probability"]).dtype == np.float32
        assert w.nuclei == prediction.instances.max()
        assert w.foreground == pytest.approx(prediction.mask.mean())
    assert any(w.nuclei > 1 for w in written)
    assert any(0 < w.foreground < 1 for w in written)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def _tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    return tifffile.imread(path)


def test_save_chooses_the_outputs(model: Model, images: Path, tmp_path: Path) -> None:
    predict(model, images, tmp_path / "one", "mask")
    assert visible(tmp_path / "one") == {"a.b 1_mask.png", "c_mask.png", "d_mask.png"}
    with pytest.raises(InputError, match="'masks'; choose from mask, instances, probability"):
        predict(model, images, tmp_path / "two", ["mask", "masks"])
    assert not (tmp_path / "two").exists()


def test_existing_outputs_are_refused_before_anything_is_written(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "d_mask.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"d_mask\.png exists already"):
        predict(tmp_path / "no model needed for that", images, out, ["mask"])
    assert [p.name for p in out.iterdir()] == ["d_mask.png"]
    assert (out / "d_mask.png").read_bytes() == b"mine"
    predict(model, images, out, ["mask"], overwrite=True)
    assert len(visible(out)) == 3
    assert read_mask(out / "d_mask.png").shape == (20, 20)
    predict(model, images, out, ["instances"])  # other outputs are not in the way


def test_out_is_a_file(model: Model, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        predict(model, images, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_one_bad_file_does_not_stop_the_others(model: Model, images: Path, tmp_path: Path) -> None:
    (images / "images" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"1 of 4 images failed.*b\.png") as caught:
        predict(model, images, tmp_path / "out", ["mask"])
    assert "c.tif" not in str(caught.value)
    assert visible(tmp_path / "out") == {"a.b 1_mask.png", "c_mask.png", "d_mask.png"}


def test_inputs_may_be_files_folders_domains_and_globs(images: Path) -> None:
    inside = images / "images"
    everything = [inside / "a.b 1.png", inside / "c.tif", inside / "d.png"]
    assert find_images(images) == everything  # masks are not images
    assert find_images(str(inside)) == everything
    assert find_images(str(inside / "*.png")) == [everything[0], everything[2]]
    assert find_images(str(images / "**" / "c.*")) == [everything[1]]
    assert find_images(inside / "d.png") == [everything[2]]
    assert find_images([inside / "d.png", images, str(inside / "*.tif")]) == [everything[2], *everything[:2]]  # each once
    assert find_images(path for path in everything) == everything


@pytest.mark.parametrize("refusal", [OSError(errno.EINVAL, "Invalid argument"), FileNotFoundError(errno.ENOENT, "No such file")])
def test_a_glob_is_one_whatever_the_system_says_of_its_characters(images: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError) -> None:
    """Windows says that a file cannot have such a name, not that there is none."""
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if "*" in str(path):
            raise refusal
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert find_images(str(images / "images" / "*.tif")) == [images / "images" / "c.tif"]


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    write_image(tmp_path / "x[1].png", np.zeros((4, 4), np.uint8))
    assert find_images(tmp_path / "x[1].png") == [tmp_path / "x[1].png"]


def test_inputs_that_name_nothing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for item in (tmp_path / "none.png", str(tmp_path / "*.jpg"), tmp_path / "empty", str(images / "images" / "*.txt")):
        with pytest.raises(InputError, match="names no image") as caught:
            find_images([images, item])
        assert str(item) in str(caught.value)
    with pytest.raises(InputError, match="no image to look at"):
        find_images([])


def test_files_that_would_write_the_same_output_are_refused(model: Model, images: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "c.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"c\.tif and .*c\.png would write the same output"):
        predict(model, [images, tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- finding nuclei and writing beside the network --------------------------------------------------


def test_outputs_come_in_order_however_long_each_takes(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30 + number))
    second = threading.Event()
    real = prediction._write

    def slow_first(job: prediction.Job, *rest: object) -> prediction.Written:
        if job.image.stem == "0":
            assert second.wait(60), "the second image is written while the first one is"
        if job.image.stem == "1":
            second.set()
        return real(job, *rest)

    monkeypatch.setattr(prediction, "_WRITERS", 3)
    monkeypatch.setattr(prediction, "_write", slow_first)
    written = predict(model, tmp_path / "in", tmp_path / "out")
    assert [one.image.stem for one in written] == list("0123456")
    assert all(read_mask(one.outputs["instances"]).shape == (30, 30 + number) for number, one in enumerate(written))


def test_a_large_image_waits_for_the_others_to_be_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30))
    running: list[str] = []
    most: list[int] = []
    real = prediction._write

    def counted(job: prediction.Job, *rest: object) -> prediction.Written:
        running.append(job.image.stem)
        most.append(len(running))
        try:
            return real(job, *rest)
        finally:
            running.remove(job.image.stem)

    monkeypatch.setattr(prediction, "_WRITERS", 3)
    monkeypatch.setattr(prediction, "_WAITING_PIXELS", 1000)
    monkeypatch.setattr(prediction, "_write", counted)
    assert len(predict(model, tmp_path / "in", tmp_path / "out")) == 4
    assert max(most) == 1


@pytest.mark.parametrize("error", [InputError("disk full"), RuntimeError("a fault")])
def test_one_failure_costs_no_other_image(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for number in range(5):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30))
    real = prediction._write

    def failing(job: prediction.Job, *rest: object) -> prediction.Written:
        if job.image.stem == "4":
            raise error
        return real(job, *rest)

    monkeypatch.setattr(prediction, "_WRITERS", 2)
    monkeypatch.setattr(prediction, "_write", failing)
    with pytest.raises(type(error), match=str(error)):
        predict(model, tmp_path / "in", tmp_path / "out", save="mask")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{number}_mask.png" for number in range(4)]
