"""The README's Python lines run as they stand; CONTRIBUTING's method is one."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import celladapt
from celladapt import adaptation, methods
from celladapt.data.images import write_image

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)


def test_the_readmes_python_runs(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tiny_domains[1] / "images" / "scan7.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    small = {"steps": 4, "width": 4, "crop": 32, "validate_every": 2}
    real = adaptation.preset_options
    monkeypatch.setattr(adaptation, "preset_options", lambda name: {**real(name), **small})  # the same lines, in seconds
    (code,) = blocks("README.md")
    scope: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["prediction"].instances.shape == (64, 64)
    assert scope["run"].metrics["iou"] >= 0
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 9


def test_the_readmes_commands_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from celladapt.cli import app

    words = set(
        re.findall(
            r"celladapt (adapt|predict|review|evaluate|suggest|benchmark|data|methods|demo|report|export)\b",
            (ROOT / "README.md").read_text(encoding="utf-8"),
        )
    )
    assert words <= {name for name in app}  # noqa: C416
    assert "adapt" in words


def test_contributings_method_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import make_batch, make_method, step

    shutil.copytree(Path(methods.__file__).parent, tmp_path / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    (code,) = blocks("CONTRIBUTING.md")
    (tmp_path / "methods" / "entropy_min.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [str(tmp_path / "methods")])
    assert "entropy_min" in methods.names()
    (values,) = step(make_method("entropy_min:lambda_ent=0.1"), make_batch())
    assert values.keys() == {"seg", "ent"}


def test_the_version_is_one() -> None:
    assert celladapt.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
