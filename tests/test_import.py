"""Weights from elsewhere: what is a state dict becomes a model, and of what is more nothing runs."""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NORMALISATION, picture, spread_model
from reliability.corpus import forbidden
from torch import nn

from celladapt import importing
from celladapt.cli import main
from celladapt.data.images import write_image
from celladapt.errors import InputError
from celladapt.importing import import_weights
from celladapt.loading import load_model

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN, STD = NORMALISATION.mean, NORMALISATION.std
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return spread_model().network.state_dict()


def renamed(state: State) -> State:
    """As a program would name them that keeps each up-convolution with the convolutions after it, of a torch that counted no batches."""
    order = sorted(state, key=importing._when_used)
    return {f"layer{number:03d}.{name.rpartition('.')[2]}": state[name] for number, name in enumerate(order) if "tracked" not in name}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        OrderedDict,
        lambda state: {"state_dict": state, "epoch": 7, "name": "UNet"},
        lambda state: {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}, "optimizer": {"lr": [0.1]}},
        lambda state: {"checkpoint": 1, "model_state_dict": dict(reversed(state.items()))},
        lambda state: {name: nn.Parameter(value.double(), requires_grad=False) for name, value in state.items() if "tracked" not in name},
        lambda state: {f"a.{name}": value for name, value in state.items()},
        lambda state: {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in state.items()}},  # torch's AveragedModel
        renamed,
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_predicts_as_the_network_did(wrap: Callable[[State], Any], zipped: bool, state: State, tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    model = load_model(import_weights(tmp_path / "weights.pt", tmp_path / "model.safetensors", MEAN, STD, pixel_size=0.25), "cpu", "float32")
    image = picture(0, 64, 48)
    np.testing.assert_array_equal(model.predict(image).probability, spread_model().predict(image).probability)
    assert model.pixel_size == 0.25


def test_the_command_and_what_comes_after(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, made, images = tmp_path / "weights.pt", tmp_path / "model.safetensors", tmp_path / "images"
    torch.save(state, weights)
    for number in range(2):
        write_image(images / f"{number}.png", picture(number, 32, 32))
    out = ["--out", str(made)]
    assert main(["predict", str(weights), str(images), "--out", str(tmp_path / "masks")]) == 2
    assert (
        f"is a pickle, which can run code and so is not opened here; `celladapt import {weights} --out model.safetensors --mean R,G,B"
        in capsys.readouterr().err
    )
    for wrong, words in (
        ([], "--normalise-by with a folder"),
        (["--mean", "0.5,0.5,0.5"], "--std R,G,B"),
        (["--mean", "a,b,c", "--std", "1,1,1"], "--mean is 'a,b,c'"),
        (["--mean", "180,120,150", "--std", "1,1,1"], "scale 0 to 1"),
        (["--mean", "0.5,0.5,0.5", "--std", "0,1,1"], "--std is 0,1,1"),
        (["--mean", "0.5,0.5,0.5", "--std", "1,1"], "--std is 1,1"),
        (["--mean", "0.5,0.5,nan", "--std", "1,1,1"], "--mean is"),
        (["--mean", "0,0,0", "--normalise-by", str(images)], "leave it or --mean"),
        (["--normalise-by", str(images), "--pixel-size", "-1"], "--pixel-size"),
    ):
        assert main(["import", str(weights), *out, *wrong]) == 2
        assert words in capsys.readouterr().err
        assert not made.exists()
    assert main(["import", str(weights), *out, "--normalise-by", str(images)]) == 0
    assert f"celladapt predict {made}" in capsys.readouterr().out
    assert main(["predict", str(made), str(images), "--out", str(tmp_path / "masks")]) == 0
    assert main(["import", str(weights), *out, "--normalise-by", str(images)]) == 2, "it is there already"
    expected = np.mean([picture(number, 32, 32) / 255 for number in range(2)], axis=(0, 1, 2))
    np.testing.assert_allclose(load_model(made).normalisation.mean, expected, rtol=1e-5)


def without(state: State, name: str) -> State:
    return {other: value for other, value in state.items() if other != name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "up.1.bias"), r"'up.2.weight' of shape \[8, 8, 2, 2\] where up.1.bias of shape"),
        (lambda s: {**s, "down.2.0.bias": torch.zeros(17)}, r"'down.2.0.bias' of shape \[17\] where down.2.0.bias of shape \[16\] belongs, after 25"),
        (lambda s: without(s, "head.bias"), "has nothing more where head.bias"),
        (lambda s: {**s, "tail.bias": torch.zeros(1)}, "'tail.bias' of shape .* where nothing more belongs"),
        (lambda s: {**s, "down.0.0.weight": torch.zeros(4, 1, 3, 3)}, "it begins with a convolution of shape"),
        (lambda s: {"bias": torch.zeros(3)}, "begins with no convolution"),
        (lambda s: {**s, "head.bias": torch.full((1,), torch.nan)}, "no finite real numbers in 'head.bias'"),
        (lambda s: {**s, "head.bias": torch.zeros(1, dtype=torch.int64)}, "no finite real numbers"),
        (lambda s: {**s, "head.bias": torch.zeros(1).expand(2**40)}, "larger than the file"),
        (lambda s: {"weights": s}, "holds no state dict"),
        (lambda s: {}, "holds no state dict"),
        (lambda s: [1, 2], "holds no state dict"),
        (lambda s: {"model": {"model": {"model": {"model": s}}}}, "holds no state dict"),
    ],
)
def test_another_network_is_refused_by_its_first_tensor_that_does_not_fit(
    change: Callable[[State], Any], words: str, state: State, tmp_path: Path
) -> None:
    torch.save(change(state), tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", words)


def make(path: str) -> None:
    os.mkdir(path)


class Creates:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path, by: Callable[..., None] = os.mkdir) -> None:
        self.path, self.by = path, by

    def __reduce__(self) -> tuple[Any, ...]:
        return self.by, (str(self.path),)


