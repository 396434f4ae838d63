"""A slide in tiles gives what it gives in one piece, goes on where it was stopped, and needs no more memory the larger it is."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture, spread_model
from numpy.typing import NDArray
from slides import write_ome_zarr, write_pyramid

from celladapt import whole_slide
from celladapt.data.slide import open_slide, view_at
from celladapt.errors import FileError, InputError
from celladapt.instances import to_instances
from celladapt.model import Model
from celladapt.whole_slide import Rules, Work

pytest.importorskip("zarr", reason="slides need zarr: the extra celladapt[slides]")
H, W = 300, 420
RULES = Rules(0.5, 20, tissue=False, tile=128)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_slide, "MARGINS", (32, 64))


def nuclei_image(seed: int = 0, h: int = H, w: int = W) -> NDArray[np.uint8]:
    """Dark ellipses on white, some touching, some across the borders and corners of tiles, and one longer than the first margin."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    dark = np.zeros((h, w), bool)
    places = [*zip(rng.uniform(0, h, 80), rng.uniform(0, w, 80), strict=True), (128, 128), (256, 256), (127, 300), (200, 255.5), (256, 384)]
    for cy, cx in places:
        a, b, angle = rng.uniform(5, 12), rng.uniform(4, 7), rng.uniform(0, np.pi)
        u, v = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle), (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
        dark |= (u / a) ** 2 + (v / b) ** 2 < 1
    if h > 200:
        dark[60:70, 100:220] = True  # across two tiles and far out of the second's first window
        dark[58:72, 98:104] = True
    return np.repeat(np.where(dark, 40, 230).astype(np.uint8)[..., None], 3, axis=2)


def by_darkness(image: NDArray[Any]) -> NDArray[np.float32]:
    return np.where(image[..., 0] < 128, 0.9, 0.1).astype(np.float32)


def worked(folder: Path, path: Path, predict: Callable[[NDArray[Any]], NDArray[np.float32]], rules: Rules = RULES, at: float | None = None) -> Work:
    work = Work(view_at(open_slide(path), at), predict, rules, folder, {"file": str(path)})
    work.run(lambda tiles: None, lambda: None)
    return work


def same_nuclei(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two label images hold the same nuclei, however they are numbered."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] and bool(((one > 0) == (other > 0)).all())


def test_nuclei_across_tiles_are_neither_cut_nor_doubled(tmp_path: Path) -> None:
    image = nuclei_image()
    work = worked(tmp_path / "work", write_pyramid(tmp_path / "a.tif", image), by_darkness)
    labels = work.instances(0, 0, H, W)
    whole = to_instances(by_darkness(image), 0.5, 20)
    assert len(work.tiles) == 12
    assert len(np.unique(whole)) > 40
    assert same_nuclei(labels, whole)
    assert sorted(np.unique(labels)) == list(range(int(labels.max()) + 1)), "numbered without a gap"
    nuclei = list(work.nuclei())
    assert np.concatenate([part.columns["label"] for part in nuclei]).tolist() == list(range(1, int(labels.max()) + 1))
    areas = np.concatenate([part.columns["area"] for part in nuclei])
    np.testing.assert_array_equal(areas, np.bincount(labels.ravel().astype(int))[1:])


@pytest.mark.parametrize("margin", [0, 32])
def test_with_a_smaller_margin_there_would_be_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: int) -> None:
    """That the comparison can fail: some reach out of their tile, and one farther than the first margin."""
    real = whole_slide._grown
    monkeypatch.setattr(whole_slide, "_grown", lambda box, by, shape: real(box, by if by == whole_slide.HALO else min(by, margin), shape))
    image = nuclei_image()
    work = worked(tmp_path / "work", write_pyramid(tmp_path / "a.tif", image), by_darkness)
    assert not same_nuclei(work.instances(0, 0, H, W), to_instances(by_darkness(image), 0.5, 20))


def test_the_network_sees_no_seam(tmp_path: Path) -> None:
    model, image = spread_model(), picture(5, H, W)
    work = worked(tmp_path / "work", write_pyramid(tmp_path / "a.tif", image), model.probability)
    whole = model.predict(image)
    assert np.ptp(whole.probability) > 0.5
    there = work.probability(0, 0, H, W)
    np.testing.assert_allclose((there + 0.5) / 256, whole.probability, atol=1 / 512 + 5e-5)
    clear = np.abs(whole.probability - 0.5) > 1e-4
    np.testing.assert_array_equal(work.mask(0, 0, H, W)[clear], whole.mask[clear])


def test_a_smaller_halo_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_slide, "HALO", 16)
    model, image = spread_model(), picture(5, H, W)
    work = worked(tmp_path / "work", write_pyramid(tmp_path / "a.tif", image), model.probability)
    assert np.abs((work.probability(0, 0, H, W) + 0.5) / 256 - model.predict(image).probability).max() > 0.01


