"""What the benchmarks put into the results: the map of pairs, and what suggestions are worth."""

from pathlib import Path

import pytest
from benchmarks import joined, matrix, suggestion
from benchmarks.suggestion import Plan, compare, table
from helpers import in_this_process
from PIL import Image
from test_grid import write_grid

from celladapt.data.folder import Folder
from celladapt.reporting.grid import read_grid
from celladapt.run import Run


def test_the_map_counts_pairs_that_gained_and_lost(tmp_path: Path) -> None:
    """Three domains crossed; two that meet each other alone have no row."""
    ious = {
        ("a", "b"): (0.4, 0.6),
        ("b", "c"): (0.5, 0.45),
        ("c", "a"): (0.7, 0.705),
        ("c", "b"): (0.1, 0.1),
        ("x", "y"): (0.1, 0.9),
        ("b", "a"): (0.2, 0.3),
    }
    scores = {f"{s} → {t}": {"source_only": [[before]], "weakuda": [[after]]} for (s, t), (before, after) in ious.items()}
    scores["a → b"] |= {"supervised": [[0.8]], "classical": [[0.3]]}
    grid = read_grid(write_grid(tmp_path, scores))
    words = matrix.draw(grid, tmp_path / "map.png")
    assert ", 5 pairs." in words
    assert "above source-only by more than 0.01 on 2 of them, below by more than 0.01 on 1" in words
    assert "the mean difference is +0.051, the least -0.050" in words
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > picture.height > 100
    known = matrix.scores(grid, ("supervised",))
    assert known == {("supervised", "a", "b"): pytest.approx(0.8)}


def test_joined_benchmarks_share_full_supervision_by_target_and_keep_their_runs(tmp_path: Path) -> None:
    """Gaps of 0.4 and 0.2 that are closed by 50 % and 150 %, to one target; one of 0.04 does not count."""
    write_grid(tmp_path / "one", {"a → t": {"source_only": [[0.4]], "weakuda": [[0.6]], "classical": [[0.8]], "supervised": [[0.8]]}})
    write_grid(
        tmp_path / "two",
        {
            "b → t": {"source_only": [[0.6]], "weakuda": [[0.9]], "classical": [[0.6]]},
            "a → u": {"source_only": [[0.5]], "weakuda": [[0.4]], "supervised": [[0.54]]},
        },
    )
    grid = joined.join([tmp_path / "one" / "cells.csv", tmp_path / "two"], tmp_path / "both")
    assert grid.entry("b → t", "supervised", "iou").mean == pytest.approx(0.8)
    assert {cell.pair for cell in grid.cells if cell.images} == {"b → t", "a → u"}, "of a table alone no image is known"
    said = joined.together(grid)
    assert "| all pairs | weakuda | IoU | 2 | 100 % | 100 % | 75 % | 100 % |" in said
    assert "| all pairs | classical | IoU | 2 | 50 % | 50 % | 50 % | 50 % |" in said
    assert "weakuda on 1 of 3 pairs: a → u (−0.100)" in said
    assert joined.join([tmp_path / "two"], tmp_path / "lent", tmp_path / "one" / "cells.csv").gap("b → t", "weakuda") == pytest.approx(1.5)
    with pytest.raises(FileExistsError):
        joined.join([tmp_path / "two"], tmp_path / "both")


def test_suggested_images_are_compared_with_the_mean_of_the_draws_of_their_seed() -> None:
    found = {"source_only": [[0.3], [0.5]], "suggested": [[0.70], [0.60]], "random": [[0.60, 0.70], [0.65, 0.63]]}
    text = table({"a → b": found}, Plan(k=3, seeds=2, draws=2, steps=300, method="weakssda"))
    (row,) = [line for line in text.splitlines() if line.startswith("| a → b")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["a → b", "0.400 ± 0.141", "0.650 ± 0.071", "0.645 ± 0.007", "+0.005 ± 0.064", "+0.050, -0.040"]
    assert text.endswith("Suggested images are better in 1 of 2 comparisons; the mean difference is +0.005 IoU.")


@pytest.mark.usefixtures("no_charts")
def test_both_choices_have_as_many_masks_of_training_images_and_the_same_test_images(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestion, "carry_out_all", in_this_process)
    source, target = tiny_domains
    plan, out = Plan(k=2, seeds=1, draws=1, steps=1, method="supervised"), tmp_path / "out"
    found = compare(source, target, out, plan)
    assert {how: [len(runs) for runs in group] for how, group in found.items()} == {"source_only": [1], "suggested": [1], "random": [1]}
    split = Run.open(out / "source0").splits[1]
    for name in ("suggested0_0", "random0_0"):
        assert Run.open(out / name).splits[1] == split
        known = set(Folder.open(out / f"{name}-data").masks)
        assert set(split.test) <= known
        assert len(known & set(split.train)) == len(known - set(split.test)) == 2
    assert compare(source, target, out, plan) == found, "what is done is not done again"
    with pytest.raises(SystemExit, match="another plan"):
        compare(source, target, out, Plan(k=1, seeds=1, draws=1, steps=1, method="supervised"))
