"""What the machine is told to do."""

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch

from celladapt import hardware
from celladapt.errors import InputError
from celladapt.hardware import pick_device


def test_kept_memory_is_given_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    libc = SimpleNamespace(
        mallopt=lambda option, value: told.append(("mallopt", option, value)), malloc_trim=lambda pad: told.append(("trim", pad, 0))
    )
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: libc)

    @hardware.kept_memory()
    def work() -> None:
        assert [value for _, _, value in told] == [2**31 - 1] * 2
        raise MemoryError

    with pytest.raises(MemoryError):
        work()
    assert [value for _, _, value in told[2:4]] == [2**25, 2**28]
    assert told[4:] == [("trim", 2**28, 0)], "what the next image needs stays"


@pytest.mark.parametrize(("device", "before", "within"), [("cuda", False, True), ("cpu", False, False), ("cpu", True, True)])
def test_convolutions_are_tried_on_a_gpu_and_the_setting_comes_back(monkeypatch: pytest.MonkeyPatch, device: str, before: bool, within: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)

    @hardware.tried_convolutions(torch.device(device))
    def work() -> None:
        assert torch.backends.cudnn.benchmark is within
        raise MemoryError

    with pytest.raises(MemoryError):
        work()
    assert torch.backends.cudnn.benchmark is before


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: SimpleNamespace())
    with hardware.kept_memory():
        pass


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=pytest.fail, malloc_trim=pytest.fail))
    with hardware.kept_memory():
        pass


@pytest.mark.parametrize(("name", "gpus", "place", "expected"), [("auto", 2, "1", "cuda:1"), ("cpu", 1, "1", "cpu"), ("auto", 0, "1", "cpu")])
def test_each_process_has_a_gpu_of_its_own_or_none(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, place: str, expected: str) -> None:
    has_gpus(monkeypatch, [(9, 0)] * gpus)
    monkeypatch.setenv("LOCAL_RANK", place)
    assert str(pick_device(name)) == expected


def test_more_processes_than_gpus_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, [(9, 0)])
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(InputError, match=r"started 4 processes.*has 1 GPU.*--device cpu"):
        pick_device("auto")


def test_a_gpu_that_this_torch_has_no_code_for_is_not_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    has_gpus(monkeypatch, [(6, 1)])
    assert [str(pick_device("auto")) for _ in range(2)] == ["cpu", "cpu"]
    said = capsys.readouterr().err
    assert said.count("WARNING") == 1, "once a process"
    assert "no code for a GPU of 6.1" in " ".join(said.split())
    with pytest.raises(InputError, match=r"no code for a GPU of 6\.1.*--device cpu"):
        pick_device("cuda")
    has_gpus(monkeypatch, [(6, 1), (8, 6)])
    assert str(pick_device("auto")) == "cuda:1", "beside an old one for the screen"


@pytest.mark.parametrize(
    ("built", "gpu", "usable"),
    [
        (["sm_80", "sm_90"], (8, 6), True),  # binaries run on later ones of their generation
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "compute_80"], (12, 0), True),  # what the driver can translate runs on all later ones
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),  # a binary for one kind alone
        (["sm_120f"], (12, 1), True),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_which_gpus_a_build_has_code_for(monkeypatch: pytest.MonkeyPatch, built: list[str], gpu: tuple[int, int], usable: bool) -> None:
    has_gpus(monkeypatch, [gpu], built)
    assert hardware.usable_gpus() == [0] * usable


@pytest.mark.parametrize("name", ["cuda:1", "mps", "gpu"])
def test_an_unknown_device_is_no_other_one(name: str) -> None:
    with pytest.raises(InputError, match=rf"'{name}'.*auto, cpu or cuda.*CUDA_VISIBLE_DEVICES"):
        pick_device(name)


def has_gpus(monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], built: Sequence[str] = ("sm_80", "sm_90", "compute_90")) -> None:
    """Torch then sees GPUs of these capabilities, and was built for these."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: capabilities[gpu])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: "a GPU of {}.{}".format(*capabilities[gpu]))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))
    hardware._say_why_not.cache_clear()
