"""Run folders, tables and models from strangers: what they name is not followed out of their folder, and is text wherever it is shown."""

import csv
import json
from pathlib import Path

import pytest
from helpers import picture, spread_model
from markdown_it import MarkdownIt
from reliability.corpus import KINDS, READERS
from test_report import write_comparison, write_run

from celladapt.adaptation import resume
from celladapt.benchmarking import Benchmark, Cell
from celladapt.card import card
from celladapt.cells import as_cell, of_cell
from celladapt.config import Config
from celladapt.data.images import FileError, write_image
from celladapt.data.split import Split
from celladapt.errors import InputError
from celladapt.evaluation import Evaluation
from celladapt.prediction import predict
from celladapt.reporting import report
from celladapt.reporting.grid import read_grid
from celladapt.run import Run
from celladapt.side_by_side import Failure

FORMULAS = ["=1+1", "=cmd|' /C calc'!A0", "+a", "-a", "@SUM(A1)", "\tx", "\n=x", "＝1+1"]
HOSTILE = [
    "<script>hacked</script>",
    "<img src=x onerror=hacked>",
    "[click](javascript:hacked)",
    "![x](http://evil/x.png)",
    "<http://evil>",
    "`a` | *b* \\",
    "# x\n\n# y",
    "&lt;b&gt;",
]


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["absolute", "above", "pair"])
def test_a_table_does_not_show_runs_of_another_folder(how: str, tmp_path: Path) -> None:
    write_run(tmp_path / "secret" / "weakuda" / "seed0", stems=("secret_patient", "b"))
    bench = write_comparison(tmp_path / "bench", link=False)
    run = {"absolute": str(tmp_path / "secret" / "weakuda" / "seed0"), "above": "../secret/weakuda/seed0", "pair": ""}[how]
    with open(bench / "cells.csv", "a", newline="") as table:
        csv.writer(table).writerow(["../secret" if how == "pair" else "grey-violet", "weakuda", 0, 0.5, 0.5, "", 1, run])
    before = everything(tmp_path / "secret")
    assert [cell.run is None for cell in read_grid(bench).cells] == [False] * 6 + [True]
    if how == "above":
        assert "secret_patient" not in report(bench).read_text(encoding="utf-8")
    assert everything(tmp_path / "secret") == before


def test_a_link_in_a_table_s_folder_does_not_show_runs_of_another(tmp_path: Path) -> None:
    write_run(tmp_path / "secret" / "weakuda" / "seed0", stems=("secret_patient", "b"))
    bench = write_comparison(tmp_path / "bench", link=False)
    (bench / "link").symlink_to(tmp_path / "secret")
    (bench / "pair").symlink_to(tmp_path / "secret")
    with open(bench / "cells.csv", "a", newline="") as table:
        csv.writer(table).writerow(["grey-violet", "weakuda", 0, 0.5, 0.5, "", 1, "link/weakuda/seed0"])
        csv.writer(table).writerow(["pair", "weakuda", 0, 0.5, 0.5, "", 1, ""])
    assert [cell.run is None for cell in read_grid(bench).cells] == [False] * 6 + [True] * 2
    assert "secret_patient" not in report(bench).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["a Zarr folder of pickled objects", "a Zarr folder compressed by pickle", "a Zarr folder filtered by pickle"])
