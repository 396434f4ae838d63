"""Unpack archives from strangers: nothing is written outside the folder."""

import errno
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from celladapt.data.images import FileError
from celladapt.errors import InputError

_DAMAGED = ("is damaged or cut short", "download it again")
_WRONG = (IndexError, KeyError, OverflowError, RuntimeError, ValueError, struct.error)  # what zipfile makes of damaged bytes, beside its own
_UNSAFE = "would write outside its folder"
_NOT_TRUSTED = "do not use it; download it from the data set's home page"


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or (compressed) tar archive that can be opened, told by its content."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except OSError:
        return False


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive into ``folder``, which is made.

    Raises:
        FileError: no archive, damaged, encrypted, or a member that leads out of the folder (nothing is written then).
        InputError: more bytes than the disk has left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, folder)
        else:
            with tarfile.open(archive) as tar:
                for member in tar.getmembers():
                    tarfile.data_filter(member, str(folder))  # all are looked at before the first is written
                tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise FileError(archive, _UNSAFE, _NOT_TRUSTED) from error
    except InputError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError, *_WRONG) as error:
        raise FileError(archive, *_DAMAGED) from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):
            raise
        raise FileError(archive, *_DAMAGED) from error  # a place before its beginning, a name that no disk holds


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as handle:
        members = [m for m in handle.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/") and not m.filename.endswith(".DS_Store")]
        for member in members:
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or ":" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
                raise FileError(archive, _UNSAFE, _NOT_TRUSTED)
            if member.flag_bits & 1:
                raise FileError(archive, "is encrypted", "unpack it by hand and name the folder")
        need, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"{archive} unpacks to {need / 1e9:.1f} GB but {folder.parent} has {free / 1e9:.1f} GB left; free space or choose another disk."
            )
        for member in members:
            path = folder / member.filename.replace("\\", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            with handle.open(member) as packed, open(path, "wb") as plain:
                shutil.copyfileobj(packed, plain, 2**20)
