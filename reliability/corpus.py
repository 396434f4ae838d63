"""Broken and odd files, each with the outcome that is promised: it is read rightly, or one sentence names it and the cure.

The files are made when they are asked for and none is stored. ``tests/test_bad_input.py`` holds every kind to its outcome, ``reliability.fuzz`` starts from them.
"""

import builtins
import io
import json
import math
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save, save_file

from celladapt.card import facts
from celladapt.config import Config, preset_options
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, read_mask, write_image
from celladapt.data.normalise import Normalisation
from celladapt.data.public._aperio import polygons
from celladapt.data.public._archive import unpack
from celladapt.data.public._pixels import array, mat
from celladapt.data.slide import open_slide
from celladapt.data.split import Split, load_splits, save_splits
from celladapt.evaluation import evaluate
from celladapt.files import write_json, write_text
from celladapt.loading import load_model
from celladapt.model import Model
from celladapt.networks import Segmenter
from celladapt.reporting import report
from celladapt.run import Run

Make = Callable[[Path, str], Path]
"""(an existing folder, a name without suffix) -> what was made there, a file or a folder."""
Check = Callable[[Any], bool]
"""What was read -> whether that is right."""

DAMAGED = "is damaged or cut short; copy or export it again"


@dataclass(frozen=True)
class Kind:
    """A kind of broken or odd file."""

    name: str
    reader: str
    """Key of ``READERS``."""
    make: Make
    outcome: str | Check | NDArray[Any]
    """Words of the one sentence, beside the name of the file; or a check of what is read, or the very array."""

    @property
    def stem(self) -> str:
        """Its name as a file's."""
        return "".join(c if c.isalnum() else "-" for c in self.name)

    @property
    def refused(self) -> bool:
        """Whether it cannot be read."""
        return isinstance(self.outcome, str)


def read_record(path: Path) -> tuple[Any, ...]:
    """All that resuming and reporting read of a finished run."""
    run = Run.open(path)
    found = run.config, run.splits, run.record, run.metrics, run.expected
    facts(path)
    return found


def read_run(path: Path) -> tuple[Any, ...]:
    """The same, and the page of the report."""
    return *read_record(path), report(path).read_text(encoding="utf-8")


def read_domain(path: Path) -> list[tuple[Any, Any]]:
    """All pairs of a domain folder."""
    folder = Folder.open(path)
    assert folder.group is None or isinstance(folder.group, str)
    assert len(folder.fingerprint()) == 64
    return [folder.pair(stem) for stem in folder.labelled]


def read_slide(path: Path) -> NDArray[Any]:
    """The upper left corner of each level, the last."""
    with open_slide(path) as slide:
        return [slide.region(k, 0, 0, min(64, level.height), min(64, level.width)) for k, level in enumerate(slide.levels)][-1]


def read_archive(path: Path) -> list[str]:
    """Unpack beside it; the names of the files."""
    folder = path.with_name(path.name + ".unpacked")
    try:
        unpack(path, folder)
        return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


READERS: dict[str, Callable[[Path], Any]] = {
    "image": read_image,
    "mask": read_mask,
    "slide": read_slide,
    "config": Config.from_toml,
    "preset": lambda path: preset_options(str(path)),
    "model": lambda path: load_model(path, "cpu"),
    "run": read_run,
    "split": load_splits,
    "domain": read_domain,
    "predictions": lambda path: evaluate(path / "predictions", path / "masks"),
    "archive": read_archive,
    "annotation": polygons,
    "matlab": mat,
    "array": array,
}
"""What reads files, and how; GeoJSON is only written."""


@contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """No permission to read a file, for root too, whom the system refuses nothing."""
    path.chmod(0)
    before = builtins.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and Path(file) == path:
            raise PermissionError(13, "Permission denied", str(path))
        return before(file, *arguments, **options)

    builtins.open = io.open = refuse
    try:
        yield
    finally:
        builtins.open = io.open = before
        path.chmod(0o600)


# --- pixels ---------------------------------------------------------------------------------------

_RNG = np.random.default_rng(0)
GREY = _RNG.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = _RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = _RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
ALPHA = _RNG.integers(0, 256, (20, 30), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(32) * 4, np.arange(40) * 3).astype(np.uint8)
LABELS = np.zeros((20, 30), np.int32)
LABELS[2:6, 2:6], LABELS[2:6, 6:9], LABELS[10:15, 10:20] = 1, 7, 200
MANY = np.repeat(np.arange(1, 70_001, dtype=np.uint32).reshape(280, 250), 2, axis=1)
NOISE = np.random.default_rng(0).integers(0, 200, (40, 40)).astype(np.uint8)
FADED = np.clip(300 - 20 * np.hypot(*(np.mgrid[:40, :40] - 19.7)), 0, 255).astype(np.uint8)
PALETTE = Image.fromarray(RGB).quantize(7)


def three(grey: NDArray[Any]) -> NDArray[Any]:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=2)


def stretched(pixels: NDArray[Any]) -> Check:
    """Deep values as ``read_image`` shows them, to the last of 16 bits."""
    low, high = np.percentile(pixels.astype(np.float64), (0.1, 99.9))
    wanted = np.rint(np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1) * 65535)
    wanted = three(wanted) if wanted.ndim == 2 else wanted
    return lambda found: found.dtype == np.uint16 and found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= 1)


def close(wanted: NDArray[Any]) -> Check:
    """8-bit values as a JPEG keeps them."""
    return lambda found: found.dtype == np.uint8 and found.shape == wanted.shape and bool(np.abs(found.astype(int) - wanted).max() <= 8)


