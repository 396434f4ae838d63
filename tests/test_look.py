"""Showing the source in the target's look."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs

from celladapt.data.folder import Folder
from celladapt.data.images import write_image
from celladapt.data.look import LARGEST_ZOOM, Look, Match, look_of, match
from celladapt.data.normalise import Normalisation


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


def test_a_domain_without_nuclei_changes_nothing() -> None:
    assert match(Look(True, False, 0.0), Look(True, False, 20.0)) == Match()


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (Look(False, False, 20.0), Look(True, True, 30.0), Match(grey=True, inverted=True, zoom=1.5)),
        (Look(True, True, 30.0), Look(False, True, 31.0), Match()),
        (Look(True, True, 10.0), Look(True, True, 90.0), Match(zoom=LARGEST_ZOOM)),
        (Look(True, True, 90.0), Look(True, True, 10.0), Match(zoom=1 / LARGEST_ZOOM)),
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
