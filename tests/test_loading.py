"""Models from their files: what is saved is what is loaded, and what is no model is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NORMALISATION, picture, spread_model

from celladapt import checkpoint
from celladapt.errors import InputError
from celladapt.loading import load_model, loaded_model
from celladapt.model import Model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(NORMALISATION)


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
    load_model(tmp_path / "model.safetensors", "cpu").predict(picture(5, 16, 16))
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
    path = tmp_path / "last.safetensors"
    weights = model.network.state_dict()
    normalisation = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    for about in ({"step": 3}, {"width": 4}, {"width": "four", "normalisation": normalisation}, {"width": 5, "normalisation": normalisation}, [1], 3):
        checkpoint.save(path, weights, about)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"last\.safetensors"):
            load_model(path)


def test_the_model_is_loaded_once_until_its_file_changes(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "a" / "model.safetensors")
    first = loaded_model(tmp_path / "a")
    assert loaded_model(tmp_path / "a") is first
    other = spread_model()
    with torch.no_grad():
        other.network.head.weight += 1
    other.save(tmp_path / "a" / "model.safetensors")
    os.utime(tmp_path / "a" / "model.safetensors", ns=(1, 1))
    second = loaded_model(tmp_path / "a")
    assert not torch.equal(second.network.head.weight, first.network.head.weight)
    with pytest.raises(InputError, match="does not exist"):
        loaded_model(tmp_path / "b")
