"""What is promised of a model without masks: falling back to source-only, and what `predict` says."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import in_this_process

import celladapt
from celladapt import adaptation, benchmarking, quality
from celladapt.checkpoint import load
from celladapt.cli import main
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, write_image
from celladapt.errors import InputError
from celladapt.expectation import clues_on, expected_quality, known_on, part
from celladapt.loading import load_model
from celladapt.methods.weakssda import WeakSSDA
from celladapt.metrics import foreground
from celladapt.quality import Expectation, Known, expected_iou
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("one_thread", "no_charts")

TINY: dict[str, Any] = {"preset": "fast", "steps": 2, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 2}


def adapted(domains: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch, before: float, after: float, **options: Any) -> Run:
    """A run of which source-only has ``before`` to be preferred by, and the adapted model ``after``; either is promised ten times less."""
    monkeypatch.setattr(adaptation, "_clues", lambda run, model, stems: {"is": before if model.about["method"] == "source_only" else after})
    monkeypatch.setattr(adaptation, "preference", lambda clues: clues["is"])
    monkeypatch.setattr(adaptation, "expected_iou", lambda clues, alone, known, classical: Expectation(clues["is"] / 10, 0.0, 0.9))
    return celladapt.adapt(*domains, out=out, **{**TINY, "method": "cellseguda", **options})


def test_where_adapting_promises_less_source_only_is_kept_and_said(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = adapted(tiny_domains, tmp_path / "run", monkeypatch, before=0.7, after=0.6)
    weights, about = load(run.path / "model.safetensors")
    kept, _ = load(run.baseline.path / "model.safetensors")
    assert about["method"] == "source_only"
    assert weights.keys() == kept.keys()
    assert all((weights[name] == kept[name]).all() for name in kept)
    assert run.metrics == run.baseline.metrics
    assert run.record["fell_back"]
    assert run.record["expected"] == asdict(Expectation(0.7 / 10, 0.0, 0.9)), "of the one that was kept"
    page = run.report.read_text(encoding="utf-8")
    assert "SOURCE-ONLY model was kept" in page
    assert "source only kept" in page
    assert load(run.path / "adapted.safetensors")[1]["method"] == "cellseguda", "nothing is lost"
    (run.path / "run.json").write_text((run.path / "run.json").read_text().replace('"finished": "', '"finished": null, "was": "'))
    again = celladapt.adaptation.resume(run.path)  # as after a kill in the last stage
    assert again.record["fell_back"]
    assert load(run.path / "adapted.safetensors")[1]["method"] == "cellseguda"
    assert again.record["selected"] == run.record["selected"], "however late the baseline's step"
    (run.path / "run.json").write_text((run.path / "run.json").read_text().replace('"finished": "', '"finished": null, "was": "'))
    monkeypatch.setattr(adaptation, "preference", lambda clues: -clues["is"])
    other = celladapt.adaptation.resume(run.path)  # by a version that prefers otherwise
    assert not other.record["fell_back"]
    assert load(run.path / "model.safetensors")[1]["method"] == "cellseguda"
    assert not (run.path / "adapted.safetensors").exists()


@pytest.mark.parametrize(("after", "fell_back"), [(0.69, False), (0.67, True)])
def test_source_only_must_look_clearly_better_to_be_kept(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, fell_back: bool
) -> None:
    assert adapted(tiny_domains, tmp_path / "run", monkeypatch, before=0.7, after=after).record["fell_back"] == fell_back


def test_labels_of_the_target_know_better(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picked = adapted(tiny_domains, tmp_path / "picked", monkeypatch, before=0.7, after=0.6, select="labelled")
    taught = adapted(tiny_domains, tmp_path / "classical", monkeypatch, before=0.7, after=0.6, method="weakssda@2")
    assert not picked.record["fell_back"]
    assert not taught.record["fell_back"]
    assert taught.record["known"]
    assert picked.record["known"] is None, "masks that it was picked by are none that it has learned from"


@pytest.mark.parametrize(("after", "fallback"), [(0.8, True), (0.6, False)])
def test_else_the_adapted_model_is(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, fallback: bool
) -> None:
    run = adapted(tiny_domains, tmp_path / "run", monkeypatch, before=0.7, after=after, fallback=fallback)
    assert load(run.path / "model.safetensors")[1]["method"] == "cellseguda"
    assert not run.record["fell_back"]
    assert run.record["expected"]["iou"] == after / 10


def test_in_a_benchmark_methods_are_themselves_unless_asked(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "carry_out_all", in_this_process)
    options = {name: value for name, value in TINY.items() if name != "preset"}
    plain = celladapt.benchmark([tiny_domains], ["source_only", "cellseguda"], tmp_path / "plain", seeds=1, **options)
    assert not any((cell.run.baseline.path).exists() or cell.run.config.fallback for cell in plain.cells)
    safe = celladapt.benchmark([tiny_domains], ["source_only", "cellseguda"], tmp_path / "safe", seeds=1, fallback=True, **options)
    runs = {cell.method: cell.run for cell in safe.cells}
    assert runs["cellseguda"].baseline.record == runs["source_only"].record, "lent, not trained twice"
    assert not runs["source_only"].baseline.path.exists()


def test_predict_tells_what_to_expect(tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = celladapt.adapt(*tiny_domains, method="source_only", out=tmp_path / "run", **TINY)
    assert main(["predict", str(run.path), str(tiny_domains[1]), "--out", str(tmp_path / "masks")]) == 0
    expected = expected_quality(run.model, tiny_domains[1])
    one = expected_quality(run.model, sorted((tiny_domains[1] / "images").iterdir())[0])
    assert one == expected_iou(clues_on(run.model, [read_image(sorted((tiny_domains[1] / "images").iterdir())[0])]), alone=True), (
        "less is known of one"
    )
    assert capsys.readouterr().out.splitlines()[-1] == expected.words
    assert 0 <= expected.low <= expected.iou <= expected.high <= 1


def test_of_a_model_that_was_given_masks_they_have_a_part_in_what_is_expected(
    tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeakSSDA, "remarks", lambda method: [f"It remembers {len(method.memory)} things."])
    run = celladapt.adapt(*tiny_domains, method="weakssda@2", out=tmp_path / "run", **TINY)
    target, given = Folder.open(tiny_domains[1]), run.record["target_labelled"]
    known = Known.of(run.record)
    assert known
    assert known == known_on(run.model, map(target.pair, given))
    assert known.images == len(given) == 2
    overlaps = [foreground(run.model.predict(target.image(stem)).mask, target.pair(stem)[1]).iou for stem in given]
    assert known.iou == pytest.approx(sum(overlaps) / 2)
    assert run.expected
    assert run.expected.masks == 2
    page = run.report.read_text(encoding="utf-8")
    assert "Judged by how it does on 2 images whose masks it was given" in page
    assert "It remembers 4 things." in page
    assert "2 images whose masks it was given" in (run.path / "model_card.md").read_text(encoding="utf-8")
    shutil.copy(run.path / "model.safetensors", tmp_path / "alone.safetensors")  # which knows it too
    clues = clues_on(run.model, [target.image(stem) for stem in sorted(target.images)])
    assert main(["predict", str(tmp_path / "alone.safetensors"), str(tiny_domains[1]), "--out", str(tmp_path / "masks")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == expected_iou(clues, known=known).words
    assert main(["review", str(tmp_path / "alone.safetensors"), str(tiny_domains[1]), "--out", str(tmp_path / "review")]) == 0
    assert "by how it does on 2 images whose masks it was given" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_learned_from_the_classical_segmentation_says_so_and_is_judged_as_such_wherever_it_is(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = {**quality.calibration(), "classical": {"criteria": [], "weights": [], "intercept": 0.0}}
    monkeypatch.setattr(quality, "calibration", lambda: fitted)
    taught = celladapt.adapt(*tiny_domains, method="weakuda", out=tmp_path / "classical", fallback=False, **TINY)
    other = celladapt.adapt(*tiny_domains, method="cellseguda", out=tmp_path / "other", **TINY)
    assert taught.expected
    assert other.expected
    assert taught.expected.iou == 0 < other.expected.iou
    assert expected_quality(taught.model, tiny_domains[1]).iou == 0 < expected_quality(other.model, tiny_domains[1]).iou
    assert {item.expected.iou for item in celladapt.review(taught.path, tiny_domains[1], out=tmp_path / "review").items} == {0.0}
    celladapt.export(taught.path, "onnx", tmp_path / "model.onnx")
    assert quality.may_know_classical(load_model(tmp_path / "model.onnx").about)


def test_the_expectation_reads_no_mask_and_names_a_broken_image(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = celladapt.adapt(*tiny_domains, method="source_only", out=tmp_path / "run", **TINY)
    target = tiny_domains[1]
    before = expected_quality(run.model, target)
    for file in (target / "masks").iterdir():
        file.unlink()
    assert expected_quality(run.model, target) == before
    next((target / "images").iterdir()).write_bytes(b"no image")
    with pytest.raises(InputError, match="target"):
        expected_quality(run.model, target)


def test_a_run_is_judged_by_as_many_pixels_as_any_other_images(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many images it is validated on, and whatever its crops: the fit rests on so many."""
    monkeypatch.setattr("celladapt.expectation.SIDE", 40)
    monkeypatch.setattr(adaptation, "SIDE", 40)
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(adaptation, "clues_on", lambda model, images: seen.extend(image.shape for image in images) or clues_on(model, images))
    run = celladapt.adapt(
        *tiny_domains,
        method="cellseguda",
        out=tmp_path / "run",
        **{**TINY, "crop": "whole", "batch_size": 1, "validation_images": 1, "val_fraction": 0.4},
    )
    held = run.splits[1].val
    assert len(held) > 1
    assert seen == [(40, 40, 3)] * 3 * len(held), "source-only as a run of its own, and the two that are compared"
    assert run.expected == expected_iou(clues_on(run.model, [part(next((tiny_domains[1] / "images").glob(f"{stem}.*"))) for stem in held]))


def test_of_a_large_image_the_middle_is_looked_at(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = celladapt.adapt(*tiny_domains, method="source_only", out=tmp_path / "run", **TINY)
    image = read_image(next((tiny_domains[1] / "images").iterdir()))
    large = np.tile(image, (10, 9, 1))
    write_image(tmp_path / "large.png", large)
    found = expected_quality(run.model, tmp_path / "large.png")
    large[:64], large[-64:], large[:, :32] = 0, 0, 255  # beyond the middle
    write_image(tmp_path / "other.png", large)
    assert expected_quality(run.model, tmp_path / "other.png") == found
