"""Read and write image and mask files.

Formats are told by content, not by suffix: PNG, JPEG and BMP go through Pillow, TIFF through tifffile, PNG with 16-bit colour (which Pillow
cuts to 8 bits) through imagecodecs.
"""

import math
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from celladapt.data.limits import check_channels, check_size, too_large
from celladapt.data.mask_look import FEW_VALUES, SMALLEST, crumbles, fades, varies
from celladapt.data.tiff import ALPHA, ASSOCIATED, JPEG_CODES, TIFF_HEADS, first_plane, open_tiff, plane_count, resolution
from celladapt.errors import DAMAGED, FileError, InputError
from celladapt.files import atomic

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Raster:
    """A decoded file before it is read as an image or as a mask."""

    path: Path
    pixels: NDArray[Any]  # (H, W, C) values as stored, without alpha; C = 1 to 4
    bits: int  # per channel, as stored
    alpha: NDArray[np.float32] | None = None  # (H, W) in [0, 1], 1 = opaque
    palette: NDArray[np.uint8] | None = None  # (N, 3) colours, when `pixels` are indices
    white_is_zero: bool = False
    lossy: bool = False
    planes: int = 1  # that the file holds, of which this is the first; channels count as none
    turned: bool = False  # by the tag of a camera

    @property
    def channels(self) -> int:
        """Colour channels as a person sees them: 3 for a palette, alpha not counted."""
        return 3 if self.palette is not None else self.pixels.shape[2]


def read_image(path: Path) -> NDArray[Any]:
    """Read an image as (H, W, 3), uint8 or uint16.

    8-bit files stay uint8: grey is repeated in three channels, palette, CMYK and 1-bit are converted, transparent pixels are laid over white, EXIF rotation
    is applied. Deeper integers and floats are stretched linearly, jointly over the channels, from their [0.1, 99.9] percentiles to uint16 0..65535,
    because the range a camera uses is rarely the range of its file. Of a multi-page file or z-stack the first page is read; a leading channel axis of at
    most 4 (named ``C``, planar samples, or an unnamed axis as ``tifffile.imwrite`` leaves it) makes channels. Two channels get a third of zeros; of four
    without alpha the first three are taken.

    Raises:
        FileError: missing, empty, damaged or unknown file, more than 4 channels, non-finite values, more pixels than ``at_most`` allows.
    """
    return as_image(decode(path))


def read_mask(path: Path) -> NDArray[np.int32]:
    """Read a mask as (H, W) int32 labels, 0 = background.

    Binary masks and labels keep their values. Colour masks get one label for each distinct colour (in order of colour), black and fully transparent pixels
    are 0. A palette whose entry 0 is black holds labels; any other palette is read as colours.

    Raises:
        FileError: as `read_image`; also a JPEG, several planes, negative or fractional values, labels above 2**31 - 1, and what is no mask by its look: grey or mixed edges, a picture, colours without black.
    """
    return as_labels(decode(path))


def write_image(path: Path, array: NDArray[Any], pixel_size: float | None = None) -> None:
    """Write an array atomically, as PNG or zlib-compressed TIFF by the suffix; a TIFF says the ``pixel_size`` in µm, where it is known.

    PNG takes bool (as 0 and 255), uint8 (H, W), (H, W, 3) or (H, W, 4), uint16 (H, W), and integer labels (H, W) that fit into uint16.
    TIFF takes bool, uint8, uint16, float32 and non-negative int32 (as uint32).

    Raises:
        InputError: another suffix, or an array that the format cannot hold.
    """
    path, array = Path(path), np.asarray(array)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"{path} cannot be written as {suffix or 'a file without suffix'}; use a name that ends in .png or .tif.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    integral = np.issubdtype(array.dtype, np.integer)
    if integral and array.dtype not in (np.uint8, np.uint16) and (array.size == 0 or array.min() >= 0):
        array = array.astype(np.uint16 if suffix == ".png" and array.max(initial=0) < 2**16 else np.uint32)
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] in (3, 4)
    if suffix == ".png":
        fits = (array.dtype == np.uint8 and (grey or colour)) or (array.dtype == np.uint16 and grey)
    else:
        fits = array.dtype in (np.uint8, np.uint16, np.uint32, np.float32) and (grey or colour)
    if not fits or array.size == 0:
        raise InputError(
            f"{path} cannot hold an array of {array.dtype} with shape {array.shape}; convert it, or use .tif for deep colour and large labels."
        )
    with atomic(path) as temporary:
        if suffix == ".png":
            Image.fromarray(array).save(temporary, format="PNG")
        else:
            tifffile.imwrite(temporary, array, photometric="rgb" if colour else "minisblack", compression="zlib", **resolution(pixel_size))


