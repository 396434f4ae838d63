"""What the machine is told to do."""

import os
import sys
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", place)
    assert str(pick_device(name)) == expected


def test_more_processes_than_gpus_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(InputError, match=r"started 4 processes.*sees 1 GPU.*--device cpu"):
        pick_device("auto")
