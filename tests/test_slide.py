"""Slides of every kind give the pixels that were written, at the pixel size that is asked for, or one sentence."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers import picture
from numpy.typing import NDArray
from slides import halves, write_ome_zarr, write_pyramid, write_svs

from celladapt.data import pyramid
from celladapt.data import slide as module
from celladapt.data.images import read_image
from celladapt.data.limits import at_most
from celladapt.data.slide import is_slide, open_slide, overview, tiff_pixel_size, view_at
from celladapt.errors import FileError, InputError

pytest.importorskip("zarr", reason="slides need zarr: the extra celladapt[slides]")
IMAGE = picture(1, 300, 420)


def whole(path: Path, at: float | None = None) -> NDArray[Any]:
    with open_slide(path) as slide:
        view = view_at(slide, at)
        return view.read(0, 0, *view.shape)


def test_a_pyramidal_tiff_is_read_as_written(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", IMAGE)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert [(level.height, level.width) for level in slide.levels] == [(300, 420), (150, 210), (75, 105)]
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert slide.pixel_size == pytest.approx(0.25)
        np.testing.assert_array_equal(view_at(slide, None).read(17, 33, 100, 90), IMAGE[17:117, 33:123])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_is_read_as_written(tmp_path: Path, version: str) -> None:
    path = write_ome_zarr(tmp_path / "a.ome.zarr", IMAGE, 0.5, version=version)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert slide.pixel_size == pytest.approx(0.5)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        np.testing.assert_array_equal(view_at(slide, 0.5).read(100, 20, 150, 64), IMAGE[100:250, 20:84])


def test_aperio_slides_go_through_openslide(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="needs openslide: the extra celladapt[slides]")
    path = write_svs(tmp_path / "a.svs", IMAGE, 0.2521)
    with open_slide(path) as slide:
        assert slide.pixel_size == pytest.approx(0.2521)
        assert "_with_openslide" in slide.read_level.__qualname__
        there = view_at(slide, None).read(0, 0, 300, 420)
    assert np.abs(there.astype(int) - IMAGE).mean() < 6, "what JPEG leaves of it"


def test_aperio_slides_need_no_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    path = write_svs(tmp_path / "a.svs", IMAGE, 0.2521)
    with open_slide(path) as slide:
        assert slide.pixel_size == pytest.approx(0.2521)
        assert len(slide.levels) == 2
    (tmp_path / "b.mrxs").write_bytes(b"\xff\xd8 a picture")
    with pytest.raises(InputError, match=r"b\.mrxs needs openslide.*celladapt\[slides\]"):
        open_slide(tmp_path / "b.mrxs")


def test_the_level_that_fits_is_taken_without_resampling(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", IMAGE)
    pyramid = halves(IMAGE, 3)
    for at, level in ((0.25, 0), (0.255, 0), (0.5, 1), (0.97, 2)):
        with open_slide(path) as slide:
            assert (view_at(slide, at).level, view_at(slide, at).scale) == (level, 1)
        np.testing.assert_array_equal(whole(path, at), pyramid[level])


@pytest.mark.parametrize(("at", "level"), [(0.4, 0), (0.6, 1), (0.2, 0), (3.0, 2)])
def test_other_pixel_sizes_are_resampled_from_the_level_above(tmp_path: Path, at: float, level: int) -> None:
    path = write_pyramid(tmp_path / "a.tif", IMAGE)
    with open_slide(path) as slide:
        view = view_at(slide, at)
        assert view.level == level
        assert view.pixel_size == pytest.approx(at, rel=0.01)
        assert view.shape == (int(300 * 0.25 / at), int(420 * 0.25 / at))
        there = view.read(0, 0, *view.shape)
    assert abs(there.astype(float).mean() - IMAGE.mean()) < 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("at", [0.4, 0.17])
def test_resampled_regions_fit_without_a_seam(tmp_path: Path, at: float, dtype: type) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(2, 300, 420, dtype))
    with open_slide(path) as slide:
        view = view_at(slide, at)
        h, w = view.shape
        once = view.read(0, 0, h, w)
        pieces = np.concatenate(
            [np.concatenate([view.read(y, x, min(70, h - y), min(50, w - x)) for x in range(0, w, 50)], axis=1) for y in range(0, h, 70)]
        )
    np.testing.assert_allclose(pieces.astype(int), once, atol=1 if dtype is np.uint8 else 3)


def test_deep_slides_are_stretched_alike_everywhere(tmp_path: Path) -> None:
    deep = picture(3, 200, 200, np.uint16) // 16 + 100
    path = write_ome_zarr(tmp_path / "a.zarr", deep[..., :1], None)
    with open_slide(path) as slide:
        assert slide.pixel_size is None
        view = view_at(slide, 0.5)  # of which nothing can be made without a pixel size
        there = view.read(0, 0, 200, 200)
        part = view.read(50, 60, 30, 40)
    assert there.dtype == np.uint16
    assert (there == there[..., :1]).all()
    assert there.min() == 0
    assert there.max() == 65535
    np.testing.assert_array_equal(part, there[50:80, 60:100])


def test_two_channels_get_a_third_and_five_are_refused(tmp_path: Path) -> None:
    two = write_ome_zarr(tmp_path / "two.zarr", picture(4, 100, 100)[..., :2])
    assert (whole(two)[..., 2] == 0).all()
    five = write_ome_zarr(tmp_path / "five.zarr", np.zeros((100, 100, 5), np.uint8))
    with pytest.raises(FileError, match=r"five\.zarr has 5 channels"):
        open_slide(five)


def test_an_overview_is_small_even_where_no_level_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERVIEW_SIDE", 100)
    monkeypatch.setattr(module, "_BLOCK", 64)
    for levels in (1, 3):
        with open_slide(write_pyramid(tmp_path / f"{levels}.tif", IMAGE, levels=levels)) as slide:
            small = overview(slide)
        assert max(small.shape) <= 105
        assert abs(small.astype(float).mean() - IMAGE.mean()) < 1.5


def test_a_large_plain_tiff_is_read_in_parts_and_a_small_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    assert not is_slide(tmp_path / "a.tif")
    monkeypatch.setattr(module, "LARGE", 1000)
    assert is_slide(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), IMAGE)


def test_a_slide_has_no_limit_of_pixels(tmp_path: Path) -> None:
    """A gigapixel that takes no room on the disk: pages of zeros that are not written."""
    path = tmp_path / "gigapixel.tif"
    tifffile.imwrite(path, shape=(32_768, 32_768), dtype=np.uint8, tile=(4096, 4096))
    with at_most(0.001), open_slide(path) as slide:
        assert is_slide(path)
        assert slide.levels[0].height * slide.levels[0].width == 2**30 > module.LARGE
        assert not slide.region(0, 32_000, 32_000, 100, 100).any()
    with pytest.raises(FileError, match=r"has 1074 megapixels, more than the 537 .* pyramidal TIFF, .* 54 GB of memory .* --max-megapixels 1074"):
        read_image(path)


def test_pixel_sizes_that_files_state(tmp_path: Path) -> None:
    grey = IMAGE[..., 0]
    cases: dict[str, tuple[dict[str, Any], float | None]] = {
        "cm": ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        "inch": ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5),
        "screen": ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        "none": ({}, None),
        "imagej": ({"imagej": True, "resolution": (4.0, 4.0), "metadata": {"unit": "micron"}}, 0.25),
        "ome": ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.33, "PhysicalSizeXUnit": "µm"}}, 0.33),
        "ome_oblong": ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 1000, "PhysicalSizeYUnit": "nm"}}, 0.5),
        "ome_nm": ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 330, "PhysicalSizeXUnit": "nm"}}, 0.33),
    }
    for name, (options, expected) in cases.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", grey, **options)
        found = tiff_pixel_size(tmp_path / f"{name}.tif")
        assert found == (None if expected is None else pytest.approx(expected)), name
    assert tiff_pixel_size(tmp_path / "missing.tif") is None


def test_a_large_tiff_in_one_piece_is_mapped_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1000)
    monkeypatch.setattr(pyramid, "_LARGEST_PIECE", 1000)
    tifffile.imwrite(tmp_path / "plain.tif", IMAGE, photometric="rgb")
    np.testing.assert_array_equal(whole(tmp_path / "plain.tif"), IMAGE)
    tifffile.imwrite(tmp_path / "packed.tif", IMAGE, photometric="rgb", compression="zlib", rowsperstrip=300)
    with pytest.raises(FileError, match=r"packed\.tif is compressed in one piece"):
        open_slide(tmp_path / "packed.tif")


def test_white_may_be_zero_and_other_colours_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 1000)
    tifffile.imwrite(tmp_path / "white.tif", 255 - IMAGE[..., 0], photometric="miniswhite", tile=(64, 64))
    np.testing.assert_array_equal(whole(tmp_path / "white.tif")[..., 1], IMAGE[..., 0])
    tifffile.imwrite(tmp_path / "ink.tif", np.zeros((300, 420, 4), np.uint8), photometric="separated", tile=(64, 64))
    with pytest.raises(FileError, match=r"ink\.tif keeps its colours as SEPARATED"):
        open_slide(tmp_path / "ink.tif")


@pytest.mark.parametrize("kind", ["UNASSALPHA", "ASSOCALPHA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_is_transparent_is_white_as_in_any_image(tmp_path: Path, kind: str, dtype: type) -> None:
    full = np.iinfo(dtype).max if dtype != np.float32 else 1
    image = np.zeros((128, 128, 4))
    image[:, 64:] = [0.2, 0.4, 0.6, 1]
    image[64:, 64:] = [0.2, 0.4, 0.6, 0.5] if kind == "UNASSALPHA" else [0.1, 0.2, 0.3, 0.5]
    path = write_pyramid(tmp_path / "a.tif", (image * full).round(9).astype(dtype), levels=1, extrasamples=[kind])
    seen = pyramid.open_pyramid(path, ExitStack()).read_level(0, 0, 0, 128, 128) / full  # as it is stored, not stretched
    assert seen.shape == (128, 128, 3)
    np.testing.assert_allclose(seen[0, 0], 1)
    np.testing.assert_allclose(seen[0, 127], [0.2, 0.4, 0.6], atol=0.01)
    np.testing.assert_allclose(seen[127, 127], [0.6, 0.7, 0.8], atol=0.01)


def test_white_may_be_zero_of_real_numbers_and_of_bits_too(tmp_path: Path) -> None:
    write: dict[str, Any] = {"photometric": "miniswhite", "tile": (64, 64), "metadata": None}
    for name, pixels in (("float", np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128)), ("bits", np.eye(128, dtype=bool))):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **write)
        found = pyramid.open_pyramid(tmp_path / f"{name}.tif", ExitStack()).read_level(0, 0, 0, 128, 128)[..., 0]
        np.testing.assert_array_equal(found, 1 - pixels if name == "float" else ~pixels)
    pixels = np.full((128, 128, 2), [60, 255], np.uint8)
    pixels[:, :64, 1] = 0
    tifffile.imwrite(tmp_path / "alpha.tif", pixels, planarconfig="contig", extrasamples=["UNASSALPHA"], **write)
    found = pyramid.open_pyramid(tmp_path / "alpha.tif", ExitStack()).read_level(0, 0, 0, 128, 128)
    np.testing.assert_array_equal(found, read_image(tmp_path / "alpha.tif")[..., :1], "what is transparent is white, and the rest inverted")
    assert found[0, 0, 0] == 255
    assert found[0, 127, 0] == 195


def test_channels_that_are_pages_of_an_ome_tiff_are_read(tmp_path: Path) -> None:
    pyramid = [np.moveaxis(level, -1, 0) for level in halves(IMAGE, 2)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
        tif.write(pyramid[0], subifds=1, tile=(64, 64), metadata=about, photometric="minisblack")
        tif.write(pyramid[1], subfiletype=1, tile=(64, 64), photometric="minisblack")
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.pixel_size == pytest.approx(0.5)
        np.testing.assert_array_equal(view_at(slide, 0.5).read(30, 40, 100, 200), IMAGE[30:130, 40:240])
        np.testing.assert_array_equal(view_at(slide, 1.0).read(0, 0, 150, 210), halves(IMAGE, 2)[1])


def test_only_what_was_scanned_is_read_where_a_slide_says_so() -> None:
    from contextlib import ExitStack

    from PIL import Image

    class Scanned:
        dimensions, level_downsamples = (500, 400), (1.0, 4.0)
        properties = {
            "openslide.bounds-x": "40",
            "openslide.bounds-y": "60",
            "openslide.bounds-width": "420",
            "openslide.bounds-height": "300",
            "openslide.mpp-x": "0.5",
        }

        def close(self) -> None: ...

        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
            canvas = np.zeros((400, 500, 4), np.uint8)
            canvas[60:360, 40:460, :3], canvas[60:360, 40:460, 3] = IMAGE, 255
            canvas[60:70, 40:460] = 0  # not scanned
            return Image.fromarray(canvas[location[1] :: 4**level, location[0] :: 4**level][: size[1], : size[0]])

    found = pyramid._with_openslide(Scanned(), ExitStack())
    assert [(level.height, level.width) for level in found.levels] == [(300, 420), (75, 105)]
    assert found.pixel_size == 0.5
    there = found.read_level(0, 0, 0, 300, 420)
    np.testing.assert_array_equal(there[10:], IMAGE[10:])
    assert (there[:10] == 255).all(), "what was not scanned is glass"
    np.testing.assert_array_equal(found.read_level(1, 5, 5, 20, 20), IMAGE[20:100:4, 20:100:4])


def test_what_is_wrong_with_a_slide_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "empty.svs").write_bytes(b"")
    good = write_svs(tmp_path / "cut.svs", IMAGE).read_bytes()
    (tmp_path / "cut.svs").write_bytes(good[: len(good) // 2])
    cut = write_pyramid(tmp_path / "cut.tif", IMAGE).read_bytes()
    (tmp_path / "cut.tif").write_bytes(cut[: len(cut) - 2000])
    (tmp_path / "plain.zarr").mkdir()
    gone = write_ome_zarr(tmp_path / "level.zarr", IMAGE)
    __import__("shutil").rmtree(gone / "1")
    for name, words in {
        "text.svs": "is not a slide that can be read; give SVS",
        "empty.svs": "is empty",
        "cut.svs": "cut short",
        "cut.tif": "cut short",
        "plain.zarr": "copy or export it again",
        "level.zarr": "lacks its level '1'",
        "none.svs": "does not exist",
    }.items():
        with pytest.raises(FileError, match=words) as caught:
            open_slide(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_named_where_it_is_read(tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", IMAGE)
    chunks = sorted(file for file in (path / "0").rglob("*") if file.is_file() and not file.name.startswith(".z"))
    chunks[0].write_bytes(b"nonsense")
    with open_slide(path) as slide, pytest.raises(FileError, match=r"a\.zarr is damaged or cut short \(at row 0"):
        view_at(slide, None).read(0, 0, 300, 420)
