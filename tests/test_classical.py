"""The segmentation that learns nothing, and telling without a mask whether it found nuclei."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs, cloudy
from scipy.ndimage import gaussian_filter

import celladapt
from celladapt import classical
from celladapt.classical import Verdict, Witness, classical_mask, witness
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, write_image
from celladapt.data.look import look_of
from celladapt.data.sample import evenly, middle
from celladapt.metrics import foreground

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.mark.parametrize(("solidity", "trust"), [(0.5, 0.0), (0.86, 0.0), (0.885, 0.5), (0.91, 1.0), (0.97, 1.0)])
def test_outlines_are_trusted_by_how_solid_they_are(solidity: float, trust: float) -> None:
    assert Verdict(solidity, 0.0).trust == pytest.approx(trust)


def test_discs_are_plausible_and_clouds_are_not() -> None:
    discs = np.where(blobs(np.random.default_rng(0), 96, 20) > 0, 200, 20).astype(np.uint8)
    found = witness(discs)
    assert (found.mask == classical_mask(discs)).all()
    assert found.verdict.plausible
    assert witness(cloudy(0)).mask.any()
    assert not witness(cloudy(0)).verdict.plausible
    nothing = Witness.of(np.zeros((40, 40), bool))
    assert (nothing.verdict.solidity, nothing.verdict.area, nothing.verdict.plausible) == (0, 0, False)


def test_a_dark_stained_section_is_still_one() -> None:
    """Stains that swallow more than half of the light, and bright gaps: by intensity alone those would be taken for nuclei, covering the lesser part."""
    nuclei = blobs(np.random.default_rng(0), 96, 20) > 0
    section = np.where(nuclei[..., None], np.array([60, 25, 90], np.uint8), np.array([112, 45, 100], np.uint8))
    section[:12] = 235
    nuclei[:12] = False
    assert foreground(classical_mask(section), nuclei).iou > 0.8


def test_coloured_fluorescence_is_no_stained_section() -> None:
    nuclei = blobs(np.random.default_rng(0), 96, 20) > 0
    for ground in ((2, 4, 30), (20, 20, 90), (20, 100, 20)):
        glowing = np.where(nuclei[..., None], np.array([30, 160, 220], np.uint8), np.array(ground, np.uint8))
        assert foreground(classical_mask(glowing), nuclei).iou > 0.8


def test_pale_nuclei_are_filled_and_gaps_between_nuclei_are_not() -> None:
    y, x = np.mgrid[:120, :160]

    def disc(at: tuple[float, float], radius: float) -> np.ndarray:
        return np.hypot(y - at[0], x - at[1]) <= radius

    pale = [(20, 20), (60, 20), (100, 20)]
    rims = np.any([disc(at, 10) & ~disc(at, 4) for at in pale], axis=0)
    gland = np.any([disc((60 + 24 * np.sin(a), 100 + 24 * np.cos(a)), 8) for a in np.linspace(0, 2 * np.pi, 10, endpoint=False)], axis=0)
    found = classical_mask(np.where(rims | gland, 40, 200).astype(np.uint8))
    assert all(found[at] for at in pale)
    assert witness(np.where(rims | gland, 40, 200).astype(np.uint8)).verdict.solidity < Witness.of(found).verdict.solidity, "it is judged before"
    assert not found[60, 100], "a hole as large as several nuclei"


def cells(seed: int, side: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A grey image of dark, ragged clumps of cells with darker round nuclei in them on a light ground, and where these are."""
    rng = np.random.default_rng(seed)
    wide, fine = (gaussian_filter(rng.normal(size=(side, side)), sigma) for sigma in (20, 4))
    ground = wide / wide.std() + 0.3 * fine / fine.std()
    clumps = ground > np.quantile(ground, 0.7)
    y, x = np.mgrid[:side, :side]
    nuclei = (np.hypot(y % 26 - 13, x % 26 - 13) <= 5) & clumps
    image = 200 - 70.0 * clumps - 90.0 * nuclei + rng.normal(0, 8, (side, side))
    return np.clip(image, 0, 255).astype(np.uint8), nuclei


def test_of_cells_that_are_dark_all_through_it_finds_the_nuclei() -> None:
    for seed in range(3):
        image, nuclei = cells(seed)
        found = witness(image)
        assert found.verdict.closer
        assert found.verdict.plausible
        assert foreground(found.mask, nuclei).iou > 0.7
        assert foreground(witness(255 - image).mask, nuclei).iou > 0.7, "whichever side is the lighter"
        assert (classical_mask(image) == found.mask).all()


def test_outlines_move_only_where_it_did_not_look_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(classical, "outlined", lambda mask, height, seen: moved.append(mask) or ~mask)
    assert foreground(witness(cells(0)[0]).mask, cells(0)[1]).iou > 0.7
    assert not moved
    discs = blobs(np.random.default_rng(0), 96, 20) > 0
    assert not (witness(np.where(discs, 200, 20).astype(np.uint8)).mask & discs).all()
    assert len(moved) == 1


