"""Weights and training state: equal after a round trip, and every damaged file is told from a good one without running anything in it."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from celladapt import checkpoint
from celladapt.errors import InputError

ABOUT = {"step": 3, "name": "ü", "score": 0.25, "nothing": None, "list": [1, 2]}


def make(seed: int, width: int = 3) -> tuple[nn.ModuleDict, dict[str, torch.optim.Optimizer]]:
    generator = torch.Generator().manual_seed(seed)
    networks = nn.ModuleDict({"S": nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width)), "D": nn.Conv2d(1, width, 1)})
    with torch.no_grad():
        for p in networks.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    networks.to(memory_format=torch.channels_last)
    return networks, {name: torch.optim.Adam(network.parameters(), lr=0.01) for name, network in networks.items()}


def step(networks: nn.ModuleDict, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """One step on noise from torch's global random state."""
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    (networks["S"](torch.randn(2, 2, 6, 6)).square().mean() + networks["D"](torch.randn(2, 1, 4, 4)).square().mean()).backward()
    for optimizer in optimizers.values():
        optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.arange(24.0).view(2, 3, 4).transpose(0, 2), "n": torch.tensor(5)}, ABOUT)
    return path


def test_round_trip(saved: Path) -> None:
    tensors, about = checkpoint.load(saved)
    assert about == ABOUT
    assert tensors.keys() == {"x", "n"}
    assert torch.equal(tensors["x"], torch.arange(24.0).view(2, 3, 4).transpose(0, 2))
    assert tensors["n"].item() == 5
    assert tensors["n"].dtype == torch.int64


def test_what_is_loaded_does_not_hang_on_the_file(saved: Path) -> None:
    """A file that is still mapped cannot be replaced on Windows, and keeps its space on a disk after it has gone elsewhere."""
    tensors, _ = checkpoint.load(saved)
    with open(saved, "r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert torch.equal(tensors["x"], torch.arange(24.0).view(2, 3, 4).transpose(0, 2))
    assert tensors["n"].item() == 5


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        networks, optimizers = make(0)
        for _ in range(3):
            step(networks, optimizers)
        checkpoint.save_training(path, networks, optimizers, ABOUT)
        for _ in range(2):
            step(networks, optimizers)
        torch.manual_seed(99)
        again, optimizers_again = make(1)
        assert checkpoint.load_training(path, again, optimizers_again) == ABOUT
        for _ in range(2):
            step(again, optimizers_again)
    for (name, expected), found in zip(networks.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    for name, optimizer in optimizers.items():
        expected, found = optimizer.state_dict()["state"], optimizers_again[name].state_dict()["state"]
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[i][key], found[i][key]) for i in expected for key in expected[i])


def test_training_state_before_the_first_step(tmp_path: Path) -> None:
    networks, optimizers = make(0)
    checkpoint.save_training(tmp_path / "a", networks, optimizers, {})
    again, optimizers_again = make(1)
    checkpoint.load_training(tmp_path / "a", again, optimizers_again)
    assert torch.equal(again["D"].weight, networks["D"].weight)


def test_another_width_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    networks, optimizers = make(0)
    checkpoint.save_training(path, networks, optimizers, {})
    with pytest.raises(InputError, match=r"a\.safetensors does not fit"):
        checkpoint.load_training(path, *make(0, width=4))


def test_a_model_is_no_training_state(saved: Path) -> None:
    with pytest.raises(InputError, match="no training state"):
        checkpoint.load_training(saved, *make(0))


def test_every_truncation_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, len(whole) - 1, 7), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.safetensors is damaged"):
            checkpoint.load(saved)


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    """Wherever it is: in the structure, in a name, in a weight, in the checksum itself."""
    whole = saved.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 3, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            saved.write_bytes(flipped)
            with pytest.raises(checkpoint.Damaged, match=r"a\.safetensors is damaged"):
                checkpoint.load(saved)


def test_the_checksum_knows_every_type_and_no_elements(tmp_path: Path) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): torch.ones(2, 3).to(dtype) for dtype in dtypes} | {"none": torch.zeros(0, 3)}
    checkpoint.save(tmp_path / "a.safetensors", tensors, {})
    found = checkpoint.load(tmp_path / "a.safetensors")[0]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_models_of_the_first_versions_have_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2)}, path, metadata={checkpoint.HEADER: '{"step": 1}'})
    assert checkpoint.load(path)[1] == {"step": 1}


