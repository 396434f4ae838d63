"""What to annotate first: the criterion on arrays, the cutting, and the folder that is written."""

import csv
import re
import shlex
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from celladapt.cli import main
from celladapt.data.check import check
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, write_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.model import Model
from celladapt.networks import Segmenter
from celladapt.ranking import Candidates, content, cover, rank, standardised, supported
from celladapt.run import Run
from celladapt.suggestion import boxes, contrast, suggest, uncertainty

pytestmark = pytest.mark.usefixtures("no_charts")

NONE = np.empty((0, 6))
CENTRES = 8 * np.array([[1, -1, 1, -1, 1, -1], [1, 1, -1, -1, 0, 1], [-1, 0, 1, 1, -1, 1]])


def candidates(sizes: tuple[int, ...], seed: int = 0) -> tuple[Candidates, NDArray[np.intp]]:
    """Clusters of these sizes round ``CENTRES``, alike in all but their features, and the cluster of each candidate; in mixed order."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(cluster)
    features = CENTRES[cluster] + rng.normal(size=(n, 6))
    return Candidates(features, np.full(n, 0.3), np.full(n, 20.0), np.full(n, 0.1), np.full(n, 1e5)), cluster


# --- criterion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_of_each_of_three_clusters_the_largest_first(seed: int) -> None:
    some, cluster = candidates((12, 25, 6), seed)
    picks = rank(some, NONE, 3)
    assert [cluster[pick.index] for pick in picks] == [1, 0, 2]
    assert [pick.size for pick in picks] == [25, 12, 6]
    assert rank(some, NONE, 3) == picks


@pytest.mark.parametrize("seed", range(5))
def test_what_is_annotated_is_covered(seed: int) -> None:
    some, cluster = candidates((12, 25, 6), seed)
    annotated = some.features[cluster == 1][:1] + 0.1
    assert [cluster[pick.index] for pick in rank(some, annotated, 2)] == [0, 2]
    assert {cluster[pick.index] for pick in rank(some, annotated, 3)[:2]} == {0, 2}, "though it is the largest"


def test_an_outlier_is_not_taken_before_a_cluster() -> None:
    some, _ = candidates((12, 25, 6))
    far = replace(some, features=np.where(np.arange(43)[:, None] == 7, 60.0, some.features))
    assert 7 not in [pick.index for pick in rank(far, NONE, 3)[:2]]


def test_of_the_typical_ones_the_most_unsure_is_taken_and_of_like_clusters_the_more_unsure() -> None:
    some, cluster = candidates((20, 20))
    centre = some.features[cluster == 0].mean(axis=0)
    by_distance = sorted(np.flatnonzero(cluster == 0), key=lambda i: float(np.linalg.norm(some.features[i] - centre)))
    typical, odd = int(by_distance[2]), int(by_distance[-1])
    unsure = some.uncertainty.copy()
    unsure[cluster == 1] = 0.2
    unsure[typical], unsure[odd] = 0.5, 0.9
    first, second = rank(replace(some, uncertainty=unsure), NONE, 2)
    assert first.index == typical, "the odd one is less sure, but stands for nothing"
    assert cluster[second.index] == 1
    assert first.score > second.score


def test_an_empty_image_is_left_out_but_not_for_want_of_predictions_alone() -> None:
    some, cluster = candidates((15, 15, 15))
    blank, blind = cluster == 0, cluster == 1
    nuclei = np.where(blank | blind, 0.0, some.nuclei)
    glass = np.where(blank, 0.001, some.contrast)
    picks = rank(replace(some, nuclei=nuclei, contrast=glass, uncertainty=np.where(nuclei > 0, 0.3, 0)), NONE, 2)
    assert {cluster[pick.index] for pick in picks} == {1, 2}
    failing = replace(some, nuclei=np.zeros(45), uncertainty=np.zeros(45))
    assert {cluster[pick.index] for pick in rank(failing, NONE, 3)} == {0, 1, 2}


def test_more_than_there_are_gives_all_also_blank_and_equal_ones() -> None:
    some, _ = candidates((3, 2))
    same = replace(some, features=np.zeros((5, 6)), contrast=np.array([0, 0, 0.1, 0.1, 0.1]), nuclei=np.array([0, 0, 5.0, 5, 5]))
    for annotated in (NONE, np.zeros((2, 6))):
        picks = rank(same, annotated, 9)
        assert sorted(pick.index for pick in picks) == [0, 1, 2, 3, 4]
        assert all(np.isfinite(pick.score) and pick.score >= 0 for pick in picks)
    assert len(rank(same, NONE, 4)) == 4


def test_a_cover_assigns_to_the_nearest_and_its_centres_are_central() -> None:
    rng = np.random.default_rng(0)
    points, fixed = rng.normal(size=(1500, 4)), rng.normal(size=(3, 4))
    clusters, medoids = cover(points, fixed, 20)
    distance = np.linalg.norm(points[:, None] - np.concatenate([fixed, points[medoids]]), axis=2)
    np.testing.assert_array_equal(np.maximum(distance.argmin(axis=1) - 3, -1), clusters)
    assert set(clusters) == set(range(-1, 20))
    for cluster, medoid in enumerate(medoids):
        members = points[clusters == cluster]
        assert np.linalg.norm(points[medoid] - members.mean(axis=0)) == pytest.approx(np.linalg.norm(members - members.mean(axis=0), axis=1).min())


def test_parts_of_the_criterion() -> None:
    np.testing.assert_allclose(content(np.zeros(3), np.array([0.0, 0.1, 0.3])).round(2), [0, 0.77, 1])
    assert content(np.zeros(2), np.zeros(2)).tolist() == [0, 0]
    few = supported(np.array([0.2, 0.8, 0.4, 0.9]), np.array([100.0, 100.0, 100.0, 0.0]))
    assert few[3] == pytest.approx(0.4), "no nucleus: as unsure as the median"
    assert 0.2 < few[0] < 0.23
    assert supported(np.zeros(2), np.zeros(2)).tolist() == [1, 1]
    columns = standardised(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert columns.tolist() == [[-1, 0], [1, 0]]


# --- cutting and looking --------------------------------------------------------------------------


def test_tiles_hold_every_pixel_once_and_none_is_a_sliver() -> None:
    for width, height in product((1, 64, 511, 512, 767, 768, 1000, 1280, 1281, 3333), (5, 700, 2000)):
        parts = boxes(width, height, 512)
        count = np.zeros((height, width), np.uint8)
        for x, y, w, h in parts:
            count[y : y + h, x : x + w] += 1
            assert w < 768
            assert h < 768
            assert w >= min(width, 384)
            assert h >= min(height, 384)
        assert (count == 1).all()
    assert boxes(767, 600, 512) == [(0, 0, 767, 600)]
    assert boxes(1000, 1000, 512) == [(0, 0, 500, 500), (500, 0, 500, 500), (0, 500, 500, 500), (500, 500, 500, 500)]


def test_contrast_is_of_structure_not_of_noise() -> None:
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(200, 12, (128, 128, 3)), 0, 255).astype(np.uint8)
    discs = np.where((np.indices((128, 128)) // 16).sum(0)[..., None] % 2, 120, noise).astype(np.uint8)
    assert contrast(np.full((3, 5, 3), 9, np.uint8)) == pytest.approx(0, abs=1e-6)
    assert contrast(noise) < 0.01 < 0.1 < contrast(discs)
    assert contrast(discs.astype(np.uint16) * 257) == pytest.approx(contrast(discs), abs=1e-6)


def test_uncertainty_is_that_around_nuclei() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 20:30] = 1
    probability = np.where(labels > 0, 1, 0).astype(np.float32)
    assert uncertainty(probability, labels) == 0
    far = probability.copy()
    far[50:] = 0.5
    assert uncertainty(far, labels) == 0
    near = probability.copy()
    near[30:33, 20:30] = 0.5
    assert 0 < uncertainty(near, labels) < 0.5
    assert uncertainty(np.full((60, 60), 0.5, np.float32), labels) == pytest.approx(1)
    assert uncertainty(far, np.zeros_like(labels)) == 0


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Segmenter(4)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Model(network.eval(), Normalisation((0.7, 0.6, 0.7), (0.2, 0.2, 0.2)), {"config": {"steps": 30, "width": 4, "seed": 7}}).save(path)
    return path


def rows(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "suggestions.csv").open(encoding="utf-8")))


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_whole_images_are_copied_with_empty_masks_and_the_same_again(tiny_domains: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    target = tiny_domains[1]
    for index in range(6):
        (target / "masks" / f"target{index}.png").unlink()
    out = tmp_path / "new" / "out"
    done = suggest(model, target, out, 3)
    names = [item.name for item in done.items]
    assert len(set(names)) == 3
    assert set(names) <= {f"target{index}" for index in range(6)}, "the others have masks"
    written = Folder.open(out)
    assert list(written.images) == list(written.masks) == sorted(names)
    for name in names:
        assert written.images[name].read_bytes() == (target / "images" / f"{name}.png").read_bytes()
        with Image.open(written.masks[name]) as mask:
            assert mask.mode.startswith("I;16")
        image, labels = written.pair(name)
        assert labels.shape == image.shape[:2] == (64, 64)
        assert not labels.any()
    assert [row["name"] for row in rows(out)] == names
    assert [row["rank"] for row in rows(out)] == ["1", "2", "3"]
    scores = [float(row["score"]) for row in rows(out)]
    assert scores == sorted(scores, reverse=True)
    assert min(read_image(out / "overview.png").shape[:2]) > 300
    assert {path.name for path in out.iterdir()} == {"images", "masks", "suggestions.csv", "overview.png"}
    assert len(check([out]).faults) == 3, "the check names the masks that nobody has filled"
    suggest(model, target, tmp_path / "again", 3)
    assert same_files(out, tmp_path / "again")


def test_deep_and_grey_tiles_keep_their_pixels(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (100, 200, 3)).astype(np.uint16)
    write_image(tmp_path / "d" / "images" / "deep.tif", deep)
    write_image(tmp_path / "d" / "images" / "grey.tif", deep[..., 0])
    write_image(tmp_path / "d" / "images" / "colour.png", (deep >> 8).astype(np.uint8))
    write_image(tmp_path / "d" / "images" / "small.tif", deep[:80, :80])
    done = suggest(model, tmp_path / "d", tmp_path / "out", 99, tile=100)
    assert len(done.items) == 7
    assert sum(item.whole for item in done.items) == 1
    folder = Folder.open(tmp_path / "out")
    assert folder.images["deep_x100_y0"].name == "deep_x100_y0.tif"
    assert folder.images["grey_x0_y0"].name == "grey_x0_y0.png"
    assert folder.images["small"].read_bytes() == (tmp_path / "d" / "images" / "small.tif").read_bytes()
    for stem, path in (("deep", "deep.tif"), ("grey", "grey.tif"), ("colour", "colour.png")):
        whole = read_image(tmp_path / "d" / "images" / path)
        for x in (0, 100):
            part = folder.images[f"{stem}_x{x}_y0"]
            stored = tifffile.imread(part) if part.suffix == ".tif" else np.asarray(Image.open(part))
            assert stored.dtype == whole.dtype
            np.testing.assert_array_equal(stored, whole[:, x : x + 100, 0] if stem == "grey" else whole[:, x : x + 100])
            assert folder.mask(f"{stem}_x{x}_y0").shape == (100, 100)
    assert {row["x"] for row in rows(tmp_path / "out")} == {"0", "100"}


def test_a_tile_that_was_put_into_the_folder_is_not_suggested_again(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 200, 3)).astype(np.uint8)
    write_image(tmp_path / "d" / "images" / "a.png", pixels)
    first = suggest(model, tmp_path / "d", tmp_path / "one", 1, tile=64).items[0].name
    shutil.copytree(tmp_path / "one" / "images", tmp_path / "d" / "images", dirs_exist_ok=True)
    assert len(suggest(model, tmp_path / "d", tmp_path / "two", 9, tile=64).items) == 3, "as an image it is still one of the three"
    shutil.copytree(tmp_path / "one" / "masks", tmp_path / "d" / "masks")
    names = {item.name for item in suggest(model, tmp_path / "d", tmp_path / "three", 9, tile=64).items}
    assert len(names) == 2
    assert first not in names


def test_more_than_there_are_gives_all_and_says_so(
    tiny_domains: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tiny_domains[1] / "masks")
    assert len(suggest(model, tiny_domains[1], tmp_path / "out", 20).items) == 8
    assert "There are 8 candidates, fewer than the 20" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_done_is_said_and_leaves_nothing(tiny_domains: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    target, out = tiny_domains[1], tmp_path / "out"
    with pytest.raises(InputError, match=r"target has no image without a mask; add images"):
        suggest(model, target, out)
    shutil.rmtree(target / "masks")
    before = sorted(tmp_path.iterdir())
    (target / "images" / "target3.png").write_bytes((target / "images" / "target3.png").read_bytes()[:90])
    for options, words in (({}, r"target3\.png is damaged"), ({"k": 0}, "-k is 0"), ({"tile": 8}, "--tile is 8; it must be 64")):
        with pytest.raises(InputError, match=words):
            suggest(model, target, out, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not exist"):
        suggest(model, tmp_path / "absent", out)
    assert sorted(tmp_path.iterdir()) == before
    (target / "images" / "target3.png").unlink()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"used exists already; choose another --out"):
        suggest(model, target, tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["mine.txt"]
    out.mkdir()
    assert suggest(model, target, out, 1).path == out, "an empty folder is as good as none"


def test_a_failure_while_writing_leaves_nothing(
    tiny_domains: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tiny_domains[1] / "masks")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("celladapt.contact_sheet.draw", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"out cannot be written \(No space left on device\)"):
        suggest(model, tiny_domains[1], tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_from_a_run_to_annotating_to_a_run(tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only training images are suggested, and the command that is printed trains with their masks, on the same split."""
    source, target = tiny_domains
    kept = tmp_path / "kept"
    shutil.copytree(target / "masks", kept)
    for index in range(5):
        (target / "masks" / f"target{index}.png").unlink()
    large = np.concatenate([read_image(target / "images" / f"target{index}.png") for index in (0, 1)], axis=1)
    write_image(target / "images" / "large.png", large)
    run, out = tmp_path / "run", tmp_path / "todo"
    small = ["--preset", "fast", "--steps", "2", "--width", "4", "--crop", "32", "--batch-size", "2", "--validate-every", "2", "--no-baseline"]
    assert main(["adapt", "--source", str(source), "--target", str(target), *small, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["suggest", "--model", str(run), "--target", str(target), "-k", "9", "--tile", "64", "--out", str(out)]) == 0
    told = capsys.readouterr()
    split = Run.open(run).splits[1]
    assert split.test
    assert split.val
    names = {row["name"] for row in rows(out)}
    parents = {row["image"].removesuffix(".png") for row in rows(out)}
    labelled = {f"target{index}" for index in (5, 6, 7)}
    assert parents == set(split.train) - labelled
    assert f"{len(split.val) + len(split.test)} of 9 images are not among the training images" in " ".join(told.err.split())
    assert all(name in told.out for name in names)
    assert "unlike the others" in told.out
    target.rename(tmp_path / "moved")  # as when the run is on another machine
    assert (
        main(["suggest", "--model", str(run), "--target", str(tmp_path / "moved"), "-k", "9", "--tile", "64", "--out", str(tmp_path / "again")]) == 0
    )
    assert {row["name"] for row in rows(tmp_path / "again")} == names
    again = capsys.readouterr().out
    assert f"--split {tmp_path / 'again' / 'split.json'} --target {tmp_path / 'moved'}" in again
    assert f"the masks that you have filled, from {tmp_path / 'again' / 'masks'}" in again
    (tmp_path / "moved").rename(target)
    passed_on = tmp_path / "passed on"
    passed_on.mkdir()
    for name in ("model.safetensors", "config.toml"):
        shutil.copy(run / name, passed_on)
    shutil.copytree(target / "images", tmp_path / "bare" / "images")
    assert len(suggest(passed_on, tmp_path / "bare", tmp_path / "of a model alone", 1).items) == 1
    tiles = names - set(split.train)
    assert tiles <= {"large_x0_y0", "large_x64_y0"}
    shutil.copytree(out / "images", target / "images", dirs_exist_ok=True)
    for name in names:
        origin = {"large_x0_y0": "target0", "large_x64_y0": "target1"}.get(name, name)
        shutil.copy(kept / f"{origin}.png", target / "masks" / f"{name}.png")
    command = next(re.sub(r"^next +celladapt ", "", line) for line in told.out.splitlines() if line.startswith("next"))
    assert main([*shlex.split(command), "--out", str(tmp_path / "second")]) == 0
    second = Run.open(tmp_path / "second")
    assert set(second.splits[1].train) == set(split.train) | tiles
    assert (second.splits[1].val, second.splits[1].test) == (split.val, split.test)
    assert names <= set(second.record["target_labelled"])
    assert second.config.method == "weakssda"
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    if "large" in second.splits[1].train:
        write_image(target / "masks" / "large.png", np.zeros((64, 128), np.uint8))
    with pytest.raises(InputError, match="no image for training without a mask; train again with more"):
        suggest(second, tmp_path / "link", tmp_path / "none")


def test_the_command_line(tiny_domains: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tiny_domains[1]
    for index in range(1, 8):
        (target / "masks" / f"target{index}.png").unlink()
    out = tmp_path / "out"
    arguments = ["suggest", "--model", str(model), "--target", str(target), "-k", "2", "--out", str(out)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    for words in (
        "rank",
        "why",
        f"data check {out}",
        "--method weakssda",
        f"--target {target}",
        "overview.png",
        "no nucleus",
        "--test-fraction 0 --steps 30 --width 4\n",
    ):
        assert words in told
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error == f"celladapt: {out} exists already; choose another --out.\n"
    assert main(["suggest", "--help"]) == 0
    assert "-k" in capsys.readouterr().out
