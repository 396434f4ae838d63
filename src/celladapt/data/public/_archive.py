"""Unpack archives from strangers: nothing is written outside the folder, and no more than was looked at before the first byte."""

import bz2
import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from celladapt.errors import FileError, InputError

MOST_MEMBERS = 500_000
"""The largest public set has some ten thousand."""
LARGEST_RATIO = 200
"""Unpacked to packed, of the whole archive; text and label images stay below, deflate reaches a thousand, bzip2 a million."""
HARMLESS_BYTES = 2**30
"""What may be unpacked whatever the ratio: an archive of empty label images is small."""
_PIECE = 2**20
_HEADER_BYTES = 2**10 * MOST_MEMBERS
"""Of a tar, two blocks a member."""
_DAMAGED = ("is damaged or cut short", "download it again")
_NOT_TRUSTED = "do not use it; download it from the data set's home page"
_BY_HAND = "if you trust it unpack it by hand and name the folder"
_OF_MACOS = (".DS_Store", "Icon\r")
_ODD = re.compile(r"[\x00-\x1f\x7f:]")
"""Line ends, what steers a terminal, and the colon, which on Windows leads to a hidden stream of a file."""
_WRONG_BYTES = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError, IndexError, KeyError,
    struct.error, OverflowError, UnicodeError, ValueError,
)  # fmt: skip
_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x5d\0\0": lzma.open}


class _Member(NamedTuple):
    """A file, folder or anything else in an archive, by its header."""

    entry: Any
    name: str
    size: int
    kind: str = "file"
    """file, folder, copy (a hard link), link, or special."""
    target: str = ""
    """Where a link leads, from the top of the archive."""


class _Planned(NamedTuple):
    """A file to write: the bytes of a member, or a copy of what was written before."""

    member: _Member
    path: Path
    copied: Path | None = None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or (compressed) tar archive that can be opened, told by its content."""
    try:
        if not path.is_file() or zipfile.is_zipfile(path):
            return path.is_file()
        with _open_tar(path):
            return True
    except (OSError, *_WRONG_BYTES):
        return False


def unpack(archive: Path, folder: Path, destination: Path | None = None) -> None:
    """Unpack the files of a zip or tar archive into ``folder``, which is made; their rights, owners and times are not taken over.

    Of a file that a tar holds twice under one name the last counts, as tar has it; a hard link to an earlier file becomes a copy of it.

    All headers are looked at before the first file is written, and no more is written than they promised. What is left on an error is whole files inside
    ``folder``. A disk that is too full is told as that of ``destination``, where ``folder`` is no place that a person has named.

    Raises:
        FileError: no archive, damaged, encrypted; a member that leads out of the folder, is no plain file, has a name that not every system can store or that of
            another; a decompression bomb.
        InputError: more bytes than the disk has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for member, path, _ in _checked(archive, folder, destination or folder, _in_zip(archive, packed)):
                    with packed.open(member.entry) as source:
                        _write(archive, path, source, member.size)
        else:
            with _open_tar(archive) as (tar, spared):
                plan = _checked(archive, folder, destination or folder, _in_tar(tar))
                spared.left = None  # the headers are behind us
                written: set[Path] = set()
                for member, path, copied in plan:
                    if path in written:
                        path.unlink()
                    written.add(path)
                    with closing(open(copied, "rb") if copied else cast(IO[bytes], tar.extractfile(member.entry))) as source:
                        _write(archive, path, source, member.size)
    except InputError:
        raise
    except _WRONG_BYTES as error:
        raise FileError(archive, *_DAMAGED) from error
    except OSError as error:
        # Of a decoder; or a place before its beginning, a name that no disk holds.
        if error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
            raise
        raise FileError(archive, *_DAMAGED) from error


def _in_zip(archive: Path, packed: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in packed.infolist():
        mode = stat.S_IFMT(entry.external_attr >> 16)
        slashed = entry.orig_filename.endswith("\\") and not entry.file_size  # so old tools of Windows name a folder
        kind = "folder" if entry.is_dir() or slashed else {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "link"}.get(mode, "special")
        if entry.flag_bits & 1:
            raise FileError(archive, "is encrypted", "unpack it by hand and name the folder")
        yield _Member(entry, entry.orig_filename, entry.file_size, kind, "/")


def _in_tar(tar: tarfile.TarFile) -> Iterator[_Member]:
    for entry in tar:
        special = entry.issparse() or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk())
        kind = "special" if special else "folder" if entry.isdir() else "file" if entry.isreg() else "copy" if entry.islnk() else "link"
        target = f"{PurePosixPath(entry.name).parent}/{entry.linkname}" if entry.issym() and entry.linkname[:1] != "/" else entry.linkname
        yield _Member(entry, entry.name, entry.size, kind, target)


