"""Public data sets: tiny copies in each published layout, converted and fetched from a local server, pixel by pixel."""

import hashlib
import io
import re
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from celladapt.cli import main
from celladapt.data import public
from celladapt.data.check import check
from celladapt.data.folder import Folder
from celladapt.data.public import _archive
from celladapt.data.public._download import Resuming
from celladapt.data.split import grouped
from celladapt.errors import InputError

Array = NDArray[Any]
Expected = dict[tuple[str, str], tuple[Array, Array | None]]
"""(domain, stem) -> image and labels."""

SHAPE = (12, 16)


def colour(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), np.uint8)


def two_nuclei(first: int = 1, second: int = 2) -> Array:
    labels = np.zeros(SHAPE, np.int32)
    labels[2:5, 3:7], labels[7:11, 9:14] = first, second
    return labels


def put(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".mat":
        savemat(path, {"inst_map": array, "type_map": np.zeros_like(array)})
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)


def opaque(image: Array) -> Array:
    return np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)


# Each writes a copy below `root`, in one folder for each file that the set is published as, and says what has to come out.


def tnbc(root: Path) -> Expected:
    expected: Expected = {}
    base = root / "0" / "TNBC_NucleiSegmentation"
    for seed, (slide, name) in enumerate([("01", "01_1"), ("01", "01_2"), ("02", "02_1")]):
        put(base / f"Slide_{slide}" / f"{name}.png", opaque(colour(seed)))
        put(base / f"GT_{slide}" / f"{name}.png", (two_nuclei() > 0).astype(np.uint8) * np.uint8(255))
        expected["", name] = colour(seed), (two_nuclei() > 0).astype(np.int32)
    put(base / "Slide_12" / "12_1.png", opaque(colour(9)))  # brain, in a later record
    put(base / "GT_12" / "12_1.png", np.zeros(SHAPE, np.uint8))
    (root / "0" / "__MACOSX" / "Slide_01").mkdir(parents=True)
    (root / "0" / "__MACOSX" / "Slide_01" / "._01_1.png").write_bytes(b"junk")
    return expected


def kirc(root: Path) -> Expected:
    put(root / "0" / "kirc" / "images" / "a.png", colour(0))
    put(root / "0" / "kirc" / "masks" / "a.png", (two_nuclei() > 0).astype(np.uint8) * np.uint8(255))
    put(root / "0" / "more" / "b.tif", colour(1))
    put(root / "0" / "more" / "b_mask.png", two_nuclei().astype(np.uint8))
    return {("", "a"): (colour(0), (two_nuclei() > 0).astype(np.int32)), ("", "b"): (colour(1), two_nuclei())}


XML = """<?xml version="1.0"?><Annotations MicronsPerPixel="0.25"><Annotation Id="1"><Regions><RegionAttributeHeaders/>{}</Regions></Annotation></Annotations>"""


def region(top: int, bottom: int, left: int, right: int) -> str:
    """The outline half a pixel around rows top to bottom - 1 and columns left to right - 1."""
    corners = [(left - 0.5, top - 0.5), (right - 0.5, top - 0.5), (right - 0.5, bottom - 0.5), (left - 0.5, bottom - 0.5)]
    return "<Region><Vertices>" + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners) + "</Vertices></Region>"


def outlined(image: Path, annotation: Path, seed: int) -> tuple[Array, Array]:
    put(image, colour(seed))
    annotation.parent.mkdir(parents=True, exist_ok=True)
    line = '<Region><Vertices><Vertex X="1" Y="1"/></Vertices></Region>'  # one click of the annotator, no area
    annotation.write_text(XML.format(region(2, 5, 3, 7) + line + region(4, 9, 5, 12) + region(8, 20, 14, 30)))
    labels = np.zeros(SHAPE, np.int32)
    labels[4:9, 5:12], labels[8:, 14:] = 2, 3  # the last one leads out of the image
    labels[2:5, 3:7] = 1  # the earlier outline keeps the pixels
    return colour(seed), labels


