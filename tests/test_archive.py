"""Archives from strangers: what is unpacked is what was promised, inside the folder, and on refusal nothing is left."""

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from celladapt.data import public
from celladapt.data.public import _archive
from celladapt.data.public._archive import is_archive, unpack
from celladapt.errors import FileError, InputError

Maker = Callable[[Path, dict[str, bytes]], None]


def make_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def tar_of(path: Path, *entries: tarfile.TarInfo, packed: str = "w") -> None:
    with tarfile.open(path, packed) as archive:  # type: ignore[call-overload]
        for entry in entries:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(archive: Path, words: str) -> None:
    """It is refused in one sentence that names it, and neither its folder nor the one above gets anything."""
    folder = archive.parent / "inside" / "unpacked"
    with pytest.raises(InputError, match=words) as caught:
        unpack(archive, folder)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(folder.iterdir())
    assert everything(archive.parent) == sorted([archive.name, "inside", "inside/unpacked"])


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_what_is_in_it_comes_out(make: Maker, tmp_path: Path) -> None:
    members = {"a/b.txt": b"x" * 3_000_000, "./c.txt": b"", "a/Ünïcode name (1).png": b"1", "__MACOSX/a/._b.txt": b"mac", "a/.DS_Store": b"mac"}
    make(tmp_path / "archive", members)
    assert is_archive(tmp_path / "archive")
    unpack(tmp_path / "archive", tmp_path / "out")
    assert found(tmp_path / "out") == {"a/b.txt": members["a/b.txt"], "c.txt": b"", "a/Ünïcode name (1).png": b"1"}


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name",
    [
        "../out.txt", "/tmp/celladapt-out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt", "c:out.txt", "\\\\server\\out.txt", "a/.. /out.txt", "a/...",
        "../Icon\r", "/.DS_Store",
    ],
)  # fmt: skip
def test_names_that_lead_out(make: Maker, name: str, tmp_path: Path) -> None:
    make(tmp_path / "evil", {"fine.txt": b"fine", name: b"outside"})
    refused(tmp_path / "evil", r"would write outside its folder \(.*do not use it")
    assert not Path("/tmp/celladapt-out.txt").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", ["a.png:hidden", "scan 12:30.png", "a\nb.txt", "a\x1b[2J.txt", "Icon\r/a.txt", "a" * 1001])
def test_names_that_not_every_system_can_store(make: Maker, name: str, tmp_path: Path) -> None:
    make(tmp_path / "odd", {"fine.txt": b"fine", name: b"odd"})
    refused(tmp_path / "odd", r"has a name that not every system can store \(.*; if you trust it unpack it by hand and name the folder\.$")


def test_a_name_that_ends_early(tmp_path: Path) -> None:
    make_zip(tmp_path / "evil", {"fine.txt": b"", "badX.png": b""})
    (tmp_path / "evil").write_bytes((tmp_path / "evil").read_bytes().replace(b"badX", b"bad\0"))
    refused(tmp_path / "evil", "a name that not every system can store")


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [".", "./", "/"])
def test_the_folder_itself_is_no_attack(name: str, tmp_path: Path) -> None:
    """So ``tar -C folder .`` begins, and some zips."""
    tar_of(tmp_path / "a.tar", entry(name, tarfile.DIRTYPE), entry("./images", tarfile.DIRTYPE), entry("./images/a.png", size=1))
    make_zip(tmp_path / "a.zip", {f"{name}/".replace("//", "/"): b"", "images/a.png": b"\0"})
    for packed in ("a.tar", "a.zip"):
        unpack(tmp_path / packed, tmp_path / f"{packed}.out")
        assert found(tmp_path / f"{packed}.out") == {"images/a.png": b"\0"}


