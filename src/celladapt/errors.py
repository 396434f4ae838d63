"""The one exception for what a person can mend."""


class InputError(ValueError):
    """A user's file, folder or option is at fault.

    The message is one clear sentence that names the file or option and the cure. The command line prints it on
    stderr and exits with code 2; anything else that is raised counts as our fault (exit code 1).
    """


def missing(what: str, library: str, extra: str) -> InputError:
    """The sentence for an optional library that is not installed: ``what`` needs ``library``, which the extra ``extra`` brings."""
    return InputError(f'{what} needs {library}, which is not installed; `pip install "celladapt[{extra}]"` brings it.')
