"""The command line from two folders to scores, its words and exit codes."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celladapt.cli import main
from celladapt.config import Config
from celladapt.data.images import read_mask

SMALL = ["--preset", "fast", "--steps", "4", "--width", "4", "--crop", "32", "--batch-size", "2", "--validate-every", "2"]


def test_two_folders_to_scores(tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = map(str, tiny_domains)
    run, masks, scores = str(tmp_path / "run"), str(tmp_path / "masks"), tmp_path / "scores.json"
    assert (
        main(
            [
                "adapt",
                "--source",
                source,
                "--target",
                target,
                "--method",
                "cellsegssda",
                "--target-labels",
                "50%",
                "--seed",
                "1",
                *SMALL,
                "--out",
                run,
            ]
        )
        == 0
    )
    out = capsys.readouterr()
    assert "report.html" in out.out
    assert "steps" not in out.out
    assert "4/4" in out.err
    assert main(["predict", run, target, "--out", masks, "--save", "mask,instances,probability"]) == 0
    names = {path.name for path in Path(masks).iterdir()}
    assert {"target0_mask.png", "target0_instances.tif", "target0_probability.tif"} <= names
    assert set(read_mask(Path(masks) / "target0_mask.png").ravel().tolist()) <= {0, 255}
    assert main(["predict", run, target, "--out", masks]) == 0, "all done already"
    assert main(["predict", run, target, "--out", masks, "--threshold", "0.4"]) == 2
    (tmp_path / "text.svs").write_text("no slide")
    capsys.readouterr()
    assert main(["predict", run, f"{target}/images/target0.png", str(tmp_path / "text.svs"), "--out", str(tmp_path / "some"), "--save", "table"]) == 2
    told = capsys.readouterr()
    assert "target0.png: " in told.out, "what was done is told"
    assert "1 of 2 images failed" in told.err
    assert "text.svs is not a slide" in told.err
    assert main(["evaluate", masks, f"{target}/masks", "--json", f"{target}/images/target0.png/scores.json"]) == 2
    assert "IoU" in capsys.readouterr().out, "what was scored is shown, wherever it cannot be written"
    assert main(["evaluate", masks, f"{target}/masks", "--json", str(scores)]) == 0
    result = json.loads(scores.read_text())
    assert {"iou", "dice", "aji", "pq", "f1"} <= result["mean"].keys()
    assert set(result["images"]) == {f"target{i}" for i in range(8)}
    assert main(["report", run]) == 0
    assert main(["adapt", "--resume", run]) == 0
    assert main(["data", "check", source, target]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adapt"], "--source"),
        (["adapt", "--source", "no-such-folder", "--target", "either"], "no-such-folder"),
        (["adapt", "--source", "a", "--target", "b", "--stpes", "3"], "--steps"),
        (["adapt", "--source", "a", "--target", "b", "--steps", "many"], "--steps"),
        (["adapt", "--source", "a", "--target", "b", "--steps", "0"], "--steps"),
        (["adapt", "--source", "a", "--target", "b", "--preset", "slow"], "fast"),
        (["adapt", "--resume", "a", "--steps", "3"], "--resume"),
        (["predict", "no-model", "x.png", "--out", "o"], "x.png names no image"),
        (["review", "no-model", "x.png", "--out", "o"], "no-model"),
        (["evaluate", "nothing", "nowhere"], "nowhere"),
        (["report", "nothing"], "nothing"),
        (["export", "no-model", "--to", "onnx", "--out", "o.onnx"], "no-model"),
        (["export", "no-model", "--to", "onnx", "--out", "o.zip"], ".onnx"),
        (["export", "no-model", "--to", "tflite", "--out", "o.zip"], "bioimageio"),
        (["suggest", "--model", "no-model", "--target", "no-target", "--out", "o"], "no-target"),
        (["data", "check", "nothing"], ""),
        (["dance"], "dance"),
        (["predict", "run", "x.png", "--out", ""], "arguments is empty"),
        (["predict", "run", "x.png", "--out="], "arguments is empty"),
        (["data", "check", ""], "arguments is empty"),
        (["adapt", "--source", "no-such-folder", "--target", "b", "--group=^case="], "no-such-folder"),
    ],
)
def test_the_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("celladapt: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_home_that_the_shell_left_as_it_is_is_found(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tiny_domains[0].parent))
    monkeypatch.setenv("USERPROFILE", str(tiny_domains[0].parent))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", f"~/{tiny_domains[0].name}"]) == 0
    assert main(["evaluate", "~nobody", "--json=~/x.json", "~/none"]) == 2
    assert f"{tiny_domains[0].parent / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_help_comes_from_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "--help"]) == 0
    text = capsys.readouterr().out
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "Channels of the first" in text
    for command in ("predict", "review", "evaluate", "suggest", "export", "report", "demo", "methods", "benchmark"):
        assert main([command, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


def test_methods_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name}:", text, re.M) for name in ("cellseguda", "cellsegssda", "da_adv", "source_only", "supervised"))
    assert "lambda_rec=0.01" in text


@pytest.mark.parametrize("start", ["import celladapt", "import celladapt.cli"])
def test_starting_does_not_import_torch(start: str) -> None:
    code = f"import sys; {start}; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


def test_a_terminal_that_cannot_spell_everything_gets_the_rest(tiny_domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    heard = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(heard, encoding="ascii"))
    assert main(["data", "check", str(tiny_domains[1])]) == 0
    sys.stdout.flush()
    assert b"\\u2300" in heard.getvalue(), "the sign of a diameter"
