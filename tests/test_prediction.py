"""From images to masks and nuclei: every kind of image, and what is written where."""

import copy
import csv
import errno
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from filelock import FileLock
from helpers import NORMALISATION, picture, spread_model
from numpy.typing import NDArray

from celladapt import job, prediction, provenance
from celladapt.data.images import read_mask, write_image
from celladapt.data.slide import tiff_pixel_size
from celladapt.errors import InputError
from celladapt.job import Job
from celladapt.model import Model
from celladapt.prediction import SomeFailed, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(NORMALISATION)


def test_a_model_whose_weights_change_predicts_with_the_new_ones(model: Model) -> None:
    image = picture(3, 40, 50)
    changing = Model(copy.deepcopy(model.network), model.normalisation, precision="float32")
    before = changing.predict(image).probability
    np.testing.assert_array_equal(changing.predict(image).probability, before)
    with torch.no_grad():
        changing.network.head.bias += 1
    higher = changing.predict(image).probability
    assert (higher >= before).all()
    assert higher.mean() > before.mean() + 0.01
    changing.network.load_state_dict(model.network.state_dict())
    np.testing.assert_array_equal(changing.predict(image).probability, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bf16_gives_almost_the_mask_of_float32(model: Model, dtype: type) -> None:
    """Of probabilities that are spread over all of [0, 1]; a trained model's are surer, so fewer of its pixels are near the threshold."""
    image = picture(4, 128, 160, dtype)
    exact = model.predict(image)
    fast = Model(model.network, model.normalisation, precision="bf16").predict(image)
    assert np.ptp(exact.probability) > 0.5
    difference = np.abs(fast.probability - exact.probability)
    assert 0 < difference.mean() < 0.01
    assert (fast.mask != exact.mask).mean() < 0.02


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 700), (37, 51), (16, 16), (17, 1)])
def test_odd_sizes(model: Model, shape: tuple[int, int]) -> None:
    prediction = model.predict(picture(2, *shape))
    assert prediction.probability.shape == prediction.mask.shape == prediction.instances.shape == shape
    assert prediction.probability.dtype == np.float32
    assert prediction.mask.dtype == bool
    assert prediction.instances.dtype == np.int32
    assert np.isfinite(prediction.probability).all()
    assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
    np.testing.assert_array_equal(prediction.mask, prediction.probability >= 0.5)


def test_sixteen_bits_and_grey(model: Model) -> None:
    image = picture(3, 40, 50)
    expected = model.predict(image).probability
    np.testing.assert_allclose(model.probability(image.astype(np.uint16) * 257), expected, atol=1e-5)
    grey = image[..., 0]
    np.testing.assert_array_equal(model.predict(grey).probability, model.predict(np.repeat(grey[..., None], 3, axis=2)).probability)
    assert np.abs(model.predict(grey).probability - expected).max() > 1e-3


def test_the_image_is_normalised_as_the_model_says(model: Model) -> None:
    image = picture(4, 32, 32)
    with torch.no_grad():
        expected = model.network(NORMALISATION(image)[None])[0, 0].numpy()
    np.testing.assert_allclose(model.predict(image).probability, expected, atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros((8, 8), complex),
        np.full((8, 8), np.nan),
        np.array([["a", "b"]]),
        [[1, 2], [3]],
    ],
)
def test_other_arrays_are_refused(model: Model, array: Any) -> None:
    with pytest.raises(InputError, match=r"^The image (has|holds|is no array) .*\.$"):
        model.predict(array)


@pytest.mark.parametrize("kind", ["12 bits", "counts", "float", "grey float", "big endian", "alpha", "bits"])
def test_an_array_is_taken_as_a_file_that_holds_it(model: Model, tmp_path: Path, kind: str) -> None:
    eight = picture(3, 40, 50)
    deep = eight.astype(np.uint16) * 16
    arrays: dict[str, NDArray[Any]] = {
        "12 bits": deep,
        "counts": eight.astype(np.int32) * 3 - 7,
        "float": eight.astype(np.float32) / 255,
        "grey float": eight[..., 0].astype(np.float64) * 1e4,
        "big endian": deep.astype(">u2"),
        "alpha": np.dstack([eight, np.full(eight.shape[:2], 128, np.uint8)]),
        "bits": eight[..., 0] > 128,
    }
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file, arrays[kind], photometric="minisblack" if arrays[kind].ndim == 2 else "rgb", extrasamples=["unassalpha"] if kind == "alpha" else None
    )
    np.testing.assert_array_equal(model.predict(arrays[kind]).probability, model.predict(file).probability)
    assert np.array_equal(model.predict(arrays[kind].tolist()).mask, model.predict(arrays[kind]).mask) or kind in ("alpha", "bits"), (
        "lists are integers of 64 bits"
    )