def pillow(image: Any, form: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format=form, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """A TIFF file."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "rgb" if pixels.shape[2:] == (3,) else "minisblack", **options})
    return buffer.getvalue()


def raw_tiff(width: int, height: int, strip: bytes = b"", following: int = 0, **changed: int) -> bytes:
    """A little-endian TIFF of one strip, whose tags can say anything."""
    tags = {"width": (256, 4, width), "height": (257, 4, height), "bits": (258, 3, 8), "compression": (259, 3, 1), "photometric": (262, 3, 1)}
    tags |= {"offset": (273, 4, 8), "samples": (277, 3, 1), "rows": (278, 4, height), "count": (279, 4, len(strip))}
    entries = [(code, form, 1, changed.get(name, value)) for name, (code, form, value) in tags.items()]
    if "many" in changed:
        entries.append((305, 2, changed["many"], 8))
    start = 8 + len(strip) + len(strip) % 2
    listed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    following = start if following < 0 else following
    return (
        struct.pack("<2sHI", b"II", 42, start)
        + strip
        + b"\0" * (len(strip) % 2)
        + struct.pack("<H", len(entries))
        + listed
        + struct.pack("<I", following)
    )


def zeros(size: int) -> bytes:
    """``size`` zeros, deflated."""
    packer = zlib.compressobj(1)
    block = bytes(2**22)
    return b"".join([*(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


def png_header(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 8-bit grey whose header can say anything."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in ((b"IHDR", head), *chunks, (b"IEND", b"")))


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    content = pillow(SMOOTH, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def rotated() -> bytes:
    """A PNG that says it is to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return pillow(RGB, exif=exif)


def with_palette() -> bytes:
    """A PNG of labels, of which each has a colour and 0 is black."""
    image = Image.frombytes("P", (30, 20), LABELS.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, *_RNG.integers(0, 256, 255 * 3).tolist()])
    return pillow(image)


def round_and_round() -> bytes:
    """A TIFF whose second page, of another size, is followed by itself."""
    first = raw_tiff(30, 20, GREY.tobytes())
    second = struct.pack("<I", len(first))
    return first[:-4] + second + raw_tiff(30, 10)[8:-4] + second


def flipped(content: bytes, place: int) -> bytes:
    """One byte changed."""
    place %= len(content)
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


# --- ways to make a file --------------------------------------------------------------------------


def file(suffix: str, content: bytes | Callable[[], bytes]) -> Make:
    """A file of that content."""

    def make(folder: Path, stem: str) -> Path:
        path = folder / f"{stem}{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content())
        return path

    return make


def text(suffix: str, words: str) -> Make:
    """A text file in UTF-8."""
    return file(suffix, words.encode())


def named(name: bytes, content: bytes) -> Make:
    """A file under another name."""

    def make(folder: Path, stem: str) -> Path:
        path = folder / os.fsdecode(name)
        path.write_bytes(content)
        return path

    return make


def pipe(suffix: str) -> Make:
    """A pipe that nobody writes to."""

    def make(folder: Path, stem: str) -> Path:
        os.mkfifo(folder / f"{stem}{suffix}")
        return folder / f"{stem}{suffix}"

    return make


def directory(suffix: str) -> Make:
    """A folder with the name of a file."""

    def make(folder: Path, stem: str) -> Path:
        (folder / f"{stem}{suffix}").mkdir()
        return folder / f"{stem}{suffix}"

    return make


def link(suffix: str, to: str | None = None) -> Make:
    """A symbolic link; to itself, where nothing is said."""

    def make(folder: Path, stem: str) -> Path:
        path = folder / f"{stem}{suffix}"
        path.symlink_to(to or path.name)
        return path

    return make


def absent(name: str) -> Make:
    """Nothing."""
    return lambda folder, stem: folder / name


# --- models ---------------------------------------------------------------------------------------


