"""The model card and the header that it is made from: what a run knows travels with its model, and nothing of the user's disk does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_domains

import celladapt
from celladapt import methods
from celladapt.card import card, facts, title
from celladapt.checkpoint import load, save
from celladapt.exporting import export
from celladapt.loading import load_model
from celladapt.model import Model
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("no_charts")

TINY: dict[str, Any] = {"preset": "fast", "steps": 2, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 2}
HEADINGS = ["What it is for", "What it was trained on", "How it was chosen", "Validation: how good it is", "Limits", "How to use it", "How to cite"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    return celladapt.adapt(*draw_domains(folder), method="source_only", out=folder / "run", **TINY).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(trained, tmp_path / "run"))


def test_what_a_run_knows_travels_with_its_model(run: Run, tmp_path: Path) -> None:
    about = load_model(run.path).about
    assert about["method"] == "source_only"
    assert (about["source"], about["target"]) == ("source", "target")
    assert about["images"] == {"source": 7, "target": 0, "target_masks": 0}
    assert about["config"]["steps"] == 2
    assert about["versions"]["celladapt"] == celladapt.__version__
    assert about["selected"]["criterion"] == run.config.select
    assert about["expected"] == run.record["expected"]
    assert about["scores"]["mean"] == run.metrics
    assert about["scores"]["images"] == len(run.splits[1].test)
    text = (run.path / "model_card.md").read_text(encoding="utf-8")
    assert text == card(about), "and so the file of the model alone gives the same card"
    for name in ("iou", "pq"):
        assert f"| {run.metrics[name]:.3f} | {about['scores']['sd'][name]:.3f} |" in text
    assert "On 2 annotated target images" in text
    assert f"Expected IoU {about['expected']['iou']:.2f} (" in text
    for private in (str(tmp_path), *run.splits[1].test, *run.splits[0].train):
        assert private not in json.dumps(about) + text
    moved = tmp_path / "moved.safetensors"
    loaded = load_model(run.path)
    assert isinstance(loaded, Model)
    loaded.save(moved)
    assert load_model(moved).about == about
    assert load_model(export(run, "onnx", tmp_path / "model.onnx")).about == about


def test_of_an_earlier_run_the_folder_knows_what_the_model_does_not(run: Run, tmp_path: Path) -> None:
    path = run.path / "model.safetensors"
    tensors, about = load(path)
    save(path, tensors, {key: about[key] for key in ("method", "source", "target", "trained_on", "step", "width", "normalisation")})
    (run.path / "model_card.md").unlink()
    assert load_model(export(run.path, "onnx", tmp_path / "model.onnx")).about["scores"]["mean"] == run.metrics
    lone = card(load_model(path).about)
    assert "holds no scores" in lone
    assert "How many images training read is not recorded" in lone


def test_a_model_that_fell_back_is_called_what_it_is(run: Run) -> None:
    (run.path / "baseline").mkdir()
    kept = {"selected": {"step": 1, "criterion": "last", "score": 1.0, "uses_target_labels": False}}
    (run.path / "baseline" / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    run.note(fell_back=True)
    found = facts(run.path)
    assert found["selected"] == kept["selected"], "of the model that was kept"
    assert "SOURCE-ONLY" in card(found)
    assert "Target masks had a part" in card({"selected": {"criterion": "labelled", "uses_target_labels": True}})


@pytest.mark.parametrize(
    "about",
    [
        {},
        {
            name: value
            for name in ("source", "images", "config", "versions", "scores", "expected", "selected", "normalisation", "step")
            for value in [3]
        },
        {
            name: [None, {"x": 1}]
            for name in ("source", "method", "method_doc", "images", "config", "scores", "expected", "selected", "normalisation")
        },
        {"scores": {"mean": {"iou": "high", "pq": float("nan")}, "images": None}, "expected": {"iou": 0.5}, "normalisation": {"mean": "grey"}},
    ],
)
def test_a_card_is_made_of_whatever_is_known(about: dict[str, Any]) -> None:
    text = card(about)
    assert re.findall(r"^## (.*)$", text, re.M) == HEADINGS
    assert "nothing is known about its quality" in text
    assert "nan" not in text


def test_a_card_promises_nothing_that_cannot_be_told() -> None:
    text = card({"expected": {"iou": 0.27, "low": 0.0, "high": 1.0}})
    assert "could not be told without masks" in text
    assert "0.27" not in text


@pytest.mark.parametrize("name", ["a`b``c", "a\n# not a heading", "<script>", "[x](y)", "a|b", "c\udc80d", "  ", "Ångström 1", "`"])
def test_odd_names_of_folders_stay_names(name: str) -> None:
    text = card({"source": name, "target": name, "method": "weakuda"})
    text.encode("utf-8")
    assert re.findall(r"^#+ (.*)$", text, re.M)[1:] == HEADINGS
    (line,) = (line for line in text.splitlines() if line.startswith("Source (annotated)"))
    fences = re.findall(r"`+", line)
    assert name.strip() == "" or fences[0] == max(fences, key=len), "nothing inside ends the code that the name is shown as"
    assert re.fullmatch(r"[A-Za-z0-9_ -]{1,64}", title({"source": name, "target": name * 20}))


def test_each_method_is_cited_as_its_own(run: Run) -> None:
    about = load_model(run.path).about
    assert card(about).count("Haq and J. Huang, Adversarial Domain Adaptation") == 1
    for method, cited in (("advent", "ADVENT: Adversarial Entropy"), ("da_adv", "Cardiothoracic Ratio"), ("nusegssda", "NuSegDA"), ("weakuda", "")):
        told = card({**about, "paper": methods.find(method).paper})
        assert cited in told
        assert "Adversarial Domain Adaptation for Cell Segmentation" in told
        assert ("What it rests on here" in told) == bool(cited)
