"""The speed benchmarks run, pair their sides rightly, and their figures become a document. What they measure is not asserted: that is theirs to say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.measure import Paired, paired
from benchmarks.performance import BENCHMARKS, DOCUMENT
from benchmarks.train_step import ours, plain

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


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("startup", "scaling") else []) for name in BENCHMARKS])
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