@pytest.mark.parametrize("fails_after", [1, 11])
def test_a_stopped_slide_goes_on_and_ends_where_it_would_have(tmp_path: Path, fails_after: int) -> None:
    path = write_pyramid(tmp_path / "a.tif", nuclei_image())
    whole = worked(tmp_path / "whole", path, by_darkness)
    seen: list[int] = []

    def stopping(image: NDArray[Any]) -> NDArray[np.float32]:
        if len(seen) >= fails_after:
            raise KeyboardInterrupt
        seen.append(1)
        return by_darkness(image)

    with pytest.raises(KeyboardInterrupt):
        worked(tmp_path / "work", path, stopping)
    for _ in range(2):
        with open(tmp_path / "work" / "stored.jsonl", "a") as log:
            log.write("[3, ")  # a line that a kill cut off
        with pytest.raises(KeyboardInterrupt):
            worked(tmp_path / "work", path, stopping)
    again: list[int] = []
    work = worked(tmp_path / "work", path, lambda image: (again.append(1), by_darkness(image))[1])
    assert len(again) == len(work.tiles) - fails_after, "what was done is not done again"
    np.testing.assert_array_equal(work.instances(0, 0, H, W), whole.instances(0, 0, H, W))
    np.testing.assert_array_equal(work.probability(0, 0, H, W), whole.probability(0, 0, H, W))