def decode(path: Path) -> Raster:
    """Decode a file of any known format.

    Raises:
        FileError: see `read_image`.
    """
    path = Path(path)
    require_file(path)
    try:
        head = _head(path)
    except OSError as error:
        raise _unopened(path, error) from error
    if not head:
        raise FileError(path, "is empty (0 bytes)", "copy or export it again")
    with _in_one_sentence(path):
        return _checked(_decode_tiff(path) if head[:4] in TIFF_HEADS else _decode_pillow(path, head))


def deep(path: Path) -> bool:
    """Whether a file has more than 8 bits a channel by its header, so that ``read_image`` stretches it; False where that cannot be told."""
    with suppress(Exception):
        require_file(path)
        head = _head(path)
        if head[:4] not in TIFF_HEADS:
            return head.startswith(b"\x89PNG") and head[24] == 16
        with quiet(), open_tiff(path) as tif:
            return (tif.pages.first.dtype or np.dtype(np.uint8)).itemsize > 1
    return False


def _head(path: Path) -> bytes:
    """As many bytes as tell a file's kind, and how deep a PNG is."""
    with open(path, "rb") as handle:
        return handle.read(26)


def require_file(path: Path) -> None:
    """Raise FileError where ``path`` is missing, cannot be looked at, or is a folder, or a pipe or device, which would be read without end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileError(path, "does not exist", "check the name") from None
    except OSError as error:
        raise _unopened(path, error) from error
    if stat.S_ISDIR(mode):
        raise FileError(path, "is a folder", "name an image file")
    if not stat.S_ISREG(mode):
        raise FileError(path, "is a pipe or device, not a file", "name an image file")


def _unopened(path: Path, error: OSError) -> FileError:
    return FileError(path, f"cannot be opened ({error.strerror})", "check its name and permissions")


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    """Whatever goes wrong between a file's bytes and its pixels, as a FileError."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large(path, int(re.findall(r"\d+", str(error))[0])) from error
    except MemoryError as error:
        raise FileError(path, "needs more memory than this machine has", "cut it into tiles") from error
    except Exception as error:  # on damaged bytes the decoders raise dozens of types, from struct.error to SyntaxError
        raise FileError(path, *DAMAGED) from error


def as_image(raster: Raster) -> NDArray[Any]:
    """(H, W, 3) uint8 or uint16 from decoded pixels; see `read_image`."""
    with _in_one_sentence(raster.path):  # a header can contradict the pixels
        return _as_image(raster)


def _as_image(raster: Raster) -> NDArray[Any]:
    pixels = raster.pixels if raster.palette is None else raster.palette[raster.pixels[..., 0]]
    deep = pixels.dtype.kind == "f" or pixels.dtype.itemsize > 1 or pixels.dtype == np.int8
    _require_finite(raster.path, pixels)
    white = 1.0 if pixels.dtype.kind in "fb" else float(2**raster.bits - 1 if raster.palette is None else 255)
    if raster.white_is_zero:
        pixels = (white - pixels.astype(np.float64)).astype(np.float64 if deep else np.uint8)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    if not deep and white < 255:
        pixels, white = (pixels * np.uint8(255 / white)).astype(np.uint8), 255.0
    if raster.alpha is not None and raster.alpha.min() < 1:
        blended = over_white(pixels, raster.alpha, white)
        pixels = blended if deep else np.rint(blended).astype(np.uint8)
    if deep:
        pixels = _stretch(pixels, raster.path)
    return three_channels(pixels)


def over_white(colours: NDArray[Any], alpha: NDArray[np.float32], white: float) -> NDArray[Any]:
    """Colours [H, W, C] that are as opaque as ``alpha``, [H, W] in [0, 1], laid over ``white``, as floats."""
    opaque = alpha[..., None]
    return np.asarray(colours * opaque + white * (1 - opaque))


