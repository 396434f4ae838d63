"""One run in a process of its own, for a parent that runs several: ``python -m celladapt.worker RUN``.

Standard output carries JSON lines: ``{"done": step}`` as it trains, then ``{"finished": true}`` or ``{"error": sentence, "ours": bool}``. Standard input
carries nothing; its end says that the parent is gone, and the run then saves and stops.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from celladapt import adaptation
from celladapt.errors import InputError
from celladapt.progress import listen

EVERY_SECONDS = 0.5


def main(run: Path) -> None:
    """Carry out what ``run`` lacks and tell the parent about it."""
    told = [0.0]

    def tell(**message: Any) -> None:
        with contextlib.suppress(OSError):  # a parent that has gone does not listen; the run still saves
            print(json.dumps(message), flush=True)

    def progress(done: int) -> None:
        if time.monotonic() - told[0] > EVERY_SECONDS:
            told[0] = time.monotonic()
            tell(done=done)

    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    listen(progress)
    try:
        adaptation.resume(run)
    except InputError as error:
        tell(error=str(error), ours=False)
    except Exception as error:
        traceback.print_exc()
        tell(error=f"{type(error).__name__}: {error}", ours=True)
    except KeyboardInterrupt:
        tell(error="Stopped; a checkpoint is saved.", ours=False)
    else:
        tell(finished=True)


def _stop_with_the_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock this thread would still hold when the interpreter ends
        pass
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
