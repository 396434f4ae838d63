"""A file is either absent, old or whole."""

import json
import os
import stat
from pathlib import Path

import pytest

from celladapt.errors import InputError
from celladapt.files import atomic, staged, write_json, write_text


def test_writes_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "Größe")
    assert path.read_bytes() == "Größe".encode()
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert list(path.parent.iterdir()) == [path]


def test_a_name_that_is_no_utf_8_costs_no_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", os.fsdecode(b"Zelle_\xe4,1\n"))
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "Zelle_\\udce4,1\n"


def test_what_is_flushed_may_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush a file that was opened for reading."""
    fcntl = pytest.importorskip("fcntl", reason="not on Windows, which says so itself")
    real, flushed = os.fsync, []

    def fsync(handle: int) -> None:
        flushed.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "all of it")
    assert flushed == [os.O_RDWR]
    assert (tmp_path / "a.txt").read_text() == "all of it"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    with path.open() as reader:
        with atomic(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            assert temporary.suffix == ".png"
            assert temporary.parent == tmp_path  # a rename is atomic only within one file system
        assert reader.read() == "old"  # who had it open reads on in the old one: replaced, not written over
    assert path.read_text() == "new"


def test_no_folder_can_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "file" / "deeper" / "a.txt"):
        with pytest.raises(InputError, match="cannot be written") as caught:
            write_text(path, "x")
        assert str(path) in str(caught.value)


def test_a_folder_in_the_file_s_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "a.txt", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_permission_and_a_full_disk_are_the_user_s_to_mend(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        with atomic(tmp_path / "a.txt"):
            raise OSError(number, os.strerror(number))

    for number in (13, 28):  # EACCES, ENOSPC
        with pytest.raises(InputError, match="cannot be written"):
            fail(number)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_shows_before_the_writer_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)  # tests may run as root, whom no mode stops
    started = []

    def write() -> None:
        with atomic(tmp_path / "a.txt"):
            started.append(True)

    with pytest.raises(InputError, match="Permission denied"):
        write()
    assert not started


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_one_before_stays_until_the_new_one_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous = tmp_path / "a", tmp_path / "b"

    def save(text: str) -> None:
        with atomic(path, previous) as temporary:
            temporary.write_text(text)

    for text in ("1", "2", "3"):
        save(text)
    assert (path.read_text(), previous.read_text()) == ("3", "2")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save("4")
    assert (path.read_text(), previous.read_text()) == ("3", "2")
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, replace = tmp_path / "a.zarr", os.replace
    out.mkdir()
    (out / "c").write_text("mine")

    def fail(source: Path, target: Path) -> None:
        if ".part" in source.name:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="Input/output error"), staged(out, replace=True) as folder:
        (folder / "c").write_text("new")
    assert (out / "c").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_filled_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be where somebody's shell is, a link, or a disk of its own."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    with staged(Path()) as folder:
        write_text(folder / "a" / "b.txt", "new")
    assert Path("a/b.txt").read_text() == "new"
    assert os.listdir() == ["a"]
    with pytest.raises(InputError, match="link cannot be written"), staged(tmp_path / "link") as folder:
        write_text(folder / "c.txt", "new")
    assert os.listdir() == ["a"], "what is there is left alone"
