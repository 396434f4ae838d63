"""The limit of pixels of an image that is read whole, as an option of every command that reads images."""

from pathlib import Path

import pytest
from helpers import spread_model
from PIL import Image

from celladapt.adaptation import carry_out, prepare
from celladapt.cli import main
from celladapt.config import Config
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")
LOW = ["--max-megapixels", "0.004"]  # the images have 4096 pixels
SENTENCE = "has 1 megapixels, more than the 0.004 that an image read whole may have; cut it into tiles"


def test_every_command_has_it(
    tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = map(str, tiny_domains)
    spread_model().save(tmp_path / "model.safetensors")
    model, masks = str(tmp_path / "model.safetensors"), str(tmp_path / "masks")
    one = f"{target}/images/target0.png"
    (tmp_path / "true").mkdir()
    Path(f"{target}/masks/target0.png").rename(tmp_path / "true" / "target0.png")
    commands = {
        "predict": ["predict", model, one, "--out", masks],
        "evaluate": ["evaluate", masks, str(tmp_path / "true")],
        "check": ["data", "check", target],
        "suggest": ["suggest", "--model", model, "--target", target, "-k", "1", "--out", str(tmp_path / "todo")],
    }
    for name, command in commands.items():
        capsys.readouterr()
        assert main([*command, *LOW]) == 2, name
        told = "".join(capsys.readouterr())
        assert SENTENCE in " ".join(told.split()), name
        # The default of the option, where the limit was lower, lets them through.
        with monkeypatch.context() as lower:
            lower.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
            assert main(command) == 0, name
            assert Image.MAX_IMAGE_PIXELS == 1000, "as before"
    assert main(["adapt", "--source", source, "--target", target, "--out", str(tmp_path / "run"), *LOW]) == 2
    assert SENTENCE in capsys.readouterr().err


def test_a_run_remembers_it(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker of a benchmark, a process of its own, is given is the run folder."""
    source, target = tiny_domains
    options = {"width": 4, "steps": 1, "crop": 32, "batch_size": 1, "baseline": False, "fallback": False, "select": "last", "match": False}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    run = prepare(Config(source=source, target=target, max_megapixels=0.005, **options), tmp_path / "run")  # type: ignore[arg-type]
    assert carry_out(Run.open(run.path)).finished
