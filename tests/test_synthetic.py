"""The embedded data set: repeatable, exact, whole or absent, and with a gap that normalisation leaves open."""

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from celladapt.data import synthetic
from celladapt.data.synthetic import INK, SOURCE_LOOK, TARGET_LOOK, DomainLook, embedded, render_domain
from celladapt.errors import InputError

COUNT, SIZE = 6, 128


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return embedded(tmp_path_factory.mktemp("embedded"), seed=3, count=COUNT, size=SIZE)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def stacks(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) as float and labels (N, H, W)."""
    images, masks = ([np.asarray(Image.open(path)) for path in sorted((folder / kind).iterdir())] for kind in ("images", "masks"))
    return np.stack(images).astype(float), np.stack(masks)


def test_folders_follow_the_data_convention(domains: tuple[Path, Path]) -> None:
    for folder, name in zip(domains, ("source", "target"), strict=True):
        stems = [f"{name}-{index:03d}.png" for index in range(COUNT)]
        assert folder.name == name
        assert sorted(files(folder)) == [f"images/{stem}" for stem in stems] + [f"masks/{stem}" for stem in stems]
        images, masks = stacks(folder)
        assert images.shape == (COUNT, SIZE, SIZE, 3)
        assert masks.shape == (COUNT, SIZE, SIZE)
        assert Image.open(folder / "masks" / stems[0]).mode == "I;16"


def test_a_seed_fixes_every_byte_and_another_seed_changes_every_image(tmp_path: Path) -> None:
    for name, count, seed in (("first", 2, 0), ("again", 2, 0), ("longer", 3, 0), ("other", 2, 1)):
        render_domain(tmp_path / name, TARGET_LOOK, count, 96, seed)
    first, again, longer, other = (files(tmp_path / name) for name in ("first", "again", "longer", "other"))
    assert first == again
    assert first.items() <= longer.items()
    assert all(first[name] != other[name] for name in first)
    assert len(set(first.values())) == len(first)


def test_labels_are_contiguous_connected_and_not_tiny(domains: tuple[Path, Path]) -> None:
    for folder in domains:
        for labels in stacks(folder)[1]:
            areas = np.bincount(labels.ravel())[1:]
            assert areas.size >= 1
            assert areas.min() >= 40
            assert all(ndimage.label(labels == label)[1] == 1 for label in range(1, areas.size + 1))


def test_masks_are_the_stained_nuclei_to_the_pixel(tmp_path: Path) -> None:
    nothing = {"cytoplasm": 0.0, "basophilia": 0.0, "debris": 0.0, "erythrocytes": 0.0, "ink": 0.0, "mucin": 0.0, "noise": 0.0, "clumps": 0.0}
    render_domain(tmp_path, replace(SOURCE_LOOK, blur=(0.01, 0.01), **nothing), 3, 128, 0)
    images, labels = stacks(tmp_path)
    stained, nuclei = images[..., 0] < 160, labels > 0
    assert (stained & nuclei).sum() / (stained | nuclei).sum() > 0.97


@pytest.mark.parametrize(("index", "look", "contrast"), [(0, SOURCE_LOOK, 0.8), (1, TARGET_LOOK, 0.15)])
def test_nuclei_hold_more_haematoxylin_than_their_surroundings(domains: tuple[Path, Path], index: int, look: DomainLook, contrast: float) -> None:
    images, labels = stacks(domains[index])
    density = -np.log(np.clip(images, 1, 244) / 244) @ np.linalg.inv([look.haematoxylin, look.eosin, INK])
    for haematoxylin, nuclei in zip(density[..., 0], labels > 0, strict=True):
        assert haematoxylin[nuclei].mean() > haematoxylin[~nuclei].mean() + contrast


def statistics(folder: Path) -> dict[str, float]:
    """What a network sees of the nuclei once the domain's own mean and deviation are taken out."""
    images, labels = stacks(folder)
    grey = ((images - images.mean((0, 1, 2))) / images.std((0, 1, 2))).mean(-1)
    nuclei = labels > 0
    depth = np.stack([ndimage.distance_transform_edt(ndimage.grey_erosion(label, 3) == label) * (label > 0) for label in labels])
    darkest = grey < np.quantile(grey, 0.05)
    areas = np.concatenate([np.bincount(label.ravel())[1:] for label in labels])
    return {
        "darkness": grey[~nuclei].mean() - grey[nuclei].mean(),
        "pale_centre": grey[depth > 4].mean() - grey[(depth > 0) & (depth <= 2)].mean(),
        "dark_is_nucleus": nuclei[darkest].mean(),
        "diameter": 2 * float(np.sqrt(np.median(areas) / np.pi)),
    }


def test_the_gap_survives_normalising_each_domain_by_itself(domains: tuple[Path, Path]) -> None:
    source, target = map(statistics, domains)
    assert source["darkness"] > 2.0 > 1.3 > target["darkness"] > 0.5  # standard deviations: fainter, but not hidden
    assert source["pale_centre"] < 0.3 < 0.6 < target["pale_centre"]  # dense against vesicular
    assert source["dark_is_nucleus"] > 0.95 > 0.8 > target["dark_is_nucleus"]  # the darkest pixels mislead
    assert 1.0 < target["diameter"] / source["diameter"] < 1.4  # the outlines stay comparable


def test_a_second_call_renders_nothing(domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "render_domain", lambda *_: pytest.fail("rendered again"))
    assert embedded(domains[0].parent, seed=3, count=COUNT, size=SIZE) == domains


def test_another_recipe_replaces_the_data(tmp_path: Path) -> None:
    before = files(embedded(tmp_path, seed=0, count=2, size=64)[0])
    after = files(embedded(tmp_path, seed=1, count=1, size=64)[0])
    assert len(after) == 2
    assert not before.items() & after.items()


def test_a_killed_render_is_never_taken_for_complete(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from celladapt.data import synthetic; write = synthetic.write_image\n"
        "def dying(path, array): os._exit(9) if path.name == 'target-001.png' else write(path, array)\n"
        "synthetic.write_image = dying; synthetic.embedded(Path(sys.argv[1]), count=2, size=64)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(synthetic.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "cut")], env=environment, check=False).returncode == 9
    assert (tmp_path / "cut" / "source").is_dir()
    assert not (tmp_path / "cut" / "target").exists()
    resumed, whole = embedded(tmp_path / "cut", count=2, size=64), embedded(tmp_path / "whole", count=2, size=64)
    assert [files(folder) for folder in resumed] == [files(folder) for folder in whole]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["source", "target"], "no rubbish of the killed one"


def test_foreign_folders_and_senseless_sizes_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "source" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("three years")
    with pytest.raises(InputError, match="not rendered by celladapt"):
        embedded(tmp_path, count=1, size=64)
    assert mine.read_text() == "three years"
    with pytest.raises(InputError, match="cannot be written"):
        embedded(mine, count=1, size=64)
    for count, size in ((0, 64), (1, 32)):
        with pytest.raises(InputError, match="Cannot render"):
            render_domain(tmp_path / "none", SOURCE_LOOK, count, size, 0)


def test_it_needs_no_torch() -> None:
    tree = ast.parse(Path(synthetic.__file__).read_text(encoding="utf-8"))
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "numpy" in imported
    assert not [name for name in imported if name.split(".")[0] == "torch"]
