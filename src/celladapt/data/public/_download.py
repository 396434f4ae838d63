"""Downloads that go on where they stopped and are verified before they count."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celladapt.data.public._archive import is_archive
from celladapt.data.public._set import PublicSet, Remote
from celladapt.errors import InputError
from celladapt.progress import Bar, say

if TYPE_CHECKING:
    from requests import Response

ATTEMPTS = 5
MEGABYTE = 2**20  # the unit of the progress bar
PIECE = 2**16  # bytes between writes, so that little is lost in a cut
TIMEOUT = (15, 60)  # seconds to connect, and between two pieces


def cache_folder(chosen: Path | None = None) -> Path:
    """Where downloads are kept: ``chosen``, else ``$CELLADAPT_DATA``, else the system's cache folder."""
    import pooch

    return Path(chosen or os.environ.get("CELLADAPT_DATA") or pooch.os_cache("celladapt"))


def download(name: str, chosen: PublicSet, remote: Remote, folder: Path, shown: bool = True) -> Path:
    """The file in ``folder``, downloaded unless it is there with the right checksum.

    Where no checksum is known, one line on stderr says so, with the SHA-256 of what came.

    Raises:
        InputError: no network, refused, wrong checksum (the file is removed), no archive where no checksum is known, full disk.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # its lines say what ours say
    target = folder / remote.name
    by_hand = f"or download {remote.name} by hand from {chosen.homepage} and run `celladapt data convert {name} SRC DST`"
    try:
        pooch.retrieve(remote.url, remote.checksum, remote.name, folder, downloader=Resuming(folder / f"{remote.name}.part", shown))
    except requests.HTTPError as error:
        answer = "an error" if error.response is None else f"{error.response.status_code} {error.response.reason}"
        raise InputError(f"{remote.url} cannot be downloaded (the server answers {answer}); try again later, {by_hand}.") from error
    except requests.RequestException as error:
        raise InputError(
            f"{remote.url} cannot be reached or was cut short; run the same command again, which goes on from there, {by_hand}."
        ) from error
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror}); free space or choose another cache folder with CELLADAPT_DATA.") from error
    except ValueError as error:  # pooch's word for a wrong checksum; it has removed the file
        raise InputError(f"{remote.url} does not have the checksum {remote.checksum}, so it was removed; try again, {by_hand}.") from error
    if remote.checksum is None:
        if not is_archive(target):
            target.unlink()
            raise InputError(f"{remote.url} is no archive (a web page?), so it was removed; try again later, {by_hand}.")
        say(f"No checksum of {remote.name} is known; the SHA-256 of what came is {pooch.file_hash(str(target))}.")
    return target


class Cut(Exception):
    """The connection ended in the middle of the file."""


class Resuming:
    """A downloader for pooch that collects in ``part`` and, when cut off, asks for the rest (HTTP Range), also in a later run."""

    def __init__(self, part: Path, shown: bool) -> None:
        self.part, self.shown = part, shown

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download ``url`` and move it to ``output_file``.

        Raises:
            requests.RequestException: no connection, an answer that is an error, or cut off too often.
        """
        import requests

        for attempt in range(ATTEMPTS):
            try:
                self._continue(url)
                break
            except Cut as cut:
                if attempt == ATTEMPTS - 1:
                    raise requests.ConnectionError(str(cut)) from cut
        os.replace(self.part, output_file)

    def _continue(self, url: str) -> None:
        import requests

        done = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as reply:
            place = reply.headers.get("Content-Range", "")
            if reply.status_code == 416 and place == f"bytes */{done}":  # all was there
                return
            goes_on = reply.status_code == 206 and place.startswith(f"bytes {done}-")
            if done and not goes_on and reply.status_code in (206, 416):  # another piece, or a file that is shorter than ours
                self.part.unlink()
            else:
                reply.raise_for_status()
                self._save(reply, done if goes_on else 0)  # a server without Range sends everything
                return
        self._continue(url)

    def _save(self, reply: "Response", done: int) -> None:
        import requests

        left = int(reply.headers.get("Content-Length") or 0)
        total = -(-(done + left) // MEGABYTE)
        came = done
        label, shown = f"{self.part.stem} (MB)", self.shown and left > 0
        with open(self.part, "ab" if done else "wb") as file, Bar(label, total, done // MEGABYTE, shown) as bar:
            try:
                for piece in reply.iter_content(PIECE):
                    file.write(piece)
                    came += len(piece)
                    while bar.done < -(-came // MEGABYTE):
                        bar.step()
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                raise Cut(str(error)) from error
        if left and came < done + left:
            raise Cut(f"{came} of {done + left} bytes came")