def monuseg(root: Path) -> Expected:
    train, test = root / "0" / "MoNuSeg 2018 Training Data", root / "1" / "MoNuSegTestData"
    kidney, later, tested = "TCGA-B0-5711-01Z-00-DX1", "TCGA-UZ-A9PN-01Z-00-DX1", "TCGA-2Z-A9J9-01A-01-TS1"
    return {
        ("kidney", kidney): outlined(train / "Tissue Images" / f"{kidney}.tif", train / "Annotations" / f"{kidney}.xml", 0),
        ("other", later): outlined(train / "Tissue Images" / f"{later}.tif", train / "Annotations" / f"{later}.xml", 1),
        ("test", tested): outlined(test / f"{tested}.tif", test / f"{tested}.xml", 2),
    }


def kumar(root: Path) -> Expected:
    base = root / "0" / "MoNuSeg 2018 Training Data"
    colon, breast, later = "TCGA-AY-A8YK-01A-01-TS1", "TCGA-A7-A13E-01Z-00-DX1", "TCGA-UZ-A9PN-01Z-00-DX1"
    expected: Expected = {
        ("colon", colon): outlined(base / "Tissue Images" / f"{colon}.tiff", base / "Annotations" / f"{colon}.xml", 0),
        ("breast", breast): outlined(base / "Tissue Images" / f"{breast}.tif", base / "Annotations" / f"{breast}.xml", 1),
    }
    outlined(base / "Tissue Images" / f"{later}.tif", base / "Annotations" / f"{later}.xml", 2)  # not one of Kumar's
    return expected


def cryonuseg(root: Path) -> Expected:
    expected: Expected = {}
    again = "Annotator 1 (biologist second round of manual marks up)"
    for seed, name in enumerate(["Human_AdrenalGland_01", "Human_Larynx_02"]):
        put(root / "0" / "tissue images" / f"{name}.tif", colour(seed))
        put(root / "0" / "Annotator 1 (biologist)" / "label masks modify" / f"{name}.tif", two_nuclei(1, 300).astype(np.uint16))
        put(root / "0" / again / again / "label masks modify" / f"{name}.tif", np.zeros(SHAPE, np.uint16))
        put(root / "0" / "Annotator 1 (biologist)" / "mask binary" / f"{name}.png", np.zeros(SHAPE, np.uint8))
        expected["", name] = colour(seed), two_nuclei(1, 300)
    return expected


def nuinsseg(root: Path) -> Expected:
    expected: Expected = {}
    for seed, (organ, name) in enumerate([("human bladder", "human_bladder_01"), ("mouse fat (white and brown)_subscapula", "mouse_fat_1")]):
        put(root / "0" / organ / "tissue images" / f"{name}.png", colour(seed))
        put(root / "0" / organ / "label masks modify" / f"{name}.tif", two_nuclei(2, 7).astype(np.uint16))
        put(root / "0" / organ / "label masks" / f"{name}.tif", np.zeros(SHAPE, np.uint16))
        (root / "0" / organ / "Imagj_zips").mkdir()
        (root / "0" / organ / "Imagj_zips" / f"{name}.zip").write_bytes(b"not looked at")
        expected[re.sub("[^a-z]+", "-", organ), name] = colour(seed), two_nuclei(2, 7)
    return expected


def dsb2018(root: Path) -> Expected:
    base = root / "0"
    put(base / "abc" / "images" / "abc.png", opaque(colour(0)))
    first, second = two_nuclei(1, 0) > 0, two_nuclei(0, 1) > 0
    second[4, 3:7] = True  # overlaps the first
    for name, mask in (("m1", first), ("m2", second), ("m3", np.zeros(SHAPE, bool))):
        put(base / "abc" / "masks" / f"{name}.png", mask.astype(np.uint8) * np.uint8(255))
    put(base / "def" / "images" / "def.png", opaque(colour(1)))  # of the test stage: no masks
    return {("", "abc"): (colour(0), two_nuclei()), ("", "def"): (colour(1), None)}


def bbbc039(root: Path) -> Expected:
    name = "IXMtest_A02_s1_w1051DAA7C-7042-435F-99F0-1E847D9B42CB"
    deep = np.random.default_rng(3).integers(100, 4000, SHAPE, np.uint16)
    coded, labels = np.zeros((*SHAPE, 4), np.uint8), np.zeros(SHAPE, np.int32)
    coded[..., 3] = 255
    for number, value, rows, columns in ((1, 1, slice(0, 3), slice(0, 4)), (2, 2, slice(0, 3), slice(4, 8)), (3, 1, slice(6, 9), slice(0, 4))):
        coded[rows, columns, 0], labels[rows, columns] = value, number  # 1 and 2 touch; 3 has the colour of 1 again
    coded[9, 4, 0], labels[9, 4] = 1, 3  # touches 3 at a corner
    put(root / "0" / "images" / f"{name}.tif", deep)
    put(root / "1" / "masks" / f"{name}.png", coded)
    return {("", name): (deep, labels)}


