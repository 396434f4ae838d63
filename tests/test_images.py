"""Every format read and written, every kind of mask, and one clear sentence for every bad file."""

import copy
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celladapt.config import Config
from celladapt.data import limits, tiff
from celladapt.data.images import IMAGE_SUFFIXES, decode, image_of, read_image, read_mask, write_image
from celladapt.data.slide import open_slide
from celladapt.data.tiff import planes_and_channels
from celladapt.errors import FileError, InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
SMOOTH = np.add.outer(np.arange(32) * 4, np.arange(32) * 3).astype(np.uint8)


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No reader may warn or print."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


def grey3(array: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(array[..., None], 3, axis=2)


def stretched(array: NDArray[Any]) -> NDArray[np.uint16]:
    low, high = np.percentile(array, (0.1, 99.9))
    return np.asarray(np.rint(np.clip((array - low) / (high - low), 0, 1) * 65535), np.uint16)


def over_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    share = alpha[..., None] / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def save_tiff(path: Path, array: NDArray[Any], **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tifffile announces changes of its writing defaults
        tifffile.imwrite(path, array, **options)
    return path


def assert_same(result: NDArray[Any], expected: NDArray[Any]) -> None:
    """Equal; stretched values may differ by the last of 16 bits."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(result.astype(int), expected.astype(int), rtol=0, atol=1 if result.dtype == np.uint16 else 0)


# Pillow formats: (suffix, image, expected (H, W, 3))
PALETTE = Image.fromarray(RGB).quantize(7)
PILLOW = {
    "png grey": (".png", Image.fromarray(GREY), grey3(GREY)),
    "png rgb": (".png", Image.fromarray(RGB), RGB),
    "png opaque rgba": (".png", Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), RGB),
    "png rgba": (".png", Image.fromarray(np.dstack([RGB, ALPHA])), over_white(RGB, ALPHA)),
    "png grey alpha": (".png", Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), over_white(grey3(GREY), ALPHA)),
    "png 16-bit": (".png", Image.fromarray(DEEP), grey3(stretched(DEEP))),
    "png palette": (".png", PALETTE, np.asarray(PALETTE.convert("RGB"))),
    "png 1-bit": (".png", Image.fromarray(GREY > 99), grey3(np.uint8(255) * (GREY > 99))),
    "bmp rgb": (".bmp", Image.fromarray(RGB), RGB),
    "bmp grey": (".bmp", Image.fromarray(GREY), grey3(GREY)),
    "bmp 1-bit": (".bmp", Image.fromarray(GREY > 99), grey3(np.uint8(255) * (GREY > 99))),
    "tiff lzw": (".tif", Image.fromarray(RGB), RGB),
    "tiff cmyk": (".tiff", Image.fromarray(RGB).convert("CMYK"), np.asarray(Image.fromarray(RGB).convert("CMYK").convert("RGB"))),
}


@pytest.mark.parametrize("kind", PILLOW)
def test_pillow_formats_are_read_exactly(kind: str, tmp_path: Path) -> None:
    suffix, image, expected = PILLOW[kind]
    path = tmp_path / f"a{suffix}"
    image.save(path, **({"compression": "tiff_lzw"} if kind == "tiff lzw" else {}))
    assert_same(read_image(path), expected)


@pytest.mark.parametrize("colour", ["RGB", "L", "CMYK"])
def test_jpeg_is_close(colour: str, tmp_path: Path) -> None:
    path = tmp_path / "a.JPG"
    Image.fromarray(SMOOTH).convert(colour).save(path, format="JPEG", quality=95)
    result = read_image(path)
    assert result.dtype == np.uint8
    assert result.shape == (32, 32, 3)
    assert np.abs(result.astype(int) - grey3(SMOOTH).astype(int)).max() <= 6


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))
    assert decode(tmp_path / "a.png").turned
    Image.fromarray(RGB).save(tmp_path / "b.png")
    assert not decode(tmp_path / "b.png").turned


def test_transparent_palette_lies_over_white(tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "a.png", transparency=b"\x00\x80")
    result, index = read_image(tmp_path / "a.png"), np.asarray(PALETTE)
    assert (result[index == 0] == 255).all()
    np.testing.assert_array_equal(result[index > 1], np.asarray(PALETTE.convert("RGB"))[index > 1])


@pytest.mark.parametrize("samples", [3, 4])
def test_deep_colour_png_keeps_its_bits(samples: int, tmp_path: Path) -> None:
    pixels = DEEP_RGB if samples == 3 else np.dstack([DEEP_RGB, np.full((20, 30), 65535, np.uint16)])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert_same(read_image(tmp_path / "a.png"), stretched(DEEP_RGB))


CHW = np.moveaxis(RGB, 2, 0).copy()
TWO = np.stack([GREY, ALPHA])
TIFF: dict[str, tuple[NDArray[Any], dict[str, Any], NDArray[Any]]] = {
    "grey": (GREY, {}, grey3(GREY)),
    "rgb": (RGB, {}, RGB),
    "rgba": (np.dstack([RGB, ALPHA]), {}, over_white(RGB, ALPHA)),
    "zlib": (RGB, {"compression": "zlib", "predictor": True}, RGB),
    "lzw": (RGB, {"compression": "lzw"}, RGB),
    "zstd tiles": (RGB, {"compression": "zstd", "tile": (16, 16)}, RGB),
    "bigtiff": (RGB, {"bigtiff": True}, RGB),
    "big-endian": (DEEP, {"byteorder": ">"}, grey3(stretched(DEEP))),
    "16-bit": (DEEP, {}, grey3(stretched(DEEP))),
    "16-bit rgb": (DEEP_RGB, {}, stretched(DEEP_RGB)),
    "int32": (DEEP.astype(np.int32) - 2000, {}, grey3(stretched(DEEP.astype(np.int32) - 2000))),
    "float32": ((DEEP / 7).astype(np.float32), {}, grey3(stretched((DEEP / 7).astype(np.float32)))),
    "float64": (DEEP / 7, {}, grey3(stretched(DEEP / 7))),
    "channels first": (CHW, {}, RGB),
    "planar": (CHW, {"photometric": "rgb", "planarconfig": "separate"}, RGB),
    "imagej channels": (CHW, {"imagej": True, "metadata": {"axes": "CYX"}}, RGB),
    "imagej contiguous": (CHW, {"imagej": True, "metadata": {"axes": "CYX"}, "truncate": True}, RGB),
    "ome z-stack of channels": (np.stack([CHW, 255 - CHW], axis=1), {"ome": True, "metadata": {"axes": "CZYX"}}, RGB),
    "two channels": (TWO, {}, np.dstack([*TWO, np.zeros_like(GREY)])),
    "two channels last": (np.moveaxis(TWO, 0, 2).copy(), {}, np.dstack([*TWO, np.zeros_like(GREY)])),
    "four channels without alpha": (np.stack([*CHW, ALPHA]), {"imagej": True, "metadata": {"axes": "CYX"}}, RGB),
    "z-stack": (np.stack([GREY] + [ALPHA] * 6), {}, grey3(GREY)),
    "imagej z-stack": (np.stack([GREY] + [ALPHA] * 2), {"imagej": True, "metadata": {"axes": "ZYX"}}, grey3(GREY)),
    "white is zero": (255 - GREY, {"photometric": "miniswhite"}, grey3(GREY)),
}


@pytest.mark.parametrize("kind", TIFF)
def test_tiff_kinds_are_read_exactly(kind: str, tmp_path: Path) -> None:
    array, options, expected = TIFF[kind]
    assert_same(read_image(save_tiff(tmp_path / "a.tif", array, **options)), expected)


def test_plain_pages_are_no_channels(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(page) for page in (GREY, ALPHA, ALPHA))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), grey3(GREY))


def test_tiff_palette(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (3, 256), dtype=np.uint16)
    colours[0, 0] = 255
    path = save_tiff(tmp_path / "a.tif", GREY, photometric="palette", colormap=colours * 257)
    np.testing.assert_array_equal(read_image(path), colours.T[GREY].astype(np.uint8))


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    save_tiff(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


def test_the_stretch_survives_a_nearly_and_a_wholly_constant_image(tmp_path: Path) -> None:
    flat = np.full((100, 100), 700, np.uint16)
    assert not read_image(save_tiff(tmp_path / "flat.tif", flat)).any()
    flat[3, 4] = 900
    result = read_image(save_tiff(tmp_path / "spot.tif", flat))
    assert (result[3, 4] == 65535).all()
    assert np.count_nonzero(result) == 3


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a.png", GREY),
        ("a.png", RGB),
        ("a.png", np.dstack([RGB, ALPHA])),
        ("a.png", DEEP),
        ("a.png", GREY > 99),
        ("a.png", DEEP.astype(np.int32)),
        ("a.tif", GREY),
        ("a.tif", RGB),
        ("a.tif", DEEP_RGB),
        ("a.tiff", DEEP.astype(np.int32) * 1000),
        ("a.tif", (DEEP / 4096).astype(np.float32)),
    ],
)
def test_what_is_written_is_read_back(name: str, array: NDArray[Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / name
    write_image(path, array)
    raster = decode(path)
    stored = raster.pixels if raster.alpha is None else np.dstack([raster.pixels, np.rint(raster.alpha * 255)])
    np.testing.assert_array_equal(np.squeeze(stored), array * 255 if array.dtype == np.bool_ else array)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_labels_are_written_as_the_formats_hold_them(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", DEEP.astype(np.int32))
    write_image(tmp_path / "a.tif", DEEP.astype(np.int32))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert str(tif.pages.first.dtype) == "uint32"
        assert tif.pages.first.compression == tifffile.COMPRESSION.ADOBE_DEFLATE


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("a.jpg", GREY),
        ("a", GREY),
        ("a.png", GREY.astype(np.float32)),
        ("a.png", DEEP_RGB),
        ("a.png", np.array([[70000]])),
        ("a.tif", np.array([[-1]])),
        ("a.tif", np.zeros((0, 3), np.uint8)),
        ("a.tif", np.zeros((2, 3, 4, 5), np.uint8)),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, array: NDArray[Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        write_image(tmp_path / name, array)
    assert not list(tmp_path.iterdir())


LABELS = np.zeros((20, 30), np.int32)
LABELS[2:6, 2:6], LABELS[2:6, 6:9], LABELS[10:15, 10:20] = 1, 7, 300
SMALL = np.where(LABELS == 300, 2, LABELS)
COLOURS = np.array([[0, 0, 0], [200, 0, 10], [0, 90, 0], [7, 7, 200]], np.uint8)


@pytest.mark.parametrize(
    "stored",
    [np.uint8(255) * (LABELS > 0), LABELS > 0, SMALL.astype(np.uint8), LABELS.astype(np.uint16)],
    ids=["binary", "1-bit", "8-bit labels", "16-bit labels"],
)
def test_png_masks_keep_their_values(stored: NDArray[Any], tmp_path: Path) -> None:
    Image.fromarray(stored).save(tmp_path / "a.png")
    result = read_mask(tmp_path / "a.png")
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, stored)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.uint32, np.int32, np.float32, np.float64])
def test_tiff_masks_keep_their_values(dtype: type[Any], tmp_path: Path) -> None:
    stored = (SMALL if dtype is np.uint8 else LABELS).astype(dtype)
    result = read_mask(save_tiff(tmp_path / "a.tif", stored))
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, stored.astype(np.int32))


def test_colour_masks_get_one_label_a_colour(tmp_path: Path) -> None:
    index = np.searchsorted([0, 1, 7, 300], LABELS)
    Image.fromarray(COLOURS[index]).save(tmp_path / "a.png")
    result = read_mask(tmp_path / "a.png")
    assert sorted(np.unique(result)) == [0, 1, 2, 3]
    np.testing.assert_array_equal(result == 0, LABELS == 0)
    for colour in (1, 2, 3):
        assert len(np.unique(result[index == colour])) == 1


def test_colour_mask_without_black_has_no_background(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[1:][(LABELS > 0).astype(int)]).save(tmp_path / "a.png")
    assert sorted(np.unique(read_mask(tmp_path / "a.png"))) == [1, 2]


def test_colours_on_white_are_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.array([[255, 255, 255], [200, 0, 0]], np.uint8)[(LABELS > 0).astype(int)]).save(tmp_path / "a.png")
    colours = np.array([[9, 9, 9], [2, 1, 1]], np.float32)[(LABELS > 0).astype(int)]
    tifffile.imwrite(tmp_path / "b.tif", colours, photometric="rgb")
    for name in ("a.png", "b.tif"):
        with pytest.raises(FileError, match=rf"{name} has colours and no black.*black \(0\)"):
            read_mask(tmp_path / name)


@pytest.mark.parametrize("grey", [False, True])
def test_a_picture_is_no_mask(tmp_path: Path, grey: bool) -> None:
    noise = np.random.default_rng(0).integers(1, 200, (64, 64, 3)).astype(np.uint8)
    noise[0] = 0
    Image.fromarray(noise[..., 0] if grey else noise).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"change from pixel to pixel, as a picture has"):
        read_mask(tmp_path / "a.png")


def discs(side: int = 160, step: int = 24, radius: int = 8) -> np.ndarray:
    """Labels from 1."""
    y, x = np.mgrid[:side, :side]
    return np.where(np.hypot(y % step - step // 2, x % step - step // 2) <= radius, 1 + x // step + (y // step) * (-(-side // step)), 0)


@pytest.mark.parametrize("how", ["resized", "jpeg", "fine jpeg"])
def test_a_binary_mask_with_grey_edges_is_refused_and_not_taken_for_labels(tmp_path: Path, how: str) -> None:
    """A mask that was resized with interpolation, or saved as JPEG once: its edges would be hundreds of nuclei."""
    binary = Image.fromarray((255 * (discs() > 0)).astype(np.uint8))
    if how == "resized":
        soft = binary.resize((120, 120), Image.Resampling.BILINEAR)
    else:
        binary.save(tmp_path / "a.jpg", quality=95 if how == "fine jpeg" else 75)
        soft = Image.open(tmp_path / "a.jpg")
    soft.save(tmp_path / "a.png")
    soft.convert("RGB").save(tmp_path / "b.png")
    write_image(tmp_path / "c.png", np.asarray(soft).astype(np.uint16) * 257)
    for name in ("a.png", "b.png", "c.png"):
        with pytest.raises(FileError, match=r"grey edges between 0 and white.*threshold it in the middle"):
            read_mask(tmp_path / name)
    Image.fromarray((255 * (np.asarray(soft) >= 128)).astype(np.uint8)).save(tmp_path / "a.png")  # the cure
    assert set(np.unique(read_mask(tmp_path / "a.png"))) == {0, 255}


@pytest.mark.parametrize("first", [1, 214, 230])
def test_labels_that_go_up_to_255_stay_labels(tmp_path: Path, first: int) -> None:
    labels = discs()
    labels = np.where(labels > 0, first + (labels - 1) % (256 - first), 0).astype(np.uint8)
    write_image(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), labels)


@pytest.mark.parametrize(
    ("shape", "axes", "planes", "channels"),
    [((5, 32, 40), "ZYX", 5, 1), ((5, 32, 40, 3), "ZYXS", 5, 3), ((3, 32, 40), "CYX", 1, 3), ((4, 2, 32, 40), "ZCYX", 4, 2), ((32, 40), "YX", 1, 1), ((3, 5, 32, 40), None, 15, 1), ((2, 32, 40, 3), "CYXS", 2, 3), ((3, 32, 40), None, 1, 3), ((32, 40, 4), None, 1, 4)],
)  # fmt: skip
def test_planes_of_a_stack_are_counted_and_channels_are_not(
    tmp_path: Path, shape: tuple[int, ...], axes: str | None, planes: int, channels: int
) -> None:
    photometric = {"photometric": "rgb"} if axes and axes.endswith("S") else {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), **photometric, metadata={"axes": axes} if axes else {}, ome=axes is not None)
    assert decode(tmp_path / "a.tif").planes == planes
    assert planes_and_channels(tmp_path / "a.tif") == (planes, channels)


def test_several_images_in_a_file_are_counted_and_smaller_copies_are_not(tmp_path: Path) -> None:
    large, small = np.zeros((64, 80, 3), np.uint8), np.zeros((32, 40, 3), np.uint8)
    for name, ome in (("a.tif", False), ("b.ome.tif", True)):
        with tifffile.TiffWriter(tmp_path / name, ome=ome) as file:
            file.write(small, photometric="rgb")
            file.write(large, photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(large, photometric="rgb", subifds=1)
        file.write(small, photometric="rgb", subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "d.tif") as file:
        file.write(large, photometric="rgb")
        file.write(small, photometric="rgb", subfiletype=1)
    assert [planes_and_channels(tmp_path / name)[0] for name in ("a.tif", "b.ome.tif", "c.tif", "d.tif")] == [2, 2, 1, 1]
    with pytest.raises(FileError, match=r"a\.tif has 2 planes or images; save one plane"):
        read_mask(tmp_path / "a.tif")


def test_inks_are_colours_whatever_packs_them(tmp_path: Path) -> None:
    inks = Image.fromarray(np.full((32, 32, 3), (200, 60, 120), np.uint8)).convert("CMYK")
    for name, options in (("a.tif", {}), ("b.tif", {"compression": "jpeg"}), ("c.jpg", {})):
        inks.save(tmp_path / name, **options)
        np.testing.assert_allclose(read_image(tmp_path / name)[16, 16], (200, 60, 120), atol=2)
    with pytest.raises(FileError, match="is a JPEG"):
        read_mask(tmp_path / "b.tif")


def test_colours_that_were_smoothed_are_no_labels(tmp_path: Path) -> None:
    hue = np.random.default_rng(0).integers(40, 255, (256, 3)).astype(np.uint8)
    hue[0] = 0
    colours = Image.fromarray(hue[discs() % 256])
    colours.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").any()
    colours.resize((2 * colours.width - 7, 2 * colours.height - 7), Image.Resampling.BILINEAR).save(tmp_path / "a.png")
    with pytest.raises(FileError, match=r"colours that mix at the edges.*without smoothing"):
        read_mask(tmp_path / "a.png")


def test_grey_mask_saved_as_rgb_keeps_its_values(tmp_path: Path) -> None:
    Image.fromarray(grey3(SMALL.astype(np.uint8))).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), SMALL)


def test_transparent_pixels_are_background(tmp_path: Path) -> None:
    alpha = np.uint8(255) * (LABELS == 7)
    Image.fromarray(np.dstack([np.full((20, 30, 3), 255, np.uint8), alpha])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png") > 0, LABELS == 7)


@pytest.mark.parametrize("black_first", [True, False])
def test_palette_masks(black_first: bool, tmp_path: Path) -> None:
    index = (SMALL if black_first else 9 - SMALL).astype(np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    colours[[1, 2, 7] if black_first else [8, 7, 2]] = [[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    colours[0] = 0 if black_first else 255
    image = Image.fromarray(index, mode="L")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    result = read_mask(tmp_path / "a.png")
    if black_first:
        np.testing.assert_array_equal(result, SMALL)
    np.testing.assert_array_equal(result == 0, SMALL == 0)
    assert len(np.unique(result)) == 4


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "jpeg.png", format="JPEG")
    save_tiff(tmp_path / "jpeg.tif", grey3(SMOOTH), compression="jpeg")
    save_tiff(tmp_path / "fraction.tif", np.full((4, 4), 0.5, np.float32))
    save_tiff(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    save_tiff(tmp_path / "negative.tif", np.full((4, 4), -1, np.int16))
    save_tiff(tmp_path / "huge.tif", np.full((4, 4), 2**31, np.uint32))
    for name, cure in [
        ("jpeg.png", "PNG"),
        ("jpeg.tif", "PNG"),
        ("fraction.tif", "threshold"),
        ("nan.tif", "replace"),
        ("negative.tif", "0"),
        ("huge.tif", "renumber"),
    ]:
        with pytest.raises(InputError, match=f"{name} .*{cure}"):
            read_mask(tmp_path / name)


def test_bad_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(RGB).save(tmp_path / "gif.png", format="GIF")
    save_tiff(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32))
    save_tiff(tmp_path / "range.tif", np.array([[-1.7e308, 1.7e308]]))
    save_tiff(tmp_path / "complex.tif", np.ones((4, 4), np.complex64))
    save_tiff(tmp_path / "five.tif", np.zeros((20, 30, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    save_tiff(tmp_path / "pages.tif", np.zeros((6, 20, 30), np.uint8), imagej=True, metadata={"axes": "CYX"})
    words = {
        "absent": "does not exist",
        "folder": "is a folder",
        "empty": "is empty",
        "text": "is not a PNG, TIFF, JPEG or BMP",
        "gif": "is not a PNG",
        "nan": "not finite",
        "range": "too large",
        "complex": "complex64",
        "five": "5 channels",
        "pages": "6 channels",
    }
    for name, problem in words.items():
        path = next(tmp_path.glob(f"{name}.*"), tmp_path / f"{name}.png")
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} .*{problem}.*; .*[.]$"):
            read_image(path)


def test_an_array_without_pixels_is_refused() -> None:
    with pytest.raises(FileError, match=r"^a plane has no pixels; "):
        image_of(np.zeros((0, 4), np.uint8), "a plane")


def test_an_image_that_the_memory_cannot_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tifffile.TiffPage, "asarray", full)
    with pytest.raises(FileError, match=r"a\.tif needs more memory than this machine has; cut it into tiles\.$"):
        read_image(save_tiff(tmp_path / "a.tif", GREY))


def test_of_a_page_with_depth_the_first_plane_is_read(tmp_path: Path) -> None:
    volume = RNG.integers(0, 8, (16, 20, 30), dtype=np.uint8)
    path = save_tiff(tmp_path / "a.tif", volume, tile=(16, 16, 16), volumetric=True, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(decode(path).pixels[..., 0], volume[0])


@pytest.mark.parametrize("words", ['<TiffData IFD="4000000000000"/>', '<Pixels SizeZ="4000000" SizeC="4000000"/>'])
def test_a_description_that_promises_planes_without_end_is_refused_at_once(words: str, tmp_path: Path) -> None:
    description = f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>{words}</Image></OME>'
    with pytest.raises(FileError, match=r"a\.tif is damaged"):
        read_image(save_tiff(tmp_path / "a.tif", GREY, description=description, metadata=None))


def test_an_error_about_a_file_is_the_same_after_a_journey_between_processes() -> None:
    error = copy.copy(FileError(Path("a.png"), "is empty", "copy it again"))
    assert (str(error), error.path, error.problem, error.cure) == ("a.png is empty; copy it again.", Path("a.png"), "is empty", "copy it again")


@pytest.mark.parametrize("slide", [False, True])
@pytest.mark.parametrize("pipe", [False, True])
def test_an_ome_tiff_does_not_lead_to_other_files(slide: bool, pipe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its description says which of its planes are in which file; to open a pipe would wait for ever."""
    other, path = tmp_path / "other.ome.tif", tmp_path / "below" / "a.ome.tif"
    path.parent.mkdir()
    described = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    described += 'DimensionOrder="XYCZT" Type="uint8" SizeX="30" SizeY="20" SizeC="2" SizeZ="1" SizeT="1">'
    for number, name in enumerate(["a.ome.tif", "../other.ome.tif"], 1):
        described += f'<TiffData IFD="0" FirstC="{number - 1}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
    tifffile.imwrite(path, GREY, description=f"{described}</Pixels></Image></OME>", metadata=None)
    if pipe:
        os.mkfifo(other)
    else:
        tifffile.imwrite(other, 255 - GREY, metadata=None)
        with tifffile.TiffFile(path) as tif:
            assert tif.series[0].shape == (2, 20, 30), "tifffile would follow it"
    opened = []
    begin = tifffile.TiffFile.__init__
    monkeypatch.setattr(
        tifffile.TiffFile, "__init__", lambda self, file, *rest, **options: (opened.append(file), begin(self, file, *rest, **options))[1]
    )
    if slide:
        pytest.importorskip("zarr", reason="slides need zarr: the extra celladapt[slides]")
        with open_slide(path) as view:
            pixels = view.region(0, 0, 0, 20, 30)
        np.testing.assert_array_equal(pixels[..., 0], GREY)
    else:
        np.testing.assert_array_equal(read_image(path), grey3(GREY))
    assert set(opened) == {path}


@pytest.mark.parametrize("which", ["stack", "index"])
def test_micro_manager_s_files_do_not_lead_to_others(which: str) -> None:
    assert getattr(tiff._OneTiff, {"stack": "is_mmstack", "index": "is_ndtiff"}[which]) is False


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("limit", [599e-6, 500e-6, 200e-6])  # above and below half of the 600 pixels, where Pillow warns and raises by itself
@pytest.mark.filterwarnings("error")
def test_too_many_pixels(suffix: str, limit: float, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a{suffix}")
    whole = read_image(tmp_path / f"a{suffix}")
    with (
        limits.at_most(limit),
        pytest.raises(
            InputError,
            match=r"has 1 megapixels, more than the 0.000.* cut it into tiles, or .*pyramidal .* 1 GB .* the command has the option, give --max-megapixels 1\.",
        ),
        ThreadPoolExecutor(1) as thread,
    ):
        thread.submit(read_image, tmp_path / f"a{suffix}").result()
    with limits.at_most(200e-6), limits.at_most(600e-6):
        np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), whole)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), whole)