def test_a_slide_is_not_segmented_as_if_it_were_an_image(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.svs is a slide.*celladapt\.predict"):
        model.predict(tmp_path / "a.svs")


# --- files in, files out --------------------------------------------------------------------------


def test_outputs_hold_the_prediction_under_the_right_names(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    written = predict(model, images, out, ("mask", "instances", "probability"))
    assert [w.image.name for w in written] == ["a.b 1.png", "c.tif", "d.png"]
    kinds = ("mask.png", "instances.tif", "probability.tif")
    assert visible(out) == {f"{stem}_{kind}" for stem in ("a.b 1", "c", "d") for kind in kinds}
    for w in written:
        prediction = model.predict(w.image)
        assert w.outputs == {kind.split(".")[0]: out / f"{w.image.stem}_{kind}" for kind in kinds}
        mask = np.asarray(read_mask(w.outputs["mask"]))
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 255, prediction.mask)
        np.testing.assert_array_equal(read_mask(w.outputs["instances"]), prediction.instances)
        np.testing.assert_array_equal(_tiff(w.outputs["probability"]), prediction.probability)
        assert _tiff(w.outputs["instances"]).dtype == np.uint32
        assert _tiff(w.outputs["probability"]).dtype == np.float32
        assert w.nuclei == prediction.instances.max()
        assert w.foreground == pytest.approx(prediction.mask.mean())
    assert any(w.nuclei > 1 for w in written)
    assert any(0 < w.foreground < 1 for w in written)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith((".", "predictions."))}


def _tiff(path: Path) -> NDArray[np.generic]:
    import tifffile

    return tifffile.imread(path)


def test_save_chooses_the_outputs(model: Model, images: Path, tmp_path: Path) -> None:
    predict(model, images, tmp_path / "one", "mask")
    assert visible(tmp_path / "one") == {"a.b 1_mask.png", "c_mask.png", "d_mask.png"}
    with pytest.raises(InputError, match="'masks'; choose from mask, instances, probability"):
        predict(model, images, tmp_path / "two", ["mask", "masks"])
    assert not (tmp_path / "two").exists()


