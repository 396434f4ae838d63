"""The exception for what a person can mend, and its kind for one file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """A user's file, folder or option is at fault.

    The message is one clear sentence that names the file or option and the cure. The command line prints it on
    stderr and exits with code 2; anything else that is raised counts as our fault (exit code 1).
    """


class FileError(InputError):
    """One file or folder is at fault; the message is ``"<path> <problem>; <cure>."``."""

    def __init__(self, path: Path, problem: str, cure: str) -> None:
        super().__init__(f"{path} {problem}; {cure}.")
        self.path, self.problem, self.cure = path, problem, cure

    def __reduce__(self) -> tuple[type["FileError"], tuple[Path, str, str]]:
        return type(self), (self.path, self.problem, self.cure)  # from one process to another


DAMAGED = ("is damaged or cut short", "copy or export it again")
"""Problem and cure of a FileError about a file whose bytes make no sense."""


def optional(library: str, what: str, extra: str) -> Any:
    """A library that not everybody needs, imported.

    Args:
        library: module to import.
        what: what needs it, the beginning of a sentence.
        extra: which extra of celladapt brings it.

    Raises:
        InputError: it is not installed, or does not work; the sentence has the line that installs it.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise InputError(f'{what} needs {library} ({error}); install it: pip install "celladapt[{extra}]".') from None
    except Exception as error:  # a damaged installation, or one that misses a system library, can fail in many ways
        broken = " ".join(sorted(set(packages_distributions().get(library.split(".")[0], ())))) or library
        again = f'pip uninstall {broken}, then pip install "celladapt[{extra}]"'
        raise InputError(f"{what} needs {library}, which does not work here ({type(error).__name__}: {error}); install it again: {again}.") from None


@contextmanager
def while_segmenting(image: Path, out: Path) -> Iterator[None]:
    """What else than ``image`` can be at fault while it is segmented, as a FileError: memory, a disk, a folder that has gone."""
    try:
        yield
    except OSError as error:
        raise FileError(image, f"could not be segmented ({error})", f"see that it and {out} are there, may be written to, and have space") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise FileError(image, "needs more memory than there is", "segment it on its own, a slide with a smaller --tile") from error


def out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether it says that there is not memory enough; torch has no error of its own for that on a CPU."""
    return (
        isinstance(error, MemoryError) or re.search("out of memory|not enough memory|allocate memory|bad.?alloc|ALLOC_FAILED", str(error)) is not None
    )