def test_folders_as_old_tools_name_them(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", {"TNBC\\": b"", "TNBC\\a.png": b"x", "TNBC\\Icon\r": b""})
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert found(tmp_path / "out") == {"TNBC/a.png": b"x"}


@pytest.mark.parametrize("packed", ["w", "w:gz"])
def test_a_tar_appended_to_and_its_hard_links(packed: str, tmp_path: Path) -> None:
    """A link to an earlier file holds what that file held then; a link to itself, as tar writes for a file named twice, changes nothing."""
    members = [("a", b"old"), ("kept", "a"), ("a", "a"), ("a", b"newer"), ("b/late", "a"), ("kept too", "kept")]
    with tarfile.open(tmp_path / "a.tar", packed) as archive:  # type: ignore[call-overload]
        for name, content in members:
            link = isinstance(content, str)
            one = entry(name, tarfile.LNKTYPE, content) if link else entry(name, size=len(content))  # type: ignore[arg-type]
            archive.addfile(one, None if link else io.BytesIO(content))  # type: ignore[arg-type]
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert found(tmp_path / "out") == {"a": b"newer", "kept": b"old", "b/late": b"newer", "kept too": b"old"}
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "out").iterdir() if path.is_file())


def test_hard_links_count_as_what_they_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "HARMLESS_BYTES", 2**20)
    links = [entry(f"link{number}", tarfile.LNKTYPE, "a") for number in range(100)]
    tar_of(tmp_path / "bomb", entry("a", size=2**16), *links, packed="w:gz")
    refused(tmp_path / "bomb", "unpacks to more than 200 times its size")


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("names", [("a/B.txt", "A/b.txt"), ("a.txt", "./a.txt"), ("a", "a/b.txt"), ("a/b.txt", "A"), ("é.txt", "e\u0301.txt")])
def test_names_that_are_one_on_some_disk(make: Maker, names: tuple[str, str], tmp_path: Path) -> None:
    make(tmp_path / "evil", dict.fromkeys(names, b"x"))
    refused(tmp_path / "evil", "twice|one name")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("../../x", "outside"),
        ("/etc/passwd", "outside"),
        ("a/../../x", "outside"),
        ("fine.txt", "a link|a file and a folder of one name"),
        ("later.txt", "a link"),
    ],
)
def test_links_in_a_tar(kind: bytes, target: str, words: str, tmp_path: Path) -> None:
    tar_of(tmp_path / "evil", entry("fine.txt"), entry("link", kind, target), entry("link/through.txt", size=3), entry("later.txt"))
    refused(tmp_path / "evil", words)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z"])
def test_what_is_no_file_in_a_tar(kind: bytes, tmp_path: Path) -> None:
    tar_of(tmp_path / "evil", entry("fine.txt"), entry("special", kind))
    if kind == tarfile.CONTTYPE:  # an old name for a plain file
        unpack(tmp_path / "evil", tmp_path / "out")
    else:
        refused(tmp_path / "evil", "no plain file|damaged")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_file_in_a_zip(mode: int, tmp_path: Path) -> None:
    special = zipfile.ZipInfo("special")
    special.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil", "w") as archive:
        archive.writestr("fine.txt", "fine")
        archive.writestr(special, "/etc")
    refused(tmp_path / "evil", "outside" if mode == stat.S_IFLNK else "no plain file")