def pannuke(root: Path) -> Expected:
    expected: Expected = {}
    for fold in (1, 2, 3):
        base = root / str(fold - 1) / f"Fold {fold}"
        images, masks = np.stack([colour(fold), colour(fold + 10)]).astype(np.float64), np.zeros((2, *SHAPE, 6))
        masks[0, 2:5, 3:7, 0], masks[0, 2:5, 7:9, 0] = 4, 9
        masks[0, 4:8, 3:7, 4] = 4  # another kind: its own number, and the overlap is not its own
        masks[1, 0:2, 0:5, 3] = 1
        masks[..., 5] = 1
        put(base / "images" / f"fold{fold}" / "images.npy", images)
        put(base / "images" / f"fold{fold}" / "types.npy", np.array(["Breast", "Bile-duct"]))
        put(base / "masks" / f"fold{fold}" / "masks.npy", masks)
        labels, other = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.int32)
        labels[4:8, 3:7] = 3
        labels[2:5, 3:7], labels[2:5, 7:9], other[0:2, 0:5] = 1, 2, 1
        expected["breast", f"fold{fold}_00000"] = colour(fold), labels
        expected["bile-duct", f"fold{fold}_00001"] = colour(fold + 10), other
    return expected


def hovernet(base: Path, stem: str, seed: int, suffix: str = ".mat") -> tuple[Array, Array]:
    put(base / "Images" / f"{stem}.png", colour(seed))
    put(base / "Labels" / f"{stem}{suffix}", two_nuclei().astype(np.float64))
    put(base / "Overlay" / f"{stem}.png", colour(99))
    return colour(seed), two_nuclei()


def consep(root: Path) -> Expected:
    base = root / "0" / "CoNSeP"
    return {("", "train_1"): hovernet(base / "Train", "train_1", 0), ("", "test_1"): hovernet(base / "Test", "test_1", 1)}


def cpm15(root: Path) -> Expected:
    return {("", "image_00"): hovernet(root / "0" / "cpm15", "image_00", 0), ("", "image_01"): hovernet(root / "0" / "cpm15", "image_01", 1, ".npy")}


def cpm17(root: Path) -> Expected:
    base = root / "0" / "cpm17"
    return {("", "train_image_00"): hovernet(base / "train", "image_00", 0), ("", "test_image_00"): hovernet(base / "test", "image_00", 1)}


def lizard(root: Path) -> Expected:
    expected: Expected = {}
    for seed, (folder, name) in enumerate([("1", "consep_1"), ("1", "crag_2"), ("2", "dpath_1"), ("2", "glas_1"), ("2", "pannuke_10")]):
        put(root / "0" / f"Lizard_Images{folder}" / f"{name}.png", colour(seed))
        put(root / "0" / "Overlay" / f"{name}.png", colour(99))
        put(root / "0" / "Lizard_Labels" / "Labels" / f"{name}.mat", two_nuclei())
        expected[name.split("_")[0], name] = colour(seed), two_nuclei()
    return expected


COPIES: dict[str, Callable[[Path], Expected]] = {
    "tnbc": tnbc, "kirc": kirc, "monuseg": monuseg, "kumar": kumar, "cryonuseg": cryonuseg, "nuinsseg": nuinsseg, "dsb2018": dsb2018,
    "bbbc039": bbbc039, "pannuke": pannuke, "consep": consep, "cpm15": cpm15, "cpm17": cpm17, "lizard": lizard,
}  # fmt: skip
TOGETHER = {
    "tnbc": {"01_1": "01", "01_2": "01", "02_1": "02"},
    "monuseg": {"TCGA-B0-5711-01Z-00-DX1": "TCGA-B0-5711"},
    "kumar": {"TCGA-AY-A8YK-01A-01-TS1": "TCGA-AY-A8YK"},
    "bbbc039": {"IXMtest_A02_s1_w1051DAA7C-7042-435F-99F0-1E847D9B42CB": "A02"},
}