def _checked(archive: Path, folder: Path, destination: Path, members: Iterator[_Member]) -> list[_Planned]:
    """What to write; raises as ``unpack`` where one of the archive's members is not what a data set has."""
    plan: list[_Planned] = []
    files: dict[str, _Member] = {}
    total, packed, free = 0, archive.stat().st_size, shutil.disk_usage(folder).free
    for number, member in enumerate(members, 1):
        shown = repr(member.name[:100])
        if number > MOST_MEMBERS:
            raise FileError(archive, f"has more than {MOST_MEMBERS} members, as a decompression bomb", _NOT_TRUSTED)
        if member.kind == "folder" and not PurePosixPath(member.name.strip("/\\")).parts:
            continue  # the folder itself
        place, target = _inside(member.name), _inside(member.target)
        if place is None or (member.kind in ("link", "copy") and target is None):
            raise FileError(archive, f"would write outside its folder ({shown})", _NOT_TRUSTED)
        if place.name in _OF_MACOS:
            continue
        if len(member.name) > 1000 or _ODD.search(member.name):
            raise FileError(archive, f"has a name that not every system can store ({shown})", _BY_HAND)
        first = files.get(_alike(target)) if member.kind == "copy" and target else None
        if member.kind in ("link", "special") or (member.kind == "copy" and (first is None or first.name != member.target)):
            raise FileError(archive, f"has a member that is no plain file but a link, a device, a pipe or sparse ({shown})", _BY_HAND)
        if member.size < 0:
            raise FileError(archive, *_DAMAGED)
        if first is not None:
            member = member._replace(size=first.size)
        total += member.size
        if total > free:
            raise InputError(
                f"{archive} unpacks to {total / 1e9:.1f} GB or more but the disk of {destination} has {free / 1e9:.1f} GB left; "
                f"free space or choose another disk."
            )
        if total > max(HARMLESS_BYTES, LARGEST_RATIO * packed):
            raise FileError(
                archive, f"unpacks to more than {LARGEST_RATIO} times its size, as a decompression bomb", f"{_NOT_TRUSTED}, or {_BY_HAND}"
            )
        if member.kind == "folder" or place.parts[0] == "__MACOSX" or (first is not None and target == place):
            continue
        before = files.setdefault(_alike(place), member)
        if before is not member and not (isinstance(member.entry, tarfile.TarInfo) and before.name == member.name):
            raise FileError(archive, f"has {shown} twice, or in small and capital letters", _BY_HAND)
        files[_alike(place)] = member
        plan.append(_Planned(member, folder / place, folder / target if first is not None and target else None))
    for member, path, _ in plan:
        if any(_alike(PurePosixPath(parent)) in files for parent in list(PurePosixPath(path.relative_to(folder).as_posix()).parents)[:-1]):
            raise FileError(archive, f"has a file and a folder of one name (above {member.name[:100]!r})", _BY_HAND)
    return plan


def _inside(name: str) -> PurePosixPath | None:
    """The place of a member below the folder; None where on some system it has none."""
    name = name.replace("\\", "/")
    place = PurePosixPath(name)
    bad = (
        place.is_absolute()
        or re.match("[a-zA-Z]:", name)  # a drive
        or not place.parts
        or any(not part.strip(". ") for part in place.parts)  # .., and what Windows makes of ". ." and the like
    )
    return None if bad else place


def _alike(place: PurePosixPath) -> str:
    """The same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", str(place)).casefold()


def _write(archive: Path, path: Path, source: IO[bytes], size: int) -> None:
    """Write ``size`` bytes, not one more, to a file that is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with open(path, "xb") as plain:
        try:
            while piece := source.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    break
                plain.write(piece)
            if left:
                raise FileError(archive, *_DAMAGED)
        except BaseException:
            plain.close()
            path.unlink()
            raise


class _Sparing:
    """A tar as a file, which is read in small pieces: a header that says it is larger is a bomb, and so are headers without end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left: int | None = _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        """As of a file."""
        if not 0 <= count <= _PIECE:
            raise tarfile.ReadError("a header is too large")
        if self.left is not None:
            self.left -= count
            if self.left < 0:
                raise tarfile.ReadError("there are too many headers")
        return self.file.read(count)


@contextmanager
def _open_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, _Sparing]]:
    with open(path, "rb") as file:
        head = file.read(5)
    decompress = next((way for magic, way in _DECOMPRESS.items() if head.startswith(magic)), open)
    with decompress(path, "rb") as unpacked:  # type: ignore[operator]
        spared = _Sparing(unpacked)
        with tarfile.open(fileobj=cast(IO[bytes], spared), mode="r:") as tar:
            yield tar, spared