def network_of(width: int = 2) -> Segmenter:
    """Random weights, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Segmenter(width).eval()


def model() -> Model:
    """A model that can predict."""
    return Model(network_of(), Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)), {"method": "none"}, "float32")


def weights(change: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None, **about: Any) -> Make:
    """A model file with other tensors or another header."""

    def make(folder: Path, stem: str) -> Path:
        tensors, path = {name: values.clone() for name, values in network_of().state_dict().items()}, folder / f"{stem}.safetensors"
        change(tensors)
        save_file(tensors, path, {"celladapt": json.dumps({**model().header, **about})})
        return path

    return make


def header(words: str | None) -> Make:
    """A model file whose header is that text."""
    return file(".safetensors", lambda: save(network_of().state_dict(), None if words is None else {"celladapt": words}))


# --- folders --------------------------------------------------------------------------------------


def run_folder(folder: Path, stem: str) -> Path:
    """A finished run, with every file that one has, but not trained."""
    path = folder / stem
    path.mkdir()
    write_text(path / "config.toml", Config(source=folder / "source", target=folder / "target", baseline=False).to_toml())
    save_splits(path / "split.json", Split(["a"], ["b"], []), Split(["c"], ["d"], ["e"]))
    scores = {"iou": 0.5, "dice": 0.6, "aji": 0.4, "pq": 0.4, "f1": 0.5}
    facts = {"seconds": 1.0, "selected": {"step": 2, "criterion": "infomax", "score": 0.5, "uses_target_labels": False}, "notes": []}
    record = {**facts, "expected": {"iou": 0.5, "low": 0.3, "high": 0.7}, "target_labelled": [], "fingerprint": {}, "fell_back": False}
    write_json(path / "run.json", {**record, "finished": "2026-01-01T00:00:00+00:00"})
    write_json(path / "metrics.json", {"mean": scores, "sd": scores, "images": {"e": scores}})
    for name in ("log", "validation"):
        write_text(path / f"{name}.jsonl", '{"step": 1, "infomax": 0.4}\n{"step": 2, "infomax": 0.5}\n')
    return path


def broken_run(name: str, content: bytes | None) -> Make:
    """A finished run of which one file is another; None makes it a pipe."""

    def make(folder: Path, stem: str) -> Path:
        path = run_folder(folder, stem)
        (path / name).unlink()
        os.mkfifo(path / name) if content is None else (path / name).write_bytes(content)
        return path

    return make


def changed_record(**facts: Any) -> Make:
    """A finished run whose run.json says other things."""

    def make(folder: Path, stem: str) -> Path:
        path = run_folder(folder, stem)
        write_json(path / "run.json", {**json.loads((path / "run.json").read_text()), **facts})
        return path

    return make


def both(train: list[Any], val: list[Any]) -> str:
    """A split file that says the same of source and target."""
    return json.dumps({name: {"train": train, "val": val, "test": []} for name in ("source", "target")})


def domain(change: Callable[[Path], object] = lambda root: None) -> Make:
    """A domain folder of one pair, then changed."""

    def make(folder: Path, stem: str) -> Path:
        root = folder / stem
        write_image(root / "images" / "a.png", RGB)
        write_image(root / "masks" / "a.png", LABELS)
        change(root)
        return root

    return make


def predictions(change: Callable[[Path], object]) -> Make:
    """A folder of predictions and one of masks, then changed."""

    def make(folder: Path, stem: str) -> Path:
        for name in ("predictions", "masks"):
            write_image(folder / stem / name / "a.png", LABELS)
        change(folder / stem)
        return folder / stem

    return make


def zip_of(*members: tuple[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def nameless() -> bytes:
    """A zip archive of a member without a name."""
    listed = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0x21, *[0] * 10)
    return listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(listed), 0, 0)


def tar_of(name: str = "a.txt", kind: bytes = tarfile.REGTYPE, mode: str = "w:gz") -> bytes:
    """A tar archive of one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo(name)
        member.type, member.size, member.linkname = kind, 5 if kind == tarfile.REGTYPE else 0, "../../outside"
        archive.addfile(member, io.BytesIO(b"words"))
    return buffer.getvalue()


def pyramid(pixels: NDArray[Any] = RGB, **options: Any) -> bytes:
    """A tiled TIFF of two levels."""
    buffer, large = io.BytesIO(), np.kron(pixels, np.ones((8, 8, 1), pixels.dtype))
    with tifffile.TiffWriter(buffer) as tif:
        tif.write(large, tile=(64, 64), photometric="rgb", subifds=1, metadata=None, **options)
        tif.write(large[::2, ::2], tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None, **options)
    return buffer.getvalue()


def zarr_folder(files: dict[str, str]) -> Make:
    """A folder of OME-Zarr by its files."""

    def make(folder: Path, stem: str) -> Path:
        root = folder / f"{stem}.ome.zarr"
        for name, words in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(words)
        return root

    return make


