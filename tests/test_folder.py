"""The one data set class."""

import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from celladapt.data.folder import Folder, _digest, digest
from celladapt.data.images import write_image
from celladapt.errors import InputError


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """Images b, a, c and masks of c and a."""
    for index, stem in enumerate(["b", "a", "c"]):
        write_image(tmp_path / "d" / "images" / f"{stem}.png", np.full((6, 8), index, np.uint8))
    for stem in "ca":
        write_image(tmp_path / "d" / "masks" / f"{stem}.tif", np.eye(6, 8, dtype=np.uint16))
    return tmp_path / "d"


def test_open_sorts_by_stem_and_leaves_out_what_is_no_image(domain: Path) -> None:
    (domain / "images" / "notes.txt").touch()
    (domain / "images" / ".hidden.png").touch()
    (domain / "images" / "sub.png").mkdir()
    folder = Folder.open(domain)
    assert list(folder.images) == ["a", "b", "c"]
    assert folder.labelled == ["a", "c"]
    assert len(folder) == 3
    assert folder.masks["a"] == domain / "masks" / "a.tif"


def test_reading(domain: Path) -> None:
    folder = Folder.open(domain)
    image, mask = folder.pair("a")
    assert (image.shape, str(image.dtype), mask.shape, str(mask.dtype)) == ((6, 8, 3), "uint8", (6, 8), "int32")
    assert (image == 1).all()
    np.testing.assert_array_equal(mask, np.eye(6, 8))
    with pytest.raises(InputError, match="no mask for b"):
        folder.mask("b")
    with pytest.raises(InputError, match="no image named z"):
        folder.image("z")


def test_a_pair_must_have_one_size(domain: Path) -> None:
    write_image(domain / "masks" / "a.tif", np.eye(5, 9, dtype=np.uint8))
    with pytest.raises(InputError, match=r"a\.tif is 9×5 pixels but its image is 8×6; "):
        Folder.open(domain).pair("a")


def test_masks_can_be_put_out_of_reach(domain: Path) -> None:
    folder = Folder.open(domain)
    assert folder.without_masks().masks == {}
    assert folder.without_masks().images == folder.images
    with pytest.raises(InputError):
        folder.without_masks().mask("a")
    assert folder.keep_masks(["c", "b"]).labelled == ["c"]
    assert len(folder.keep_masks([])) == 3
    with pytest.raises(InputError, match="no image named z"):
        folder.keep_masks(["z"])


def test_subset(domain: Path) -> None:
    subset = Folder.open(domain).subset(["c", "b"])
    assert list(subset.images) == ["b", "c"]
    assert subset.labelled == ["c"]
    with pytest.raises(InputError, match="no image named z"):
        subset.subset(["c", "z"])


def test_images_directly_in_the_folder(domain: Path) -> None:
    folder = Folder.open(domain / "images")
    assert list(folder.images) == ["a", "b", "c"]
    assert folder.masks == {}


def test_bad_folders(domain: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        Folder.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"a\.png is a file"):
        Folder.open(domain / "images" / "a.png")
    with pytest.raises(InputError, match="has no images/ folder"):
        Folder.open(tmp_path)
    (tmp_path / "bare" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="images holds no image"):
        Folder.open(tmp_path / "bare")
    (tmp_path / "other" / "tiles").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has no images/ folder \(it holds tiles/\); put the images into images/"):
        Folder.open(tmp_path / "other")


