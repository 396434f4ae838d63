"""What files, folders, domains and globs name."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celladapt import inputs
from celladapt.data.images import write_image
from celladapt.errors import InputError
from celladapt.inputs import find_images


def test_inputs_may_be_files_folders_domains_and_globs(images: Path) -> None:
    inside = images / "images"
    everything = [inside / "a.b 1.png", inside / "c.tif", inside / "d.png"]
    assert find_images(images) == everything  # masks are not images
    assert find_images(str(inside)) == everything
    assert find_images(str(inside / "*.png")) == [everything[0], everything[2]]
    assert find_images(str(images / "**" / "c.*")) == [everything[1]]
    assert find_images(inside / "d.png") == [everything[2]]
    assert find_images([inside / "d.png", images, str(inside / "*.tif")]) == [everything[2], *everything[:2]]  # each once
    assert find_images(path for path in everything) == everything


@pytest.mark.parametrize("refusal", [OSError(errno.EINVAL, "Invalid argument"), FileNotFoundError(errno.ENOENT, "No such file")])
def test_a_glob_is_one_whatever_the_system_says_of_its_characters(images: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError) -> None:
    """Windows says that a file cannot have such a name, not that there is none."""
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if "*" in str(path):
            raise refusal
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert find_images(str(images / "images" / "*.tif")) == [images / "images" / "c.tif"]


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    write_image(tmp_path / "x[1].png", np.zeros((4, 4), np.uint8))
    assert find_images(tmp_path / "x[1].png") == [tmp_path / "x[1].png"]


def test_inputs_that_name_nothing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for item in (tmp_path / "none.png", str(tmp_path / "*.jpg"), tmp_path / "empty", str(images / "images" / "*.txt")):
        with pytest.raises(InputError, match="names no image") as caught:
            find_images([images, item])
        assert str(item) in str(caught.value)
    with pytest.raises(InputError, match="no image to look at"):
        find_images([])


@pytest.mark.parametrize(("system", "same"), [("linux", False), ("darwin", True), ("win32", True)])
def test_names_that_a_disk_takes_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, same: bool) -> None:
    for folder, name in (("one", "Slide.png"), ("two", "slide.png")):
        write_image(tmp_path / folder / name, np.zeros((4, 4), np.uint8))
    monkeypatch.setattr("celladapt.inputs.sys.platform", system)
    both = [tmp_path / "one", tmp_path / "two"]
    if not same:
        assert len(find_images(both)) == 2
        return
    with pytest.raises(InputError, match=r"Slide\.png and .*slide\.png would write the same output"):
        find_images(both)


def test_a_file_that_is_named_in_two_ways_is_one(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    first = Path("images") / "d.png"
    (images / "link").symlink_to(images / "images")
    for outputs in (True, False):
        assert find_images([first, images / "images" / "d.png", "link/d.png", "images/../images/d.png"], outputs) == [first]


def test_folders_in_a_folder_are_told_where_they_hold_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "masks/a.png", "out/a_mask.png", "deep/b.png", "notes/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.zeros((8, 8), np.uint8)) if name.endswith("png") else (tmp_path / name).touch()
    (tmp_path / "out" / ".celladapt").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.png"]
    assert {path.relative_to(tmp_path).as_posix() for path in find_images(f"{tmp_path}/**/[ab]*.png", outputs=False)} == {
        "a.png",
        "masks/a.png",
        "deep/b.png",
    }
    assert [path.name for path in find_images(f"{tmp_path}/out/*.png")] == ["a_mask.png"], "where they are asked for by name"
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'deep'} holds images that are not read; name it too, if they are to be." in said
    real = inputs.list_images

    def unreadable(folder: Path) -> list[Path]:
        if folder.name == "deep":
            raise InputError("It may not be looked into.")
        return real(folder)

    monkeypatch.setattr(inputs, "list_images", unreadable)
    assert [path.name for path in find_images(tmp_path)] == ["a.png"]