def test_pillows_own_limit_is_out_of_the_way() -> None:
    assert Image.MAX_IMAGE_PIXELS == limits.MAX_MEGAPIXELS * 1e6 > 20_000**2
    assert Config().max_megapixels == limits.MAX_MEGAPIXELS


@pytest.mark.parametrize("megapixels", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none(megapixels: float) -> None:
    with pytest.raises(InputError, match="--max-megapixels is"), limits.at_most(megapixels):
        pass
    with pytest.raises(InputError, match="--max-megapixels is"):
        Config(max_megapixels=megapixels)


def encoded() -> dict[str, bytes]:
    result: dict[str, bytes] = {"deep.png": bytes(imagecodecs.png_encode(DEEP_RGB))}
    for suffix in (*IMAGE_SUFFIXES, "palette.png"):
        buffer, palette = io.BytesIO(), suffix == "palette.png"
        image, options = (PALETTE, {"transparency": b"\x00\x80"}) if palette else (Image.fromarray(RGB), {})
        image.save(buffer, format="PNG" if palette else Image.registered_extensions()[suffix], **options)
        result[suffix] = buffer.getvalue()
    kinds: dict[str, dict[str, Any]] = {
        "zlib.tif": {"compression": "zlib"},
        "jpeg.tif": {"compression": "jpeg"},
        "ome.tif": {"ome": True},
        "ij.tif": {"imagej": True},
    }
    for name, kind in kinds.items():
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, RGB, photometric="rgb", **kind)
        result[name] = buffer.getvalue()
    return result


