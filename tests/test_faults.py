"""The crash campaign's judgement: what is half-written, other, or left behind is seen. The campaign itself is ``make faults``."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from reliability.contents import contents, differences, half_written, left_behind
from reliability.faults import flip, markdown, truncate

from celladapt import checkpoint
from celladapt.data.images import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    write_image(tmp_path / "a.png", noise)
    write_image(tmp_path / "a.tif", noise)
    checkpoint.save(tmp_path / "a.safetensors", {"w": torch.arange(40.0)}, {"step": 1, "seconds": 2.0})
    (tmp_path / "a.json").write_text(json.dumps({"mean": {"iou": 0.5}, "seconds": 3}))
    (tmp_path / "a.csv").write_text("method,iou,seconds\nsource_only,0.5,12\n")
    (tmp_path / "a.toml").write_text('method = "weakuda"\ntarget_labels = "10%"\n')
    (tmp_path / "a.geojson").write_text(json.dumps({"features": [1, 2, 3]}))
    (tmp_path / "a.html").write_text("<html><p>a</p></html>\n")
    (tmp_path / "a.md").write_text("# Model\n\nA line.\n")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')  # its next start cuts it back
    (tmp_path / ".lock").touch()
    return tmp_path


def test_whole_files_are_not_complained_of(folder: Path) -> None:
    assert half_written(folder) == []
    assert left_behind(folder) == []


@pytest.mark.parametrize("suffix", ["png", "tif", "safetensors", "json", "csv", "toml", "geojson", "html", "md"])
def test_every_kind_of_file_that_is_cut_is_noticed(folder: Path, suffix: str) -> None:
    file = folder / f"a.{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert [sentence.split()[0] for sentence in half_written(folder)] == [file.name]


def test_only_dates_and_durations_may_differ(folder: Path) -> None:
    before = contents(folder)
    (folder / "a.json").write_text(json.dumps({"mean": {"iou": 0.5}, "seconds": 4}))
    (folder / "a.csv").write_text("method,iou,seconds\nsource_only,0.5,13\n")
    checkpoint.save(folder / "a.safetensors", {"w": torch.arange(40.0)}, {"step": 1, "seconds": 9.0})
    assert differences(before, contents(folder)) == []
    (folder / "a.json").write_text(json.dumps({"mean": {"iou": 0.5000001}, "seconds": 4}))
    (folder / "a.csv").unlink()
    (folder / "new.txt").touch()
    checkpoint.save(folder / "a.safetensors", {"w": torch.arange(40.0) + 1e-6}, {"step": 1, "seconds": 2.0})
    assert differences(before, contents(folder)) == [
        "a.csv is missing", "new.txt should not be there", "a.json is another one", "a.safetensors is another one",
    ]  # fmt: skip


def test_temporary_files_are_noticed(folder: Path) -> None:
    (folder / ".a.123-00ff00.part.png").touch()
    (folder / ".lock.json").touch()
    assert sorted(left_behind(folder)) == [".a.123-00ff00.part.png", ".lock.json"]


def test_damage_is_done(tmp_path: Path) -> None:
    file, whole = tmp_path / "a", bytes(range(256))
    for seed in range(20):
        file.write_bytes(whole)
        flip(file, random.Random(seed))
        assert 1 <= sum(a != b for a, b in zip(file.read_bytes(), whole, strict=True)) <= 8
        truncate(file, random.Random(seed))
        assert file.stat().st_size < len(whole)


def test_the_table_says_what_was_survived_and_what_was_not_run() -> None:
    rows = [{"fault": "SIGKILL", "work": "adapt", "faults": 3, "lost": 1}, {"fault": "disk full", "work": "predict", "faults": 2, "lost": 0}]
    text = markdown({"date": "2026-01-02T", "command": "c", "minutes": 5, "faults": 5, "lost": 1, "rows": rows, "not_run": ["read-only (why)"]})
    assert "| SIGKILL | 2 of 3 |  |" in text
    assert "| disk full |  | 2 of 2 |" in text
    assert text.endswith("`faults 5, survived 4, lost 1`: `c`, 5 minutes, 2026-01-02. Not run: read-only (why).")
