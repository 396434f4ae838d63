"""What is saved of images and slides: the words of --save, each read back, and nuclei measured."""

import csv
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers import picture, spread_model
from numpy.typing import NDArray
from slides import write_ome_zarr, write_pyramid

from celladapt import outputs, prediction, whole_slide
from celladapt.data.images import read_image, read_mask, write_image
from celladapt.errors import InputError
from celladapt.locks import LOCK
from celladapt.model import Model
from celladapt.nuclei import Nuclei, measure
from celladapt.prediction import SomeFailed, Written, predict

ALL = ("mask", "instances", "probability", "geojson", "table", "parquet", "overlay", "zarr")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(pixel_size=0.5)


def disc_and_bar() -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
    """A disc of radius 20 around (40, 50) and a bar of 8 x 40 at row 90, column 30."""
    y, x = np.mgrid[:120, :100]
    labels = np.where((y + 0.5 - 40) ** 2 + (x + 0.5 - 50) ** 2 < 400, 1, 0).astype(np.int32)
    labels[90:98, 30:70] = 2
    image = np.full((120, 100, 3), 255, np.uint8)
    image[labels == 1] = (102, 51, 204)
    return labels, np.where(labels == 1, 0.75, 0.25).astype(np.float32), image


# --- measurements ---------------------------------------------------------------------------------


