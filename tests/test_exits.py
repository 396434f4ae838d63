"""What a command ends with: an exit code, and one sentence where a person can do something."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celladapt import shell
from celladapt.cli import main
from celladapt.errors import InputError
from celladapt.exits import exit_code
from celladapt.shell import as_typed

GOES_ON = "the same command goes on where it stopped"


def ending(error: BaseException, *words: str) -> int:
    def command() -> None:
        raise error

    return exit_code(command, words)


def test_done_is_0_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: "result", ["methods"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [InputError("x.png names no image."), PermissionError(errno.EACCES, "Permission denied", "x.png")])
def test_what_a_person_can_mend_is_one_line_and_2(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error, "predict") == 2
    told = capsys.readouterr().err
    assert told.startswith("celladapt: x.png")
    assert told.count("\n") == 1


def test_a_file_that_looks_like_an_option_is_told_how_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.png").touch()
    assert main(["predict", "model", "-x.png", "--out", "out"]) == 2
    assert capsys.readouterr().err.endswith("If the file is meant, write ./-x.png.\n")
    assert main(["predict", "model", "-y.png", "--out", "out"]) == 2
    assert "If the file" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError("division"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_our_fault_is_1_with_a_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(error, "report", "x") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1].startswith("celladapt: this is a fault of celladapt")


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        ("adapt --source a", True),
        ("predict demo x.png", True),
        ("data fetch tnbc", True),
        ("data check demo", False),
        ("data convert tnbc a b", False),
        ("report demo", False),
        ("methods", False),
        ("", False),
    ],
)
def test_an_interruption_is_130_and_promises_what_is_so(words: str, goes_on: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt(), *words.split()) == 130
    assert (GOES_ON in capsys.readouterr().err) == goes_on


def test_commands_are_quoted_as_the_terminal_of_the_system_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_typed("celladapt", "predict", "my run") == "celladapt predict 'my run'"
    with monkeypatch.context() as patch:
        patch.setattr(shell.os, "name", "nt")
        assert as_typed("celladapt", r"runs\a", r"my runs\a") == r'celladapt runs\a "my runs\a"'


def test_what_was_written_over_in_part_goes_on_without_doing_that_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt(), "predict", "run", "x.png", "--overwrite") == 130
    assert "the same command without --overwrite goes on" in capsys.readouterr().err


def test_an_interrupted_run_says_how_it_is_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt("runs/a"), "adapt", "--out", "runs/a") == 130
    assert "`celladapt adapt --resume runs/a` goes on where it stopped" in capsys.readouterr().err
    ending(KeyboardInterrupt("my runs/a"), "adapt", "--out", "my runs/a")
    assert "--resume 'my runs/a'`" in capsys.readouterr().err, "to be pasted"


@pytest.mark.parametrize("words", ["methods", "--help", "data list"])
def test_a_reader_that_has_left_is_no_fault(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-m", "celladapt", *words.split()], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
