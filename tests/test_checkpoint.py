"""Files are whole or absent, and what was saved comes back equal."""

from pathlib import Path

import pytest
import torch
from helpers import make_batch, make_method
from safetensors.torch import save_file

from celladapt import checkpoint
from celladapt.config import Config
from celladapt.errors import InputError
from celladapt.files import atomic, write_text
from celladapt.train import make_optimizers, take_step


def test_training_state_comes_back_equal_and_goes_on_alike(tmp_path: Path) -> None:
    method = make_method("cellseguda")
    optimizers = make_optimizers(method, Config())
    take_step(method, make_batch(), optimizers)
    checkpoint.save_training(tmp_path / "x.safetensors", method.networks, optimizers, {"step": 1})
    random = torch.rand(3)
    twin = make_method("cellseguda", seed=9)
    twins = make_optimizers(twin, Config())
    assert checkpoint.load_training(tmp_path / "x.safetensors", twin.networks, twins) == {"step": 1}
    assert torch.equal(torch.rand(3), random)
    batch = make_batch(seed=1)
    assert take_step(method, batch, optimizers) == take_step(twin, batch, twins)
    assert all(torch.equal(a, b) for a, b in zip(method.networks.state_dict().values(), twin.networks.state_dict().values(), strict=True))


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "header":
        path.write_bytes(data[:8] + bytes([data[8] ^ 0xFF]) + data[9:])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["truncated", "header", "text", "empty", "foreign", "missing"])
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"a": torch.zeros(100)}, {"step": 1})
    damage(path, kind)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoint.load(path)


def test_another_width_is_said(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_training(path, make_method("cellseguda", width=4).networks, {}, {})
    with pytest.raises(InputError, match="does not fit"):
        checkpoint.load_training(path, make_method("cellseguda", width=8).networks, {})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "file" / "x.txt", "text")
