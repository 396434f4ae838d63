"""The benchmarks that judge criteria without labels: what they fit, leave out and pick."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import quality, selection
from benchmarks.quality import (
    Point,
    blind,
    by_pair,
    calibrated,
    covered,
    elsewhere,
    fit,
    held,
    left_out,
    points,
    predicted,
    radii,
    radii_known,
    radius,
    table,
)
from benchmarks.selection import kept, picked, regrets, with_expected

import celladapt
from celladapt import methods
from celladapt.quality import Known
from celladapt.selection import CLUES

pytestmark = pytest.mark.usefixtures("no_charts")

NAMES = (*CLUES, "contrast", "zoom", "infomax", "snd", "entropy", "consistency")


def checkpoints(targets: int = 6, noise: float = 0.0) -> list[Point]:
    """Checkpoints of which likeness alone tells the IoU: arcsin √IoU = 0.1 + 1.3 · likeness."""
    rng = np.random.default_rng(0)
    found = []
    for target in range(targets):
        for method in ("source_only", "weakuda", "supervised"):
            for seed in "01":
                for step in (50, 100):
                    scores = {name: float(rng.uniform()) for name in NAMES}
                    iou = np.sin(0.1 + 1.3 * scores["likeness"] + 0.3 * noise * rng.normal()) ** 2
                    found.append(Point(f"s → t{target}", method, seed, step, scores, float(iou)))
    return found


def test_a_relation_that_is_there_is_found_on_targets_left_out() -> None:
    known = checkpoints()
    iou = np.array([point.iou for point in known])
    assert np.abs(left_out(known) - iou).mean() < 0.2 * np.abs(iou - iou.mean()).mean()
    rows = table(known).splitlines()
    assert rows[2].startswith("| t0 | 1 | 12 |")
    (mean,) = [row for row in rows if row.startswith("| **mean over targets** | 6 | 72 |")]
    assert float(mean.split("|")[6]) < 0.1
    assert "single images" not in table(known), "none was judged"
    twice = [
        replace(point, alone=[(point.scores, point.iou), (other.scores, other.iou)])
        for point, other in zip(known, known[1:] + known[:1], strict=True)
    ]
    alone = table(twice).splitlines()[-1]
    assert alone.startswith("- Of 144 single images")
    assert float(alone.split("mean absolute error ")[1].split(";")[0]) < 0.1
    assert float(alone.split("on one target ")[1].split(",")[0]) > 0.9, "the relation orders images too"


def test_the_labels_of_a_target_have_no_part_in_what_is_expected_on_it() -> None:
    known = checkpoints()
    mine = [i for i, point in enumerate(known) if point.target == "t2"]
    lied = [replace(point, iou=1 - point.iou) if point.target == "t2" else point for point in known]
    before, after = left_out(known), left_out(lied)
    np.testing.assert_array_equal(before[mine], after[mine])
    assert not np.allclose(np.delete(before, mine), np.delete(after, mine)), "while those of other targets do"


def test_models_that_came_later_are_told_by_what_was_known_of_other_targets() -> None:
    known = checkpoints()
    late = [replace(point, pair=point.pair.replace("s →", "new →")) for point in known if point.target in ("t0", "t1")]
    said = held(known, late)
    assert [line.split("|")[1].strip() for line in said.splitlines()[2:4]] == ["new → t0", "new → t1"]
    wrong = [replace(point, iou=0.5) if point.target == "t0" else point for point in known]
    assert held(wrong, late[: len(late) // 2]) == held(known, late[: len(late) // 2]), "that of the same target was no help"
    off = [replace(point, iou=point.iou / 2) for point in late]
    errors = [float(re.findall(r"adapted models.*mean absolute error (\S+),", held(known, some))[0]) for some in (late, off)]
    assert errors[0] < 0.1 < errors[1]


def test_of_a_pair_that_is_left_out_other_pairs_with_its_target_are_known() -> None:
    """On t2 alone the relation is upside down: only what has seen it can tell."""
    upside_down = [
        replace(point, pair=point.pair.replace("s →", f"{source} →"), iou=1 - point.iou if point.target == "t2" else point.iou)
        for source in "ab"
        for point in checkpoints(3)
    ]
    known = [point for point in upside_down if point.target == "t2"] * 5 + [point for point in upside_down if point.target != "t2"]
    mine = [i for i, point in enumerate(known) if point.target == "t2"]
    iou = np.array([point.iou for point in known])
    new, other = (np.abs(left_out(known, by) - iou)[mine].mean() for by in (quality.by_target, by_pair))
    assert other < new


def test_pairs_weigh_alike_however_many_checkpoints_they_have() -> None:
    known = checkpoints(3)
    more = [*known, *[point for point in known if point.target == "t0"] * 5]
    assert predicted(fit(more), known, apart=False) == pytest.approx(predicted(fit(known), known, apart=False), abs=1e-9)


def test_the_radius_is_the_conformal_quantile_over_pairs() -> None:
    def some(pairs: list[str]) -> list[Point]:
        return [Point(pair, "source_only", "0", 1, {}, 0.5) for pair in pairs]

    names = [f"s → t{n}" for n in range(100)]
    assert radius(np.arange(1, 11) / 100, some(names[:10])) == pytest.approx(0.1)  # ceil(0.9 · 11) = the 10th of 10
    assert radius(-np.arange(1, 101) / 100, some(names)) == pytest.approx(0.91)  # ceil(0.9 · 101) = the 91st of 100
    many = np.concatenate([np.arange(1, 101) / 100, np.full(500, 0.001)])
    assert radius(many, some([*names, *names[:1] * 500])) == pytest.approx(0.91), "one pair with many models is one pair"
    assert radius(np.array([0.2, 0.1]), some(names[:2])) == 0.2, "of two the larger, though no share of them is nine in ten"


def test_intervals_are_wide_enough_for_adapted_models_and_promise_nothing_that_one_target_alone_bears_out() -> None:
    known = [replace(point, scores={**point.scores, "witnessed": 1.0}) for point in checkpoints()]
    assert radii(known)["radius"] < 0.05
    assert radii(known)["radius_unwitnessed"] == 1, "of which there are none"
    off = [replace(point, iou=point.iou / 2) if point.method == "weakuda" and point.step == 100 else point for point in known]
    errors, better = (np.abs(left_out(off, apart=apart) - np.array([point.iou for point in off])) for apart in (False, True))
    adapted = [i for i, point in enumerate(off) if point.method == "weakuda"]
    assert radii(off)["radius"] == radius(errors[adapted], [off[i] for i in adapted]) > 0.3
    assert better[adapted].mean() < errors[adapted].mean(), "they have a fit of their own, and what is gained by it is not promised"
    assert (better == errors)[[i for i, point in enumerate(off) if point.method != "weakuda"]].all()
    some = [replace(point, scores={**point.scores, "witnessed": 0.0}) if point.target == "t0" else point for point in known]
    by = radii(some)
    assert by["radius_unwitnessed"] == 1
    assert by["radius"] < 0.1
    hits = covered(np.full(len(some), 0.5), some, by)
    assert [bool(np.isnan(hit)) for hit in hits] == [point.target == "t0" for point in some], "an interval that is all there is covers nothing"
    assert not np.nansum(hits)
    assert covered(np.zeros(len(known)), known, by).all()
    (row,) = [line.split("|") for line in table(some).splitlines() if line.startswith("| t0 |")]
    assert row[7].strip() == "–"
    assert all(by[f"radius_alone{end}"] >= by[f"radius{end}"] for end in ("", "_unwitnessed"))


def test_picks_and_regrets() -> None:
    runs = with_expected(checkpoints(), checkpoints())
    run = runs["s → t0", "weakuda"]["0"]
    assert picked(run, "last").step == 100
    assert picked(run, "best").iou == max(point.iou for point in run)
    assert picked(run, "likeness") is picked(run, "best"), "which tells the IoU here"
    alike = [replace(point, scores={**point.scores, "likeness": 0.5}) for point in run]
    assert picked(alike, "likeness").step == 100, "of equals the later one, as in training"
    mean = next(line for line in regrets(runs).splitlines() if "mean regret" in line)
    last, best, expected, *_ = (float(cell) for cell in mean.split("|")[3:-1])
    assert best == 0
    assert expected < 0.02 < last
    alone = {("s → alone", "weakuda"): {"0": run[:1]}}
    assert regrets({**runs, **alone}) == regrets(runs), "one checkpoint is no choice, and would be no regret"
    assert regrets(alone) == ""


def test_what_is_kept_is_source_only_where_that_is_expected_to_be_better() -> None:
    known = [
        replace(point, scores={**point.scores, "agreement": level}, iou=float(1 / (1 + np.exp(-(4 * level - 2)))))
        for point in checkpoints()
        for level in [{"source_only": 0.8 if point.target == "t0" else 0.2, "weakuda": 0.6, "supervised": 0.9}[point.method]]
    ]
    lines = [line.split("|") for line in kept(with_expected(known, known)).splitlines() if line.startswith("|")]
    rows = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines}
    before, adapted, ends, fell, _, _, closed = rows["s → t0"]
    assert (ends, fell) == (before, "2 of 2")
    assert closed == "0%"
    before, adapted, ends, fell, *_ = rows["s → t1"]
    assert (ends, fell) == (adapted, "0 of 2")


def test_full_supervision_of_one_pair_serves_all_that_lead_to_its_target_and_harm_is_named() -> None:
    iou = {"source_only": 0.5, "weakuda": 0.7, "supervised": 0.9}
    known = [
        replace(
            point,
            pair=f"{'x' if point.method == 'supervised' else 's'} → {point.target}",
            scores={**point.scores, "agreement": iou[point.method]},
            iou=iou[point.method],
        )
        for point in checkpoints()
    ]
    text = kept(with_expected(known, known))
    assert {"| s → t0 |", "| s → t1 |"} <= {line[:10] for line in text.splitlines()}
    assert "x → t0" not in text
    assert "below source_only: none." in text
    harmful = [replace(point, iou=0.48) if point.method == "weakuda" and point.target == "t1" else point for point in known]
    assert "below source_only: s → t1 (-0.020)." in kept(with_expected(harmful, known))


def given_masks(known: list[Point], better: float) -> list[Point]:
    """The supervised ones of them with masks on images where all is the same, but for an IoU whose angle is greater by ``better``, and with clues that are wrong on both."""
    lies = {"likeness": 0.0}
    return [
        replace(point, scores=point.scores | lies, given=Known(iou, point.scores | lies, 1)) if point.method == "supervised" else point
        for point in known
        for iou in [float(np.sin(np.arcsin(np.sqrt(point.iou)) + better) ** 2)]
    ]


def test_masks_that_models_were_given_mend_wrong_clues() -> None:
    known = given_masks(checkpoints(), 0.1)
    assert calibrated(known)["optimism"] == pytest.approx(0.1, abs=1e-6)
    assert calibrated(checkpoints())["optimism"] == 0
    told = [i for i, point in enumerate(known) if point.given]
    iou = np.array([point.iou for point in known])
    assert left_out(known)[told] == pytest.approx(iou[told], abs=1e-6)
    assert radii_known(known)["radius_known"] == pytest.approx(0, abs=1e-6)
    (line,) = [line for line in table(known).splitlines() if "were given masks" in line]
    assert "Of 24 models" in line
    assert float(line.split("these models among those of the fit, the mean absolute error is ")[1].rstrip(".")) > 0.1
    assert radii_known(known[:12])["radius_known"] == 1, "which no other target bears out"
    assert "were given masks" not in table([point for point in known if point.target == "t0" or not point.given])
    assert "| t0 | 1 | 8 |" in table(known), "where they have no row"
    assert fit(blind(known)) == fit([point for point in checkpoints() if point.method != "supervised"])


def test_single_images_have_intervals_of_their_own_for_models_that_were_given_masks() -> None:
    known = given_masks(checkpoints(), 0.1)
    assert radii_known(known)["radius_known_alone"] == 1, "of which nobody has any"
    hard = [replace(point, alone=[(point.scores, point.iou), (point.scores, point.iou / 2)]) for point in known]
    found = radii_known(hard)
    assert found["radius_known"] == pytest.approx(0, abs=1e-6)
    given = [point for point in hard if point.given]
    assert found["radius_known_alone"] == pytest.approx(radius(np.array([point.iou / 2 for point in given]), given), abs=1e-6)
    (line,) = [line for line in table(hard).splitlines() if "were given masks" in line]
    assert f"of {2 * len(given)} single images " in line


def test_points_that_were_stored_give_the_same_fit(tmp_path: Path) -> None:
    known = given_masks(checkpoints(noise=0.5), 0.1)
    known[0] = replace(known[0], alone=[(known[1].scores, known[1].iou)])
    quality.store(tmp_path / "points.jsonl", known)
    again = quality.stored(tmp_path / "points.jsonl")
    assert [(point.pair, point.method, point.seed, point.step) for point in again] == [
        (point.pair, point.method, point.seed, point.step) for point in known
    ]
    assert quality.singly(again)[0].iou == pytest.approx(known[1].iou, abs=1e-5)
    one, other = calibrated(known), calibrated(again)
    assert other["weights"] == pytest.approx(one["weights"], abs=1e-3)
    assert other["optimism"] == pytest.approx(one["optimism"], abs=1e-3)


def never(path: Path) -> None:
    raise AssertionError(f"{path} was read again")


def test_the_points_of_a_benchmark(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"steps": 4, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 2, "select": "last", "keep_checkpoints": True}
    grid = celladapt.benchmark([tiny_domains], ["source_only"], tmp_path / "grid", seeds=1, **options)
    run = grid.cells[-1].run
    for found in (points, selection.checkpoints):
        known = found([grid.path])
        assert [(point.pair, point.method, point.step) for point in known] == [("source → target", "source_only", step) for step in (2, 4)]
        assert known[-1].iou == pytest.approx(run.metrics["iou"]), "the last checkpoint is what the run scored"
        assert set(CLUES) <= known[0].scores.keys()
        with monkeypatch.context() as patch:
            patch.setattr(quality, "load_model", never)
            patch.setattr(selection, "load_model", never)
            assert found([grid.path]) == known, "which is not computed twice"
    log = run.path / "validation.jsonl"
    log.write_text("".join(json.dumps({**json.loads(line), "likeness": 9.0}) + "\n" for line in log.read_text().splitlines()))
    with monkeypatch.context() as patch:
        patch.setattr(selection, "code_of_clues", lambda: "other")
        patch.setattr(selection, "foreground", never)
        assert selection.checkpoints([grid.path]) == known, (
            "clues are found anew after a change of their code, whatever was logged, and the IoU is not"
        )
        assert (run.path / "checkpoints" / "clues-other.json").exists()
        patch.setattr(methods.find("source_only"), "warm_up", 0.5)
        assert [point.step for point in selection.checkpoints([grid.path])] == [4], "as no checkpoint of the warm-up is picked"
        patch.setattr(methods.find("source_only"), "warm_up", 1.0)
        assert [point.step for point in selection.checkpoints([grid.path])] == [4], "unless there is no other"
        (run.path / "checkpoints" / "step_000004.safetensors").unlink()
        patch.setattr(selection, "code_of_clues", lambda: "third")
        patch.setattr(methods.find("source_only"), "warm_up", 0.0)
        assert [point.step for point in selection.checkpoints([grid.path])] == [2], "one that is gone has no clues by new code"
    other = tmp_path / "other"
    shutil.copytree(tiny_domains[0], other)
    abroad = elsewhere([grid.path], [*tiny_domains, other])
    assert [point.pair for point in abroad] == ["source → other"], "but not on its own source and target"
    assert 0 <= abroad[0].iou <= 1
    assert set(CLUES) <= abroad[0].scores.keys()
