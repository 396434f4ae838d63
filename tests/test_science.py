"""Slow scientific checks: ``make science``."""

from pathlib import Path

import pytest

import celladapt
from celladapt.data.synthetic import embedded


@pytest.mark.slow
def test_the_embedded_set_has_a_gap(tmp_path: Path) -> None:
    """Source-only must lose at least 0.15 IoU against supervised, or there would be nothing to adapt."""
    results = celladapt.benchmark([embedded(tmp_path / "data")], ["source_only", "supervised"], tmp_path / "grid", seeds=2, preset="demo").results()
    (methods,) = results.values()
    assert methods["supervised"]["iou"] - methods["source_only"]["iou"] >= 0.15
