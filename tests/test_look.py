"""Showing the source in the target's look."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs, cloudy

import celladapt
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, write_image
from celladapt.data.look import LARGEST_ZOOM, Look, Match, look_of, match
from celladapt.data.normalise import Normalisation
from celladapt.files import write_json
from celladapt.preparation import set_up
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("no_charts")


def test_the_look_of_masks_and_of_the_classical_segmentation(tiny_domains: tuple[Path, Path]) -> None:
    source, target = map(Folder.open, tiny_domains)
    by_masks, without = look_of(source), look_of(source.without_masks())
    assert by_masks.grey
    assert by_masks.bright
    assert (without.grey, without.bright) == (True, True)
    assert without.diameter == pytest.approx(by_masks.diameter, rel=0.15)
    violet = look_of(target.without_masks())
    assert not violet.grey
    assert not violet.bright


def test_a_nucleus_counts_by_its_area(tmp_path: Path) -> None:
    """Many crumbs and one disc: the disc is the nucleus that most of the foreground is in."""
    labels = np.zeros((64, 64), np.int32)
    labels[2:4:2, 2:62:4] = np.arange(1, 16)
    y, x = np.mgrid[:64, :64]
    labels[np.hypot(y - 40, x - 32) <= 10] = 99
    write_image(tmp_path / "images" / "a.png", np.where(labels > 0, 200, 20).astype(np.uint8))
    write_image(tmp_path / "masks" / "a.png", labels)
    assert look_of(Folder.open(tmp_path)).diameter == pytest.approx(2 * np.sqrt((labels == 99).sum() / np.pi))


def test_labels_may_be_huge_numbers(tmp_path: Path) -> None:
    import tifffile

    labels = np.zeros((64, 64), np.uint32)
    labels[20:40, 20:40] = 2_000_000_000
    write_image(tmp_path / "images" / "a.png", np.where(labels > 0, 200, 20).astype(np.uint8))
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", labels)
    assert look_of(Folder.open(tmp_path)).diameter == pytest.approx(2 * np.sqrt(400 / np.pi))


def test_nuclei_that_touch_in_a_binary_mask_are_told_apart(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    one, other = np.hypot(y - 32, x - 20) <= 11, np.hypot(y - 32, x - 41) <= 11
    labels = np.where(one, 1, np.where(other, 2, 0)).astype(np.int32)
    for name, mask in (("labels", labels), ("binary", (labels > 0) * 255)):
        write_image(tmp_path / name / "images" / "a.png", np.where(labels > 0, 200, 20).astype(np.uint8))
        write_image(tmp_path / name / "masks" / "a.png", mask.astype(np.uint8))
    found = [look_of(Folder.open(tmp_path / name)).diameter for name in ("labels", "binary")]
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[0] == pytest.approx(22, abs=1)


def test_a_run_shows_the_source_as_it_says(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    """A bright grey source and a dark violet target: inverted in training; the other way round the target does without its colours."""
    options = {"preset": "fast", "steps": 2, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 2, "baseline": False, "method": "source_only"}
    there = celladapt.adapt(*tiny_domains, out=tmp_path / "there", **options)
    assert any("inverted" in note for note in there.record["notes"])
    trainer, _ = set_up(there)
    batch = trainer.pairs[0]
    inside, outside = (float(batch.image_s.mean(1, keepdim=True)[batch.mask_s == value].mean()) for value in (1, 0))
    assert inside < outside
    assert there.model.normalisation.grey
    image = read_image(next((tiny_domains[1] / "images").iterdir()))
    seen = [there.model.predict(image[..., order]).probability for order in ([0, 1, 2], [2, 0, 1])]
    np.testing.assert_allclose(*seen, atol=1e-3, err_msg="without colours the order of the channels is nothing")
    back = celladapt.adapt(*reversed(tiny_domains), out=tmp_path / "back", **options)
    assert any("grey, inverted" in note for note in back.record["notes"])
    assert not back.model.normalisation.grey
    plain = celladapt.adapt(*tiny_domains, out=tmp_path / "plain", match=False, **options)
    assert plain.record["notes"] == []
    supervised = celladapt.adapt(*tiny_domains, out=tmp_path / "supervised", **{**options, "method": "supervised"})
    assert not supervised.model.normalisation.grey, "which does not read the source, and so keeps its colours"


def test_images_that_say_nothing_of_the_size_of_nuclei_are_counted(tmp_path: Path) -> None:
    for n in range(4):
        write_image(
            tmp_path / "images" / f"{n}.png", cloudy(n) if n % 2 else np.where(blobs(np.random.default_rng(n), 96, 20) > 0, 200, 20).astype(np.uint8)
        )
    assert look_of(Folder.open(tmp_path)).witnessed == 0.5
    assert look_of(Folder.open(tmp_path).subset([])).witnessed == 0


def test_the_target_keeps_its_colours_where_masks_or_what_stands_for_them_teach_them(tmp_path: Path) -> None:
    nuclei = [blobs(np.random.default_rng(n), 64) for n in range(8)]
    for n, labels in enumerate(nuclei):
        for domain, (inside, outside) in {
            "source": ((200,) * 3, (20,) * 3),
            "target": ((90, 40, 130), (230, 180, 210)),
            "clouds": ((0,) * 3, (0,) * 3),
        }.items():
            image = np.where((labels > 0)[..., None], inside, outside).astype(np.uint8)
            if domain == "clouds":
                image = (cloudy(n, 64)[..., None] * np.array([0.9, 0.7, 0.8])).astype(np.uint8)
            write_image(tmp_path / domain / "images" / f"{n}.png", image)
            write_image(tmp_path / domain / "masks" / f"{n}.png", labels.astype(np.uint8))
    options = {"preset": "fast", "steps": 2, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 2, "baseline": False}
    grey = {"target": [], "clouds": []}
    for target, method in product(grey, ("source_only", "cellseguda", "weakuda", "weakssda", "cellsegssda")):
        run = celladapt.adapt(tmp_path / "source", tmp_path / target, out=tmp_path / f"{target}-{method}", method=method, **options)
        assert run.model.normalisation.grey == any("without its own" in note for note in run.record["notes"])
        if run.model.normalisation.grey:
            grey[target].append(method)
    assert grey == {"target": ["source_only", "cellseguda"], "clouds": ["source_only", "cellseguda", "weakuda"]}
    run = Run(tmp_path / "target-weakuda")
    assert not set_up(run)[0].normalisation.grey
    write_json(run.path / "run.json", {key: value for key, value in run.record.items() if key != "target_grey"})
    assert set_up(run)[0].normalisation.grey, "as a run of before goes on"


def test_a_domain_without_nuclei_changes_nothing() -> None:
    assert match(Look(True, False, 0.0, 1.0), Look(True, False, 20.0, 1.0)) == Match()


def test_a_target_of_blank_images_inverts_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "blank.png", np.full((64, 64, 3), 128, np.uint8))
    blank = look_of(Folder.open(tmp_path))
    assert blank.bright is None
    for bright in (True, False):
        assert match(Look(True, bright, 20.0, 1.0), blank) == match(blank, Look(True, bright, 20.0, 1.0)) == Match()


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (Look(False, False, 20.0, 1.0), Look(True, True, 30.0, 1.0), Match(grey=True, inverted=True, zoom=1.5)),
        (Look(True, True, 30.0, 1.0), Look(False, True, 31.0, 1.0), Match()),
        (Look(True, True, 10.0, 1.0), Look(True, True, 25.0, 1.0), Match(zoom=LARGEST_ZOOM)),
        (Look(True, True, 25.0, 1.0), Look(True, True, 10.0, 1.0), Match(zoom=1 / LARGEST_ZOOM)),
        (Look(True, True, 10.0, 1.0), Look(True, True, 90.0, 1.0), Match()),
        (Look(True, True, 10.0, 1.0), Look(True, True, 15.0, 0.5), Match(zoom=1.5)),
        (Look(True, True, 10.0, 1.0), Look(True, True, 15.0, 0.4), Match()),
    ],
)
def test_match(source: Look, target: Look, expected: Match) -> None:
    assert match(source, target) == expected


def test_images_and_masks_are_shown_alike(tmp_path: Path) -> None:
    """A dark image of bright squares, shown inverted, grey and twice as large: the mask still covers the squares, which are dark now."""
    rng = np.random.default_rng(0)
    labels = blobs(rng, 48)
    image = np.where((labels > 0)[..., None], [250, 200, 150], [10, 20, 30]).astype(np.uint8)
    write_image(tmp_path / "images" / "a.png", image)
    write_image(tmp_path / "masks" / "a.png", labels)
    shown = replace(Folder.open(tmp_path), shown=Match(grey=True, inverted=True, zoom=2.0)).subset(["a"])
    seen, mask = shown.pair("a")
    assert seen.shape == (96, 96, 3)
    assert seen.dtype == np.uint8
    assert mask.shape == (96, 96)
    assert set(np.unique(mask)) == set(np.unique(labels))
    assert (seen[..., 0] == seen[..., 2]).all()
    assert ((seen[..., 0] < 130) == (mask > 0)).mean() > 0.97
    np.testing.assert_array_equal(mask[::2, ::2], labels)


def test_a_16_bit_image_stays_one() -> None:
    image = np.full((10, 12, 3), 65_000, np.uint16)
    assert Match(inverted=True).image(image).tolist() == (65_535 - image).tolist()
    assert Match(zoom=0.5).image(image).shape == (5, 6, 3)
    assert Match(zoom=0.5).image(image).dtype == np.uint16


def test_without_colours_a_target_is_normalised_grey() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (8, 9, 3)).astype(np.uint8) for _ in range(3)]
    grey = Normalisation.of(images, grey=True)
    x = np.stack([grey(image).numpy() for image in images])
    assert (x[:, 0] == x[:, 2]).all()
    assert x.mean() == pytest.approx(0, abs=1e-5)
    assert x.std() == pytest.approx(1, abs=1e-4)