def without_alpha(pixels: NDArray[Any], full: float, multiplied: bool) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Colours [H, W, C] of their own type, and alpha [H, W] in [0, 1], of pixels whose last channel it is.

    Args:
        pixels: [H, W, C + 1].
        full: what is opaque.
        multiplied: whether the colours have been multiplied by alpha, as in some TIFFs; that is undone.
    """
    alpha, colours = np.clip(pixels[..., -1] / full, 0, 1).astype(np.float32), pixels[..., :-1]
    if not multiplied or alpha.min(initial=1) == 1:
        return colours, alpha
    divided = colours / np.where(alpha > 0, alpha, 1)[..., None]
    if colours.dtype.kind != "f":
        divided = np.rint(divided).clip(0, np.iinfo(colours.dtype).max)
    return divided.astype(colours.dtype), alpha


def three_channels(pixels: NDArray[Any]) -> NDArray[Any]:
    """[H, W, C] -> [H, W, 3]: grey is repeated, of two channels the third is empty, of more the first three are taken."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def image_of(array: NDArray[Any], name: str) -> NDArray[Any]:
    """(H, W), (H, W, C), or (H, W, 4) with alpha last -> (H, W, 3) uint8 or uint16, as `read_image` reads a file that holds it.

    Raises:
        FileError: no pixels, more than 4 channels, other values than booleans, integers and finite floats; ``name`` is named.
    """
    pixels, alpha = array[..., None] if array.ndim == 2 else array, None
    if pixels.shape[2] == 4 and pixels.dtype.kind in "buif":
        full = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "ui" else 1.0
        alpha, pixels = np.clip(pixels[..., 3] / full, 0, 1).astype(np.float32), pixels[..., :3]
    return as_image(_checked(Raster(Path(name), pixels, 8 * pixels.dtype.itemsize, alpha)))