def test_a_disc_and_a_bar_have_the_measures_of_a_disc_and_a_bar() -> None:
    nuclei = measure(*disc_and_bar())
    c = nuclei.columns
    assert c["label"].tolist() == [1, 2]
    np.testing.assert_allclose(c["area"], [np.pi * 400, 320], rtol=0.01)
    np.testing.assert_allclose(c["x"], [50, 50], atol=0.05)
    np.testing.assert_allclose(c["y"], [40, 94], atol=0.05)
    np.testing.assert_allclose(c["major_axis"], [40, 4 * 40 / np.sqrt(12)], rtol=0.01)
    np.testing.assert_allclose(c["minor_axis"], [40, 4 * 8 / np.sqrt(12)], rtol=0.01)
    np.testing.assert_allclose(c["perimeter"], [2 * np.pi * 20, 96], rtol=0.06)
    assert c["circularity"][0] > 0.9 > 0.5 > c["circularity"][1]
    assert (c["solidity"] > 0.95).all()
    assert c["eccentricity"][0] < 0.1
    assert c["eccentricity"][1] == pytest.approx(np.sqrt(1 - (8 / 40) ** 2), abs=0.01)
    assert c["orientation"][1] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose([c["red"][0], c["green"][0], c["blue"][0]], [0.4, 0.2, 0.8], atol=1e-6)
    np.testing.assert_allclose(c["probability"], [0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose([c["hematoxylin"][1], c["eosin"][1]], 0, atol=1e-6)  # glass


def test_orientation_is_counter_clockwise_from_the_rows() -> None:
    labels = np.zeros((60, 60), np.int32)
    for k in range(40):
        labels[50 - k : 53 - k, 10 + k] = 1  # rises to the right
    nuclei = measure(labels, np.ones((60, 60), np.float32), np.zeros((60, 60, 3), np.uint8))
    assert nuclei.columns["orientation"][0] == pytest.approx(45, abs=2)


def test_a_dense_stain_has_the_optical_density_that_was_drawn() -> None:
    """Light that haematoxylin of density 1 lets through: 10 to the minus its absorption in each channel."""
    absorbed = np.array([0.65, 0.70, 0.29])
    light = 10.0 ** -(absorbed / np.linalg.norm(absorbed))
    labels = np.ones((10, 10), np.int32)
    image = np.broadcast_to((light * 65535).round().astype(np.uint16), (10, 10, 3))
    found = measure(labels, np.ones((10, 10), np.float32), image).columns
    assert found["hematoxylin"][0] == pytest.approx(1, abs=0.05)
    assert found["eosin"][0] == pytest.approx(0, abs=0.05)


def test_measurements_survive_the_disk_and_are_moved_whole(tmp_path: Path) -> None:
    nuclei = measure(*disc_and_bar()).moved(1000, 2000)
    assert nuclei.columns["y"][0] == pytest.approx(1040, abs=0.05)
    assert nuclei.outlines[1].min(axis=0).tolist() == pytest.approx([2030, 1090], abs=1)
    nuclei.save(tmp_path / "n.npz")
    again = Nuclei.load(tmp_path / "n.npz")
    assert again.columns.keys() == nuclei.columns.keys()
    for name, values in nuclei.columns.items():
        np.testing.assert_array_equal(again.columns[name], values)
    assert all(np.array_equal(a, b) for a, b in zip(again.outlines, nuclei.outlines, strict=True))
    none = measure(np.zeros((9, 9), np.int32), np.zeros((9, 9), np.float32), np.zeros((9, 9, 3), np.uint8))
    none.save(tmp_path / "none.npz")
    assert len(Nuclei.load(tmp_path / "none.npz")) == 0


def test_units_are_in_the_names_and_in_the_numbers() -> None:
    table = measure(*disc_and_bar()).table(2.0, 0.25)
    assert list(table)[:5] == ["label", "x_px", "y_px", "area_px2", "perimeter_px"]
    assert table["x_px"][0] == pytest.approx(100, abs=0.1)
    assert table["x_um"][0] == pytest.approx(25, abs=0.05)
    assert table["area_px2"][1] == 320 * 4
    assert table["area_um2"][1] == pytest.approx(320 * 4 / 16)
    assert not any("_um" in name for name in measure(*disc_and_bar()).table(1.0, None))


# --- images ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("saved")
    tifffile.imwrite(folder / "case <1>.tif", picture(5, 150, 180), photometric="rgb", resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    return predict(model, folder / "case <1>.tif", folder / "out", ALL, threshold=0.8)[0]


def test_every_word_has_its_file(saved: Written) -> None:
    assert {word: path.name for word, path in saved.outputs.items()} == {
        "mask": "case <1>_mask.png",
        "instances": "case <1>_instances.tif",
        "probability": "case <1>_probability.tif",
        "geojson": "case <1>_nuclei.geojson",
        "table": "case <1>_nuclei.csv",
        "parquet": "case <1>_nuclei.parquet",
        "overlay": "case <1>_overlay.png",
        "zarr": "case <1>_nuclei.ome.zarr",
    }
    assert all(path.exists() for path in saved.outputs.values())
    assert set(ALL) == set(outputs.WRITERS)
    assert saved.nuclei > 5
    assert saved.pixel_size == pytest.approx(0.5)
    assert "µm²" in saved.words


def test_geojson_is_what_qupath_opens(saved: Written) -> None:
    from shapely.geometry import shape

    labels = read_mask(saved.outputs["instances"])
    collection = json.loads(saved.outputs["geojson"].read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == saved.nuclei
    assert len({feature["id"] for feature in collection["features"]}) == saved.nuclei
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"]["name"] == "Nucleus"
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in properties["classification"]["color"])
        assert properties["measurements"]["Area µm^2"] > 0
        assert all(isinstance(value, float) and np.isfinite(value) for value in properties["measurements"].values())
        polygon = shape(feature["geometry"])
        assert polygon.is_valid
        pixels = labels == int(properties["name"])
        assert pixels.sum() * 0.25 == pytest.approx(properties["measurements"]["Area µm^2"], abs=1e-3)
        y, x = np.nonzero(pixels)
        assert polygon.bounds == pytest.approx((x.min(), y.min(), x.max() + 1, y.max() + 1), abs=1.5)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf_8_has_every_output(model: Model, tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"Gr\xf6\xdfe.png")
    write_image(image, picture(5, 60, 60))
    (written,) = predict(model, image, tmp_path / "out", ALL)
    assert all(path.exists() for path in written.outputs.values())


def test_tables_agree_with_the_labels_and_with_each_other(saved: Written) -> None:
    import pyarrow.parquet

    labels = read_mask(saved.outputs["instances"])
    with open(saved.outputs["table"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == list(range(1, saved.nuclei + 1))
    assert [float(row["area_px2"]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()
    parquet = pyarrow.parquet.read_table(saved.outputs["parquet"]).to_pydict()
    assert list(parquet) == list(rows[0])
    for name, values in parquet.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-4, atol=1e-5)


def test_ome_zarr_labels_are_the_labels_at_every_level(saved: Written) -> None:
    import zarr

    labels = read_mask(saved.outputs["instances"])
    group = zarr.open_group(saved.outputs["zarr"], mode="r")
    (scales,) = group.attrs["multiscales"]
    assert scales["version"] == "0.4"
    assert "image-label" in group.attrs
    for level, data in enumerate(scales["datasets"]):
        np.testing.assert_array_equal(group[data["path"]][:], labels[:: 2**level, :: 2**level])
        assert data["coordinateTransformations"] == [{"type": "scale", "scale": [0.5 * 2**level] * 2}]
    assert [axis["unit"] for axis in scales["axes"]] == ["micrometer"] * 2


def test_the_overlay_is_the_image_with_borders_in_yellow(saved: Written) -> None:
    overlay, image = read_image(saved.outputs["overlay"]), read_image(saved.image)
    labels = read_mask(saved.outputs["instances"])
    assert overlay.shape == image.shape
    changed = (overlay != image).any(axis=2)
    assert 0.02 < changed.mean() < 0.9
    inner = labels * 0
    for axis in (0, 1):
        for step in (1, -1):
            inner |= (np.roll(labels, step, axis) != labels) & (labels > 0)
    yellow = (overlay == (255, 227, 77)).all(axis=2)
    assert (inner[1:-1, 1:-1] > 0)[yellow[1:-1, 1:-1]].all()


# --- slides ---------------------------------------------------------------------------------------


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_slide, "MARGINS", (32, 64))
    monkeypatch.setattr(outputs, "TILE", 64)


@pytest.mark.usefixtures("_small_tiles")
def test_a_slide_has_every_output_of_an_image(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="slides need zarr: the extra celladapt[slides]")
    image = picture(5, 300, 360)
    path = write_pyramid(tmp_path / "slide.tif", image, 0.25)
    (written,) = predict(model, path, tmp_path / "out", ALL, at=0.25, tissue=False, tile=128, min_size="40", threshold=0.8)
    assert written.outputs["mask"].name == "slide_mask.tif"
    assert all(output.exists() for output in written.outputs.values())
    assert written.nuclei > 20
    assert written.tissue == 1
    labels = tifffile.imread(written.outputs["instances"])
    assert labels.shape == (300, 360)
    assert labels.max() == written.nuclei
    with tifffile.TiffFile(written.outputs["instances"]) as tif:
        levels = tif.series[0].levels
        assert [level.shape for level in levels] == [(300, 360), (150, 180), (75, 90), (38, 45)]
        for level in range(4):
            np.testing.assert_array_equal(levels[level].asarray(), labels[:: 2**level, :: 2**level])
        x, per = tif.pages.first.tags["XResolution"].value
        assert x / per == pytest.approx(40000)
    mask, seen = tifffile.imread(written.outputs["mask"]), model.predict(image)
    assert (mask == 255).mean() == pytest.approx((seen.probability >= 0.8).mean(), abs=5e-3)
    probability = tifffile.imread(written.outputs["probability"])
    np.testing.assert_allclose((probability + 0.5) / 256, seen.probability, atol=0.003)
    with open(written.outputs["table"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["area_px2"]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()
    assert len(json.loads(written.outputs["geojson"].read_text(encoding="utf-8"))["features"]) == written.nuclei
    assert read_image(written.outputs["overlay"]).shape[0] >= 300
    assert [item.name for item in (tmp_path / "out" / ".celladapt").iterdir() if item.name != LOCK] == ["slide.json"], "nothing is left of the work"


@pytest.mark.usefixtures("_small_tiles")
def test_coordinates_are_those_of_the_full_resolution(model: Model, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif", picture(5, 300, 360), 0.25)
    (written,) = predict(model, path, tmp_path / "out", "geojson,table,instances", tissue=False, tile=128)  # at the model's 0.5
    labels = tifffile.imread(written.outputs["instances"])
    assert labels.shape == (150, 180)
    with open(written.outputs["table"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        y, x = np.nonzero(labels == int(row["label"]))
        assert float(row["x_px"]) == pytest.approx(2 * (x.mean() + 0.5), rel=1e-4)
        assert float(row["y_um"]) == pytest.approx(0.5 * (y.mean() + 0.5), rel=1e-4)
        assert float(row["area_um2"]) == pytest.approx(0.25 * len(y), rel=1e-4)
    features = json.loads(written.outputs["geojson"].read_text(encoding="utf-8"))["features"]
    right = max(point[0] for feature in features for point in feature["geometry"]["coordinates"][0])
    assert 300 < right <= 361


@pytest.mark.usefixtures("_small_tiles")
def test_an_interrupted_slide_is_taken_up_by_the_same_command(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "slide.tif", picture(5, 300, 360), 0.5)
    (whole,) = predict(model, path, tmp_path / "whole", ALL, tissue=False, tile=128)
    calls: list[int] = []
    real = Model.probability

    def stopping(self: Model, image: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "probability", stopping)
        with pytest.raises(KeyboardInterrupt):
            predict(model, path, tmp_path / "out", ALL, tissue=False, tile=128)
    real_write = outputs.WRITERS["table"]

    def no_space(*_: object) -> None:
        raise InputError("disk full")

    stored = tmp_path / "out" / ".celladapt" / "slide" / "stored.jsonl"
    assert len(before := stored.read_text().splitlines()) == 3
    with monkeypatch.context() as patch:  # and then by a disk that is full at once: what is there stays
        patch.setattr(whole_slide, "write_text", no_space)
        with pytest.raises(SomeFailed, match="disk full"):
            predict(model, path, tmp_path / "out", ALL, tissue=False, tile=128)
    assert stored.read_text().splitlines() == before
    with monkeypatch.context() as patch:  # stopped again between two of its outputs
        patch.setitem(outputs.WRITERS, "table", (real_write[0], no_space))
        with pytest.raises(SomeFailed, match="disk full"):
            predict(model, path, tmp_path / "out", ALL, tissue=False, tile=128)
    assert (tmp_path / "out" / "slide_mask.tif").exists()
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Model, "probability", lambda self, image: (calls.append(1), real(self, image))[1])
        (again,) = predict(model, path, tmp_path / "out", ALL, tissue=False, tile=128)
        assert not calls, "every tile had been seen"
        assert predict(model, path, tmp_path / "out", ALL, tissue=False, tile=128) == [again]
        assert not calls, "done is done"
    assert (again.nuclei, again.median_area) == (whole.nuclei, whole.median_area)
    for word in ("mask", "instances", "probability"):
        np.testing.assert_array_equal(tifffile.imread(again.outputs[word]), tifffile.imread(whole.outputs[word]))
    for word in ("geojson", "table"):
        assert again.outputs[word].read_bytes() == whole.outputs[word].read_bytes()


@pytest.mark.usefixtures("_small_tiles")
def test_bad_slides_do_not_stop_the_others(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_pyramid(folder / "good.tif", picture(5, 200, 200), 0.5)
    (folder / "text.svs").write_text("no slide")
    write_ome_zarr(folder / "glass.zarr", np.full((200, 200, 3), 244, np.uint8))
    write_image(folder / "small.png", picture(6, 40, 40))
    with pytest.raises(SomeFailed, match="2 of 4 images failed") as caught:
        predict(model, folder, tmp_path / "out", "mask", tissue=True, tile=128)
    assert "text.svs is not a slide that can be read" in str(caught.value)
    assert "glass.zarr has no tissue that could be told from glass; --no-tissue" in str(caught.value)
    assert sorted(written.image.name for written in caught.value.done) == ["good.tif", "small.png"]
    assert (tmp_path / "out" / "good_mask.tif").exists()


def test_unwritable_places_and_full_disks_are_one_sentence(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", picture(6, 60, 60))
    (tmp_path / "file").write_text("")
    write_pyramid(tmp_path / "slide.tif", picture(5, 200, 200), 0.5)
    for name in ("a.png", "slide.tif"):
        with pytest.raises(InputError, match=r"file is a file; give a folder as --out"):
            predict(model, tmp_path / name, tmp_path / "file" / "out", "mask", tissue=False)
        monkeypatch.setattr(prediction, "check_out", lambda images, out: None)  # as if it came there only now
        with pytest.raises(SomeFailed, match=rf"(cannot be written|{name} could not be segmented).*Not a directory"):
            predict(model, tmp_path / name, tmp_path / "file" / "out", "mask", tissue=False)
        monkeypatch.undo()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    for word in ALL:
        with pytest.raises(SomeFailed, match=r"cannot be written \(No space left on device\)"):
            predict(model, tmp_path / "a.png", tmp_path / word, word)
        assert not [item for item in (tmp_path / word).iterdir() if item.name != ".celladapt"]


# --- what is done, and what fits ------------------------------------------------------------------


def test_an_image_stopped_between_its_outputs_is_gone_on_with(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "in" / "a.png", picture(6, 60, 60))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(outputs.WRITERS, "instances", ("instances.tif", stopped))
        with pytest.raises(KeyboardInterrupt):
            predict(model, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "a_mask.png").exists()
    with pytest.raises(InputError, match="exists already"):
        predict(model, tmp_path / "in", tmp_path / "out", threshold=0.4)
    (written,) = predict(model, tmp_path / "in", tmp_path / "out")
    assert all(path.exists() for path in written.outputs.values())


def test_a_file_that_goes_away_meanwhile_or_needs_too_much_memory_costs_no_other(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png", picture(6, 60, 60))
    real, count = Model.probability, [0]

    def failing(self: Model, image: Any) -> Any:
        count[0] += 1
        if count[0] == 1:
            raise MemoryError
        if count[0] == 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        return real(self, image)

    monkeypatch.setattr(Model, "probability", failing)
    with pytest.raises(SomeFailed, match=r"2 of 3 images failed.*a\.png needs more memory.*b\.png needs more memory") as caught:
        predict(model, tmp_path / "in", tmp_path / "out")
    assert [written.image.name for written in caught.value.done] == ["c.png"]


def test_not_every_fault_that_speaks_of_memory_is_a_lack_of_it(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "in" / "a.png", picture(6, 60, 60))

    def failing(self: Model, image: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Model, "probability", failing)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predict(model, tmp_path / "in", tmp_path / "out")


def test_outputs_do_not_go_among_the_images(model: Model, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", picture(6, 60, 60))
    with pytest.raises(InputError, match=r"holds a\.png, which is to be segmented"):
        predict(model, tmp_path / "in", tmp_path / "in")
    for options, words in (({"workers": 0}, "--workers is 0"), ({"save": []}, "--save is empty"), ({"threshold": 0.999}, "--threshold")):
        with pytest.raises(InputError, match=words):
            predict(model, tmp_path / "in", tmp_path / "out", **options)


def test_what_is_done_is_not_done_again_and_what_changed_is(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.png", picture(number, 40, 40))
    first = predict(model, tmp_path / "in", tmp_path / "out")
    seen: list[int] = []
    real = Model.probability
    monkeypatch.setattr(Model, "probability", lambda self, image: (seen.append(1), real(self, image))[1])
    assert predict(model, tmp_path / "in", tmp_path / "out") == first
    assert not seen
    first[1].outputs["mask"].unlink()
    assert predict(model, tmp_path / "in", tmp_path / "out") == first
    assert len(seen) == 1
    predict(model, tmp_path / "in", tmp_path / "out", "table,mask")
    assert len(seen) == 4, "another output is made, those that are there are its own"
    predict(model, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert len(seen) == 7, "overwriting is asked for by name"
    with pytest.raises(InputError, match=r"0_nuclei\.csv \(3 such\) was made with another model, other settings"):
        predict(model, tmp_path / "in", tmp_path / "out", threshold=0.4)
    every = "mask,instances,table"
    with pytest.raises(InputError, match="exists already"):
        predict(model, tmp_path / "in", tmp_path / "out", every, threshold=0.4)
    write_image(tmp_path / "in" / "2.png", picture(9, 40, 40))
    with pytest.raises(InputError, match=r"2_mask\.png exists already"):
        predict(model, tmp_path / "in", tmp_path / "out", every)
    assert len(seen) == 7


def test_threshold_and_smallest_nucleus_are_obeyed(model: Model, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(5, 150, 150))
    few, more = (predict(model, tmp_path / "a.png", tmp_path / str(t), threshold=t)[0].foreground for t in (0.7, 0.4))
    assert few < more
    (large,) = predict(model, tmp_path / "a.png", tmp_path / "large", min_size="50um2", pixel_size=0.5)
    areas = np.bincount(read_mask(large.outputs["instances"]).ravel())[1:]
    assert areas.min() >= 200
    for options, words in (
        ({"threshold": 0}, "--threshold is 0"),
        ({"min_size": "some"}, "min-size"),
        ({"at": -1}, "--at is -1"),
        ({"pixel_size": 0}, "--pixel-size"),
    ):
        with pytest.raises(InputError, match=words):
            predict(model, tmp_path / "a.png", tmp_path / "none", **options)
    with pytest.raises(InputError, match="pixel-size"):
        predict(model, tmp_path / "a.png", tmp_path / "none", min_size="50um2")


def test_pixel_sizes_that_do_not_fit_are_told_with_numbers(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", picture(5, 40, 40))
    predict(model, tmp_path / "a.png", tmp_path / "one", pixel_size=0.25)
    assert "trained at 0.5 µm per pixel" in capsys.readouterr().err
    predict(model, tmp_path / "a.png", tmp_path / "two", pixel_size=0.55)
    assert "trained at" not in capsys.readouterr().err
    other = write_pyramid(tmp_path / "other.tif", picture(5, 200, 200), 0.25)
    predict(model, other, tmp_path / "five", "table", tissue=False, tile=128, pixel_size=0.5)
    assert "other.tif says 0.25 µm per pixel; it is taken for 0.5" in capsys.readouterr().err
    with pytest.raises(SomeFailed, match="would be enlarged 8 times"):
        predict(model, other, tmp_path / "six", "table", tissue=False, tile=128, pixel_size=4.0)
    path = write_pyramid(tmp_path / "coarse.tif", picture(5, 200, 200), 1.0)
    predict(model, path, tmp_path / "three", "table", tissue=False, tile=128)
    assert "1 µm per pixel at most, the model was trained at 0.5: it is enlarged 2 times" in capsys.readouterr().err
    predict(model, path, tmp_path / "seven", "table", tissue=False, tile=128, at=0.25)
    assert "1 µm per pixel at most, --at is 0.25: it is enlarged 4 times" in capsys.readouterr().err
    silent = write_pyramid(tmp_path / "silent.tif", picture(5, 200, 200), None)
    predict(model, silent, tmp_path / "four", "table", tissue=False, tile=128)
    assert "silent.tif does not say its pixel size" in capsys.readouterr().err