def refused(weights: Path, words: str) -> None:
    """In one sentence; nothing ran and nothing was written."""
    before = sorted(weights.parent.iterdir())
    with pytest.raises(InputError, match=words) as caught:
        import_weights(weights, weights.parent / "model.safetensors", MEAN, STD)
    assert str(caught.value).startswith(str(weights))
    assert "\n" not in str(caught.value)
    assert sorted(weights.parent.iterdir()) == before


def as_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content))


def as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def as_legacy(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [as_zip, as_legacy, as_pickle])
@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors.pth", "weights"])
def test_a_pickle_that_would_run_something(save: Callable[[Path, object], None], name: str, state: State, tmp_path: Path) -> None:
    save(tmp_path / name, {"state_dict": state, "hook": Creates(tmp_path / "ran")})
    refused(
        tmp_path / name, r"holds more than weights \((posix|nt)\.mkdir\) and could run code" if save is not as_pickle else "more than weights|damaged"
    )
    with pytest.raises(InputError, match="is a pickle"):
        load_model(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    if save is as_zip:  # the test would see it run
        torch.load(tmp_path / name, weights_only=False)
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("save", [as_zip, as_legacy])
def test_nothing_around_it_weakens_the_loader(save: Callable[[Path, object], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what the program has declared safe nor the environment, which both reach the ordinary ``torch.load``."""
    save(tmp_path / "weights.pt", Creates(tmp_path / "ran", make))
    with torch.serialization.safe_globals([make]):
        before = set(torch.serialization.get_safe_globals())
        refused(tmp_path / "weights.pt", "more than weights")
        assert set(torch.serialization.get_safe_globals()) == before, "given back"
        torch.load(tmp_path / "weights.pt", weights_only=True)
    (tmp_path / "ran").rmdir()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    refused(tmp_path / "weights.pt", "more than weights")


@pytest.mark.parametrize(
    ("version", "fine"), [("2.9.1", False), ("1.13.1", False), ("2.5.0+cu121", False), ("unknown", False), ("2.10.0", True), ("3.0.0a0", True)]
)
def test_a_torch_with_known_holes_opens_nothing(version: str, fine: bool, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state, tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "__version__", version)
    if fine:
        import_weights(tmp_path / "weights.pt", tmp_path / "model.safetensors", MEAN, STD)
        return
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    refused(tmp_path / "weights.pt", "CVE-2025-32434, CVE-2026-24747.; install torch 2.10 or newer")


@pytest.mark.filterwarnings("ignore")
def test_a_program_and_objects_of_other_libraries(tmp_path: Path) -> None:
    torch.jit.script(nn.Conv2d(3, 4, 3)).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    refused(tmp_path / "script.pt", "is a TorchScript archive, which is a program")
    torch.save({"state_dict": {"a": np.zeros(3)}}, tmp_path / "numpy.pt")
    refused(tmp_path / "numpy.pt", r"holds more than weights \(numpy\.")
    torch.save(nn.Conv2d(3, 4, 3), tmp_path / "module.pt")
    refused(tmp_path / "module.pt", r"holds more than weights \(torch\.nn\.modules\.conv\.Conv2d\)")
    with tarfile.open(tmp_path / "old.pt", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    refused(tmp_path / "old.pt", "is refused")


@pytest.mark.parametrize("save", [as_zip, as_legacy])
def test_a_file_that_is_cut_short(save: Callable[[Path, object], None], state: State, tmp_path: Path) -> None:
    save(tmp_path / "weights.pt", state)
    whole = (tmp_path / "weights.pt").read_bytes()
    for end in (0, 1, 50, len(whole) // 2, len(whole) - 30):
        (tmp_path / "weights.pt").write_bytes(whole[:end])
        refused(tmp_path / "weights.pt", "is damaged, cut short, or holds more than weights")


def calls(name: bytes, argument: bytes) -> bytes:
    """A pickle that calls what is named with one argument."""
    return b"\x80\x02c" + name + b"\n" + argument + b"\x85R."


NUMBER = b"J" + (400_000_000).to_bytes(4, "little")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (b"__builtin__\nbytearray", NUMBER), (b"builtins\nbytearray", NUMBER), (b"torch\nFloatTensor", NUMBER), (b"torch\nTensor", NUMBER),
        (b"torch.storage\nUntypedStorage", NUMBER), (b"_codecs\nencode", b"X\1\0\0\0a"), (b"torch._utils\n_rebuild_wrapper_subclass", NUMBER),
    ],
)  # fmt: skip
def test_what_reserves_memory_by_a_number_is_refused_before_it_is_opened(
    name: bytes, argument: bytes, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights-only loader would call all of them."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    pickled = calls(name, argument)
    if zipped:
        with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
            archive.writestr("bomb/data.pkl", pickled)
    else:
        (tmp_path / "bomb.pt").write_bytes(b"\x80\x02N." * 3 + pickled + b"\x80\x02N.")
    refused(tmp_path / "bomb.pt", rf"holds more than weights \({name.decode().replace(chr(10), '.')}\)")


def test_the_state_of_a_training_among_the_weights_is_let_through(state: State, tmp_path: Path) -> None:
    extra = {
        "shape": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": torch.float16, "seen": {1, 2}, "step": nn.Parameter(torch.zeros(1)),
        "counted": torch.zeros(2, dtype=torch.int64), "half": torch.zeros(2, dtype=torch.bfloat16),
    }  # fmt: skip
    for zipped in (True, False):
        torch.save({"state_dict": state, "optimizer": extra}, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
        import_weights(tmp_path / "weights.pt", tmp_path / "model.safetensors", MEAN, STD, overwrite=True)


def test_a_model_is_told_by_its_content(tmp_path: Path) -> None:
    spread_model().save(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pt")
    assert load_model(tmp_path / "model.pt", "cpu").normalisation == NORMALISATION


@pytest.mark.parametrize("open_it", [load_model, lambda path: import_weights(path, path.with_suffix(".safetensors"), MEAN, STD)])
def test_a_file_without_permission(open_it: Callable[[Path], object], state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    with forbidden(tmp_path / "weights.pt"), pytest.raises(InputError, match=r"weights.pt cannot be opened .*; check its permissions"):
        open_it(tmp_path / "weights.pt")


def test_no_file_and_a_bomb(state: State, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pt", "does not exist")
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", "is no file; give a file of weights")
    torch.save(state, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    refused(tmp_path / "packed.pt", "is compressed, as torch.save never does")