def read_or_refuse(read: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any] | None:
    """What is read, or None where a sentence that names the file was given; anything else raises."""
    try:
        return read(path)
    except InputError as error:
        if str(path) not in str(error) or "\n" in str(error):
            raise AssertionError(f"no sentence that names the file: {error}") from error
        return None


@pytest.mark.parametrize("name", encoded())
def test_damaged_files_never_raise_anything_else(name: str, tmp_path: Path) -> None:
    data, rng = encoded()[name], np.random.default_rng(1)
    path = tmp_path / f"x{name}"
    path.write_bytes(data)
    whole = read_image(path)
    for cut in np.linspace(1, len(data) - 20, 12).astype(int):
        path.write_bytes(data[:cut])
        result = read_or_refuse(read_image, path)
        assert result is None or (result == whole).all()  # only a description behind the pixels was cut
    for _ in range(60):
        broken = bytearray(data)
        for position in rng.integers(0, min(len(data), int(rng.choice([64, 400, 10**6]))), int(rng.integers(1, 4))):
            broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        for read in (read_image, read_mask):
            result = read_or_refuse(read, path)
            assert result is None or result.size > 0


def test_a_header_that_promises_too_much_is_refused_at_once(tmp_path: Path) -> None:
    """Half a gigabyte of pixels out of a file of two kilobytes."""
    data = bytearray(encoded()["zlib.tif"])
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        position = tif.pages.first.tags["ImageLength"].valueoffset
    data[position : position + 4] = (5_000_000).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_image(tmp_path / "a.tif")