def test_images_may_lie_beside_their_masks_folder(domain: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    shutil.copytree(domain / "masks", tmp_path / "flat" / "masks")
    for path in (domain / "images").iterdir():
        shutil.copy(path, tmp_path / "flat")
    assert Folder.open(tmp_path / "flat").fingerprint() == Folder.open(domain).fingerprint()


def test_a_mask_without_image(domain: Path) -> None:
    shutil.copy(domain / "masks" / "a.tif", domain / "masks" / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif is a mask without an image"):
        Folder.open(domain)


def test_names_that_look_alike_are_one(domain: Path) -> None:
    """A Mac writes an accented letter as two signs."""
    image, mask = (unicodedata.normalize(form, "Präparat") for form in ("NFD", "NFC"))
    (path,) = (domain / "images").glob("a.*")
    path.rename(path.with_stem(image))
    (domain / "masks" / "a.tif").rename(domain / "masks" / f"{mask}.tif")
    folder = Folder.open(domain)
    assert folder.masks.keys() <= folder.images.keys()
    assert folder.masks[image].stem == mask


@pytest.mark.parametrize("name", ["a_mask", "a-labelled", "a_cp_masks"])
def test_a_mask_may_be_called_as_other_programs_call_it(name: str, domain: Path) -> None:
    before = Folder.open(domain)
    fingerprint = before.fingerprint()
    before.masks["a"].rename(before.masks["a"].with_stem(name))
    after = Folder.open(domain)
    assert list(after.masks) == list(before.masks)
    assert after.fingerprint() == fingerprint
    shutil.copy(after.masks["a"], domain / "masks" / "a.bmp")
    with pytest.raises(InputError, match=rf"{name}\.tif is of the same image as a\.bmp; keep one"):
        Folder.open(domain)
    (domain / "masks" / "a.bmp").unlink()
    shutil.copy(before.images["a"], domain / "images" / f"{name}.bmp")
    assert list(Folder.open(domain).masks) == [name, *list(before.masks)[1:]], "an image of just that name goes first"


@pytest.mark.parametrize(("image", "mask"), [("000_img", "000_masks"), ("case_0000", "case"), ("x_image", "x_label"), ("x_img", "x_img_cp_masks")])
def test_an_image_may_be_called_as_other_programs_call_it(image: str, mask: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / f"{image}.png", np.zeros((8, 8), np.uint8))
    write_image(tmp_path / "masks" / f"{mask}.png", np.zeros((8, 8), np.uint8))
    assert Folder.open(tmp_path).masks == {image: tmp_path / "masks" / f"{mask}.png"}


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_stem(kind: str, domain: Path) -> None:
    (domain / kind / "a.bmp").touch()
    with pytest.raises(InputError, match=r"same stem as a\.bmp"):
        Folder.open(domain)


def test_fingerprint_sees_one_byte_and_nothing_else(domain: Path, tmp_path: Path) -> None:
    folder = Folder.open(domain)
    first = folder.fingerprint()
    copy = tmp_path / "elsewhere"
    for stem in ("c", "b", "a"):  # written in another order
        for kind, file in (("images", folder.images[stem]), ("masks", folder.masks.get(stem))):
            if file:
                (copy / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy / kind)
    assert Folder.open(copy).fingerprint() == first
    assert folder.without_masks().fingerprint() != first
    for path in (copy / "images" / "b.png", copy / "masks" / "c.tif"):
        before = Folder.open(copy).fingerprint()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        assert Folder.open(copy).fingerprint() != before
    shutil.move(domain / "images" / "b.png", domain / "images" / "bb.png")
    assert Folder.open(domain).fingerprint() != first


def test_fingerprint_of_a_file_that_went_away(domain: Path) -> None:
    folder = Folder.open(domain)
    (domain / "images" / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png cannot be opened"):
        folder.fingerprint()


def test_real_data(shared_data: Path) -> None:
    folder = Folder.open(shared_data / "monuseg" / "kidney")
    assert len(folder) == len(folder.labelled) == 6
    image, mask = folder.pair(folder.labelled[0])
    assert image.shape == (1000, 1000, 3)
    assert image.dtype == np.uint8
    assert mask.max() > 100


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    first, hits = digest(file), _digest.cache_info().hits
    assert digest(file) == first
    assert _digest.cache_info().hits == hits + 1
    before = file.stat()
    (tmp_path / "new.png").write_bytes(b"two")
    os.utime(tmp_path / "new.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(tmp_path / "new.png", file)  # of the same name, size and time
    assert digest(file) == hashlib.sha256(b"two").hexdigest()
    file.unlink()
    with pytest.raises(InputError, match=r"a\.png"):
        digest(file)