def test_it_does_not_look_closer_at_nuclei_for_the_chromatin_in_them() -> None:
    rng = np.random.default_rng(0)
    nuclei = blobs(rng, 200, 30) > 0
    texture = gaussian_filter(rng.normal(size=nuclei.shape), 1.5)
    image = np.clip(210 - nuclei * (90 + 40 * texture / texture.std()) + rng.normal(0, 4, nuclei.shape), 0, 255).astype(np.uint8)
    found = witness(image)
    assert not found.verdict.closer
    assert foreground(found.mask, nuclei).iou > 0.7
    assert not witness(cloudy(0)).verdict.closer


def test_it_stands_for_masks_where_no_image_has_one(tmp_path: Path) -> None:
    options = {"preset": "fast", "steps": 4, "width": 4, "crop": 64, "batch_size": 2, "validate_every": 4}
    for n in range(6):
        for domain, (image, nuclei) in (("source", cells(n + 9, 200)), ("target", cells(n, 200))):
            write_image(tmp_path / domain / "images" / f"{n}.png", image)
            write_image(tmp_path / domain / "masks" / f"{n}.png", nuclei.astype(np.uint8))
    losses = {}
    for method in ("weakuda", "weakssda@0%", "weakssda@1"):
        run = celladapt.adapt(tmp_path / "source", tmp_path / "target", out=tmp_path / method[-2:], method=method, baseline=False, **options)
        assert "look closer" in " ".join(run.record["notes"])
        losses[method] = [json.loads(line)["bce"] for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert losses["weakuda"][0] == 0, "the source teaches first"
    assert all(losses["weakuda"][1:])
    assert losses["weakssda@0%"] == losses["weakuda"]
    assert losses["weakssda@1"][0] > 0, "a mask of a person's is one from the beginning"


def test_the_area_of_what_it_sees_is_that_of_the_piece_of_the_median_pixel() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:15, 5:15] = mask[5:25, 30:50] = mask[40:43, 40:43] = True  # 100, 400 and 9 px²
    assert Witness.of(mask).verdict.area == 400
    assert Witness.of(mask).verdict.solidity == pytest.approx(1)


def test_clouds_have_no_say_about_the_size_of_nuclei(tmp_path: Path) -> None:
    for n in range(4):
        write_image(tmp_path / "images" / f"{n}.png", cloudy(n))
    assert look_of(Folder.open(tmp_path)).diameter == 0


def test_where_it_is_never_plausible_weakuda_without_an_adversary_is_source_only_to_the_bit(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classical, "PLAUSIBLE", 1.1)
    monkeypatch.setattr(classical, "APART", 1.1)
    options = {"preset": "fast", "steps": 6, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 6, "fallback": False}
    run = celladapt.adapt(*tiny_domains, out=tmp_path / "run", method="weakuda:lambda_adv=0", **options)
    images = sorted((tiny_domains[1] / "images").iterdir())[:3]
    seen = [[model.predict(path).probability for path in images] for model in (run.model, run.baseline.model)]
    np.testing.assert_array_equal(*seen)
    assert "in 0 of" in " ".join(run.record["notes"])


def test_of_real_cells_that_are_dark_all_through_it_finds_the_nuclei(shared_data: Path) -> None:
    folder = Folder.open(shared_data / "dsb2018" / "tissue-gray")
    seen = [(witness(image), labels > 0) for image, labels in map(folder.pair, evenly(list(folder.masks), 5))]
    assert all(found.verdict.closer for found, _ in seen)
    assert np.mean([foreground(found.mask, truth).iou for found, truth in seen]) > 0.5
    for other in ("dsb2018/tissue-violet", "monuseg/kidney", "monuseg/prostate"):
        folder = Folder.open(shared_data / other)
        assert not any(witness(read_image(folder.images[stem])).verdict.closer for stem in evenly(list(folder.images), 5))


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
        found = [(witness(image), truth) for image, truth in pairs]
        better += [(opinion.verdict.plausible, foreground(opinion.mask, truth).iou) for opinion, truth in found]
    heard, unheard = ([iou for plausible, iou in better if plausible is which] for which in (True, False))
    assert len(heard) > len(unheard) > 4
    assert np.mean(heard) > np.mean(unheard) + 0.15


def test_how_far_an_image_falls_in_two_classes() -> None:
    """Of two values all variance lies between the sides; of one bell curve 2/π (Otsu 1979)."""
    y, x = np.mgrid[:120, :120]
    disc = np.hypot(y % 40 - 20, x % 40 - 20) <= 9
    bell = np.clip(np.random.default_rng(0).normal(128, 30, (400, 400)), 0, 255).astype(np.uint8)
    assert witness(np.where(disc, 200, 50).astype(np.uint8)).verdict.separability > 0.85, "but for the smoothing"
    assert witness(bell).verdict.separability == pytest.approx(2 / np.pi, abs=0.02)
    assert witness(np.full((40, 40), 7, np.uint8)).verdict.separability == 0
