"""From images and slides to outputs on disk, one after another or spread over processes. ``inputs`` finds the files, ``misfits`` says whose pixels do not fit the model, ``segmentation`` does one."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from celladapt import provenance
from celladapt.data.limits import at_most
from celladapt.errors import InputError
from celladapt.inputs import NOTES, check_out, find_images
from celladapt.job import Job, Settings, Written
from celladapt.loading import loaded_model
from celladapt.locks import sweep
from celladapt.misfits import misfits
from celladapt.model import Predictor
from celladapt.progress import Bar, say
from celladapt.segmentation import segment, segment_image, segment_slide, write_outputs

_WRITERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_WAITING_PIXELS = 2**26
_ONE_AT_A_TIME = Lock()


class SomeFailed(InputError):
    """Files that could not be segmented, and ``done``, those that were."""

    def __init__(self, sentence: str, done: list[Written]) -> None:
        super().__init__(sentence)
        self.done = done


def predict(
    model: Predictor | str | Path,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    save: str | Sequence[str] = ("mask", "instances"),
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> list[Written]:
    """Segment images, slides, folders and globs into ``out``: ``<stem>_mask.png``, ``<stem>_instances.tif`` and more, see ``outputs.WRITERS``.

    A file that cannot be read does not stop the others; it is named in the error at the end. Called again, it goes on where it stopped: what the same model and settings
    have made of the same file is kept, and a slide goes on at the tile where it was.

    Args:
        model: a model, or where to load it from.
        inputs: image and slide files, folders of them (or domain folders with images/) and globs.
        out: folder to write to, made if absent.
        save: one or more of the words in ``outputs.WRITERS``, as a sequence or separated by commas.
        overwrite: whether existing outputs are made anew; all that there are of an image, unless the rest is of the same model and settings.
        workers: processes on this machine; more than one needs dask.
        scheduler: address of a running Dask scheduler, whose workers see the same files under the same names, instead.
        device: where to compute, if ``model`` is a place to load it from.
        precision: likewise, in which arithmetic.
        settings: the other fields of ``Settings``.

    Raises:
        SomeFailed: files that failed; the others are done.
        InputError: nothing to read, a wrong setting, or an output that exists already (then nothing is written).
    """
    words = tuple(word.strip() for word in save.split(",")) if isinstance(save, str) else tuple(save)
    chosen = Settings.of(words, **settings)
    images = find_images(inputs)
    out = Path(out)
    check_out(images, out)
    provenance.check(out)
    if workers < 1 or (workers > 1 and scheduler is not None):
        raise InputError(f"--workers is {workers}; it must be 1 or more, and 1 beside --scheduler, whose workers are others.")
    spread = workers > 1 or scheduler is not None
    if spread and not isinstance(model, (str, Path)):
        raise InputError("Several processes load the model themselves; give its run folder or file instead of the model.")
    # Before the model is read, which takes seconds.
    _not_in_the_way([job for job in (Job(path, out, chosen, "") for path in images) if not os.path.exists(job.note)], overwrite)
    loaded = loaded_model(Path(model), device, precision) if isinstance(model, (str, Path)) else model
    jobs = [Job(path, out, chosen, loaded.fingerprint) for path in images]
    if left := [(word, path) for job in jobs for word, path in job.of_others.items()]:
        every = ",".join(dict.fromkeys([*words, *(word for word, _ in left)]))
        raise InputError(
            f"{left[0][1]} ({len(left)} such) was made with another model, other settings or from another state of the image, and would be taken for a part of this; "
            f"choose another --out, make all of them anew (--save {every} --overwrite), or delete them."
        )
    for folder in (out, out / NOTES):
        sweep(folder.glob(".*"))
    if overwrite:
        for job in jobs:
            job.renounce()
    ready = {job.image: written for job in jobs if (written := job.written()) is not None}
    todo = [job for job in jobs if job.image not in ready]
    _not_in_the_way(todo, overwrite)
    if ready and todo:
        say(f"{len(ready)} of {len(images)} are done already.")
    if spread:
        assert isinstance(model, (str, Path))
        done, failed = _spread(Path(model), loaded, (device, precision), todo, workers, scheduler)
    else:
        with at_most(chosen.max_megapixels):
            done, failed = _in_turn(loaded, todo)
    order = {path.stem: number for number, path in enumerate(images)}
    done = sorted([*ready.values(), *done], key=lambda written: order[written.image.stem])
    if failed:
        others = f", the others are in {out}" if done else ""
        sentence = f"{len(failed)} of {len(images)} images failed{others}: " + _at_once(failed)
    try:
        if done:
            provenance.note(loaded, Path(model) if isinstance(model, (str, Path)) else None, chosen, out, done, anew=bool(todo))
    except InputError as error:
        raise SomeFailed(f"{sentence} {error}" if failed else str(error), done) from None
    if failed:
        raise SomeFailed(sentence, done)
    return done


def _at_once(sentences: Sequence[str]) -> str:
    """Why files failed, each sentence once, with how often it holds where it names no file."""
    return " ".join(sentence + (f" ({count} such)" if count > 1 else "") for sentence, count in Counter(sentences).items())


def _not_in_the_way(jobs: Sequence[Job], overwrite: bool) -> None:
    """Raise InputError where an output exists that is not of an earlier call which was stopped at it."""
    existing = [path for job in jobs for path in job.in_the_way]
    if existing and not overwrite:
        raise InputError(f"{existing[0]} exists already ({len(existing)} such files); choose another --out, or --overwrite to replace them.")


def _in_turn(model: Predictor, jobs: Sequence[Job]) -> tuple[list[Written], list[str]]:
    """Carry out jobs one after another in this process; what was written, and a sentence for each file that failed."""
    done: list[Written] = []
    failed: list[str] = []
    waiting: deque[tuple[Job, int, Future[Written]]] = deque()
    tell = _Once()
    with Bar("predicting", len(jobs)) as bar, ThreadPoolExecutor(_WRITERS) as writers:

        def finish() -> None:
            job, _, written = waiting.popleft()
            try:
                done.append(written.result())
            except InputError as error:
                failed.append(str(error))
            bar.step(job.image.name)

        for job in jobs:
            try:
                tell(misfits(model, job))
                if job.slide:
                    done.append(segment_slide(model, job, bar.more, partial(bar.step, job.image.name)))
                    bar.step(job.image.name)
                    continue
                image, seen, size = segment_image(model, job)
            except InputError as error:
                failed.append(str(error))
                bar.step(job.image.name)
                continue
            # Nuclei are found and files written while the network is at the next image. Few and small images wait, so that memory is bounded.
            pixels = seen.probability.size
            while waiting and (len(waiting) >= _WRITERS or pixels + sum(size for _, size, _ in waiting) > _WAITING_PIXELS):
                finish()
            waiting.append((job, pixels, writers.submit(write_outputs, job, image, seen, size)))
            del image, seen
        while waiting:
            finish()
    return done, failed


def _spread(
    model: Path, loaded: Predictor, how: tuple[str, str], jobs: Sequence[Job], workers: int, scheduler: str | None
) -> tuple[list[Written], list[str]]:
    """Carry out jobs in several processes; what was written, and a sentence for each file that failed."""
    from celladapt.cohort import spread

    done: list[Written] = []
    failed: list[str] = []
    named: dict[str, Job] = {}
    tell = _Once()
    for job in jobs:
        try:
            tell(misfits(loaded, job))
            job = replace(job, image=job.image.absolute(), out=job.out.absolute())
            named[f"{job.image} {hashlib.sha256(repr(job).encode()).hexdigest()}"] = job
        except InputError as error:
            failed.append(str(error))
    with Bar("predicting", len(named)) as bar:
        for job, result in spread(partial(_in_worker, model.absolute(), how), named, workers, scheduler):
            failed.append(str(result)) if isinstance(result, InputError) else done.append(result)
            bar.step(job.image.name)
    return done, failed


def _in_worker(model: Path, how: tuple[str, str], job: Job) -> Written:
    with _ONE_AT_A_TIME:  # a worker may have several threads, a model only one user
        loaded = loaded_model(model, *how)
        if loaded.fingerprint != job.model:
            raise InputError(
                f"{model} is another model for this worker (it has changed, or the worker computes in other arithmetic); give --precision, and the command again."
            )
        with at_most(job.settings.max_megapixels):
            return segment(loaded, job)


class _Once:
    """Says each sentence once."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in self.told:
                self.told.add(sentence)
                say(sentence)