def _require_finite(path: Path, values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FileError(path, "has values that are not finite (NaN or infinity)", "replace them and save it again")


def as_labels(raster: Raster) -> NDArray[np.int32]:
    """(H, W) int32 from decoded pixels; see `read_mask`."""
    with _in_one_sentence(raster.path):
        return _as_labels(raster)


def _as_labels(raster: Raster) -> NDArray[np.int32]:
    if raster.lossy:
        raise FileError(raster.path, "is a JPEG, whose compression blurs labels", "export the mask as PNG or TIFF")
    if raster.planes > 1:
        raise FileError(raster.path, f"has {raster.planes} planes or images", "save one plane in which each nucleus has a number")
    values = raster.pixels
    if raster.palette is not None and raster.palette[0].any():
        values = raster.palette[values[..., 0]]
    _require_finite(raster.path, values)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        raise FileError(raster.path, "has fractional values (a probability map?)", "threshold it and save 0 and 255 as PNG")
    if values.dtype.kind in "if" and values.min() < 0:
        raise FileError(raster.path, "has negative labels", "use 0 for the background and positive labels for nuclei")
    if values.max() > np.iinfo(np.int32).max:
        raise FileError(raster.path, "has labels above 2147483647", "renumber the labels")
    coloured = not (values == values[..., :1]).all()
    if not coloured:
        labels = values[..., 0].astype(np.int32)
    elif values.max() < 2**16:
        labels = _label_colours(values)
    else:
        raise FileError(raster.path, "has labels in several channels", "save them in one")
    if raster.alpha is not None:
        labels[raster.alpha == 0] = 0
    if coloured and labels.all() and (labels.max() > FEW_VALUES or (values == values.max()).all(axis=2).any()):
        raise FileError(raster.path, "has colours and no black, so is no mask or has another background", "make what is no nucleus black (0)")
    if labels.size < SMALLEST:
        return labels
    if raster.palette is None and not coloured and fades(labels, raster.bits):
        raise FileError(
            raster.path, "has grey edges between 0 and white, as after resizing or JPEG", "threshold it in the middle and save 0 and 255 as PNG"
        )
    if varies(labels):
        raise FileError(
            raster.path, "has values that change from pixel to pixel, as a picture has", "save one number or colour a nucleus, 0 as background"
        )
    if coloured and crumbles(labels):
        raise FileError(raster.path, "has colours that mix at the edges of nuclei, as after resizing", "save it in its own size, without smoothing")
    return labels


def _checked(raster: Raster) -> Raster:
    if raster.pixels.size == 0:
        raise FileError(raster.path, "has no pixels", "export it again")
    check_channels(raster.path, raster.channels)
    if raster.pixels.dtype.kind not in "buif":
        raise FileError(raster.path, f"holds {raster.pixels.dtype} values", "save it as integers or real numbers")
    return raster


def _label_colours(values: NDArray[Any]) -> NDArray[np.int32]:
    """One label for each distinct colour of (H, W, C), black = 0."""
    packed = np.zeros(values.shape[:2], np.uint64)
    for channel in np.moveaxis(values, 2, 0):
        packed = (packed << np.uint64(16)) | channel.astype(np.uint64)
    colours, labels = np.unique(packed, return_inverse=True)
    first = 0 if colours[0] == 0 else 1
    return np.asarray(labels.reshape(packed.shape) + first, np.int32)


def _stretch(pixels: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    wide: NDArray[Any] = pixels.astype(np.float32 if pixels.dtype.itemsize <= 2 else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.percentile(wide, (0.1, 99.9)).tolist()
    if high <= low:  # fewer than 0.1 % of the pixels differ from the rest
        low, high = float(wide.min()), float(wide.max())
    if not math.isfinite(high - low):
        raise FileError(path, "has values too large to compute with", "save it with a smaller range")
    if high == low:
        return np.zeros(pixels.shape, np.uint16)
    return np.asarray(np.rint(np.clip((wide - low) / (high - low), 0, 1) * 65535), np.uint16)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the readers' warnings: what a user can mend becomes an FileError, the rest is noise."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", module=r"(PIL|tifffile|imagecodecs)\b")
        yield


def _decode_pillow(path: Path, head: bytes, formats: tuple[str, ...] = ("PNG", "JPEG", "BMP")) -> Raster:
    try:
        image: Image.Image = Image.open(path, formats=formats)
    except UnidentifiedImageError:
        if head.startswith((b"\x89PNG", b"\xff\xd8", b"BM")):
            raise
        if formats == ("TIFF",):
            raise FileError(path, "keeps its colours in a way that cannot be read", "save it as RGB") from None
        raise FileError(path, "is not a PNG, TIFF, JPEG or BMP image", "convert it to PNG or TIFF") from None
    with image:
        check_size(path, math.prod(image.size))
        lossy = image.format in ("JPEG", "MPO")
        if image.format == "PNG":
            with Image.open(path, formats=("PNG",)) as twin:
                twin.verify()  # checksums, which loading does not look at
            if head[24] == 16 and head[25] in (2, 4, 6):
                return _decode_deep_png(path)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        return replace(_raster_of(path, ImageOps.exif_transpose(image), lossy), turned=turned)


def _raster_of(path: Path, image: Image.Image, lossy: bool) -> Raster:
    alpha = None
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"), np.float32) / np.float32(255)
    if image.mode == "P":
        colours = np.zeros((256, 3), np.uint8)
        stored = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        colours[: len(stored)] = stored
        return Raster(path, np.asarray(image)[..., None], 8, alpha, palette=colours)
    if image.mode in ("1", "L", "LA"):
        grey = np.asarray(image if image.mode != "LA" else image.getchannel("L"))
        return Raster(path, grey[..., None], 1 if image.mode == "1" else 8, alpha, lossy=lossy)
    if image.mode.startswith("I"):
        return Raster(path, np.asarray(image)[..., None], 16 if "16" in image.mode else 32)
    return Raster(path, np.asarray(image.convert("RGB")), 8, alpha, lossy=lossy)


def _decode_deep_png(path: Path) -> Raster:
    import imagecodecs

    pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    if pixels.shape[2] in (2, 4):
        return Raster(path, pixels[..., :-1], 16, pixels[..., -1].astype(np.float32) / np.float32(65535))
    return Raster(path, pixels, 16)


def _decode_tiff(path: Path) -> Raster:
    with open_tiff(path) as tif:
        page = tif.pages.first
        lossy = page.compression in JPEG_CODES
        # A JPEG's decoder makes RGB of the last two, and of inks it does not.
        colour_space = tifffile.PHOTOMETRIC.SEPARATED, *(() if lossy else (tifffile.PHOTOMETRIC.YCBCR, tifffile.PHOTOMETRIC.CIELAB))
        if page.photometric in colour_space:
            return replace(_decode_pillow(path, b"", ("TIFF",)), lossy=lossy, planes=plane_count(tif))
        pixels = first_plane(path, tif, page)
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            palette = (page.colormap.T // (257 if page.colormap.max() > 255 else 1)).astype(np.uint8)
        alpha = None
        if page.samplesperpixel == pixels.shape[2] and page.extrasamples and page.extrasamples[-1] in ALPHA:
            full = 1.0 if pixels.dtype.kind == "f" else float(2**page.bitspersample - 1)
            pixels, alpha = without_alpha(pixels, full, page.extrasamples[-1] == ASSOCIATED)
        white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        return Raster(path, pixels, page.bitspersample, alpha, palette, white_is_zero, lossy, plane_count(tif))