def zipped(folder: Path) -> bytes:
    """A zip of what is in ``folder``, the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return buffer.getvalue()


def assert_equal(dst: Path, expected: Expected) -> None:
    made = {(path.parent.parent.relative_to(dst).as_posix().removeprefix("."), path.stem): path for path in dst.rglob("images/*")}
    assert made.keys() == expected.keys()
    for (domain, stem), (image, labels) in expected.items():
        with Image.open(made[domain, stem]) as picture:
            assert picture.format == "PNG"
            written = np.asarray(picture)
        assert written.dtype == image.dtype
        np.testing.assert_array_equal(written, image)
        mask = dst / domain / "masks" / f"{stem}.png"
        assert mask.exists() == (labels is not None)
        if labels is not None:
            with Image.open(mask) as picture:
                assert picture.mode.startswith("I;16")
                np.testing.assert_array_equal(np.asarray(picture), labels)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name)


@pytest.mark.parametrize("name", COPIES)
def test_a_folder_converts(name: str, tmp_path: Path) -> None:
    expected = COPIES[name](tmp_path / "src")
    domains = public.convert(name, tmp_path / "src", tmp_path / "dst")
    assert_equal(tmp_path / "dst", expected)
    assert set(domains) == {tmp_path / "dst" / domain for domain, _ in expected}
    assert check(domains).ok
    for domain in domains:
        facts = tomllib.loads((domain / "dataset.toml").read_text(encoding="utf-8"))
        chosen = public.find(name)
        assert (facts["name"], facts["citation"], facts["licence"], facts.get("group")) == (name, chosen.citation, chosen.licence, chosen.group)
    assert not left_over(tmp_path)


@pytest.mark.parametrize("name", COPIES)
def test_archives_convert(name: str, tmp_path: Path) -> None:
    expected = COPIES[name](tmp_path / "copy")
    archives = tmp_path / "archives"
    archives.mkdir()
    for index, folder in enumerate(sorted((tmp_path / "copy").iterdir())):
        (archives / f"archive_{index}.zip").write_bytes(zipped(folder))
    one = len(list(archives.iterdir())) == 1
    public.convert(name, archives / "archive_0.zip" if one else archives, tmp_path / "dst")
    assert_equal(tmp_path / "dst", expected)
    assert not left_over(tmp_path)


def test_a_tar_converts(tmp_path: Path) -> None:
    expected = tnbc(tmp_path / "copy")
    with tarfile.open(tmp_path / "copy.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "copy", "copy")
    public.convert("tnbc", tmp_path / "copy.tar.gz", tmp_path / "dst")
    assert_equal(tmp_path / "dst", expected)


def test_unpacked_files_come_before_the_archive_they_are_from(tmp_path: Path) -> None:
    expected = tnbc(tmp_path / "src")
    (tmp_path / "src" / "TNBC.zip").write_bytes(zipped(tmp_path / "src"))
    public.convert("tnbc", tmp_path / "src", tmp_path / "dst")
    assert_equal(tmp_path / "dst", expected)


def test_test_images_unpacked_by_hand_are_the_test_domain(tmp_path: Path) -> None:
    monuseg(tmp_path)
    assert public.convert("monuseg", tmp_path / "1" / "MoNuSegTestData", tmp_path / "dst") == [tmp_path / "dst" / "test"]


@pytest.mark.parametrize("name", public.names())
def test_every_set_says_what_it_is(name: str) -> None:
    chosen = public.find(name)
    assert name in COPIES, "write a tiny copy of the new data set above"
    assert all((chosen.what, chosen.citation, chosen.licence, chosen.size, chosen.layout))
    assert chosen.homepage.startswith("https://")
    assert bool(chosen.files) != bool(chosen.ask)
    assert len({remote.name for remote in chosen.files}) == len(chosen.files)
    for remote in chosen.files:
        assert remote.url.startswith("https://")
        assert remote.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", remote.checksum)
    assert (chosen.group is None) == (name not in TOGETHER)
    assert re.search(r"\d{4}", chosen.citation)
    assert name in (import_module(f"celladapt.data.public.{name}").__doc__ or "").lower().replace("-", "").replace(" ", "")


@pytest.mark.parametrize("name", TOGETHER)
def test_the_pattern_keeps_a_patient_together(name: str, tmp_path: Path) -> None:
    COPIES[name](tmp_path / "src")
    groups: dict[str, str] = {}
    for domain in public.convert(name, tmp_path / "src", tmp_path / "dst"):
        groups |= {stem: group for group, stems in grouped(Folder.open(domain), public.find(name).group).items() for stem in stems}
    assert groups.items() >= TOGETHER[name].items()


# Fetching.


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A web server: ``files`` by path, ``requests`` as (path, Range header); ``cut`` answers are ended half way; Range can be refused or answered wrongly."""
    state = SimpleNamespace(files={}, requests=[], cut=0, ranges="honoured")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            body: bytes | None = state.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges != "ignored" else 0  # type: ignore[index]
            if start and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                start = 0 if state.ranges == "wrong" else start
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body)
            if state.cut:
                state.cut -= 1
                end, self.close_connection = (start + len(body)) // 2, True
            self.wfile.write(body[start:end])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def fetching(server: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Expected]:
    """Serve a tiny copy of a set in place of the real one; downloads go to ``tmp_path/cache``."""
    monkeypatch.setenv("CELLADAPT_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def serve(name: str, algorithm: str = "sha256", padding: int = 0) -> Expected:
        expected = COPIES[name](tmp_path / "copy")
        (tmp_path / "copy" / "0" / "README.md").write_bytes(np.random.default_rng(0).bytes(padding))
        module = import_module(f"celladapt.data.public.{name}")
        remotes = []
        for remote, folder in zip(module.SET.files, sorted((tmp_path / "copy").iterdir()), strict=True):
            server.files[f"/{remote.name}"] = body = zipped(folder)
            checksum = remote.checksum and f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
            remotes.append(replace(remote, url=f"{server.url}/{remote.name}", checksum=checksum))
        monkeypatch.setattr(module, "SET", replace(module.SET, files=tuple(remotes)))
        return expected

    return serve


@pytest.mark.parametrize("name", [name for name in COPIES if public.find(name).files])
def test_fetched_pixels(name: str, fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    expected = fetching(name)
    domains = public.fetch(name, tmp_path / "out")
    assert_equal(tmp_path / "out", expected)
    assert {domain.parent if domain != tmp_path / "out" else domain for domain in domains} == {tmp_path / "out"}
    assert [asked for _, asked in server.requests] == [None] * len(server.files)
    public.fetch(name, tmp_path / "again")
    assert len(server.requests) == len(server.files), "what is in the cache is not downloaded again"
    assert_equal(tmp_path / "again", expected)
    assert not left_over(tmp_path)


def test_an_unknown_checksum_is_said(
    fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetching("nuinsseg")
    public.fetch("nuinsseg", tmp_path / "out")
    error = capsys.readouterr().err
    assert hashlib.sha256(server.files["/NuInsSeg.zip"]).hexdigest() in error
    assert "No checksum" in error


def test_a_web_page_is_no_archive(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    fetching("nuinsseg")
    server.files["/NuInsSeg.zip"] = b"<html>please sign in</html>"
    with pytest.raises(InputError, match="web page"):
        public.fetch("nuinsseg", tmp_path / "out")
    assert not list((tmp_path / "cache" / "nuinsseg").iterdir())
    assert not (tmp_path / "out").exists()


def test_a_cut_download_goes_on(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    expected = fetching("pannuke", "md5", padding=3_000_000)
    server.cut = 1
    public.fetch("pannuke", tmp_path / "out")
    assert_equal(tmp_path / "out", expected)
    first, second = server.requests[:2]
    assert first == ("/fold_1.zip", None)
    assert second[0] == "/fold_1.zip"
    assert re.fullmatch(r"bytes=[1-9]\d*-", second[1])
    assert int(second[1][6:-1]) > 1_000_000, "half of it was kept"
    assert (tmp_path / "cache" / "pannuke" / "fold_1.zip").read_bytes() == server.files["/fold_1.zip"]


def test_a_later_run_goes_on(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    expected = fetching("tnbc")
    part = tmp_path / "cache" / "tnbc" / "TNBC_NucleiSegmentation.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.files["/TNBC_NucleiSegmentation.zip"][:1000])
    public.fetch("tnbc", tmp_path / "out")
    assert server.requests == [("/TNBC_NucleiSegmentation.zip", "bytes=1000-")]
    assert_equal(tmp_path / "out", expected)
    assert not left_over(tmp_path)


def test_what_came_whole_is_not_asked_for_again(server: SimpleNamespace, tmp_path: Path) -> None:
    server.files["/x"] = b"0123456789"
    (tmp_path / "x.part").write_bytes(b"0123456789")
    Resuming(tmp_path / "x.part", False)(f"{server.url}/x", str(tmp_path / "x"), None)
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    assert server.requests == [("/x", "bytes=10-")]


@pytest.mark.parametrize(("ranges", "had", "asked"), [("ignored", 4, 1), ("wrong", 4, 2), ("honoured", 40, 2)])
def test_a_part_that_does_not_fit_begins_anew(ranges: str, had: int, asked: int, server: SimpleNamespace, tmp_path: Path) -> None:
    server.files["/x"], server.ranges = b"0123456789", ranges
    (tmp_path / "x.part").write_bytes(b"?" * had)
    Resuming(tmp_path / "x.part", False)(f"{server.url}/x", str(tmp_path / "x"), None)
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    assert len(server.requests) == asked


def test_a_line_that_is_always_cut_is_given_up(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    fetching("tnbc")
    server.cut = 5
    with pytest.raises(InputError, match="run the same command again"):
        public.fetch("tnbc", tmp_path / "out")
    (part,) = (tmp_path / "cache" / "tnbc").iterdir()
    assert part.name == "TNBC_NucleiSegmentation.zip.part", "kept, to go on from"
    assert public.fetch("tnbc", tmp_path / "out")


def test_a_wrong_checksum_leaves_nothing(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    fetching("tnbc")
    server.files["/TNBC_NucleiSegmentation.zip"] += b"!"
    with pytest.raises(InputError, match=r"does not have the checksum sha256:.*removed") as caught:
        public.fetch("tnbc", tmp_path / "out")
    assert "celladapt data convert tnbc" in str(caught.value)
    assert not list((tmp_path / "cache" / "tnbc").iterdir())
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_in_the_cache_is_downloaded_again(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    expected = fetching("tnbc")
    public.fetch("tnbc", tmp_path / "out")
    (tmp_path / "cache" / "tnbc" / "TNBC_NucleiSegmentation.zip").write_bytes(b"damaged")
    public.fetch("tnbc", tmp_path / "again")
    assert len(server.requests) == 2
    assert_equal(tmp_path / "again", expected)


def test_a_missing_address_and_no_network(
    fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching("tnbc")
    server.files.clear()
    with pytest.raises(InputError, match="404"):
        public.fetch("tnbc", tmp_path / "out")
    module = import_module("celladapt.data.public.tnbc")
    nowhere = replace(module.SET.files[0], url="http://127.0.0.1:9/x.zip")  # the discard port: nobody listens
    monkeypatch.setattr(module, "SET", replace(module.SET, files=(nowhere,)))
    with pytest.raises(InputError, match="cannot be reached"):
        public.fetch("tnbc", tmp_path / "out")


def test_a_used_folder_is_refused_before_downloading(fetching: Callable[..., Expected], server: SimpleNamespace, tmp_path: Path) -> None:
    fetching("tnbc")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        public.fetch("tnbc", tmp_path / "out")
    assert not server.requests
    (tmp_path / "out" / "mine").unlink()
    assert public.fetch("tnbc", tmp_path / "out")


@pytest.mark.parametrize("name", [name for name in COPIES if not public.find(name).files])
def test_what_must_be_asked_for_says_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"https://.*celladapt data convert"):
        public.fetch(name, tmp_path / "out")


# What goes wrong.


def test_an_unknown_name_has_near_ones() -> None:
    with pytest.raises(InputError, match="did you mean pannuke"):
        public.find("PanNuk")
    with pytest.raises(InputError, match=r"choose one of .*tnbc"):
        public.find("nothing-like-it")


def test_a_wrong_layout_says_what_is_expected(tmp_path: Path) -> None:
    put(tmp_path / "src" / "picture.png", colour(0))
    for name in public.names():
        with pytest.raises(InputError, match=f"no {name} in its published layout"):
            public.convert(name, tmp_path / "src", tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize(
    ("name", "lost", "words"),
    [
        ("tnbc", "GT_01/01_2.png", "01_2.png has no mask"),
        ("kirc", "masks/a.png", "a.png has no mask"),
        ("monuseg", "Annotations/TCGA-B0-5711-01Z-00-DX1.xml", "DX1.tif has no .xml"),
        ("cryonuseg", "Annotator 1 (biologist)/label masks modify/Human_Larynx_02.tif", "Human_Larynx_02.tif has no mask"),
        ("nuinsseg", "human bladder/label masks modify/human_bladder_01.tif", "human_bladder_01.png has no mask"),
        ("pannuke", "masks/fold2/masks.npy", "without masks.npy"),
        ("consep", "Train/Labels/train_1.mat", "train_1.png has no mask"),
        ("lizard", "Labels/glas_1.mat", "glas_1.png has no mask"),
    ],
)
def test_a_lost_mask_is_named(name: str, lost: str, words: str, tmp_path: Path) -> None:
    COPIES[name](tmp_path / "src")
    (path,) = [path for path in (tmp_path / "src").rglob("*") if path.as_posix().endswith(lost)]
    path.unlink()
    with pytest.raises(InputError, match=re.escape(words)):
        public.convert(name, tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()
    assert not left_over(tmp_path)


def test_a_failing_conversion_leaves_nothing_and_names_the_persons_file(tmp_path: Path) -> None:
    tnbc(tmp_path / "copy")
    damaged = next((tmp_path / "copy").rglob("Slide_02/*.png"))
    damaged.write_bytes(damaged.read_bytes()[:60])
    archive = tmp_path / "TNBC.zip"
    archive.write_bytes(zipped(tmp_path / "copy" / "0"))
    with pytest.raises(InputError, match="damaged") as caught:
        public.convert("tnbc", archive, tmp_path / "dst")
    assert str(archive / "TNBC_NucleiSegmentation" / "Slide_02" / "02_1.png") in str(caught.value)
    assert not (tmp_path / "dst").exists()
    assert not left_over(tmp_path)


def test_sizes_that_differ_are_an_error(tmp_path: Path) -> None:
    tnbc(tmp_path / "src")
    put(next((tmp_path / "src").rglob("GT_02/*.png")), np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match="5×5 pixels but its image is 16×12"):
        public.convert("tnbc", tmp_path / "src", tmp_path / "dst")


def test_two_copies_in_one_folder_are_an_error(tmp_path: Path) -> None:
    tnbc(tmp_path / "src" / "a")
    tnbc(tmp_path / "src" / "b")
    with pytest.raises(InputError, match="keep one copy"):
        public.convert("tnbc", tmp_path / "src", tmp_path / "dst")


@pytest.mark.parametrize("member", ["../escaped.txt", "/tmp/celladapt-escaped.txt", "a/../../escaped.txt", "..\\escaped.txt", "C:/escaped.txt"])
def test_a_zip_that_leads_out_is_refused(member: str, tmp_path: Path) -> None:
    archive = tmp_path / "inside" / "evil.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as handle:
        handle.writestr("Slide_01/01_1.png", b"fine")
        handle.writestr(member, b"outside")
    with pytest.raises(InputError, match="would write outside"):
        public.convert("tnbc", archive, tmp_path / "inside" / "dst")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.zip", "inside"]
    assert not Path("/tmp/celladapt-escaped.txt").exists()


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as handle:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        handle.writestr(link, "/etc")
    with pytest.raises(InputError, match="would write outside"):
        public.convert("tnbc", tmp_path / "evil.zip", tmp_path / "dst")


@pytest.mark.parametrize("linked", [False, True])
def test_a_tar_that_leads_out_is_refused(linked: bool, tmp_path: Path) -> None:
    archive = tmp_path / "inside" / "evil.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        if linked:
            link = tarfile.TarInfo("Slide_01")
            link.type, link.linkname = tarfile.SYMTYPE, "../../.."
            tar.addfile(link)
        member = tarfile.TarInfo("fine.txt" if linked else "../../../escaped.txt")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"outside"))
    with pytest.raises(InputError, match="would write outside"):
        public.convert("tnbc", archive, tmp_path / "inside" / "dst")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil.tar", "inside"]


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    tnbc(tmp_path / "copy")
    body = bytearray(zipped(tmp_path / "copy"))
    body[200] ^= 255  # in the first file: its CRC shows it
    (tmp_path / "bent.zip").write_bytes(body)
    (tmp_path / "text.zip").write_text("no archive")
    for name, words in (("bent.zip", "bent.zip is damaged"), ("text.zip", "neither a folder nor"), ("nowhere.zip", "does not exist")):
        with pytest.raises(InputError, match=words):
            public.convert("tnbc", tmp_path / name, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_an_archive_larger_than_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tnbc(tmp_path / "copy")
    (tmp_path / "a.zip").write_bytes(zipped(tmp_path / "copy"))
    monkeypatch.setattr(_archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(InputError, match="unpacks to"):
        public.convert("tnbc", tmp_path / "a.zip", tmp_path / "dst")


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "ha">]><Annotations>&b;</Annotations>', "document type or entities"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><Annotations/>', "document type or entities"),
        ("<Annotations><Region>", "damaged or no XML"),
        ('<Annotations><Region><Vertex X="1"/></Region></Annotations>', "vertex without X and Y"),
        ('<Annotations><Region><Vertex X="nan" Y="1"/><Vertex X="1" Y="1"/><Vertex X="2" Y="1"/></Region></Annotations>', "not finite"),
    ],
)
def test_hostile_or_damaged_outlines(xml: str, words: str, tmp_path: Path) -> None:
    monuseg(tmp_path / "src")
    next((tmp_path / "src").rglob("*.xml")).write_text(xml)
    with pytest.raises(InputError, match=words):
        public.convert("monuseg", tmp_path / "src", tmp_path / "dst")


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    pannuke(tmp_path / "src")
    np.save(next((tmp_path / "src").rglob("types.npy")), np.array(["Breast", "Colon"], object))
    with pytest.raises(InputError, match="Python objects"):
        public.convert("pannuke", tmp_path / "src", tmp_path / "dst")


def test_a_tissue_cannot_name_a_path(tmp_path: Path) -> None:
    pannuke(tmp_path / "src")
    np.save(next((tmp_path / "src").rglob("types.npy")), np.array(["../../escaped", "/"]))
    public.convert("pannuke", tmp_path / "src", tmp_path / "dst")
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == ["bile-duct", "breast", "escaped", "other"]


@pytest.mark.parametrize("values", [two_nuclei() + 0.5, -two_nuclei().astype(np.float64), np.zeros((3, 4, 5))])
def test_labels_that_are_none_are_named(values: Array, tmp_path: Path) -> None:
    consep(tmp_path / "src")
    path = next((tmp_path / "src").rglob("train_1.mat"))
    savemat(path, {"inst_map": values})
    with pytest.raises(InputError, match=r"train_1\.mat"):
        public.convert("consep", tmp_path / "src", tmp_path / "dst")
    path.write_bytes(b"no matlab")
    with pytest.raises(InputError, match=r"train_1\.mat cannot be read"):
        public.convert("consep", tmp_path / "src", tmp_path / "dst")


def test_more_labels_than_16_bits_hold(tmp_path: Path) -> None:
    consep(tmp_path / "src")
    put(next((tmp_path / "src").rglob("train_1.mat")), two_nuclei(1, 70000).astype(np.float64))
    with pytest.raises(InputError, match="70000"):
        public.convert("consep", tmp_path / "src", tmp_path / "dst")


# The command line.


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in public.names())
    assert main(["data", "list", "nuinsseg"]) == 0
    about = capsys.readouterr().out
    assert "no checksum known" in about
    assert public.find("nuinsseg").citation in about
    tnbc(tmp_path / "src")
    assert main(["data", "convert", "tnbc", str(tmp_path / "src"), str(tmp_path / "dst")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "dst")
    assert main(["data", "convert", "tnbc", str(tmp_path / "src"), str(tmp_path / "dst")]) == 2
    assert main(["data", "fetch", "kirc", "--out", str(tmp_path / "kirc")]) == 2
    assert "ask the authors" in capsys.readouterr().err


def test_the_fetch_command(
    fetching: Callable[..., Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = fetching("tnbc")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", "tnbc"]) == 0
    assert capsys.readouterr().out.strip() == str(Path("data") / "tnbc")
    assert_equal(tmp_path / "data" / "tnbc", expected)
