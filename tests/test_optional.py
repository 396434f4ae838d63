"""A library that not everybody needs is missing, or does not work: one sentence with the line that installs it, and nothing half-written."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_domains
from helpers import spread_model
from slides import write_ome_zarr

from celladapt import adaptation, convolution
from celladapt.cli import main
from celladapt.config import Config
from celladapt.data.images import write_image
from celladapt.exporting import export

pytestmark = pytest.mark.usefixtures("one_thread")
Place = Callable[[str], Path]
NEEDS = [  # library, extra, the command that needs it
    ("distributed", "cohort", "predict model images --out out --workers 2"),
    ("pyarrow", "slides", "predict model images --out out --save parquet"),
    ("zarr", "slides", "predict model images --out out --save zarr"),
    ("zarr", "slides", "predict model a.ome.zarr --out out"),
    ("openslide", "slides", "predict model a.mrxs --out out"),
    ("onnxruntime", "export", "predict model.onnx images --out out"),
    ("onnx", "export", "export model --to onnx --out out.onnx"),
    ("onnxruntime", "export", "export model --to onnx --out out.onnx"),
    ("bioimageio", "export", "export model --to bioimageio --out out.zip"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    model = spread_model()
    model.save(folder / "model")
    pytest.importorskip("onnx")
    export(model, "onnx", folder / "model.onnx")
    for index in range(2):
        write_image(folder / "images" / f"{index}.png", np.full((32, 32), 128, np.uint8))
    (folder / "a.mrxs").write_bytes(b"\xff\xd8 a picture")
    pytest.importorskip("zarr")
    write_ome_zarr(folder / "a.ome.zarr", np.zeros((64, 64, 3), np.uint8), levels=1)
    return folder


def gone(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module of the library has been imported."""
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)


def said(command: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says where it ends with exit code 2 and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    words = [str(inputs / word) if (inputs / word).exists() else word for word in command.split()]
    assert main(words) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))], "nothing is half-written"
    message = capsys.readouterr().err
    assert message.count("celladapt: ") == 1
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(("library", "extra", "command"), NEEDS)
def test_what_is_missing_is_named_with_the_line_that_installs_it(
    library: str, extra: str, command: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone(library, monkeypatch)
    monkeypatch.setitem(sys.modules, library, None)
    message = said(command, inputs, tmp_path, monkeypatch, capsys)
    assert re.search(rf'needs {library}\b.*; install it: pip install "celladapt\[{extra}\]"\.', message), message


@pytest.mark.parametrize(
    ("fault", "library", "extra", "command"),
    [
        *(('OSError("libmissing.so.1: cannot open shared object file")', *need) for need in {need[0]: need for need in NEEDS}.values()),
        ('ImportError("undefined symbol")', *NEEDS[4]),
    ],
)
def test_what_does_not_work_is_named_with_the_cure(
    fault: str,
    library: str,
    extra: str,
    command: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone(library, monkeypatch)
    broken = tmp_path / "broken" / library
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise {fault}\n")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    message = said(command, inputs, tmp_path, monkeypatch, capsys)
    assert re.search(rf"needs {library}\S*, which does not work here \({fault.split('(')[0]}: ", message), message
    assert re.search(rf'install it again: pip uninstall [\w. -]+, then pip install "celladapt\[{extra}\]"\.', message), message


def test_without_numba_convolutions_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    gone("numba", monkeypatch)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(convolution, "find_spec", lambda _: None)
    convolution.winograd.cache_clear()
    assert convolution.winograd(torch.float32) is None
    convolution.winograd.cache_clear()


@pytest.mark.parametrize(
    ("width", "bf16", "gains", "said"),
    [(32, False, False, "half"), (16, False, False, ""), (64, True, True, "three quarters"), (32, True, True, ""), (64, True, False, "")],
)
def test_who_would_gain_by_numba_is_told(
    width: int, bf16: bool, gains: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adaptation, "winograd", lambda _: None)
    monkeypatch.setattr(convolution, "bf16_gains", lambda: gains)
    monkeypatch.setattr(adaptation, "uses_bf16", lambda *_: bf16)
    source, target = draw_domains(tmp_path / "drawn")
    adaptation.prepare(Config(source=source, target=target, width=width, device="cpu"), tmp_path / "run")
    text = " ".join(capsys.readouterr().err.split())
    assert (f"with numba (`pip install numba`, or the extra celladapt[cpu]) a model this wide takes about {said} of the time" in text) == bool(said)
