"""Same seed, same machine, same bits on the CPU: whatever the number of loader threads, the order of folders, the language, the time zone.

Only times and places may differ: ``seconds`` in the header of last.safetensors, and in run.json ``started``, ``finished``, ``seconds`` and ``command``.
"""

import csv
import locale
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_domains
from reliability.contents import contents, differences

import celladapt
from celladapt import benchmarking, conclusion, side_by_side
from celladapt.data import pairs
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

# Wide enough for Winograd's convolutions in one layer, which numba computes, in float32 and in bf16.
OPTIONS: dict[str, Any] = {"method": "weakuda", "preset": "fast", "steps": 3, "width": 16, "crop": 32, "batch_size": 4, "validate_every": 3, "checkpoint_every": 2, "baseline": False}  # fmt: skip
CHILD = """
import locale, sys, torch
locale.setlocale(locale.LC_ALL, "")
from celladapt import adaptation, conclusion
conclusion.report = lambda *_: None
source, target, out = sys.argv[1:4]
adaptation.adapt(source, target, out=out, **eval(sys.argv[4]))
print(torch.get_num_threads(), sys.getfilesystemencoding(), hash("a"), locale.localeconv()["decimal_point"])
"""


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With a name that is not ASCII, and two that languages sort otherwise than their bytes."""
    source, target = draw_domains(tmp_path_factory.mktemp("drawn"))
    for part in ("images", "masks"):
        for old, new in (("target1", "Zelle_ä"), ("target2", "zelle_B"), ("target3", "Zelle_a")):
            (target / part / f"{old}.png").rename(target / part / f"{new}.png")
    return source, target


@pytest.fixture(scope="module")
def no_page() -> Iterator[None]:
    """Reports take most of a tiny run's time and are not compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conclusion, "report", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def run(domains: tuple[Path, Path], no_page: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return celladapt.adapt(*domains, out=tmp_path_factory.mktemp("runs") / "run", **OPTIONS)


def differing(one: Run, other: Run) -> list[str]:
    return differences(contents(one.path), contents(other.path))


def test_another_seed_gives_other_bits(run: Run, domains: tuple[Path, Path], tmp_path: Path) -> None:
    """What the other tests compare can differ."""
    other = celladapt.adapt(*domains, out=tmp_path / "run", **OPTIONS, seed=1)
    found = differing(run, other)
    others = ("model.safetensors", "last.safetensors", "log.jsonl", "validation.jsonl", "metrics.json")
    assert {f"{name} is another one" for name in others} <= {*found}
    assert "split.json is another one" not in found, "the split has a seed of its own"


def test_neither_loader_threads_nor_the_order_of_folders_change_a_bit(
    run: Run, domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, asked = pairs.Pairs.between, []
    order = random.Random(5)

    def shuffled(listing: Callable[..., Any]) -> Callable[..., Any]:
        def listed(*arguments: Any, **options: Any) -> Iterator[Any]:
            entries = list(listing(*arguments, **options))
            asked.append(len(entries))
            order.shuffle(entries)
            return iter(entries)

        return listed

    def threads(self: pairs.Pairs, start: int, stop: int, **_: Any) -> Iterator[Any]:
        return between(self, start, stop, ahead=7, workers=5)

    monkeypatch.setattr(pairs.Pairs, "between", threads)
    for name in ("iterdir", "glob", "rglob"):
        monkeypatch.setattr(Path, name, shuffled(getattr(Path, name)))
    other = celladapt.adapt(*domains, out=tmp_path / "run", **OPTIONS)
    monkeypatch.undo()
    assert max(asked) >= 8, "the folders were listed in disorder"
    assert not differing(run, other)


def installed(language: str) -> bool:
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, language)
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
    return True


@pytest.mark.parametrize(
    ("language", "comma"), [("C", "."), *(pytest.param(f"{name}.UTF-8", ",", marks=pytest.mark.slow) for name in ("de_DE", "tr_TR"))]
)
def test_no_language_time_zone_hash_seed_or_folder_changes_a_bit(
    language: str, comma: str, run: Run, domains: tuple[Path, Path], tmp_path: Path
) -> None:
    """In a process of its own, which loads numba in the middle of the run, as one does that a person starts."""
    if not installed(language):
        pytest.skip(f"the language {language} is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONHASH", "NUMBA"))}
    environment |= {
        "LC_ALL": language,
        "TZ": "Asia/Kathmandu",
        "PYTHONHASHSEED": "12345",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = [str(path) for path in domains]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments, "run", repr(OPTIONS)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    threads, encoding, hashed, point = done.stdout.split()
    assert point == comma
    assert (threads, encoding) == ("1", "utf-8"), "numba's start leaves torch's threads as they are"
    assert int(hashed) != hash("a")
    assert not differing(run, Run(tmp_path / "run"))


@pytest.mark.slow
def test_a_benchmark_s_scores_do_not_depend_on_how_many_runs_go_side_by_side(
    domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each run has as many threads."""
    monkeypatch.setattr(side_by_side, "_cores", lambda: 1)
    options = {key: value for key, value in OPTIONS.items() if key not in ("method", "baseline")}
    for jobs in (1, 3):
        done = benchmarking.benchmark([domains], ["source_only", "weakuda"], tmp_path / str(jobs), seeds=2, jobs=jobs, **options)
        assert not done.failures
    one, three = (tmp_path / name for name in ("1", "3"))
    scores = [[row[:8] for row in csv.reader((folder / "cells.csv").read_text(encoding="utf-8").splitlines())] for folder in (one, three)]
    assert scores[0] == scores[1]
    for name in ("table.csv", "comparisons.csv"):
        assert (one / name).read_bytes() == (three / name).read_bytes()
    runs = sorted(file.parent.relative_to(one) for file in one.rglob("config.toml"))
    assert len(runs) == 5
    for place in runs:
        assert not differing(Run(one / place), Run(three / place))
