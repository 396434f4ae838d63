"""The segmentation that learns nothing, and telling without a mask whether it found nuclei."""

from pathlib import Path

import numpy as np
import pytest
from conftest import blobs
from scipy.ndimage import gaussian_filter

import celladapt
from celladapt import classical
from celladapt.classical import Witness, classical_mask, witness
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, write_image
from celladapt.data.look import look_of
from celladapt.data.sample import evenly, middle
from celladapt.metrics import foreground

pytestmark = pytest.mark.usefixtures("no_charts")


def cloudy(seed: int, side: int = 96) -> np.ndarray:
    """A grey image without a nucleus: clouds of every size, whose outlines are ragged."""
    rng = np.random.default_rng(seed)
    clouds = sum(s * gaussian_filter(rng.normal(size=(side, side)), s) for s in (1.0, 2.0, 4.0, 8.0))
    return np.clip(128 + 60 * clouds / clouds.std(), 0, 255).astype(np.uint8)


def test_discs_are_plausible_and_clouds_are_not() -> None:
    discs = np.where(blobs(np.random.default_rng(0), 96, 20) > 0, 200, 20).astype(np.uint8)
    found = witness(discs)
    assert (found.mask == classical_mask(discs)).all()
    assert found.plausible
    assert witness(cloudy(0)).mask.any()
    assert not witness(cloudy(0)).plausible
    nothing = Witness.of(np.zeros((40, 40), bool))
    assert (nothing.solidity, nothing.area, nothing.plausible) == (0, 0, False)


def test_the_area_of_what_it_sees_is_that_of_the_piece_of_the_median_pixel() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:15, 5:15] = mask[5:25, 30:50] = mask[40:43, 40:43] = True  # 100, 400 and 9 px²
    assert Witness.of(mask).area == 400
    assert Witness.of(mask).solidity == pytest.approx(1)


def test_clouds_have_no_say_about_the_size_of_nuclei(tmp_path: Path) -> None:
    for n in range(4):
        write_image(tmp_path / "images" / f"{n}.png", cloudy(n))
    assert look_of(Folder.open(tmp_path)).diameter == 0


def test_where_it_is_never_plausible_weakuda_without_an_adversary_is_source_only_to_the_bit(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classical, "PLAUSIBLE", 1.1)
    options = {"preset": "fast", "steps": 6, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 6, "fallback": False}
    run = celladapt.adapt(*tiny_domains, out=tmp_path / "run", method="weakuda:lambda_adv=0", **options)
    images = sorted((tiny_domains[1] / "images").iterdir())[:3]
    seen = [[model.predict(path).probability for path in images] for model in (run.model, run.baseline.model)]
    np.testing.assert_array_equal(*seen)
    assert "in 0 of" in " ".join(run.record["notes"])


def test_on_real_tissue_it_is_plausible_where_it_finds_nuclei(shared_data: Path) -> None:
    """Six domains: where it speaks it is right more often than where it is silent."""
    better = []
    for domain in (
        "dsb2018/tissue-violet",
        "dsb2018/fluorescence-large",
        *(f"monuseg/{organ}" for organ in ("kidney", "breast", "liver", "prostate")),
    ):
        folder = Folder.open(shared_data / domain)
        pairs = [(middle(read_image(folder.images[stem]), 600), middle(folder.mask(stem), 600) > 0) for stem in evenly(list(folder.masks), 6)]
        found = [(classical_mask(image), truth) for image, truth in pairs]
        better += [(Witness.of(mask).plausible, foreground(mask, truth).iou) for mask, truth in found]
    heard, unheard = ([iou for plausible, iou in better if plausible is which] for which in (True, False))
    assert len(heard) > len(unheard) > 4
    assert np.mean(heard) > np.mean(unheard) + 0.15
