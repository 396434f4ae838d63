"""Commands for a person to copy, quoted for the terminal of this system."""

import os
import shlex
import subprocess


def as_typed(*words: object) -> str:
    """The line to type, whatever is in the words."""
    texts = [str(word) for word in words]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)