def test_png_checksums_are_looked_at(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format="PNG", compress_level=0)
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 1  # one pixel, which decodes without complaint
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("axes", [None, "YXC"])
@pytest.mark.parametrize("channels", [2, 5, 7])
def test_channels_last_are_no_stack_of_slivers(tmp_path: Path, axes: str | None, channels: int) -> None:
    """Where tifffile did not say so it was taken for as many pages as there are rows."""
    pixels = np.random.default_rng(0).integers(0, 60000, (40, 60, channels)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **({"metadata": {"axes": axes}} if axes else {}))
    if channels == 2:
        image = read_image(tmp_path / "a.tif")
        assert image.shape == (40, 60, 3)
        assert np.corrcoef(image[..., 1].ravel(), pixels[..., 1].ravel())[0, 1] > 0.999
        return
    with pytest.raises(FileError, match=rf"a\.tif has {channels} channels; save those with nuclei, at most three"):
        read_image(tmp_path / "a.tif")


def test_a_stack_of_narrow_pages_is_a_stack(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 255, (6, 50, 20)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], stack[0])


def test_colours_that_were_multiplied_by_their_alpha_are_not_so_twice(tmp_path: Path) -> None:
    colour, alpha = np.array([217, 163, 130], float), 128
    straight = np.broadcast_to(np.append(colour, alpha), (8, 9, 4)).round().astype(np.uint8)
    multiplied = np.broadcast_to(np.append(colour * alpha / 255, alpha), (8, 9, 4)).round().astype(np.uint8)
    for name, pixels, kind in (("a", straight, "UNASSALPHA"), ("b", multiplied, "ASSOCALPHA")):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", extrasamples=[kind], metadata=None)
    over_white = colour * alpha / 255 + 255 - alpha
    for name in "ab":
        np.testing.assert_allclose(read_image(tmp_path / f"{name}.tif")[0, 0], over_white, atol=1)


def test_a_tiff_whose_colours_nobody_reads_is_not_said_to_be_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8, 5), 90, np.uint8), photometric="separated", extrasamples=["UNASSALPHA"], metadata=None)
    with pytest.raises(FileError, match=r"a\.tif keeps its colours in a way that cannot be read; save it as RGB"):
        read_image(tmp_path / "a.tif")