def test_what_other_rules_left_is_not_taken_up(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", nuclei_image())
    worked(tmp_path / "work", path, by_darkness)
    seen: list[int] = []
    work = worked(tmp_path / "work", path, lambda image: (seen.append(1), by_darkness(image))[1], Rules(0.95, 20, tissue=False, tile=128))
    assert len(seen) == len(work.tiles)
    assert not work.instances(0, 0, H, W).any()
    assert sum(map(len, work.nuclei())) == 0


@pytest.mark.parametrize("other", [Rules(0.95, 20, tissue=False, tile=128), None], ids=["making way for other rules", "removed at the end"])
def test_a_folder_that_a_kill_left_half_emptied_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Rules | None) -> None:
    path = write_pyramid(tmp_path / "a.tif", nuclei_image())
    whole = worked(tmp_path / "work", path, by_darkness)
    labels = whole.instances(0, 0, H, W)
    real = shutil.rmtree

    def killed(folder: Path, **options: Any) -> None:
        real(tmp_path / "work" / "probability.zarr" / "c", **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        worked(tmp_path / "work", path, by_darkness, other) if other else whole.forget()
    monkeypatch.setattr(shutil, "rmtree", real)
    again = worked(tmp_path / "work", path, by_darkness)
    np.testing.assert_array_equal(again.instances(0, 0, H, W), labels)
    np.testing.assert_array_equal(again.mask(0, 0, H, W), by_darkness(nuclei_image()) > 0.5)


def test_glass_is_left_out_and_tissue_is_not(tmp_path: Path) -> None:
    image = np.full((1000, 1000, 3), 244, np.uint8)
    image[300:520, 400:700] = (210, 150, 190)
    image[350:480, 450:640][nuclei_image(1, 130, 190)[..., 0] < 128] = 30
    path = write_pyramid(tmp_path / "a.tif", image)
    seen: list[tuple[int, ...]] = []
    work = worked(tmp_path / "work", path, lambda part: (seen.append(part.shape), by_darkness(part))[1], Rules(0.5, 20, tissue=True, tile=128))
    assert len(seen) == len(work.tiles) < 30
    assert work.pixels < 0.35 * 1000 * 1000
    assert same_nuclei(work.instances(0, 0, 1000, 1000), to_instances(by_darkness(image), 0.5, 20))


def test_measurements_are_where_the_nuclei_are(tmp_path: Path) -> None:
    image = nuclei_image()
    work = worked(tmp_path / "work", write_ome_zarr(tmp_path / "a.zarr", image), by_darkness)
    labels = work.instances(0, 0, H, W)
    for part in work.nuclei():
        for label, x, y, line in zip(part.columns["label"], part.columns["x"], part.columns["y"], part.outlines, strict=True):
            rows, columns = np.nonzero(labels == label)
            assert (y, x) == (pytest.approx(rows.mean() + 0.5), pytest.approx(columns.mean() + 0.5))
            assert np.abs(line.min(axis=0) - (columns.min(), rows.min())).max() <= 1
            assert np.abs(line.max(axis=0) - (columns.max() + 1, rows.max() + 1)).max() <= 1
        np.testing.assert_allclose(part.columns["red"], 40 / 255, atol=0.01)  # a hole that was filled is white
        np.testing.assert_allclose(part.columns["probability"], 0.9, atol=1 / 256)


def test_a_damaged_region_stops_the_slide_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", nuclei_image())
    chunk = next(file for file in sorted((path / "0").rglob("*"), reverse=True) if file.is_file() and not file.name.startswith("."))
    good = chunk.read_bytes()
    chunk.write_bytes(b"nonsense")
    with pytest.raises(FileError, match="damaged"):
        worked(tmp_path / "work", path, by_darkness)
    stored = len((tmp_path / "work" / "stored.jsonl").read_text().splitlines())
    assert stored > 5
    chunk.write_bytes(good)
    seen: list[int] = []
    work = worked(tmp_path / "work", path, lambda image: (seen.append(1), by_darkness(image))[1])
    assert len(seen) == len(work.tiles) - stored


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    path = write_pyramid(tmp_path / "a.tif", nuclei_image())
    whole = worked(tmp_path / "whole", path, by_darkness)
    for place in ("celladapt.nuclei.Nuclei.save", "zarr.storage._local._put", "celladapt.whole_slide.open"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full, raising=False)
            with pytest.raises(InputError, match="No space left on device"):
                worked(tmp_path / "work", path, by_darkness)
    work = worked(tmp_path / "work", path, by_darkness)
    np.testing.assert_array_equal(work.instances(0, 0, H, W), whole.instances(0, 0, H, W))


def test_pixel_size_decides_what_the_network_sees(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", nuclei_image(), pixel_size=0.25)
    work = worked(tmp_path / "work", path, by_darkness, at=0.5)
    assert work.shape == (H // 2, W // 2)
    assert work.downsample == 2
    full = worked(tmp_path / "full", path, by_darkness)
    half, whole = (np.concatenate([part.columns["area"] for part in one.nuclei()]).sum() for one in (work, full))
    assert 4 * half == pytest.approx(whole, rel=0.15)


def write_large(path: Path, side: int) -> Path:
    """A pyramid of ``side`` x ``side`` pixels, a tile at a time: dark discs on pink in rows and columns 40 px apart, over four levels."""
    import tifffile

    y, x = np.mgrid[:640, :640]
    pattern = np.where(((y % 40 - 20) ** 2 + (x % 40 - 20) ** 2 < 150)[..., None], (60, 30, 110), (228, 180, 205)).astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in range(4):
            tile, size = np.ascontiguousarray(pattern[:: 2**level, :: 2**level][:80, :80]), side // 2**level
            tile = np.tile(tile, (4, 4, 1))  # 320 is a multiple of the 40, 20, 10 and 5 px from disc to disc
            place = {"subifds": 3} if level == 0 else {"subfiletype": 1}
            tif.write(
                (tile for _ in range((-(-size // 320)) ** 2)), shape=(size, size, 3), dtype=np.uint8, tile=(320, 320), photometric="rgb",
                compression="zlib", metadata=None, resolution=(2e4 / 2**level,) * 2, resolutionunit="CENTIMETER", **place,
            )  # fmt: skip
    return path


def measured(folder: Path, side: int) -> dict[str, float]:
    """What `celladapt predict` found on such a slide, its peak of memory in bytes and its seconds."""
    model = spread_model()
    folder.mkdir()
    model.save(folder / "model.safetensors")
    slide = write_large(folder / "slide.tif", side)
    script = (
        "import json, resource, sys, time; from celladapt.prediction import predict; begun = time.monotonic()\n"
        "(w,) = predict(sys.argv[1], sys.argv[2], sys.argv[3], ('instances', 'geojson', 'table', 'mask'), tissue=False, threshold=0.7, min_size='150')\n"
        "print(json.dumps({'nuclei': w.nuclei, 'peak': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 'seconds': time.monotonic() - begun}))"
    )
    place = [str(folder / "model.safetensors"), str(slide), str(folder / "out")]
    done = subprocess.run([sys.executable, "-c", script, *place], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20,480 pixels a side against 6,400: ten times the pixels, ten times the nuclei, the same memory."""
    small, large = measured(tmp_path / "small", 6400), measured(tmp_path / "large", 20480)
    with capsys.disabled():
        print(f"\n6,400 a side: {small}\n20,480 a side: {large}")
    assert small["nuclei"] > 1000
    assert large["nuclei"] / small["nuclei"] == pytest.approx((20480 / 6400) ** 2, rel=0.1)
    assert large["peak"] < 1.25 * small["peak"]


def test_every_model_has_the_halo_that_tiles_are_given() -> None:
    """What one pixel of the image changes lies within ``HALO``, whatever the weights."""
    model: Model = spread_model()
    image = np.full((512, 512, 3), 128, np.uint8)
    before = model.predict(image).probability
    reach = 0
    for place in ((256, 256), (271, 271), (255, 272)):
        changed = image.copy()
        changed[place] = 255 - changed[place] // 2
        rows, columns = np.nonzero(model.predict(changed).probability != before)
        reach = max(reach, *(int(np.abs(found - at).max()) for found, at in ((rows, place[0]), (columns, place[1]))))
    assert 64 < reach <= whole_slide.HALO