@pytest.mark.parametrize("where", ["0/.zarray", ".zmetadata", "0/zarr.json"])
def test_a_pickled_chunk_is_not_loaded(name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the program itself, or the environment, lets numcodecs load pickles."""
    pickles = pytest.importorskip("numcodecs.pickles")
    monkeypatch.setattr(pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    monkeypatch.chdir(tmp_path)
    path = next(kind for kind in KINDS if kind.name == name).make(tmp_path, "a")
    described = json.loads((path / "0" / ".zarray").read_text())
    if where == ".zmetadata":
        described = {"zarr_consolidated_format": 1, "metadata": {".zgroup": {"zarr_format": 2}, "0/.zarray": described}}
    elif where == "0/zarr.json":
        described = {"zarr_format": 3, "node_type": "array", "codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}
    (path / "0" / ".zarray").rename(path / where)
    (path / where).write_text(json.dumps(described).replace("pickle", "\\u0070ickle"))
    with pytest.raises(FileError, match="holds pickles, which can run code"):
        READERS["slide"](path)
    assert not (tmp_path / "ran").exists()
    pickles.Pickle().decode((path / "0" / "0.0").read_bytes())
    assert (tmp_path / "ran").is_dir(), "the test would see it run"


@pytest.mark.parametrize("stem", ["../../escaped", "/tmp/celladapt-escaped", ".."])
def test_a_split_that_names_what_is_not_there(stem: str, tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    config = Config(source=source, target=target, width=4, steps=1, crop=32, batch_size=1, baseline=False, fallback=False)
    stems = [sorted(path.stem for path in (domain / "images").iterdir()) for domain in (source, target)]
    run = Run.create(tmp_path / "a" / "b" / "run", config, Split(stems[0][1:], stems[0][:1], []), Split(stems[1][1:], stems[1][:1], [stem]))
    before = sorted(path for path in tmp_path.rglob("*") if run.path not in path.parents)
    with pytest.raises(InputError, match=r"split|not in|no image"):
        resume(run.path)
    assert sorted(path for path in tmp_path.rglob("*") if run.path not in path.parents) == before


@pytest.mark.parametrize("name", ["..png", "...png"])
def test_a_name_that_would_be_a_folder_above(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", picture(0, 32, 32))
    (tmp_path / "in" / "a.png").rename(tmp_path / "in" / name)
    with pytest.raises(InputError, match="has no name that its outputs could have"):
        predict(spread_model(), tmp_path / "in" / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cells_that_a_spreadsheet_would_compute() -> None:
    for text in [*FORMULAS, "'=1", "''=1", "plain", "a=b", "", "'", "-1.5", "1e-3", "nan"]:
        assert of_cell(as_cell(text)) == text, text
        assert not as_cell(text).startswith(tuple("=+@\t\r＝＋－＠")), text
    assert as_cell("-1.5") == "-1.5"
    assert as_cell("a\r=x") == "a =x"
    assert as_cell("-a") == "'-a"
    assert as_cell("'a") == "''a"


def test_names_in_csv_files_are_no_formulas(tmp_path: Path) -> None:
    scores = dict.fromkeys(("iou", "dice", "aji", "pq", "f1"), 0.5)
    Evaluation(dict.fromkeys(FORMULAS, scores)).write_csv(tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv", encoding="utf-8", newline="") as table:
        assert [row["image"] for row in csv.DictReader(table)] == [f"'{name}" for name in sorted(FORMULAS)]
    cells = [
        Cell(name, "weakuda", 0, Config(), Run(tmp_path / name.strip().replace("/", "_") / "run"), Failure(f"{name} is damaged.", False))
        for name in FORMULAS[:5]
    ]
    for _ in range(2):  # what an earlier call wrote is read and written again
        Benchmark(tmp_path, cells).write()
        Benchmark(tmp_path, cells[:1]).write()
    with open(tmp_path / "cells.csv", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row[key][:2] for row in rows for key in ("pair", "run", "error")] == [f"'{name[0]}" for name in FORMULAS[:5] for _ in range(3)]
    assert [(cell.pair, cell.error) for cell in read_grid(tmp_path).cells] == [(name, f"{name} is damaged.") for name in FORMULAS[:5]]
    report(tmp_path)
    for name in ("table.csv", "measures.csv", "comparisons.csv"):
        with open(tmp_path / name, encoding="utf-8", newline="") as table:
            assert not [field for row in csv.reader(table) for field in row if field.startswith(tuple("=+@\t")) or field[:2] == "-a"], name


def test_a_model_s_card_is_words() -> None:
    """Rendered by a reader that lets HTML through."""
    for text in HOSTILE:
        everywhere = dict.fromkeys(("source", "target", "method", "method_doc", "pixel_size", "step"), text)
        config = dict.fromkeys(("steps", "batch_size", "crop", "seed", "batch_norm", "match", "ema", "augment"), text)
        about = {
            **everywhere,
            "config": config,
            "versions": {"celladapt": text, text: text},
            "selected": {"criterion": text},
            "scores": {"mean": {"iou": 0.5}},
        }
        html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card(json.loads(json.dumps(about))))
        assert not {tag for tag in ("<script", "<img", "<a ", "<b>") if tag in html}, html
        assert html.count("<h1>") == 1
        assert html.count("<table>") == 1
