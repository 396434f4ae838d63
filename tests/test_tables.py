"""The tables and figures of a benchmark say the same in every form, hide no failure, and are the same each time."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_grid import ONE_PAIR, Scores, write_grid

from celladapt.reporting import report
from celladapt.reporting.charts import PAPER, label_curve, labels_figure, methods_figure
from celladapt.reporting.conditions import notes
from celladapt.reporting.grid import Grid, read_grid
from celladapt.reporting.rendering import method_name
from celladapt.reporting.tables import by_pair, latex, long, markdown, short, terminal_table, wide

FILES = (
    "table.csv",
    "table.md",
    "table.tex",
    "measures.csv",
    "comparisons.csv",
    "methods.png",
    "methods.svg",
    "labels.png",
    "labels.svg",
    "report.html",
)
FAILING: Scores = {
    "a_1 & b → c": {
        "source_only": [[0.5], [0.5], [0.5]],
        "da_adv": [[0.4], "Out of memory; lower --batch-size.", [0.6]],
        "cellseguda:lambda_rec=0": ["Out of memory.", "Out of memory.", "Out of memory."],
        "cellsegssda@10%": [[0.55], [0.65]],
        "supervised": [[0.7], [0.7], [0.7]],
    },
    "grey [bold] → violet": {"source_only": [[0.5], [0.5], [0.5]], "supervised": [[0.5], [0.5], [0.5]]},
}
SHARES: Scores = {
    "x → y": {
        "classical": [[0.3]],
        "source_only": [[0.4], [0.5]],
        "cellseguda": [[0.5], [0.6]],
        "cellsegssda@10%": [[0.6], [0.7]],
        "cellsegssda@50%": [[0.7], [0.8]],
        "supervised": [[0.8], [0.9]],
    },
    "y → x": {"source_only": [[0.4], [0.5]], "cellsegssda@10%": [[0.6], "Failed."]},
}
MANY: Scores = {
    **{
        f"{name} → t": {"classical": [[0.3]], "source_only": [[low], [low]], "weakuda": [[0.6], [0.7]], "supervised": [[0.8], [0.8]]}
        for name, low in (("a", 0.4), ("b", 0.5), ("c", 0.7), ("d", 0.77))  # closed: 62.5 %, 50 %, -50 %; of the last gap a mean takes no notice
    },
    "e → t": {"source_only": [[0.9]], "weakssda@10%": [[0.5]], "supervised": [[0.9]]},
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def printed(grid: Grid, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_table(grid))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def section(folder: Path) -> str:
    """What ``python -m benchmarks.results`` prints."""
    command = [sys.executable, "-m", "benchmarks.results", str(folder)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, encoding="utf-8").stdout


def grid_of(folder: Path, scores: Scores) -> Grid:
    return read_grid(write_grid(folder, scores))


def test_the_paper_s_table_in_every_form(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, ONE_PAIR)
    assert markdown(wide(grid)).splitlines() == [
        "| method | grey → violet IoU | grey → violet Dice | grey → violet gap closed |",
        "| --- | --: | --: | --: |",
        "| classical (learns nothing) | 0.350 | 0.175 | −125 % |",
        "| source_only | 0.600 ± 0.100 | 0.300 ± 0.050 | 0 % |",
        "| cellseguda | 0.700 ± 0.100 | 0.350 ± 0.050 | 50 % |",
        "| supervised | 0.800 ± 0.100 | 0.400 ± 0.050 | 100 % |",
    ]
    tex = latex(wide(grid, method_name))
    assert r" & \multicolumn{3}{c}{grey $\rightarrow$ violet} \\" in tex
    assert r"\cmidrule(lr){2-4}" in tex
    assert "Classical (learns nothing) & 0.350 & 0.175 & $-$125 \\% \\\\\n\\midrule\nSource only & 0.600 $\\pm$ 0.100 & " in tex
    report(tmp_path)
    values = {row["method"]: row for row in rows(tmp_path / "table.csv")}
    assert float(values["cellseguda"]["grey → violet IoU"]) == pytest.approx(0.7)
    assert float(values["cellseguda"]["grey → violet IoU sd"]) == pytest.approx(0.1)
    assert float(values["cellseguda"]["grey → violet gap closed"]) == pytest.approx(0.5)
    assert values["classical"]["grey → violet IoU sd"] == ""
    assert values["classical"]["grey → violet seeds"] == "1"
    assert "150 steps" in values["classical"]["conditions"]
    (aji,) = [row for row in rows(tmp_path / "measures.csv") if (row["method"], row["measure"]) == ("cellseguda", "aji")]
    assert (float(aji["mean"]), float(aji["sd"]), aji["test_images"]) == (pytest.approx(0.175), pytest.approx(0.025), "2")


@pytest.mark.parametrize("scores", [ONE_PAIR, FAILING])
def test_every_table_says_seeds_budget_split_and_spread(tmp_path: Path, scores: Scores) -> None:
    grid = grid_of(tmp_path, scores)
    report(tmp_path)
    flat = " ".join(printed(grid).split())
    tex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    both = tex.split(r"\begin{table}")[1:]
    for text in (flat, (tmp_path / "table.md").read_text(encoding="utf-8"), *both, section(tmp_path)):
        for expected in (
            "3 seeds (0-2)",
            "150 steps, width 16, crop 128, batch 4",
            "split seed 0",
            "sample standard deviation over seeds",
            "test images: ",
        ):
            assert expected in text, expected


def test_one_pair_shows_all_measures_and_several_the_paper_s(tmp_path: Path) -> None:
    one = printed(grid_of(tmp_path / "one", ONE_PAIR))
    assert all(word in one for word in ("AJI", "PQ", "F1", "seconds", "gap closed", "grey → violet"))
    two = printed(grid_of(tmp_path / "two", {"x": {"source_only": [[0.5]]}, "y": {"source_only": [[0.25]]}}))
    assert "AJI" not in two
    (line,) = [line for line in two.splitlines() if "source_only" in line and "│" in line]
    assert line.index("0.500") < line.index("0.250"), "side by side"
    many = printed(grid_of(tmp_path / "many", {pair: {"source_only": [[0.5]]} for pair in "abcd"}), width=80)
    assert len([line for line in many.splitlines() if "source_only" in line and "0.500" in line]) == 4, "below one another, in 80 columns"


def test_failures_and_missing_seeds_are_seen_in_every_form(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, FAILING)
    report(tmp_path)
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in ("table.md", "table.tex", "report.html")]
    for text in texts:
        assert "; failed (1 of 3)" in text
        assert "failed (3 of 3)" in text
        assert "(2 seeds)" in text
    assert "| da_adv | 0.500 ± 0.141; failed (1 of 3) |" in markdown(wide(grid))
    assert "| cellseguda:lambda_rec=0 | failed (3 of 3) | failed (3 of 3) | – |" in markdown(wide(grid))
    assert "| cellsegssda@10% | 0.600 ± 0.071 (2 seeds) |" in markdown(wide(grid))
    terminal = " ".join(printed(grid, width=400).split())
    assert "0.500 ± 0.141; failed (1 of 3)" in terminal
    assert "da_adv on a_1 & b → c, seed 1, failed: Out of memory; lower --batch-size." in terminal
    values = {row["method"]: row for row in rows(tmp_path / "table.csv")}
    assert (values["da_adv"]["a_1 & b → c seeds"], values["da_adv"]["a_1 & b → c failed"]) == ("2", "1")
    assert values["cellseguda:lambda_rec=0"]["a_1 & b → c IoU"] == ""


def test_no_gap_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, FAILING)
    assert "| source_only | 0.500 ± 0.000 | 0.250 ± 0.000 | 0 % | 0.500 ± 0.000 | 0.250 ± 0.000 | – |" in markdown(wide(grid))
    reason = "No gap to close on grey [bold] → violet: supervised is not at least 0.02 IoU above source_only."
    assert reason in wide(grid).notes
    assert reason in " ".join(printed(grid).split()), "square brackets of a name are no markup"


def test_latex_is_escaped_and_whole(tmp_path: Path) -> None:
    tex = latex(wide(grid_of(tmp_path, FAILING)))
    assert r"\multicolumn{3}{c}{a\_1 \& b $\rightarrow$ c}" in tex
    assert r"cellseguda:lambda\_rec=0 & " in tex
    assert r"cellsegssda@10\% & " in tex
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")].splitlines()
    counts = {line.replace(r"\&", "").count("&") for line in body if line.endswith(r"\\") and "multicolumn" not in line}
    assert counts == {6}
    for begun, ended in (("{", "}"), (r"\begin", r"\end")):
        plain = tex.replace(r"\{", "").replace(r"\}", "")
        assert plain.count(begun) == plain.count(ended)
    assert all(ord(character) < 128 for character in tex)


def test_markdown_of_odd_names_keeps_its_columns(tmp_path: Path) -> None:
    lines = markdown(long(grid_of(tmp_path, {"a|b <i> → c": {"source_only": [[0.5]]}, "d": {"source_only": [[0.5]]}}))).splitlines()
    assert lines[2].startswith(r"| a\|b \<i\> → c | source_only | 0.500 |")
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_of_many_pairs_each_has_a_row(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, MANY)
    assert markdown(by_pair(grid)).splitlines() == [
        "| pair | test images | IoU classical | IoU source_only | IoU weakuda | IoU supervised | IoU weakssda@10% | gap closed weakuda | gap closed weakssda@10% |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        "| a → t | 1 | 0.300 | 0.400 ± 0.000 | 0.650 ± 0.071 | 0.800 ± 0.000 | – | 62 % | – |",
        "| b → t | 1 | 0.300 | 0.500 ± 0.000 | 0.650 ± 0.071 | 0.800 ± 0.000 | – | 50 % | – |",
        "| c → t | 1 | 0.300 | 0.700 ± 0.000 | 0.650 ± 0.071 | 0.800 ± 0.000 | – | −50 % | – |",
        "| d → t | 1 | 0.300 | 0.770 ± 0.000 | 0.650 ± 0.071 | 0.800 ± 0.000 | – | −400 % | – |",
        "| e → t | 1 | – | 0.900 (1 seed) | – | 0.900 (1 seed) | 0.500 (1 seed) | – | – |",
    ]
    assert short(grid) == by_pair(grid)
    five: Scores = {pair: dict(methods) for pair, methods in MANY.items()}
    five["a → t"]["weakuda"] = ["Out of memory.", "Out of memory."]
    some = grid_of(tmp_path / "some", five)
    assert any(
        note.startswith("Over the 3 pairs on which") and "weakuda closes 0 % of the gap" in note and "; 2 pairs)" in note for note in notes(some)
    )
    assert "WeakUDA failed (2 of 2)" in [text.get_text() for text in methods_figure(some, PAPER).axes[0].texts]
    assert short(few := grid_of(tmp_path / "few", ONE_PAIR)) == wide(few)
    for expected in (
        "Over the 3 pairs on which supervised is at least 0.05 IoU above source_only: weakuda closes 21 % of the gap in the mean, 50 % in the median (−50 % to 62 %); classical closes −164 % of the gap in the mean, −67 % in the median (−400 % to −25 %).",
        "Below source_only by more than 0.01 IoU: weakuda on 2 of 4 pairs: c → t (−0.050), d → t (−0.120); weakssda@10% on 1 of 1 pairs: e → t (−0.400).",
        "No gap to close on e → t: supervised is not at least 0.02 IoU above source_only.",
    ):
        assert expected in notes(grid)
    for measure in ("PQ", "F1"):
        assert any(note.startswith(f"Below source_only by more than 0.01 {measure}: weakuda on 2 of 4 pairs: c → t") for note in notes(grid))
    report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "WeakUDA closes 21 % of the gap in the mean" in page
    assert "the best method without target labels" not in page, "the table says so"
    assert r"\multicolumn{5}{c}{IoU} & \multicolumn{2}{c}{gap closed}" in (tmp_path / "table.tex").read_text(encoding="utf-8")


def test_many_pairs_share_a_panel(tmp_path: Path) -> None:
    (axes,) = methods_figure(grid_of(tmp_path, MANY), PAPER).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MANY)
    lines = [list(line.get_xdata()) for line in axes.lines if list(line.get_ydata()) == [0, 0]]  # type: ignore[arg-type]
    assert lines == [[0.4, 0.8]], "from source-only to supervised"
    means = {tuple(np.round(place[0], 9)) for marks in axes.collections if len(place := np.asarray(marks.get_offsets())) == 1}
    assert means >= {(0.65, row) for row in range(4)}


def test_every_comparison_is_listed_with_its_verdict(tmp_path: Path) -> None:
    images = [0.5 + 0.01 * index for index in range(8)]
    better = [value + 0.05 for value in images]
    write_grid(tmp_path, {"x": {"classical": [images], "source_only": [images, images], "cellseguda": [better, better]}})
    report(tmp_path)
    found = {(row["measure"], row["method_a"], row["method_b"]): row for row in rows(tmp_path / "comparisons.csv")}
    assert len(found) == 3 * 2
    row = found["iou", "cellseguda", "source_only"]
    assert (row["difference"], row["low"], row["high"], row["images"], row["seeds"]) == ("0.050000", "0.050000", "0.050000", "8", "2")
    assert row["verdict"] == "cellseguda is 0.050 IoU above source_only (95 % interval 0.050 to 0.050, 8 images, 2 seeds)"
    assert found["dice", "cellseguda", "classical"]["difference"] == "0.025000"
    assert found["iou", "source_only", "classical"]["seeds"] == "2 and 1"


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "grid", tmp_path / "second" / "grid"
    write_grid(first, SHARES)
    shutil.copytree(first, second)
    for folder in (first, second):
        report(folder)
    assert [name for name in FILES if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_the_label_curve_is_drawn_where_two_shares_were_run(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, SHARES)
    points = label_curve(grid, "x → y").points
    assert [(point.x, point.entry.mean) for point in points] == [(0, pytest.approx(0.55)), (10, pytest.approx(0.65)), (50, pytest.approx(0.75))]
    figure = labels_figure(grid, PAPER)
    assert figure
    assert [axes.get_title() for axes in figure.axes] == ["x → y"], "the other pair has one share only"
    report(tmp_path)
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > 900


def test_labels_given_as_numbers_are_counted(tmp_path: Path) -> None:
    scores: Scores = {"x": {"cellseguda": [[0.5]], "cellsegssda@5": [[0.7]], "cellsegssda@2": [[0.6]], "cellsegssda@50%": [[0.9]]}}
    curve = label_curve(grid_of(tmp_path, scores), "x")
    assert curve.axis == "labelled target images"
    assert [(point.x, point.text) for point in curve.points] == [(0, "0"), (2, "2"), (5, "5")], "how many 50 % are, no run says"


def test_one_share_is_no_curve_and_an_old_figure_goes(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, {"y → x": SHARES["y → x"]})
    assert labels_figure(grid, PAPER) is None
    (tmp_path / "labels.png").touch()  # of an earlier set of runs
    report(tmp_path)
    assert not (tmp_path / "labels.png").exists()
    assert (tmp_path / "methods.png").exists()


def test_the_figure_of_methods_shows_every_seed_and_the_classical_line(tmp_path: Path) -> None:
    figure = methods_figure(grid_of(tmp_path, SHARES), PAPER)
    left, right = figure.axes
    assert [len(marks.get_offsets()) for marks in left.collections] == [2] * 5  # type: ignore[arg-type]
    assert [line.get_xdata()[0] for line in left.lines if line.is_dashed()] == [0.3]  # type: ignore[index]
    assert [text.get_text() for text in right.texts] == ["failed (1 of 2)"]
    assert "Classical" not in [label.get_text() for label in left.get_yticklabels()]


def test_the_section_of_the_docs(tmp_path: Path) -> None:
    text = section(write_grid(tmp_path, ONE_PAIR))
    assert text.startswith("3 seeds (0-2); 150 steps")
    assert "| cellseguda | 0.700 ± 0.100 | 0.350 ± 0.050 | 50 % |" in text
    assert "| cellseguda | 0.700 ± 0.100 | 0.350 ± 0.050 | 0.175 ± 0.025 | 0.175 ± 0.025 | 0.175 ± 0.025 | 50 % | 20 |" in text
    assert "- cellseguda is 0.100 IoU above source_only; too few test images (2) for a test." in text
    assert "- classical is 0.250 IoU below source_only" in text
    assert "not corrected for the number of comparisons" in text
    assert "| CellSegUDA is above source-only | +0.100 IoU, untested: too few test images |" in text
