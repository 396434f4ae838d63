"""The campaign on long runs tells what grows from what does not."""

from pathlib import Path

import numpy as np
import pytest
from reliability.endurance import Sample, _last_step, judge, segment, size, train, watch


def series(count: int = 80, leak: float = 0.0, files: int = 0, threads: int = 0) -> list[Sample]:
    """A process that warms up over its first tenth, goes up and down by 3 MiB, and gains ``leak`` MiB a sample."""
    rng = np.random.default_rng(0)
    late = [int(index > count // 2) for index in range(count)]
    return [
        Sample(
            0.5 * index,
            10 * index,
            400 - 80 * np.exp(-index / (count / 10)) + rng.uniform(-3, 3) + leak * index,
            12 + files * late[index] + index % 2,
            5 + threads * late[index],
        )
        for index in range(count)
    ]


def test_what_is_flat_passes_though_it_warms_up() -> None:
    verdict = judge(series())
    assert verdict.faults == ()
    assert abs(verdict.memory[1] - verdict.memory[0]) < 3
    assert verdict.files == (13, 13)


def test_a_leak_is_found_and_measured() -> None:
    verdict = judge(series(leak=0.5))
    assert len(verdict.faults) == 1
    assert "memory grew" in verdict.faults[0]
    assert verdict.per_thousand == pytest.approx(50, abs=10), "0.5 MiB for each 10 steps"


@pytest.mark.parametrize("what", ["files", "threads"])
def test_one_more_open_file_or_thread_is_found(what: str) -> None:
    assert [fault.split()[0] for fault in judge(series(**{what: 1})).faults] == [what]


def test_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        judge(series(7))


def test_the_last_whole_line_of_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert _last_step(log) == 0
    log.write_text('{"step": 1}\n{"step": 22, "seg": 0.5}\n{"step": 2')
    assert _last_step(log) == 22
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "x").write_bytes(b"12345")
    assert size(tmp_path) == 5 + log.stat().st_size


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 2:\n.*run\.json"):
        watch(["report", str(tmp_path / "none")], lambda: 0, every=0.05)


@pytest.mark.slow
def test_a_short_run_is_flat(tmp_path: Path) -> None:
    """200 steps and 40 images: whether the campaign runs; its verdict on so few is of open files and threads alone."""
    for samples, left in (train(tmp_path, 200, every=0.1), segment(tmp_path, 40, every=0.05)):
        assert not left["half_written"]
        assert not [fault for fault in judge(samples).faults if not fault.startswith("memory")]