def test_the_training_state_before_the_newest_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    networks, optimizers = make(0)
    for step_ in range(3):
        checkpoint.save_training(path, networks, optimizers, {"step": step_})
        assert checkpoint.load(path)[1] == {"step": step_}
    assert checkpoint.load(checkpoint.previous(path))[1] == {"step": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.safetensors", "previous.safetensors"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, this is a text and not a model at all\n",
        b"\x00" * 100,
        b"\xff" * 100,
        pickle.dumps({"S": 1}),
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 64,
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged or not a celladapt file"):
        checkpoint.load(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {checkpoint.HEADER: "not JSON {"}):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(InputError, match=r"other\.safetensors"):
            checkpoint.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            checkpoint.load(path)


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle is used")

    path = tmp_path / "last.safetensors"
    networks, optimizers = make(0)
    step(networks, optimizers)
    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    checkpoint.save_training(path, networks, optimizers, ABOUT)
    checkpoint.load_training(path, networks, optimizers)
    assert not zipfile.is_zipfile(path)
    raw = path.read_bytes()
    assert json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"].keys() == {
        checkpoint.HEADER,
        checkpoint.CHECKSUM,
    }  # a JSON header, then numbers


def test_what_cannot_be_saved_for_no_reason_of_the_systems_is_our_fault(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: InvalidTensorView")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(SafetensorError, match="InvalidTensorView"):
        checkpoint.save(saved, {}, {})
    assert checkpoint.load(saved)[1] == ABOUT
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")],
)
def test_a_failed_save_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(InputError, match="No space left"):
        checkpoint.save(saved, {}, {})
    assert checkpoint.load(saved)[1] == ABOUT
    assert list(saved.parent.iterdir()) == [saved]


def test_optimiser_states_come_back_in_the_layout_of_their_parameters(tmp_path: Path) -> None:
    """A fused optimiser walks the memory of both; a channels-last parameter with its moments laid out otherwise would be moved by others' moments."""

    def start() -> tuple[nn.ModuleDict, dict[str, torch.optim.Optimizer]]:
        torch.manual_seed(0)
        networks = nn.ModuleDict({"S": nn.Conv2d(3, 5, 3)}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return networks, {"S": torch.optim.Adam(networks.parameters(), lr=0.1, fused=True)}

    def step(networks: nn.ModuleDict, optimizers: dict[str, torch.optim.Optimizer], number: int) -> None:
        for parameter in networks.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).contiguous(
                memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            )
        optimizers["S"].step()

    straight = start()
    for number in range(4):
        step(*straight, number)
        if number == 1:
            checkpoint.save_training(tmp_path / "last.safetensors", *straight, {})
    resumed = start()
    checkpoint.load_training(tmp_path / "last.safetensors", *resumed)
    for number in (2, 3):
        step(*resumed, number)
    assert all(a.equal(b) for a, b in zip(straight[0].parameters(), resumed[0].parameters(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("random.cpu"),
        lambda tensors: tensors.update({"random.cpu": torch.zeros(3)}),
        lambda tensors: tensors.update({"optimizer.S.99.step": torch.tensor(1.0)}),
        lambda tensors: tensors.update({"optimizer.S.first": torch.tensor(1.0)}),
    ],
    ids=["no random state", "another random state", "a parameter too much", "no number"],
)
def test_what_is_no_training_state_is_refused_before_anything_is_restored(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    path = tmp_path / "last.safetensors"
    networks, optimizers = make(0)
    step(networks, optimizers)
    checkpoint.save_training(path, networks, optimizers, {})
    tensors, about = checkpoint.load(path)
    change(tensors)
    checkpoint.save(path, tensors, about)
    again, optimizers_again = make(1)
    before, state = again["D"].weight.clone(), torch.get_rng_state()
    with pytest.raises(checkpoint.Damaged, match="no training state of this method"):
        checkpoint.load_training(path, again, optimizers_again)
    assert torch.equal(again["D"].weight, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_that_may_not_be_read_is_not_damaged(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "safe_open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); check its permissions") as caught:
        checkpoint.load(saved)
    assert not isinstance(caught.value, checkpoint.Damaged)


def test_a_word_about_the_format_is_no_damage(saved: Path) -> None:
    tensors, _ = checkpoint.load(saved)
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, saved, metadata={**metadata, "format": "pt"})
    assert checkpoint.load(saved)[1] == ABOUT