def pickled_zarr(dtype: str, compressor: object, filters: object) -> Make:
    """OME-Zarr whose only chunk is a pickle that makes the folder ``ran`` where it is loaded."""
    array = {
        "zarr_format": 2,
        "shape": [64, 64],
        "chunks": [64, 64],
        "dtype": dtype,
        "fill_value": 0,
        "order": "C",
        "compressor": compressor,
        "filters": filters,
    }
    scales = {"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]}
    return zarr_folder({".zgroup": _GROUP, ".zattrs": json.dumps(scales), "0/.zarray": json.dumps(array), "0/0.0": "cos\nmkdir\n(S'ran'\ntR."})


_PICKLE = {"id": "pickle", "protocol": 5}
_PICKLED = "holds pickles, which can run code and so are not opened here"
_GROUP = '{"zarr_format": 2}'
_OME = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20" SizeZ="30000" SizeC="1" SizeT="30000"><TiffData/></Pixels></Image></OME>'
_DEEP = "[" * 100_000
_LAUGHS = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><Annotations>&b;</Annotations>'
_TOO_MANY = "cut it into tiles"
_UNKNOWN = "is not a PNG, TIFF, JPEG or BMP image; convert it to PNG or TIFF"
_RESTORE = "restore it from a copy, or start a new run with another --out"
_COPY = "use another copy of it"

_IMAGES: list[tuple[str, Make, str | Check | NDArray[Any]]] = [
    ("truncated PNG", file(".png", lambda: pillow(RGB)[:-40]), DAMAGED),
    ("truncated JPEG", file(".jpg", lambda: pillow(RGB, "JPEG")[:-200]), DAMAGED),
    ("truncated TIFF", file(".tif", lambda: tiff(RGB)[:-100]), DAMAGED),
    ("truncated BMP", file(".bmp", lambda: pillow(RGB, "BMP")[:-100]), DAMAGED),
    ("a PNG signature and no more", file(".png", b"\x89PNG\r\n\x1a\n"), DAMAGED),
    ("a TIFF signature and no more", file(".tif", b"II*\0"), DAMAGED),
    ("a PNG with a wrong checksum", file(".png", lambda: flipped(pillow(RGB), -30)), DAMAGED),
    ("zero bytes", file(".png", b""), "is empty (0 bytes); copy or export it again"),
    ("text", text(".png", "not an image"), _UNKNOWN),
    ("a GIF called PNG", file(".png", lambda: pillow(GREY, "GIF")), _UNKNOWN),
    ("a WebP called PNG", file(".png", lambda: pillow(RGB, "WEBP")), _UNKNOWN),
    ("a PNG called TIFF", file(".tif", lambda: pillow(RGB)), RGB),
    ("a JPEG called PNG", file(".png", lambda: pillow(SMOOTH, "JPEG", quality=95)), close(three(SMOOTH))),
    ("a TIFF called JPEG", file(".jpg", lambda: tiff(RGB)), RGB),
    ("bytes after the end of a PNG", file(".png", lambda: pillow(RGB) + b"more"), RGB),
    ("bytes after the end of a JPEG", file(".jpg", lambda: pillow(SMOOTH, "JPEG", quality=95) + b"more"), close(three(SMOOTH))),
    ("1x1", file(".png", lambda: pillow(RGB[:1, :1])), RGB[:1, :1]),
    ("1x100000", file(".png", lambda: pillow(np.tile(GREY[:1], (1, 4000))[:, :100_000])), three(np.tile(GREY[:1], (1, 4000))[:, :100_000])),
    ("100000x1", file(".tif", lambda: tiff(np.tile(GREY[:, :1], (5000, 1)))), three(np.tile(GREY[:, :1], (5000, 1)))),
    ("16-bit PNG", file(".png", lambda: pillow(DEEP)), stretched(DEEP)),
    ("16-bit colour PNG", file(".png", lambda: bytes(imagecodecs.png_encode(np.dstack([DEEP] * 3)))), stretched(np.dstack([DEEP] * 3))),
    ("32-bit whole numbers", file(".tif", lambda: tiff(DEEP.astype(np.int32) - 2000)), stretched(DEEP)),
    ("64-bit whole numbers", file(".tif", lambda: tiff(DEEP.astype(np.uint64))), stretched(DEEP)),
    ("8-bit with sign", file(".tif", lambda: tiff((DEEP // 40).astype(np.int8))), stretched((DEEP // 40).astype(np.int8))),
    ("half precision", file(".tif", lambda: tiff((DEEP // 8).astype(np.float16))), stretched(DEEP // 8)),
    ("float with NaN", file(".tif", lambda: tiff(np.where(DEEP > 9, DEEP, np.nan).astype(np.float32))), "not finite (NaN or infinity); replace them"),
    ("float with infinity", file(".tif", lambda: tiff(np.where(DEEP > 9, DEEP, np.inf).astype(np.float32))), "not finite (NaN or infinity)"),
    ("float over the whole range", file(".tif", lambda: tiff(np.array([[-1.7e308, 1.7e308]]))), "too large to compute with; save it with a smaller"),
    ("complex values", file(".tif", lambda: tiff(np.ones((4, 4), np.complex64))), "holds complex64 values; save it as"),
    ("CMYK JPEG", file(".jpg", lambda: pillow(Image.fromarray(three(SMOOTH)).convert("CMYK"), "JPEG", quality=95)), close(three(SMOOTH))),
    ("CMYK TIFF", file(".tif", lambda: pillow(Image.fromarray(RGB).convert("CMYK"), "TIFF")), lambda a: bool((a == RGB).all())),
    ("palette PNG", file(".png", lambda: pillow(PALETTE)), np.asarray(PALETTE.convert("RGB"))),
    ("RGBA", file(".png", lambda: pillow(np.dstack([RGB, ALPHA]))), np.rint(RGB * (ALPHA / 255)[..., None] + 255 - ALPHA[..., None]).astype(np.uint8)),
    ("1-bit PNG", file(".png", lambda: pillow(GREY > 99)), three(np.uint8(255) * (GREY > 99))),
    ("animated PNG", file(".png", lambda: pillow(Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(255 - RGB)])), RGB),
    ("multi-page TIFF", file(".tif", lambda: tiff(np.stack([GREY] + [ALPHA] * 6))), three(GREY)),
    ("EXIF-rotated", file(".png", rotated), np.rot90(RGB, -1)),
    ("big-endian TIFF", file(".tif", lambda: tiff(DEEP, byteorder=">")), stretched(DEEP)),
    ("all pixels equal, 16 bits", file(".tif", lambda: tiff(np.full((20, 30), 700, np.uint16))), np.zeros((20, 30, 3), np.uint16)),
    ("five channels", file(".tif", lambda: tiff(np.zeros((20, 30, 5), np.uint8), planarconfig="contig")), "has 5 channels; save those with nuclei, at most three"),
    ("65535 channels", file(".tif", lambda: raw_tiff(30, 20, bytes(600), samples=65535)), "channels; save those with nuclei, at most three"),
    ("no bits a pixel", file(".tif", lambda: raw_tiff(30, 20, bytes(600), bits=0)), DAMAGED),
    ("a palette TIFF without its palette", file(".tif", lambda: raw_tiff(30, 20, bytes(600), photometric=3)), lambda a: a.shape == (20, 30, 3)),
    ("a TIFF without width", file(".tif", lambda: raw_tiff(0, 20, bytes(600))), DAMAGED),
    ("a TIFF whose pages go round", file(".tif", lambda: raw_tiff(30, 20, GREY.tobytes(), following=-1)), DAMAGED),
    ("a TIFF whose last page is followed by itself", file(".tif", round_and_round), DAMAGED),
    ("a TIFF tag of four billion letters", file(".tif", lambda: raw_tiff(30, 20, GREY.tobytes(), many=2**32 - 1)), three(GREY)),
    ("a TIFF that claims to be large", file(".tif", lambda: raw_tiff(2**31, 2**31, bytes(600))), _TOO_MANY),
    ("a TIFF strip of a bomb", file(".tif", lambda: raw_tiff(30, 20, zeros(2**28), compression=8)), DAMAGED),
    ("a billion OME planes", file(".ome.tif", lambda: tiff(GREY, description=_OME, metadata=None)), DAMAGED),
    ("a billion ImageJ planes", file(".tif", lambda: tiff(GREY, description="ImageJ=1.5\nimages=999999999\nslices=999999999\n", metadata=None)), three(GREY)),
    ("a PNG bomb", file(".png", lambda: png_header(60_000, 60_000, (b"IDAT", zeros(2**25)))), _TOO_MANY),
    ("a PNG text bomb", file(".png", lambda: png_header(30, 20, (b"zTXt", b"a\0\0" + zeros(2**27)), (b"IDAT", zeros(2**22)))), DAMAGED),
    ("a PNG profile bomb", file(".png", lambda: png_header(30, 20, (b"iCCP", b"a\0\0" + zeros(2**27)), (b"IDAT", zeros(0)))), DAMAGED),
    ("a JPEG that claims to be large", file(".jpg", lambda: jpeg_header(65_500, 65_500)), _TOO_MANY),
    ("a name that is not UTF-8", named(b"na\xffme.png", pillow(RGB)), RGB),
    ("a name of markup", named(b"[bold]&amp;<b>.png", pillow(RGB)), RGB),
    ("a name as long as can be", named(b"l" * 251 + b".png", pillow(RGB)), RGB),
    ("a link to itself", link(".png"), "cannot be opened (Too many levels of symbolic links); check its name"),
    ("a link to nothing", link(".png", "gone.png"), "does not exist; check the name"),
    ("a pipe", pipe(".png"), "is a pipe or device, not a file; name an image file"),
    ("a pipe called TIFF", pipe(".tif"), "is a pipe or device, not a file; name an image file"),
]  # fmt: skip

_NOT_LISTED: list[tuple[str, Make, str]] = [
    ("a folder called PNG", directory(".png"), "is a folder; name an image file"),
    ("a name too long for a file", absent("l" * 300 + ".png"), "cannot be opened (File name too long); check its name"),
    ("a path too long for the system", absent("/".join(["l" * 200] * 30) + ".png"), "cannot be opened (File name too long); check its name"),
]

_MASKS: list[tuple[str, Make, str | Check | NDArray[Any]]] = [
    ("a mask of colours", file(".png", lambda: pillow(np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]], np.uint8)[np.searchsorted([0, 1, 7], np.minimum(LABELS, 7))])), lambda a: sorted(np.unique(a)) == [0, 1, 2] and bool(((a == 0) == (LABELS == 0)).all())),
    ("a mask with 70,000 labels", file(".tif", lambda: tiff(MANY)), MANY.astype(np.int32)),
    ("a picture as mask", file(".png", lambda: pillow(NOISE)), "has values that change from pixel to pixel, as a picture has; save one number"),
    ("a mask with grey edges", file(".png", lambda: pillow(FADED)), "has grey edges between 0 and white, as after resizing or JPEG; threshold it"),
    ("a mask as JPEG", file(".jpg", lambda: pillow(SMOOTH, "JPEG")), "is a JPEG, whose compression blurs labels; export the mask as PNG or TIFF"),
    ("a probability map as mask", file(".tif", lambda: tiff(np.full((4, 4), 0.5, np.float32))), "has fractional values (a probability map?); threshold it"),
    ("a mask with NaN", file(".tif", lambda: tiff(np.full((4, 4), np.nan, np.float32))), "has values that are not finite (NaN or infinity); replace them"),
    ("a mask with negative labels", file(".tif", lambda: tiff(np.full((4, 4), -1, np.int16))), "has negative labels; use 0 for the background"),
    ("a mask with labels of 32 bits", file(".tif", lambda: tiff(np.full((4, 4), 2**31, np.uint32))), "has labels above 2147483647; renumber the labels"),
    ("a mask of floats", file(".tif", lambda: tiff(LABELS.astype(np.float64))), LABELS),
    ("a mask with a palette", file(".png", with_palette), LABELS),
    ("a mask as transparency", file(".png", lambda: pillow(np.dstack([np.full((20, 30, 3), 255, np.uint8), np.uint8(255) * (LABELS == 7)]))), lambda a: bool(((a > 0) == (LABELS == 7)).all())),
    ("a 1-bit mask", file(".png", lambda: pillow(LABELS > 0)), (LABELS > 0).astype(np.int32)),
    ("a mask in several deep channels", file(".tif", lambda: tiff(np.dstack([LABELS.astype(np.uint32) * 70_000, LABELS.astype(np.uint32)]), planarconfig="contig")), "has labels in several channels; save them in one"),
    ("a mask of several pages", file(".tif", lambda: tiff(np.stack([LABELS.astype(np.uint8)] + [ALPHA] * 6))), "has 7 planes or images; save one plane in which each nucleus has a number"),
    ("a truncated mask", file(".png", lambda: pillow(LABELS.astype(np.uint8))[:-20]), DAMAGED),
    ("an empty mask file", file(".png", b""), "is empty (0 bytes)"),
]  # fmt: skip

_OPTIONS: list[tuple[str, Make, str | Check]] = [
    ("a BOM", file(".toml", b"\xef\xbb\xbfsteps = 7\n"), lambda c: (c["steps"] if isinstance(c, dict) else c.steps) == 7),
    ("Windows line ends", file(".toml", b"steps = 7\r\nwidth = 8\r\n"), lambda c: (c["steps"] if isinstance(c, dict) else c.steps) == 7),
    ("no options", file(".toml", b""), lambda c: c in ({}, Config())),
    ("Latin-1", file(".toml", "method = 'ü'\n".encode("latin-1")), "is not a valid TOML file"),
    ("UTF-16", file(".toml", "steps = 7\n".encode("utf-16")), "is not a valid TOML file"),
    ("NUL bytes", file(".toml", b"steps = 7\0\n"), "is not a valid TOML file"),
    ("brackets without end", text(".toml", f"steps = {_DEEP}"), "is not a valid TOML file"),
    ("a number of 5000 digits", text(".toml", "steps = " + "9" * 5000), "is not a valid TOML file"),
    ("a cut line", text(".toml", "steps ="), "is not a valid TOML file"),
    ("a key twice", text(".toml", "steps = 1\nsteps = 2"), "is not a valid TOML file"),
    ("an unknown option", text(".toml", "stepps = 1"), "has an unknown option 'stepps'; did you mean steps"),
    ("a pipe as options", pipe(".toml"), "is not a file; give an existing TOML file"),
    ("a folder as options", directory(".toml"), "is not a file; give an existing TOML file"),
    ("a link to itself as options", link(".toml"), "cannot be read (Too many levels of symbolic links); give an existing TOML file"),
    ("options that are not there", absent("none.toml"), "cannot be read (No such file or directory); give an existing TOML file"),
]
_CONFIGS: list[tuple[str, Make, str | Check]] = [
    *_OPTIONS,
    ("a text for a number", text(".toml", "steps = 'many'"), "--steps is 'many'; it must be a whole number"),
    ("a list for a text", text(".toml", "method = [[1]]"), "--method is [[1]]; it must be a text"),
    ("not a number", text(".toml", "lr_s = nan"), "--lr-s is nan; it must be above 0 and finite"),
    ("infinity", text(".toml", "lr_s = inf"), "--lr-s is inf; it must be above 0 and finite"),
    ("a seed of 30 digits", text(".toml", "seed = " + "9" * 30), "--seed has too many digits; give a smaller number"),
    ("a date", text(".toml", "steps = 2026-01-01"), "--steps is datetime.date(2026, 1, 1); it must be a whole number"),
    ("a pattern that is none", text(".toml", "group = '('"), "--group '(' is not a regular expression"),
    ("a pattern that repeats too often", text(".toml", "group = 'a{99999999999999999999}'"), "is not a regular expression"),
]

_MODELS: list[tuple[str, Make, str | Check]] = [
    ("a model", weights(), lambda m: m.network.head.in_channels == 2),
    ("an empty model", file(".safetensors", b""), _COPY),
    ("a text as model", text(".safetensors", "hello, this is a text and not a model at all"), _COPY),
    ("a truncated model", file(".safetensors", lambda: save(network_of().state_dict(), {"celladapt": "{}"})[:-9]), _COPY),
    ("a header of 2**63 bytes", file(".safetensors", struct.pack("<Q", 2**63) + b"{}"), _COPY),
    ("a header of 90 MB that is not there", file(".safetensors", struct.pack("<Q", 90_000_000) + b"{}"), _COPY),
    ("a model of another program", header(None), _COPY),
    ("a header that is no JSON", header("{"), _COPY),
    ("a header that is a list", header("[1]"), _COPY),
    ("a header of brackets", header(_DEEP), _COPY),
    ("a header of 5000 digits", header('{"width": ' + "9" * 5000 + "}"), _COPY),
    ("a header without width", header('{"normalisation": {"mean": [0, 0, 0], "std": [1, 1, 1]}}'), "is not a model"),
    ("a width of a billion", weights(width=10**9), "is damaged (its weights are not those of a network of width 1000000000)"),
    ("an infinite width", weights(width=math.inf), "is not a model"),
    ("a negative width", weights(width=-2), "is not a model"),
    ("a width in words", weights(width="wide"), "is not a model"),
    ("a normalisation that is a list", weights(normalisation=[1]), "is not a model"),
    ("a normalisation of two channels", weights(normalisation={"mean": [0, 0], "std": [1, 1]}), "is not a model"),
    ("a normalisation that divides by 0", weights(normalisation={"mean": [0, 0, 0], "std": [1, 0, 1]}), "is not a model"),
    ("a normalisation with NaN", weights(normalisation={"mean": [0, math.nan, 0], "std": [1, 1, 1]}), "is not a model"),
    ("weights that are NaN", weights(lambda t: t["head.bias"].fill_(math.nan)), "weights that are not finite (NaN or infinity), so its training failed"),
    ("weights that are infinite", weights(lambda t: t["head.weight"].fill_(math.inf)), "weights that are not finite"),
    ("weights that are whole numbers", weights(lambda t: t.update({"head.weight": t["head.weight"].to(torch.int64)})), "its weights are not those of"),
    ("weights that are complex", weights(lambda t: t.update({"head.weight": t["head.weight"].to(torch.complex64)})), "its weights are not those of"),
    ("weights in half precision", weights(lambda t: t.update({"head.weight": t["head.weight"].half()})), lambda m: m.network.head.weight.dtype == torch.float32),
    ("a weight too few", weights(lambda t: t.pop("head.weight")), "its weights are not those of a network of width 2; use another copy"[:35]),
    ("a weight of another shape", weights(lambda t: t.update({"head.weight": torch.zeros(1, 3, 1, 1)})), "its weights are not those of"),
    ("facts of other types", weights(trained_on=3, pixel_size="x", config=[1]), lambda m: m.pixel_size is None),
    ("a pixel size without end", weights(pixel_size=math.inf), lambda m: m.pixel_size is None),
    ("a pipe as model", pipe(".safetensors"), "does not exist; give a run folder"),
    ("a folder without a model", directory(""), "does not exist; give a run folder"),
    ("a text as ONNX", text(".onnx", "no graph"), "is damaged or not a file of `celladapt export`"),
]  # fmt: skip

_RUNS: list[tuple[str, Make, str | Check]] = [
    ("a finished run", run_folder, lambda r: r[3]["iou"] == 0.5 and r[4].high == 0.7),
    *(
        (f"{name} {how}", broken_run(name, content), f"{name} is damaged")
        for name in ("run.json", "metrics.json", "split.json")
        for how, content in {"empty": b"", "cut": b'{"a": ', "that is a list": b"[1]", "of brackets": _DEEP.encode(), "in bytes": b"\xff\xfe\0"}.items()
    ),
    *((f"{name} that is a pipe", broken_run(name, None), f"{name} is not a file") for name in ("metrics.json", "split.json")),
    ("config.toml cut", broken_run("config.toml", b"steps ="), "config.toml is not a valid TOML file"),
    ("config.toml of a newer version", broken_run("config.toml", b"unheard_of = 1"), "config.toml has an unknown option 'unheard_of'"),
    ("split.json without a target", broken_run("split.json", b'{"source": {}}'), "split.json is not a split file; write a new one"),
    ("metrics.json without a mean", broken_run("metrics.json", b'{"sd": {}}'), "metrics.json is damaged (it has no mean scores)"),
    ("a mean that is a text", broken_run("metrics.json", b'{"mean": {"iou": "good"}}'), "metrics.json is damaged (it has no mean scores)"),
    ("a choice that is a text", changed_record(selected="step 2"), "run.json is damaged (its selected is 'step 2')"),
    ("an expectation without an interval", changed_record(expected={"iou": 1}), "run.json is damaged (its expected is {'iou': 1})"),
    ("seconds in words", changed_record(seconds="a few"), "run.json is damaged (its seconds is 'a few')"),
    ("notes that are numbers", changed_record(notes=[1, None, {}], terms=[1], parameters="x"), lambda r: "report" in r[5].lower() or bool(r[5])),
    ("a log in bytes", broken_run("log.jsonl", b"\xff\xfe\0\n\x80"), lambda r: "log.jsonl has 1 damaged line" in r[5]),
    ("a log with a whole number of 400 digits", broken_run("log.jsonl", b'{"step": 1, "a": ' + b"9" * 400 + b"}\n"), lambda r: bool(r[5])),
    ("a validation log that is a pipe", broken_run("validation.jsonl", None), lambda r: "validation.jsonl is not a file and was left out" in r[5]),
    ("no logs", broken_run("log.jsonl", b""), lambda r: bool(r[5])),
]  # fmt: skip

_OTHERS: list[tuple[str, str, Make, str | Check]] = [
    ("a split cut", "split", text(".json", '{"source": '), "is damaged; write a new one, with train, val and test lists"),
    ("a split that names one twice", "split", text(".json", both(["a"], ["a"])), "names a more than once"),
    ("a split of numbers", "split", text(".json", both([1], [])), "is not a split file"),
    ("a split that is not there", "split", absent("none.json"), "cannot be read (No such file or directory); write a new one"),
    ("a pair", "domain", domain(), lambda pairs: len(pairs) == 1),
    ("a mask of another size", "domain", domain(lambda root: write_image(root / "masks" / "a.png", LABELS[:9])), "is 30×9 pixels but its image is 30×20; export the mask"),
    ("a mask without image", "domain", domain(lambda root: write_image(root / "masks" / "b.png", LABELS)), "is a mask without an image of the same name; add the image"),
    ("two files of one name", "domain", domain(lambda root: write_image(root / "images" / "a.tif", RGB)), "has the same stem as a.png; keep one of the two"),
    ("images that are one file", "domain", text("", "images"), "is a file; name the folder that holds images/"),
    ("a folder of nothing", "domain", directory(""), "has no images/ folder; put the images into images/"),
    ("a dataset.toml of brackets", "domain", domain(lambda root: (root / "dataset.toml").write_text(f"group = {_DEEP}")), "dataset.toml cannot be read"),
    ("a dataset.toml with a BOM", "domain", domain(lambda root: (root / "dataset.toml").write_bytes(b"\xef\xbb\xbfgroup = 'a'")), lambda pairs: len(pairs) == 1),
    ("a pipe among the images", "domain", domain(lambda root: os.mkfifo(root / "images" / "b.png")), "is a pipe or device, not a file"),
    ("a link round the folders", "domain", domain(lambda root: (root / "images" / "all").symlink_to(root)), lambda pairs: len(pairs) == 1),
    ("a prediction that is missing", "predictions", predictions(lambda root: (root / "predictions" / "a.png").unlink()), "has no prediction for a; predict these images too"),
    ("a prediction of another size", "predictions", predictions(lambda root: write_image(root / "predictions" / "a.png", LABELS[:9])), "is 30×9 pixels but the mask"),
    ("a prediction of fractions", "predictions", predictions(lambda root: write_image(root / "predictions" / "a_mask.tif", np.full((20, 30), 0.5, np.float32))), "has fractional values (a probability map?)"),
    ("a note of predictions cut", "predictions", predictions(lambda root: (root / "predictions" / "predictions.json").write_text("{")), lambda e: e.mean["iou"] == 1),
    ("a note of predictions of numbers", "predictions", predictions(lambda root: (root / "predictions" / "predictions.json").write_text('{"seen_in_training": 3}')), lambda e: not e.seen_in_training),
    ("a zip", "archive", file(".zip", lambda: zip_of(("a.txt", b"words"))), lambda names: names == ["a.txt"]),
    ("a zip cut", "archive", file(".zip", lambda: zip_of(("a.txt", bytes(999)))[:-30]), "is damaged or cut short; download it again"),
    ("a zip with a wrong checksum", "archive", file(".zip", lambda: flipped(zip_of(("a.txt", b"words" * 99)), 60)), "is damaged or cut short; download it again"),
    ("a zip that leads out", "archive", file(".zip", lambda: zip_of(("../../outside.txt", b"words"))), "would write outside its folder"),
    ("a zip of a name of no letters", "archive", file(".zip", nameless), "is damaged or cut short; download it again"),
    ("a zip whose members lie before it", "archive", file(".zip", lambda: zip_of(("a.txt", b"words"))[1:]), "is damaged or cut short; download it again"),
    ("a tar", "archive", file(".tar.gz", tar_of), lambda names: names == ["a.txt"]),
    ("a tar cut", "archive", file(".tar.gz", lambda: tar_of()[:-20]), "is damaged or cut short; download it again"),
    ("a tar with a link out", "archive", file(".tar", lambda: tar_of(kind=tarfile.SYMTYPE)), "would write outside its folder"),
    ("a text as archive", "archive", text(".zip", "words"), "is damaged or cut short; download it again"),
    ("zero bytes as archive", "archive", file(".zip", b""), "is damaged or cut short; download it again"),
    ("outlines", "annotation", text(".xml", '<A><Region><Vertices><Vertex X="1" Y="2"/></Vertices></Region></A>'), lambda found: found == [[(1.0, 2.0)]]),
    ("outlines with entities", "annotation", text(".xml", _LAUGHS), "has a document type or entities"),
    ("outlines cut", "annotation", text(".xml", "<A><Region>"), "is damaged or no XML file; download it again"),
    ("outlines in words", "annotation", text(".xml", '<A><Region><Vertex X="one"/></Region></A>'), "has a vertex without X and Y; download it again"),
    ("a text as MATLAB file", "matlab", text(".mat", "words"), "cannot be read as a MATLAB file; download it again"),
    ("a text as array", "array", text(".npy", "words"), "is damaged or no NumPy array; download it again"),
    ("zero bytes as array", "array", file(".npy", b""), "is damaged or no NumPy array; download it again"),
    ("an array of a trillion numbers", "array", file(".npy", b"\x93NUMPY\x01\0v\0" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"), "is damaged or no NumPy array"),
    ("a pyramid", "slide", file(".tif", pyramid), lambda a: a.shape == (64, 64, 3)),
    ("a pyramid cut", "slide", file(".tif", lambda: pyramid()[:-400]), "copy or export it again"),
    ("a text as slide", "slide", text(".svs", "words"), "is not a slide that can be read"),
    ("zero bytes as slide", "slide", file(".ndpi", b""), "is empty (0 bytes); copy or export it again"),
    ("a pipe as slide", "slide", pipe(".svs"), "is a pipe or device, not a file"),
    ("a slide in CMYK", "slide", file(".tif", lambda: pillow(Image.fromarray(RGB).convert("CMYK"), "TIFF")), "keeps its colours as SEPARATED; save it as RGB or grey"),
    ("a Zarr folder of nothing", "slide", zarr_folder({".zgroup": _GROUP}), "is not an OME-Zarr image (it has no multiscales)"),
    ("a Zarr folder cut", "slide", zarr_folder({".zgroup": _GROUP, ".zattrs": "{"}), "is damaged, cut short or not a slide"),
    ("a Zarr folder without its level", "slide", zarr_folder({".zgroup": _GROUP, ".zattrs": '{"multiscales": [{"datasets": [{"path": "0"}]}]}'}), "lacks its level '0'"),
    ("a Zarr folder of pickled objects", "slide", pickled_zarr("|O", None, [_PICKLE]), _PICKLED),
    ("a Zarr folder compressed by pickle", "slide", pickled_zarr("|u1", _PICKLE, None), _PICKLED),
    ("a Zarr folder filtered by pickle", "slide", pickled_zarr("|u1", None, [{"id": "delta", "dtype": "|u1"}, _PICKLE]), _PICKLED),
    ("a Zarr folder that says nonsense", "slide", zarr_folder({".zgroup": _GROUP, ".zattrs": '{"multiscales": [3]}'}), "is damaged, cut short or not a slide"),
]  # fmt: skip

LISTED = [Kind(name, "image", make, outcome) for name, make, outcome in _IMAGES]
"""Images that a folder can hold beside each other."""
MASKS = [Kind(name, "mask", make, outcome) for name, make, outcome in _MASKS]
KINDS = [
    *LISTED,
    *(Kind(name, "image", make, words) for name, make, words in _NOT_LISTED),
    *MASKS,
    *(Kind(name, "config", make, outcome) for name, make, outcome in _CONFIGS),
    *(Kind(f"preset: {name}", "preset", make, outcome) for name, make, outcome in _OPTIONS),
    Kind("a preset upon a preset that is none", "preset", text(".toml", "preset = [1]"), "begins with preset = [1]; it must be one of"),
    *(Kind(name, "model", make, outcome) for name, make, outcome in _MODELS),
    *(Kind(name, "run", make, outcome) for name, make, outcome in _RUNS),
    *(Kind(name, reader, make, outcome) for name, reader, make, outcome in _OTHERS),
]
"""All of them."""