def test_rights_are_not_taken_over(tmp_path: Path) -> None:
    privileged = entry("tool")
    privileged.mode = 0o6777
    tar_of(tmp_path / "a.tar", privileged)
    info = zipfile.ZipInfo("tool")
    info.external_attr = (stat.S_IFREG | 0o6777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "")
    for name in ("a.tar", "a.zip"):
        unpack(tmp_path / name, tmp_path / f"{name}.out")
        assert not (tmp_path / f"{name}.out" / "tool").stat().st_mode & 0o7111


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb_of_zeros(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "HARMLESS_BYTES", 2**20)
    make(tmp_path / "bomb", {f"{number}.txt": bytes(2**21) for number in range(8)})
    refused(tmp_path / "bomb", "unpacks to more than 200 times its size")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb_of_members(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MOST_MEMBERS", 50)
    make(tmp_path / "bomb", {f"{number}.txt": b"" for number in range(51)})
    refused(tmp_path / "bomb", "more than 50 members")


def test_a_header_that_promises_more_than_the_disk_is_not_passed_over(tmp_path: Path) -> None:
    huge = entry("a.txt", size=2**60)
    huge.size = 2**60
    (tmp_path / "bomb").write_bytes(gzip.compress(huge.tobuf(tarfile.GNU_FORMAT) + bytes(2**16)))
    refused(tmp_path / "bomb", "unpacks to")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_that_would_fill_the_memory(kind: bytes, tmp_path: Path) -> None:
    """Such a header is read whole; in bzip2 a gigabyte of it takes a kilobyte."""
    header = entry("long", kind, size=2**23)
    (tmp_path / "bomb").write_bytes(bz2.compress(header.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**23 + entry("a").tobuf()))
    assert not is_archive(tmp_path / "bomb")
    refused(tmp_path / "bomb", "damaged")


def test_headers_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names that follow each other belong to no member, so that no member is ever counted."""
    monkeypatch.setattr(_archive, "_HEADER_BYTES", 2**16)
    one = entry("long", tarfile.XGLTYPE, size=0).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "bomb").write_bytes(gzip.compress(one * 200 + entry("a").tobuf()))
    refused(tmp_path / "bomb", "damaged")


def test_a_size_below_zero_goes_nowhere(tmp_path: Path) -> None:
    """Its end lies before its beginning, so a reader that trusts it reads for ever."""
    made = bytearray(entry("a.txt").tobuf(tarfile.GNU_FORMAT))
    made[124:136] = b"\xff" * 10 + b"\xfc\0"  # -1024 as GNU tar writes it
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    (tmp_path / "evil").write_bytes(bytes(made) + bytes(10240))
    with pytest.raises(InputError, match="damaged"):
        unpack(tmp_path / "evil", tmp_path / "inside")


@pytest.mark.parametrize("claim", [10, 10_000_000])
def test_a_zip_whose_member_lies_about_its_size(claim: int, tmp_path: Path) -> None:
    make_zip(tmp_path / "evil", {"a.txt": bytes(100_000)})
    lied = (tmp_path / "evil").read_bytes().replace((100_000).to_bytes(4, "little"), claim.to_bytes(4, "little"))
    (tmp_path / "evil").write_bytes(lied)
    with pytest.raises(FileError, match="damaged"):
        unpack(tmp_path / "evil", tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= claim


def test_no_more_is_written_than_was_promised(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="damaged"):
        _archive._write(tmp_path / "evil", tmp_path / "out", io.BytesIO(bytes(2**22)), 100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damaged", [2_500_000, 100])
def test_no_part_of_a_file_stays(damaged: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.bin", b"A" * 3_000_000)
    content = bytearray((tmp_path / "bad.zip").read_bytes())
    content[damaged] ^= 1
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not everything(tmp_path / "out")


def test_the_disk_that_is_full_is_that_of_the_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "downloads").mkdir()
    make_zip(tmp_path / "downloads" / "tnbc.zip", {"TNBC/a.png": b"x" * 100})
    monkeypatch.setattr(_archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=f"but the disk of {tmp_path / 'there'} has"):
        public.convert("tnbc", tmp_path / "downloads" / "tnbc.zip", tmp_path / "there")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").symlink_to(tmp_path / "precious")
    make_zip(tmp_path / "a.zip", {"a.txt": b"theirs"})
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_in_an_archive_stays_packed(make: Maker, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("../../out.txt", "outside")
    make(tmp_path / "outer", {"TNBC.zip": inner.getvalue()})
    with pytest.raises(InputError, match="has no tnbc in its published layout"):
        public.convert("tnbc", tmp_path / "outer", tmp_path / "dst")
    assert everything(tmp_path) == ["outer"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("members", [{"TNBC/Slide_01/01_1.png": bytes(2**22)}, {"TNBC/x": b"", "../x": b""}])
def test_a_refused_conversion_leaves_nothing(make: Maker, members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "HARMLESS_BYTES", 2**20)
    make(tmp_path / "evil", members)
    with pytest.raises(InputError, match="evil"):
        public.convert("tnbc", tmp_path / "evil", tmp_path / "dst")
    assert everything(tmp_path) == ["evil"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_cut_or_bent_anywhere_it_is_refused_or_whole(make: Maker, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4
    make(tmp_path / "whole", {"a.txt": content, "b/c.txt": content})
    whole = (tmp_path / "whole").read_bytes()
    for at in range(0, len(whole), 7):
        for number, bad in enumerate((whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])):
            (tmp_path / "bad").write_bytes(bad)
            out = tmp_path / f"out{at}-{number}"
            try:
                unpack(tmp_path / "bad", out)
            except InputError:
                continue
            assert all(path.stat().st_size in (0, len(content)) for path in out.rglob("*") if path.is_file())
