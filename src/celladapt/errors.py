"""The one exception for what a person can mend."""

from importlib import import_module
from importlib.metadata import packages_distributions
from typing import Any


class InputError(ValueError):
    """A user's file, folder or option is at fault.

    The message is one clear sentence that names the file or option and the cure. The command line prints it on
    stderr and exits with code 2; anything else that is raised counts as our fault (exit code 1).
    """


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
