"""What a command ends with: the exit code, and on stderr what a person can do about it.

Exit codes: 0 done, 2 the user's input or options, 1 our fault, 130 interrupted.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from cyclopts.exceptions import CycloptsError, UnknownOptionError, UnusedCliTokensError

from celladapt.errors import InputError
from celladapt.shell import as_typed

GOES_ON = ("adapt", "predict", "benchmark", "demo", "data fetch")
"""Commands that go on where a call was interrupted; the others keep nothing of it."""
OF_THE_DISK = {
    getattr(errno, name, None)  # not every system has every one
    for name in (
        "EACCES", "EDQUOT", "EFBIG", "EINVAL", "EIO", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENOSPC", "ENOTDIR", "EPERM", "EROFS", "ESTALE", "ETXTBSY",
    )
} - {None}  # fmt: skip
"""Errors of the system that a person can mend; a file that is not there is told where it is looked for, or else is our fault."""


def exit_code(command: Callable[[], object], words: Sequence[str]) -> int:
    """Run ``command`` and return the exit code; ``words`` is what was typed to call it.

    An error of cyclopts, an InputError or one of the disk is a sentence and 2, KeyboardInterrupt 130, a reader of our output that has left 0, any other
    exception a traceback and 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot spell µ or é costs no run
    try:
        command()
    except UnusedCliTokensError as error:
        word = next(iter(error.unused_tokens or []), "")
        return _told(f"'{word}' has no option's name before it; write for example --source DIR, and see --help.", 2)
    except UnknownOptionError as error:
        file = next((word for word in words if word.startswith("-") and os.path.exists(word)), None)
        return _told(str(error) + (f" If the file is meant, write ./{file}." if file else ""), 2)
    except (CycloptsError, InputError) as error:
        return _told(str(error), 2)
    except KeyboardInterrupt as stop:
        same = "the same command without --overwrite" if "--overwrite" in words else "the same command"
        again = f"`{as_typed('celladapt', 'adapt', '--resume', stop.args[0])}`" if stop.args else same
        goes_on = words[:1] and " ".join(words[: 2 if words[0] == "data" else 1]) in GOES_ON
        return _told(f"interrupted; {again} goes on where it stopped." if goes_on else "interrupted.", 130)
    except BrokenPipeError:  # the reader of our output has left, and what is not written yet has nowhere to go
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # by which rich ends the program when it has no reader
            raise
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            return _our_fault()
        where = error.filename or "A file"
        return _told(f"{where} cannot be used ({error.strerror}); check its name, its permissions and the disk.", 2)
    except Exception:
        return _our_fault()
    return 0


def _told(sentence: str, code: int) -> int:
    print(f"celladapt: {sentence}", file=sys.stderr)
    return code


def _our_fault() -> int:
    """Tell of the exception in hand, and return the exit code."""
    traceback.print_exc()
    return _told("this is a fault of celladapt, not yours; please report it with the lines above.", 1)
