"""The benchmark of splitting: what a faultless splitter gives, what touches, and the tables."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import splitting
from benchmarks.splitting import COMPONENTS, OURS, TOLD, domains, exact, split_and_score, told_apart, touching

from celladapt.data.images import write_image


def pair() -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Two touching discs, labelled 3 and 8, and one apart, labelled 5."""
    y, x = np.mgrid[:60, :80]
    labels = np.zeros((60, 80), np.int32)
    labels[np.hypot(y - 20, x - 20) <= 10] = 3
    labels[(np.hypot(y - 20, x - 38) <= 10) & (labels == 0)] = 8
    labels[np.hypot(y - 45, x - 60) <= 8] = 5
    return labels


def test_who_knows_the_annotation_gives_it_back() -> None:
    truth = pair()
    np.testing.assert_array_equal(told_apart(truth > 0, truth), truth)


def test_pixels_beside_the_annotation_go_to_the_nearest_nucleus_of_their_piece() -> None:
    truth = pair()
    foreground = truth > 0
    foreground[20, 5:12] = True  # a spike on the first nucleus
    foreground[2:5, 70:75] = True  # a piece where nothing is annotated
    labels = told_apart(foreground, truth)
    assert (labels[20, 5:12] == 3).all()
    alone = np.unique(labels[2:5, 70:75])
    assert len(alone) == 1
    assert alone[0] not in (0, 3, 5, 8)
    np.testing.assert_array_equal(labels > 0, foreground)


def test_nuclei_that_share_an_edge_are_counted() -> None:
    assert touching(pair()) == 2
    assert touching(np.array([[1, 0], [0, 2]], np.int32)) == 0, "a corner is no edge"


def test_splitting_an_exact_mask_is_better_than_its_components_and_nothing_is_better_than_the_annotation() -> None:
    scores = split_and_score(pair() > 0, pair())
    for measure in ("pq", "aji", "f1"):
        assert scores[COMPONENTS][measure] < scores[OURS][measure] <= scores[TOLD][measure] == 1


def test_the_command_writes_figures_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / "data" / "set" / "images" / f"{stem}.png", np.zeros((60, 80), np.uint8))
        write_image(tmp_path / "data" / "set" / "masks" / f"{stem}.png", pair())
    document = tmp_path / "splitting.md"
    document.write_text("before\n<!-- begin exact --><!-- end exact -->\n", encoding="utf-8")
    file = tmp_path / "splitting.json"
    monkeypatch.setattr(sys, "argv", ["splitting", str(tmp_path / "data"), "--json", str(file), "--into", str(document)])
    splitting.main()
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before")
    assert "| set | 2 | 6 | 67% |" in text
    assert "| set | PQ |" in text
    (domain,) = domains(tmp_path / "data")
    assert json.loads(file.read_text(encoding="utf-8"))["exact"]["set"] == exact(domain, 10)
