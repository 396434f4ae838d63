"""What a benchmark says of the paper's claims, and where it is put into a document."""

from pathlib import Path

import pytest
from benchmarks.compare import read, table
from benchmarks.documents import put, spread
from test_grid import Scores, write_grid

from celladapt.reporting.claims import claims
from celladapt.reporting.differences import compare
from celladapt.reporting.grid import read_grid


def seeds(mean: float) -> list[list[float] | str]:
    """Three seeds of eight images that differ by a constant between methods, a little between seeds, and by much between images."""
    return [[mean + 0.001 * seed + 0.02 * image for image in range(8)] for seed in (-1, 0, 1)]


def found(folder: Path, methods: dict[str, float]) -> dict[str, str]:
    scores: Scores = {"a → b": {method: seeds(mean) for method, mean in methods.items()}}
    grid = read_grid(write_grid(folder, scores))
    return {claim.text: claim.findings["a → b"] for claim in claims(grid, compare(grid))}


def test_claims_are_judged_by_the_interval(tmp_path: Path) -> None:
    said = found(tmp_path, {"source_only": 0.5, "da_adv": 0.65, "cellseguda:lambda_rec=0": 0.6, "cellseguda": 0.6, "supervised": 0.7})
    assert said["CellSegUDA is above source-only"].startswith("yes: +0.100 IoU (")
    assert said["CellSegUDA is above DA-ADV"].startswith("no, the reverse: −0.050 IoU (")
    assert said["reconstruction helps: CellSegUDA is above itself without R"].startswith("undecided: +0.000 IoU (")
    order = "source_only < cellseguda:lambda_rec=0 ≈ cellseguda < da_adv < supervised"
    assert said["the order of the methods, lowest IoU first"] == order
    assert not any("labels" in text for text in said)


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, {"a → b": {"source_only": seeds(0.5)[:1], "cellseguda": seeds(0.7)[:1], "supervised": ["failed"]}}))
    (above,) = claims(grid, compare(grid))
    assert above.findings["a → b"].startswith("undecided: +0.200 IoU (")


@pytest.mark.parametrize(
    ("ious", "words"),
    [
        ((0.66, 0.69, 0.695), "from 25 % on (−0.040* with 10 %, −0.010* with 25 %, −0.005* with 75 %)"),
        ((0.69, 0.66, 0.71), "from 75 % on (−0.010* with 10 %, −0.040* with 25 %, +0.010 with 75 %)"),
        ((0.5, 0.5, 0.5), "from none of these (−0.200* with 10 %, −0.200* with 25 %, −0.200* with 75 %)"),
    ],
)
def test_how_many_labels_come_near_full_supervision(tmp_path: Path, ious: tuple[float, float, float], words: str) -> None:
    shares = dict(zip(("cellsegssda@25%", "cellsegssda@10%", "cellsegssda@75%"), (ious[1], ious[0], ious[2]), strict=True))
    said = found(tmp_path, {**shares, "cellsegssda@25%:lambda_adv=1": 0.9, "supervised": 0.7})
    assert said["CellSegSSDA comes near full supervision: from how many labels"] == words


def test_a_part_of_a_document_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("before\n<!-- begin one -->\nold\n<!-- end one -->\n<!-- begin two -->\nkept\n<!-- end two -->\n", encoding="utf-8")
    put(document, "one", r"| new \1 |")
    text = "before\n<!-- begin one -->\n| new \\1 |\n<!-- end one -->\n<!-- begin two -->\nkept\n<!-- end two -->\n"
    assert document.read_text(encoding="utf-8") == text
    with pytest.raises(SystemExit, match="three"):
        put(document, "three", "x")


def test_benchmarks_side_by_side_share_their_seeds(tmp_path: Path) -> None:
    for name, scores in (("a", [0.5, 0.6, 0.9]), ("b", [0.6, 0.8])):
        rows = [f"p,m,{seed},{iou}\n" for seed, iou in enumerate(scores)] + ["p,once,0,0.5\n", "p,failed,0,\n"]
        (tmp_path / f"{name}.csv").write_text("pair,method,seed,iou\n" + "".join(rows), encoding="utf-8")
    text = table({"one": read([tmp_path / "a.csv"]), "two": read([tmp_path / "b.csv"])})
    assert text.splitlines()[2:] == ["| p | m | 0.550 ± 0.071 | 0.700 ± 0.141 |"]


def test_a_single_value_has_no_spread() -> None:
    assert spread([0.25]) == "0.250"
    assert spread([0.25, 0.75], "+") == "+0.500 ± 0.354"
