"""The speed benchmarks run, pair their sides rightly, and their figures become a document. What they measure is not asserted: that is theirs to say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.measure import Paired, paired
from benchmarks.noise import domain, pairs
from benchmarks.performance import BENCHMARKS, DOCUMENT
from benchmarks.train_step import attempted, ours, plain
from benchmarks.training_loop import busy_seconds, loop, whole_run
from torch.autograd import DeviceType

from celladapt.config import Config

ROOT = Path(__file__).resolve().parents[1]


def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    times = paired(lambda: order.append("slow"), lambda: order.append("fast"), turns=3, warm=1)
    assert order == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert len(times.slow) == len(times.fast) == 3


def test_the_headline_is_the_median_of_the_turns_own_ratios() -> None:
    record = Paired(slow=[2.0, 30.0, 4.0], fast=[1.0, 10.0, 1.0]).record()
    assert record["ratio"] == 3
    assert record["quartiles"] == [2.5, 3.5]
    assert record["turns"] == 3
    assert (record["slow_seconds"], record["fast_seconds"]) == (4, 1)


def test_both_sides_of_the_training_step_have_the_same_gradients() -> None:
    gradients = []
    for side in (ours(4, 32, 1, torch.device("cpu"), "float32"), plain(4, 32, 1, torch.device("cpu"))):
        side.step()
        gradients.append({name: parameter.grad for name, parameter in side.networks.named_parameters()})
    one, other = gradients
    for name, gradient in one.items():
        assert gradient is not None, name
        assert gradient.any(), name
        torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-6, msg=name)


def test_a_gpu_is_busy_while_any_of_its_kernels_runs() -> None:
    def event(start: float, end: float, device: DeviceType = DeviceType.CUDA, named: bool = False) -> SimpleNamespace:
        return SimpleNamespace(time_range=SimpleNamespace(start=start, end=end), device_type=device, is_user_annotation=named)

    overlapping = [event(5, 9), event(0, 4), event(2, 3), event(3, 6)]
    ignored = [event(0, 1000, DeviceType.CPU), event(0, 1000, named=True)]
    assert busy_seconds([*overlapping, *ignored, event(20, 21)]) == pytest.approx(10e-6)
    assert busy_seconds(ignored) == 0


def test_training_with_images_from_files_is_timed_and_projected(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    found = loop(ours(4, 32, 2, cpu), pairs(domain(tmp_path, 3, 48), 32, 2), cpu, steps=2, warm=1)
    assert found["images_per_second"] == pytest.approx(4 / found["seconds_a_step"])
    assert "gpu_idle_share" not in found, "there is none to look at"
    config = Config(steps=100, validate_every=30, crop="whole", batch_size=1, width=4, augment="none")
    run = whole_run(ours(4, 48, 1, cpu), config, cpu, side=48, steps=2, source=2, target=1)
    assert run["validations"] == 4
    expected = run["first_step_seconds"] + 100 * run["seconds_a_step"] + 4 * run["validation_seconds"]
    assert run["projected_seconds"] == pytest.approx(expected)


def test_what_a_gpu_adds_is_in_the_document() -> None:
    record: dict[str, Any] = json.loads((ROOT / "docs/performance/train_step_bf16.json").read_text(encoding="utf-8"))
    step = {"ratio": 5.0, "quartiles": [4.9, 5.1], "fast_seconds": 0.0123}
    in_training = {"images_per_second": 1234.0, "share_of_peak": 0.4, "gpu_idle_share": 0.03, "first_step_seconds": 41.0}
    run = {
        "steps": 5000,
        "seconds_a_step": 0.011,
        "validations": 10,
        "validation_seconds": 2.5,
        "first_step_seconds": 40.0,
        "projected_seconds": 120.0,
    }
    record["ways"] = {"eager": step, "compiled": {**step, "loop": in_training}, "graphs": attempted(lambda: 1 / 0)}  # type: ignore[arg-type,return-value]
    record["paper"] = {"eager": run}
    record["plain_without_tf32_seconds"] = 0.25
    text = BENCHMARKS["train_step"](record)
    assert "| plain step without TF32 | 250.0 ms |" in text
    assert "| eager step | 5.00× the plain one (4.90 to 5.10), 12.3 ms |" in text
    assert "12.3 ms; in training 1234 images/s, 40 % of the best product, GPU idle 3 %, first step 41 s |" in text
    assert "| graphs step | failed: ZeroDivisionError: division by zero |" in text
    assert "eager, projected | 2.0 min (5000 steps of 11.0 ms, 10 validations of 2.50 s, first step 40 s) |" in text


@pytest.mark.slow
def test_the_compiled_step_is_timed_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.train_step", "--quick", "--compile", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["ratio"] == max(way["ratio"] for way in record["ways"].values())
    assert record["ways"].keys() == {"eager", "compiled"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_writes_figures_that_the_document_shows(name: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # networks this small lose by a second one
    subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(file)], cwd=ROOT, check=True, capture_output=True, env=one_thread
    )
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["ratio"] > 0
    assert record["quartiles"][0] <= record["ratio"] <= record["quartiles"][1]
    text = BENCHMARKS[name](record)
    assert f"**{record['ratio']:.2f}×**" in text
    assert f"<!-- begin {name} -->" in (ROOT / DOCUMENT).read_text(encoding="utf-8")