def test_existing_outputs_are_refused_before_anything_is_written(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "d_mask.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"d_mask\.png exists already"):
        predict(tmp_path / "no model needed for that", images, out, ["mask"])
    assert [p.name for p in out.iterdir()] == ["d_mask.png"]
    assert (out / "d_mask.png").read_bytes() == b"mine"
    predict(model, images, out, ["mask"], overwrite=True)
    assert len(visible(out)) == 3
    assert read_mask(out / "d_mask.png").shape == (20, 20)
    predict(model, images, out, ["instances"])  # other outputs are not in the way


def test_writing_over_that_was_killed_goes_on_and_keeps_nothing_old(
    model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(model, images, out, ["mask"])
    for path in out.glob("*_mask.png"):
        path.write_bytes(b"old")
    done: list[str] = []
    finish = Job.finish

    def fatal(job: Job, *facts: Any, **more: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(job.image.stem)
        return finish(job, *facts, **more)

    monkeypatch.setattr(Job, "finish", fatal)
    with pytest.raises(KeyboardInterrupt):
        predict(model, images, out, ["mask"], overwrite=True)
    monkeypatch.setattr(Job, "finish", finish)
    assert sum(path.read_bytes() == b"old" for path in out.glob("*_mask.png")) == 2
    first = (out / f"{done[0]}_mask.png").stat().st_mtime_ns
    assert len(predict(model, images, out, ["mask"])) == 3
    assert not any(path.read_bytes() == b"old" for path in out.glob("*_mask.png"))
    assert (out / f"{done[0]}_mask.png").stat().st_mtime_ns == first, "what was done is not done again"


def test_what_is_to_be_written_over_is_known_at_every_moment(model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before the note is written leaves the one before, so that the same command without --overwrite goes on."""
    out = tmp_path / "out"
    predict(model, images, out, ["mask"])

    def killed(path: Path, value: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(model, images, out, ["mask"], overwrite=True)
    assert len(predict(model, images, out, ["mask"])) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_outputs_of_one_image_by_two_models_do_not_stand_side_by_side(model: Model, images: Path, tmp_path: Path, overwrite: bool) -> None:
    """They would be evaluated as if they were of one."""
    out = tmp_path / "out"
    predict(model, images, out, ["mask", "instances"])
    before = {name: (out / name).read_bytes() for name in visible(out)}
    words = r"instances\.tif \(3 such\) was made with another model, other settings.*choose another --out, make all of them anew \(--save mask,instances --overwrite\), or delete"
    with pytest.raises(InputError, match=words):
        predict(model, images, out, ["mask"], threshold=0.9, overwrite=overwrite)
    assert {name: (out / name).read_bytes() for name in visible(out)} == before
    predict(model, images, out, ["overlay"])  # of the same model they may come later
    with pytest.raises(InputError, match="overlay"):
        predict(model, images, out, ["mask", "instances"], threshold=0.9, overwrite=True)
    for path in out.glob("*_overlay.png"):
        path.unlink()
    assert len(predict(model, images, out, ["mask", "instances"], threshold=0.9, overwrite=True)) == 3


def test_overwriting_a_part_does_not_hide_that_the_rest_is_of_another_model(model: Model, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(model, images, out, ["mask", "instances"])
    predict(model, images, out, ["mask"], overwrite=True)
    with pytest.raises(InputError, match=r"instances\.tif .* was made with another model"):
        predict(model, images, out, ["mask"], threshold=0.9, overwrite=True)
    before = {path: path.read_bytes() for path in out.glob("*_instances.tif")}
    assert len(predict(model, images, out, ["instances"])) == 3, "still known as this model's"
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("more", ["another output", "one is gone"])
def test_what_somebody_has_mended_is_left_alone(model: Model, images: Path, tmp_path: Path, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    predict(model, images, out, ["mask", "instances"])
    mended = out / "d_instances.tif"
    mended.write_bytes(b"mended by hand")
    (out / "d_mask.png").unlink() if more == "one is gone" else None
    predict(model, images, out, ["mask", "instances", *(["table"] if more == "another output" else [])])
    assert mended.read_bytes() == b"mended by hand"
    said = " ".join(capsys.readouterr().err.split())
    assert "d_instances.tif was changed after it was written and stays; what is written now of d.png is of the model's own masks" in said
    assert said.count("was changed after") == 1
    assert (out / "d_mask.png").exists()
    predict(model, images, out, ["mask", "instances"], overwrite=True)
    assert mended.read_bytes() != b"mended by hand"


def test_outputs_of_an_earlier_version_s_rules_are_not_taken_for_these(
    model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(model, images, tmp_path / "out")
    monkeypatch.setattr(job, "RULES", job.RULES + 1)
    with pytest.raises(InputError, match="exists already"):
        predict(model, images, tmp_path / "out")


@pytest.mark.parametrize("text", ["sample,my_score\na,1\n", "image;nuclei;model\nd.png;3;x\n", "image,model\nPr\xe4parat,x\n"])
def test_a_table_of_another_program_is_not_written_over(model: Model, images: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    table = tmp_path / "out" / "predictions.csv"
    table.write_bytes(text.encode("cp1252"))
    with pytest.raises(InputError, match=r"predictions\.csv is not the table that .* wrote.*; move it away, or choose another --out"):
        predict(model, images, tmp_path / "out")
    assert visible(tmp_path / "out") == set(), "nothing was done"
    assert table.read_bytes() == text.encode("cp1252")


def test_that_an_image_trained_the_model_outlives_a_damaged_record(images: Path, tmp_path: Path) -> None:
    paths = sorted((images / "images").glob("[!.]*.[pt][ni][gf]"))
    model = spread_model(trained_on=[provenance.digest(paths[0])])
    predict(model, paths[0], tmp_path / "out")
    (tmp_path / "out" / "predictions.json").write_text("{")
    predict(model, paths[1], tmp_path / "out")
    assert provenance.record_of(tmp_path / "out")["seen_in_training"] == [paths[0].stem]


def test_a_disk_without_locks_is_told_and_predicted_to(
    model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", none)
    assert len(predict(model, images, tmp_path / "out")) == 3
    assert "may lose rows of predictions.csv" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out" / "predictions.csv").exists()


def test_how_masks_were_made_is_in_a_table(model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    predict(model, sorted((images / "images").glob("[!.]*.[pt][ni][gf]"))[:2], out, pixel_size=0.5)
    predict(model, sorted((images / "images").glob("[!.]*.[pt][ni][gf]"))[1:], out, pixel_size=0.5)
    with open(out / "predictions.csv", encoding="utf-8", newline="") as lines:
        rows = {row["image"]: row for row in csv.DictReader(lines)}
    assert sorted(rows) == ["a.b 1.png", "c.tif", "d.png"]
    row = rows["d.png"]
    assert int(row["nuclei"]) == read_mask(out / "d_instances.tif").max()
    assert float(row["median_area_um2"]) == pytest.approx(0.25 * float(row["median_area_px2"]), rel=1e-4)
    assert (row["threshold"], row["min_size"], row["seen_in_training"], row["model"]) == ("0.5", "20", "no", model.fingerprint)
    table = out / "predictions.csv"
    table.write_text(
        table.read_text(encoding="utf-8")
        .replace(",finished\n", ",finished,remark\n")
        .replace(f"{model.fingerprint},0.1.0,{row['finished']}\n", f"{model.fingerprint},0.1.0,{row['finished']},good\n"),
        encoding="utf-8",
    )
    monkeypatch.setattr(provenance, "__version__", "later")
    predict(model, images, out, pixel_size=0.5)
    with open(table, encoding="utf-8", newline="") as lines:
        again = {row["image"]: row for row in csv.DictReader(lines)}
    assert again["d.png"] == {**row, "remark": "good"}, "made by the version that made it, with what somebody has added"
    record = json.loads((out / "predictions.json").read_text())
    assert (record["fingerprint"], record["settings"]["pixel_size"], record["model"]) == (model.fingerprint, 0.5, None)


def test_one_image_that_has_gone_does_not_cost_what_is_known_of_the_others(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = spread_model(trained_on=[provenance.digest(path) for path in sorted((images / "images").glob("[!.]*.[pt][ni][gf]"))])
    real = provenance.digest

    def gone(path: Path) -> str:
        if path.stem == "d":
            raise InputError("It has gone.")
        return real(path)

    monkeypatch.setattr(provenance, "digest", gone)
    predict(model, images, tmp_path / "out")
    assert provenance.record_of(tmp_path / "out")["seen_in_training"] == ["a.b 1", "c"]


def test_the_pixel_size_is_in_label_images(model: Model, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 32, 32))
    predict(model, tmp_path / "a.png", tmp_path / "out", ["instances", "probability"], pixel_size=0.25)
    assert [tiff_pixel_size(tmp_path / "out" / f"a_{word}.tif") for word in ("instances", "probability")] == pytest.approx([0.25, 0.25], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"treshold": 0.3}, "There is no setting 'treshold'; did you mean threshold"),
        ({"threshold": "0.3"}, "--threshold is '0.3'; give a number"),
        ({"threshold": None}, "--threshold is None; give a number"),
        ({"pixel_size": "0.5"}, "--pixel-size is '0.5'; give a number"),
        ({"tile": 512.0}, "--tile is 512.0; give a whole number"),
        ({"threshold": np.array([0.1, 0.2])}, "--threshold is array([0.1, 0.2]); give a number"),
        ({"tissue": "no"}, "--tissue is 'no'; give True or False"),
        ({"min_size": "small"}, "--min-size is 'small', which is no area"),
        ({"precision": "fp16"}, "The precision is 'fp16'; choose auto, float32 or bf16"),
    ],
)
def test_a_wrong_setting_is_one_sentence(images: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    spread_model().save(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=re.escape(words)):
        predict(tmp_path / "model.safetensors", images, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_numbers_of_any_type_are_settings(model: Model, images: Path, tmp_path: Path) -> None:
    first = predict(model, images, tmp_path / "out", threshold=np.float32(0.25), min_size=30, tissue=np.True_, tile=np.int64(2048))
    assert predict(model, images, tmp_path / "out", threshold=0.25, min_size="30") == first


def test_where_all_fail_there_are_no_others(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    with pytest.raises(SomeFailed, match=r"1 of 1 images failed: .*a\.png"):
        predict(model, tmp_path / "in", tmp_path / "out")


def test_what_holds_for_all_images_is_said_once(model: Model, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SomeFailed) as caught:
        predict(model, images, tmp_path / "out", min_size="5um2")
    assert str(caught.value).count("--min-size is '5um2'") == 1
    assert "3 of 3 images failed" in str(caught.value)
    assert "(3 such)" in str(caught.value)


def test_a_note_that_cannot_be_written_is_no_failed_image(model: Model, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise InputError("The disk is full.")

    monkeypatch.setattr(provenance, "note", full)
    with pytest.raises(SomeFailed, match=r"^The disk is full\.$") as caught:
        predict(model, images, tmp_path / "out", ["mask"])
    assert len(caught.value.done) == 3


def test_a_folder_that_may_not_be_written_to_is_told_before_any_work(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))} may not be written to"):
        predict("no model is looked for", images, tmp_path / "new" / "out")


def test_masks_beside_images_and_planes_that_are_left_out_are_told(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.png", np.zeros((32, 32), np.uint8))
    write_image(tmp_path / "in" / "a_mask.png", np.zeros((32, 32), np.uint8))
    for name in ("b", "c"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", np.zeros((5, 32, 32), np.uint8))
    tifffile.imwrite(tmp_path / "in" / "d.tif", np.zeros((4, 32, 32), np.uint8), photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    tifffile.imwrite(tmp_path / "in" / "inks.tif", np.zeros((32, 32, 4), np.uint8), photometric="separated")
    tifffile.imwrite(tmp_path / "in" / "five.tif", np.zeros((32, 32, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(SomeFailed, match=r"five\.tif has 5 channels"):
        predict(model, tmp_path / "in", tmp_path / "out", ["mask"], at=0.5)
    said = " ".join(capsys.readouterr().err.split())
    assert "a_mask.png is segmented like an image" in said
    assert said.count("hold several planes") == 1
    assert said.count("have 4 channels: the first 3 are taken") == 1
    assert "5 channels: the first" not in said
    assert said.count("--at is for slides") == 1


def test_that_images_are_deeper_than_what_the_model_was_trained_on_is_told_once(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "in" / f"{name}.png", np.arange(1024, dtype=np.uint16).reshape(32, 32))
    for trained_deep, told in ((False, 1), (True, 0), (None, 0)):
        predict(replace(model, about={**model.about, "deep": trained_deep}), tmp_path / "in", tmp_path / str(trained_deep), ["mask"])
        assert " ".join(capsys.readouterr().err.split()).count("have more than 8 bits a channel, those the model was trained on 8") == told


def test_out_is_a_file(model: Model, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(InputError, match=r"out is a file; give a folder"):
            predict(model, images, out)
    assert (tmp_path / "out").read_text() == "mine"


def test_one_bad_file_does_not_stop_the_others(model: Model, images: Path, tmp_path: Path) -> None:
    (images / "images" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(InputError, match=r"1 of 4 images failed.*b\.png") as caught:
        predict(model, images, tmp_path / "out", ["mask"])
    assert "c.tif" not in str(caught.value)
    assert visible(tmp_path / "out") == {"a.b 1_mask.png", "c_mask.png", "d_mask.png"}


def test_files_that_would_write_the_same_output_are_refused(model: Model, images: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "other" / "c.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"c\.tif and .*c\.png would write the same output"):
        predict(model, [images, tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- finding nuclei and writing beside the network --------------------------------------------------


def test_outputs_come_in_order_however_long_each_takes(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30 + number))
    second = threading.Event()
    real = prediction.write_outputs

    def slow_first(job: prediction.Job, *rest: object) -> prediction.Written:
        if job.image.stem == "0":
            assert second.wait(60), "the second image is written while the first one is"
        if job.image.stem == "1":
            second.set()
        return real(job, *rest)

    monkeypatch.setattr(prediction, "_WRITERS", 3)
    monkeypatch.setattr(prediction, "write_outputs", slow_first)
    written = predict(model, tmp_path / "in", tmp_path / "out")
    assert [one.image.stem for one in written] == list("0123456")
    assert all(read_mask(one.outputs["instances"]).shape == (30, 30 + number) for number, one in enumerate(written))


def test_a_large_image_waits_for_the_others_to_be_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30))
    running: list[str] = []
    most: list[int] = []
    real = prediction.write_outputs

    def counted(job: prediction.Job, *rest: object) -> prediction.Written:
        running.append(job.image.stem)
        most.append(len(running))
        try:
            return real(job, *rest)
        finally:
            running.remove(job.image.stem)

    monkeypatch.setattr(prediction, "_WRITERS", 3)
    monkeypatch.setattr(prediction, "_WAITING_PIXELS", 1000)
    monkeypatch.setattr(prediction, "write_outputs", counted)
    assert len(predict(model, tmp_path / "in", tmp_path / "out")) == 4
    assert max(most) == 1


@pytest.mark.parametrize("error", [InputError("disk full"), RuntimeError("a fault")])
def test_one_failure_costs_no_other_image(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for number in range(5):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 30, 30))
    real = prediction.write_outputs

    def failing(job: prediction.Job, *rest: object) -> prediction.Written:
        if job.image.stem == "4":
            raise error
        return real(job, *rest)

    monkeypatch.setattr(prediction, "_WRITERS", 2)
    monkeypatch.setattr(prediction, "write_outputs", failing)
    with pytest.raises(type(error), match=str(error)):
        predict(model, tmp_path / "in", tmp_path / "out", save="mask")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"{number}_mask.png" for number in range(4)]
