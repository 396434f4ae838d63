"""Scores of arrays and of folders, the summary, and errors that name the file."""

import csv
import json
import statistics
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from helpers import picture, spread_model
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import ttest_1samp

from celladapt.data.images import read_mask, write_image
from celladapt.errors import InputError
from celladapt.evaluation import Evaluation, evaluate, score
from celladapt.prediction import SomeFailed, predict

KEYS = ["iou", "dice", "aji", "pq", "f1"]


def two_nuclei(size: int = 40) -> NDArray[np.int32]:
    """Two touching squares of 100 px."""
    labels = np.zeros((size, size), np.int32)
    labels[5:15, 5:15] = 1
    labels[5:15, 15:25] = 2
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and masks of three images: exact, merged into one, nothing found."""
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    truth = two_nuclei()
    for stem, pred in (("c", truth), ("a", (truth > 0).astype(np.int32)), ("b", np.zeros_like(truth))):
        write_image(masks / f"{stem}.png", truth)
        write_image(predictions / f"{stem}_instances.tif", pred)
    return predictions, masks


def test_score_has_every_measure() -> None:
    truth = two_nuclei()
    assert score(truth, truth) == dict.fromkeys(KEYS, 1.0)
    merged = score(truth > 0, truth)  # the blob of 200 px has IoU 0.5 with either nucleus
    assert merged == pytest.approx({"iou": 1.0, "dice": 1.0, "aji": 200 / 400, "pq": 0.0, "f1": 2 / 3})


def test_binary_truth_is_scored_by_its_components() -> None:
    binary = np.zeros((40, 40), np.uint8)
    binary[2:12, 2:12] = binary[20:30, 20:30] = 255
    labels = np.where(binary > 0, 1, 0)
    labels[20:30] *= 2
    assert score(labels, binary) == dict.fromkeys(KEYS, 1.0)
    assert score(binary, labels) == dict.fromkeys(KEYS, 1.0)


def test_a_mask_decides_foreground_only() -> None:
    truth = two_nuclei()
    half = truth == 1
    assert score(truth, truth, half) == pytest.approx({"iou": 0.5, "dice": 2 / 3, "aji": 1.0, "pq": 1.0, "f1": 1.0})


def test_folder_scores_are_those_of_the_arrays_in_order_of_the_stem(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders)
    truth = two_nuclei()
    assert list(result.images) == ["a", "b", "c"]
    assert result.images == {"a": score(truth > 0, truth), "b": dict.fromkeys(KEYS, 0.0), "c": dict.fromkeys(KEYS, 1.0)}


def test_a_domain_folder_stands_for_its_masks(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    assert evaluate(predictions, masks.parent) == evaluate(predictions, masks)


def test_instances_come_before_a_mask_before_a_plain_name(tmp_path: Path) -> None:
    truth, masks, predictions = two_nuclei(), tmp_path / "masks", tmp_path / "predictions"
    write_image(masks / "x.png", truth)
    write_image(predictions / "x.tif", np.zeros_like(truth))
    assert evaluate(predictions, masks).mean["iou"] == 0.0
    write_image(predictions / "x_mask.png", truth > 0)
    assert evaluate(predictions, masks).images["x"] == score(truth > 0, truth)
    write_image(predictions / "x_mask.png", truth == 1)
    write_image(predictions / "x_instances.tif", truth)
    assert evaluate(predictions, masks).images["x"] == score(truth, truth, truth == 1)


def test_predictions_without_a_mask_do_not_count(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    before = evaluate(predictions, masks)
    write_image(predictions / "unlabelled_instances.tif", two_nuclei())
    write_image(predictions / "c_probability.tif", np.zeros((40, 40), np.float32))
    assert evaluate(predictions, masks) == before


def test_mean_and_sample_deviation() -> None:
    values = {"late": 0.9, "early": 0.2, "middle": 0.7}
    result = Evaluation({stem: dict.fromkeys(KEYS, value) for stem, value in values.items()})
    assert list(result.images) == ["early", "late", "middle"]
    assert result.mean == pytest.approx(dict.fromkeys(KEYS, 0.6))
    assert result.sd == pytest.approx(dict.fromkeys(KEYS, statistics.stdev(values.values())))
    assert Evaluation({"one": dict.fromkeys(KEYS, 0.3)}).sd == dict.fromkeys(KEYS, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        Evaluation({})


def test_the_interval_of_the_mean_is_students_over_images_or_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    for index in range(14):
        write_image(tmp_path / "domain" / "masks" / f"p{index // 2}_{index}.png", truth)
        write_image(tmp_path / "predicted" / f"p{index // 2}_{index}.png", truth * (np.arange(20)[:, None] < rng.integers(8, 15)))
    alone = evaluate(tmp_path / "predicted", tmp_path / "domain")
    values = [scores["iou"] for scores in alone.images.values()]
    known = ttest_1samp(values, 0).confidence_interval(0.95)
    assert alone.interval["iou"] == pytest.approx((known.low, known.high))
    together = evaluate(tmp_path / "predicted", tmp_path / "domain", "^p[0-9]+")
    known = ttest_1samp(np.reshape(values, (7, 2)).mean(1), 0).confidence_interval(0.95)
    assert together.interval["iou"] == pytest.approx((known.low, known.high))
    assert "over the 7 groups of images" in together.spread
    assert together.to_json()["groups"]["p0_1"] == "p0"
    (tmp_path / "domain" / "dataset.toml").write_text('group = "^p[0-9]+"')
    assert evaluate(tmp_path / "predicted", tmp_path / "domain").interval == together.interval
    assert evaluate(tmp_path / "predicted", tmp_path / "domain" / "masks").interval == together.interval
    with pytest.raises(InputError, match="matches no image name"):
        evaluate(tmp_path / "predicted", tmp_path / "domain", "patient")
    assert not evaluate(tmp_path / "predicted", tmp_path / "domain", "^p").interval, "one patient has no spread"


def test_table_names_measures_count_and_the_empty_rule(folders: tuple[Path, Path]) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluate(*folders).table())
    text = console.export_text()
    assert all(name in text for name in ("IoU", "Dice", "AJI", "PQ", "F1"))
    assert "0.667 ± 0.577" in text  # iou of 1, 0, 1
    assert " 3 " in text
    assert "without nuclei scores 1" in text
    console.print(Evaluation({"one": dict.fromkeys(KEYS, 0.3)}).table())
    alone = console.export_text()  # which the first export has emptied
    assert "0.300" in alone
    assert "±" not in alone, "a single image has no spread"


def test_that_a_truth_is_binary_is_said(folders: tuple[Path, Path]) -> None:
    assert evaluate(*folders).binary == ""
    path = sorted(folders[1].iterdir())[0]
    labels = np.zeros_like(read_mask(path))
    labels[1:4, 1:4], labels[8:12, 8:12] = 255, 255
    write_image(path, labels.astype(np.uint8))
    assert "1 of 3 masks is binary or of classes: touching nuclei count as one" in evaluate(*folders).binary


def test_a_truth_of_classes_is_cut_into_pieces_and_told(tmp_path: Path) -> None:
    nuclei = np.zeros((64, 64), np.uint8)
    for index in range(12):
        row, column = divmod(index, 4)
        nuclei[4 + 16 * row : 12 + 16 * row, 4 + 14 * column : 12 + 14 * column] = index + 1
    write_image(tmp_path / "predicted" / "a.png", nuclei)
    write_image(tmp_path / "masks" / "a.png", np.where(nuclei > 0, 1 + nuclei % 2, 0).astype(np.uint8))
    found = evaluate(tmp_path / "predicted", tmp_path / "masks")
    assert found.mean == dict.fromkeys(KEYS, 1.0)
    assert "1 of 1 masks is binary or of classes" in found.binary


def test_json_and_csv_hold_every_image(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate(*folders)
    assert json.loads(json.dumps(result.to_json())) == {"mean": result.mean, "sd": result.sd, "images": result.images}
    result.write_csv(tmp_path / "out" / "metrics.csv")
    with open(tmp_path / "out" / "metrics.csv", newline="") as handle:
        rows = {row.pop("image"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)}
    assert rows == result.images


def test_missing_predictions_are_named(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    for stem in "pqrstu":
        write_image(masks / f"{stem}.png", two_nuclei())
    with pytest.raises(InputError, match=r"predictions has no prediction for p, q, r, s, t and 1 more;"):
        evaluate(predictions, masks)


def test_sizes_that_differ_are_named(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    write_image(predictions / "b_instances.tif", two_nuclei()[:30])
    with pytest.raises(InputError, match=r"b_instances.tif is 40×30 pixels but the mask .*b.png is 40×40;"):
        evaluate(predictions, masks)


def test_two_files_of_one_stem_and_absent_folders_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, masks = folders
    with pytest.raises(InputError, match="nowhere is not a folder"):
        evaluate(tmp_path / "nowhere", masks)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        evaluate(predictions, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no mask"):
        evaluate(predictions, tmp_path / "empty")
    write_image(masks / "a.tif", two_nuclei())
    with pytest.raises(InputError, match=r"a.tif has the same stem as a.png"):
        evaluate(predictions, masks)


@pytest.mark.parametrize("ending", ["_mask", "-labels", "_instances"])
def test_a_mask_called_as_other_programs_call_it_is_that_of_its_image(folders: tuple[Path, Path], tmp_path: Path, ending: str) -> None:
    predictions, masks = folders
    for path in sorted(masks.iterdir()):
        write_image(predictions / f"{path.stem}_mask.png", read_mask(path) > 0)  # as `celladapt predict` leaves them side by side
        path.rename(path.with_stem(path.stem + ending))
    (predictions / "predictions.json").write_text('{"seen_in_training": ["c"]}')
    found = evaluate(predictions, masks)
    assert found.images[f"c{ending}"] == dict.fromkeys(KEYS, 1.0), "the nuclei, not the binary mask"
    assert found.seen_in_training == (f"c{ending}",)


@pytest.mark.parametrize("ending", ["_cp_masks", "-label", ""])
@pytest.mark.parametrize("truth", ["_mask", ""])
def test_predictions_of_other_programs_are_found(folders: tuple[Path, Path], ending: str, truth: str) -> None:
    predictions, masks = folders
    for path in list(predictions.iterdir()):
        path.rename(path.with_stem(path.stem.removesuffix("_instances") + ending))
    for path in list(masks.iterdir()):
        path.rename(path.with_stem(path.stem + truth))
    assert evaluate(predictions, masks).images[f"c{truth}"] == dict.fromkeys(KEYS, 1.0)


def test_binary_predictions_and_empty_masks_are_counted(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    write_image(masks / "e.png", np.zeros((40, 40), np.uint8))
    write_image(predictions / "e_instances.tif", np.zeros((40, 40), np.uint8))
    apart = np.where(np.arange(40)[:, None] % 20 < 10, np.where(np.arange(40) % 20 < 10, 255, 0), 0).astype(np.uint8)
    write_image(predictions / "b_instances.tif", apart)
    found = evaluate(predictions, masks)
    assert found.binary == "1 of 4 predictions is binary or of classes: touching nuclei count as one there, so AJI, PQ and F1 say little."
    assert found.empty.startswith("1 of 4 masks holds no nucleus")
    for sentence in (found.binary, found.empty):
        assert sentence in str(found.table().caption)


def test_predictions_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / "images" / f"{stem}.png", picture(0, 40, 40))
        write_image(tmp_path / "masks" / f"{stem}.png", two_nuclei())
    out = tmp_path / "out"
    predict(spread_model(), tmp_path / "images", out)
    assert evaluate(out, tmp_path / "masks").caution == ""
    (tmp_path / "images" / "b.png").write_bytes(b"damaged meanwhile")
    with pytest.raises(SomeFailed):
        predict(spread_model(), tmp_path / "images", out, threshold=0.9, overwrite=True)
    told = evaluate(out, tmp_path / "masks")
    assert "did not finish b, so what lies there is of an earlier one" in told.caution
    write_image(tmp_path / "images" / "b.png", picture(0, 40, 40))
    predict(spread_model(), tmp_path / "images" / "b.png", out, threshold=0.8, overwrite=True)
    assert "of 2 models or settings (a and b differ)" in evaluate(out, tmp_path / "masks").caution
    (out / "predictions.json").write_text("{")
    assert "whether these images trained the model is not known" in evaluate(out, tmp_path / "masks").caution


def test_a_name_is_the_same_however_its_accents_are_written(folders: tuple[Path, Path]) -> None:
    predictions, masks = folders
    (predictions / "c_instances.tif").rename(predictions / (unicodedata.normalize("NFD", "é") + "_instances.tif"))
    (masks / "c.png").rename(masks / (unicodedata.normalize("NFC", "é") + ".png"))
    assert evaluate(predictions, masks).images[unicodedata.normalize("NFC", "é")] == dict.fromkeys(KEYS, 1.0)


def test_a_file_of_exactly_the_mask_s_name_goes_before_one_without_its_ending(tmp_path: Path) -> None:
    write_image(tmp_path / "masks" / "a_seg.png", two_nuclei())
    write_image(tmp_path / "predictions" / "a_seg.png", two_nuclei())
    write_image(tmp_path / "predictions" / "a_mask.png", np.ones((40, 40), np.uint8))
    assert evaluate(tmp_path / "predictions", tmp_path / "masks").images["a_seg"] == dict.fromkeys(KEYS, 1.0)


def test_outputs_of_another_program_beside_ours_are_no_doubt(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 40, 40))
    write_image(tmp_path / "masks" / "a.png", two_nuclei())
    predict(spread_model(), tmp_path / "a.png", tmp_path / "out", ["mask"])
    write_image(tmp_path / "out" / "a_instances.tif", two_nuclei())
    assert evaluate(tmp_path / "out", tmp_path / "masks").caution == ""


def test_predictions_of_another_set_with_the_same_names_are_told(tmp_path: Path) -> None:
    for seed, place in enumerate(("one", "other")):
        write_image(tmp_path / place / "images" / "a.png", picture(seed, 40, 40))
        write_image(tmp_path / place / "masks" / "a.png", two_nuclei())
    predict(spread_model(), tmp_path / "one", tmp_path / "out")
    for masks in (tmp_path / "one", tmp_path / "one" / "masks"):
        assert evaluate(tmp_path / "out", masks).caution == ""
    for masks in (tmp_path / "other", tmp_path / "other" / "masks"):
        told = evaluate(tmp_path / "out", masks).caution
        assert (
            f"{tmp_path / 'one' / 'images' / 'a.png'} was predicted, and {tmp_path / 'other' / 'images' / 'a.png'} lies beside the masks (1 such)"
            in told
        )


def test_predictions_that_were_not_saved_are_asked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 40, 40))
    write_image(tmp_path / "masks" / "a.png", two_nuclei())
    predict(spread_model(), tmp_path / "a.png", tmp_path / "out", ["probability"])
    with pytest.raises(InputError, match="has no prediction for a; predict them with --save instances"):
        evaluate(tmp_path / "out", tmp_path / "masks")


@pytest.mark.parametrize("array", [np.full((8, 8), 0.5), np.zeros((8, 8, 2), int)])
def test_what_is_no_label_image_is_not_scored(array: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="labels are integers of shape"):
        score(array, np.ones((8, 8), int))
