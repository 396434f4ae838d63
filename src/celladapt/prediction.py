"""From files to outputs on disk: images, slides, folders and globs, one after another or spread over processes."""

import glob
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.folder import digest, list_images
from celladapt.data.images import IMAGE_SUFFIXES, read_image
from celladapt.data.slide import SLIDE_SUFFIXES, is_slide, open_slide, tiff_pixel_size, view_at
from celladapt.errors import InputError
from celladapt.files import alone, write_json
from celladapt.model import Prediction, Predictor, load_model, loaded_model
from celladapt.nuclei import Nuclei, measure
from celladapt.outputs import Picture, Segmented, check_words, output_path, write
from celladapt.progress import Bar, say
from celladapt.units import area_in_pixels
from celladapt.whole_slide import Rules, Work

RECORD = "predictions.json"
NOTES = ".celladapt"
"""Folder in the output folder: a note on each image that is done, and what a slide has so far."""
_WRITERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_WAITING_PIXELS = 2**26
_MISFIT = 1.2  # pixel sizes that differ more than this are told


@dataclass(frozen=True)
class Settings:
    """How images are segmented and what is saved of them."""

    save: tuple[str, ...] = ("mask", "instances")
    """Words of ``outputs.WRITERS``."""
    threshold: float = 0.5
    """Probability from which a pixel is nucleus."""
    min_size: str = "20"
    """Smallest nucleus: px² of the image segmented, or a number with the unit um2."""
    pixel_size: float | None = None
    """µm per pixel of the images at full resolution, where the files do not say."""
    at: float | None = None
    """µm per pixel at which slides are segmented; by default that of the images that the model was trained on."""
    tissue: bool = True
    """Whether glass around the tissue of a slide is left out."""
    tile: int = 2048
    """Side in pixels of the tiles in which slides are segmented: smaller ones need less memory and more time."""

    def __post_init__(self) -> None:
        check_words(self.save)
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold is {self.threshold}; it must be above 0 and below 1.")
        for name in ("pixel_size", "at"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"--{name.replace('_', '-')} is {value}; give µm per pixel, for example 0.25.")
        if self.tile < 128 or self.tile % 64:
            raise InputError(f"--tile is {self.tile}; it must be a multiple of 64 from 128 on.")
        area_in_pixels(self.min_size, 1.0)  # nonsense shows before any work


@dataclass(frozen=True)
class Written:
    """One image's outputs on disk and what is in them."""

    image: Path
    outputs: dict[str, Path]
    nuclei: int
    foreground: float
    """Share of pixels that are nucleus, in [0, 1]; on a slide, of the pixels in tissue."""
    median_area: float
    """Of the nuclei, in px² of the image segmented; 0 without one. Far less than the eye says means fragments."""
    pixel_size: float | None = None
    """µm per pixel of the image segmented, if known."""
    tissue: float | None = None
    """Share of a slide that was segmented; None for an image."""

    @property
    def words(self) -> str:
        """One line for the person."""
        micro = f" ({self.median_area * self.pixel_size**2:.1f} µm²)" if self.pixel_size else ""
        share = f"{self.foreground:.1%} of the {'tissue' if self.tissue is not None else 'image'}"
        return f"{self.image.name}: {self.nuclei} nuclei of median {self.median_area:.0f} px²{micro}, {share}"


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
        overwrite: whether other existing outputs may be replaced.
        workers: processes on this machine; more than one needs dask.
        scheduler: address of a running Dask scheduler, whose workers see the same files under the same names, instead.
        settings: the other fields of ``Settings``.

    Raises:
        SomeFailed: files that failed; the others are done.
        InputError: nothing to read, a wrong setting, or an output that exists already (then nothing is written).
    """
    words = tuple(word.strip() for word in save.split(",")) if isinstance(save, str) else tuple(save)
    chosen = Settings(words, **settings)
    images = find_images(inputs)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out.")
    spread = workers > 1 or scheduler is not None
    if spread and not isinstance(model, (str, Path)):
        raise InputError("Several processes load the model themselves; give its run folder or file instead of the model.")
    _not_in_the_way([job for job in (Job(path, out, chosen, "") for path in images) if not job.note.exists()], overwrite)  # before the model is read
    loaded = load_model(model) if isinstance(model, (str, Path)) else model
    jobs = [Job(path, out, chosen, loaded.fingerprint) for path in images]
    ready = [written for job in jobs if (written := job.written()) is not None]
    todo = [job for job in jobs if job.image not in {written.image for written in ready}]
    _not_in_the_way(todo, overwrite)
    if ready and todo:
        say(f"{len(ready)} of {len(images)} are done already.")
    if spread:
        assert isinstance(model, (str, Path))
        done, failed = _spread(Path(model).absolute(), todo, workers, scheduler)
    else:
        done, failed = _in_turn(loaded, todo)
    _note_seen(loaded, out, images)
    order = {path.stem: number for number, path in enumerate(images)}
    done = sorted([*ready, *done], key=lambda written: order[written.image.stem])
    if failed:
        raise SomeFailed(f"{len(failed)} of {len(images)} images failed, the others are in {out}: " + " ".join(failed), done)
    return done


@dataclass(frozen=True)
class Job:
    """One file to segment."""

    image: Path
    out: Path
    settings: Settings
    model: str
    """The model's fingerprint."""

    def __str__(self) -> str:
        return str(self.image)

    @cached_property
    def slide(self) -> bool:
        """Whether it is read in parts."""
        return is_slide(self.image)

    @property
    def outputs(self) -> dict[str, Path]:
        """Word -> file."""
        return {word: output_path(self.out, self.image.stem, word, self.slide) for word in self.settings.save}

    @property
    def identity(self) -> dict[str, Any]:
        """What the outputs depend on."""
        status = self.image.stat()
        settings = {name: value for name, value in asdict(self.settings).items() if name != "save"}
        return {"file": [str(self.image.absolute()), status.st_size, status.st_mtime_ns], "model": self.model, "settings": settings}

    @property
    def note(self) -> Path:
        """The record of its end."""
        return self.out / NOTES / f"{self.image.stem}.json"

    @property
    def work(self) -> Path:
        """The folder in which a slide is worked on."""
        return self.out / NOTES / self.image.stem

    @property
    def _noted(self) -> dict[str, Any]:
        """The record of an earlier call that would make the same again; empty without one."""
        try:
            note = dict(json.loads(self.note.read_text(encoding="utf-8")))
            return note if note["identity"] == self.identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def in_the_way(self) -> list[Path]:
        """Outputs that exist and are not what this job would make, or was making when it was stopped."""
        if (self.work / "work.json").is_file():
            return []
        own = self._noted.get("saved", ())
        return [path for word, path in self.outputs.items() if word not in own and path.exists()]

    def written(self) -> Written | None:
        """What an earlier call has made of it, if that is all there and would be made again."""
        note = self._noted
        if all(word in note.get("saved", ()) and path.exists() for word, path in self.outputs.items()):
            return Written(self.image, self.outputs, **note["found"])
        return None

    def finish(self, segmented: Segmented, nuclei: int, foreground: float, median_area: float, tissue: float | None = None) -> Written:
        """Write the outputs and the record."""
        for word, path in self.outputs.items():
            write(word, path, segmented)
        size = segmented.pixel_size
        found: dict[str, Any] = {
            "nuclei": nuclei,
            "foreground": foreground,
            "median_area": median_area,
            "pixel_size": None if size is None else size * segmented.downsample,
            "tissue": tissue,
        }
        saved = sorted({*self._noted.get("saved", ()), *self.outputs})
        write_json(self.note, {"identity": self.identity, "saved": saved, "found": found})
        return Written(self.image, self.outputs, **found)


@dataclass(frozen=True)
class InMemory:
    """An image that was segmented whole; see ``outputs.Segmented``."""

    image: NDArray[Any]
    seen: Prediction
    pixel_size: float | None
    downsample = 1.0
    large = False

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        h, w = self.seen.probability.shape
        return h, w

    def mask(self, y: int, x: int, h: int, w: int) -> NDArray[np.bool_]:
        """A part of the mask."""
        return self.seen.mask[y : y + h, x : x + w]

    def instances(self, y: int, x: int, h: int, w: int) -> NDArray[np.integer[Any]]:
        """A part of the labels."""
        return self.seen.instances[y : y + h, x : x + w]

    def probability(self, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """A part of the probabilities."""
        return self.seen.probability[y : y + h, x : x + w]

    def nuclei(self) -> Iterator[Nuclei]:
        """All at once."""
        yield self._nuclei

    @cached_property
    def _nuclei(self) -> Nuclei:
        return measure(self.seen.instances, self.seen.probability, self.image)

    def pictures(self) -> list[Picture]:
        """Itself, as it is."""
        return [(self.image, self.seen.instances)]


def segment(model: Predictor, job: Job, more: Callable[[int], None] = lambda count: None, step: Callable[[], None] = lambda: None) -> Written:
    """Carry out one job.

    Args:
        model: as the job's fingerprint says.
        job: what to do; nothing is done where an earlier call has.
        more: told how many tiles a slide has, before the first.
        step: called after each tile.

    Raises:
        InputError: the file is at fault, or the outputs cannot be written.
    """
    if (written := job.written()) is not None:
        return written
    if job.slide:
        return _slide(model, job, more, step)
    return _write(job, *_image(model, job))


def _not_in_the_way(jobs: Sequence[Job], overwrite: bool) -> None:
    """Raise InputError where an output exists that is not of an earlier call which was stopped at it."""
    existing = [path for job in jobs for path in job.in_the_way]
    if existing and not overwrite:
        raise InputError(f"{existing[0]} exists already ({len(existing)} such files); choose another --out, or --overwrite to replace them.")


def _image(model: Predictor, job: Job) -> tuple[NDArray[Any], Prediction, float | None]:
    size = job.settings.pixel_size or tiff_pixel_size(job.image)
    smallest = area_in_pixels(job.settings.min_size, size)
    image = read_image(job.image)
    return image, Prediction(model.predict(image).probability, job.settings.threshold, smallest), size


def _write(job: Job, image: NDArray[Any], seen: Prediction, size: float | None) -> Written:
    areas = np.bincount(seen.instances.ravel())[1:]
    return job.finish(InMemory(image, seen, size), areas.size, float(seen.mask.mean()), float(np.median(areas)) if areas.size else 0.0)


def _slide(model: Predictor, job: Job, more: Callable[[int], None], step: Callable[[], None]) -> Written:
    settings = job.settings
    with open_slide(job.image, settings.pixel_size) as slide:
        view = view_at(slide, settings.at or model.pixel_size)
        smallest = area_in_pixels(settings.min_size, view.pixel_size)
        rules = Rules(settings.threshold, smallest, settings.tissue, settings.tile)
        work = Work(view, lambda image: model.predict(image).probability, rules, job.work, job.identity)
        if not work.tiles:
            raise InputError(f"{job.image} has no tissue that could be told from glass; --no-tissue segments all of it.")
        job.work.mkdir(parents=True, exist_ok=True)
        with alone(job.work):
            more(len(work.tiles))
            work.run(step)
            areas = np.concatenate([nuclei.columns["area"] for nuclei in work.nuclei()])
            median = float(np.median(areas)) if areas.size else 0.0
            written = job.finish(work, areas.size, float(areas.sum() / work.pixels), median, work.pixels / (work.shape[0] * work.shape[1]))
        work.forget()
        return written


def _in_turn(model: Predictor, jobs: Sequence[Job]) -> tuple[list[Written], list[str]]:
    """Carry out jobs one after another in this process; what was written, and a sentence for each file that failed."""
    done: list[Written] = []
    failed: list[str] = []
    waiting: deque[tuple[Job, int, Future[Written]]] = deque()
    told: set[str] = set()
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
                for sentence in misfits(model, job):
                    if sentence not in told:
                        told.add(sentence)
                        say(sentence)
                if job.slide:
                    done.append(_slide(model, job, lambda tiles: bar.more(tiles), lambda name=job.image.name: bar.step(name)))  # type: ignore[misc]
                    bar.step(job.image.name)
                    continue
                image, seen, size = _image(model, job)
            except InputError as error:
                failed.append(str(error))
                bar.step(job.image.name)
                continue
            # Nuclei are found and files written while the network is at the next image. Few and small images wait, so that memory is bounded.
            pixels = seen.probability.size
            while waiting and (len(waiting) >= _WRITERS or pixels + sum(size for _, size, _ in waiting) > _WAITING_PIXELS):
                finish()
            waiting.append((job, pixels, writers.submit(_write, job, image, seen, size)))
            del image, seen
        while waiting:
            finish()
    return done, failed


def _spread(model: Path, jobs: Sequence[Job], workers: int, scheduler: str | None) -> tuple[list[Written], list[str]]:
    """Carry out jobs in several processes; what was written, and a sentence for each file that failed."""
    from celladapt.cohort import spread

    done: list[Written] = []
    failed: list[str] = []
    jobs = [replace(job, image=job.image.absolute(), out=job.out.absolute()) for job in jobs]
    with Bar("predicting", len(jobs)) as bar:
        for job, result in spread(partial(_in_worker, model), {f"{job.image}-{job.model}": job for job in jobs}, workers, scheduler):
            failed.append(str(result)) if isinstance(result, InputError) else done.append(result)
            bar.step(job.image.name)
    return done, failed


def _in_worker(model: Path, job: Job) -> Written:
    return segment(loaded_model(model), job)


def misfits(model: Predictor, job: Job) -> Iterator[str]:
    """What a person should know about the pixel sizes of a model and a file, a sentence each.

    Raises:
        InputError: the slide cannot be opened.
    """
    settings, trained = job.settings, model.pixel_size
    if not job.slide:
        size = settings.pixel_size or tiff_pixel_size(job.image)
        if size is not None and trained is not None and not 1 / _MISFIT <= size / trained <= _MISFIT:
            yield (
                f"The model was trained at {trained:.3g} µm per pixel, {job.image.parent} has {size:.3g}: nuclei look {trained / size:.2g} times as large to it; "
                f"scale the images by {size / trained:.2g}, or train on such images."
            )
        return
    with open_slide(job.image, settings.pixel_size) as slide:
        wanted = settings.at or trained
        if wanted is None:
            known = f" ({slide.pixel_size:.3g} µm per pixel)" if slide.pixel_size else ""
            yield f"The model does not know the pixel size it was trained at, so {job.image.name} is segmented at full resolution{known}; --at MICRONS sets another."
        elif slide.pixel_size is None:
            yield f"{job.image.name} does not say its pixel size, so it is segmented at full resolution, though the model was trained at {wanted:.3g} µm per pixel; give --pixel-size."
        elif slide.pixel_size > wanted * _MISFIT:
            yield f"{job.image.name} has {slide.pixel_size:.3g} µm per pixel at most, the model was trained at {wanted:.3g}: it is enlarged {slide.pixel_size / wanted:.2g} times and less sharp."
        elif settings.at is not None and trained is not None and not 1 / _MISFIT <= settings.at / trained <= _MISFIT:
            yield f"The model was trained at {trained:.3g} µm per pixel, --at is {settings.at:.3g}: nuclei look {trained / settings.at:.2g} times as large to it."


def _note_seen(model: Predictor, out: Path, images: Sequence[Path]) -> None:
    """Note which of the images trained the model, so that ``evaluate`` can say so."""
    known = set(model.about.get("trained_on", ()))
    seen = [path.stem for path in images if known and path.is_file() and not is_slide(path) and digest(path) in known]
    earlier = record_of(out)
    kept = [stem for stem in earlier.get("seen_in_training", []) if stem not in {path.stem for path in images}]
    if seen or earlier:
        write_json(out / RECORD, {**earlier, "seen_in_training": sorted([*kept, *seen])})


def record_of(folder: Path) -> dict[str, Any]:
    """What ``predict`` noted about the predictions in ``folder``: ``{"seen_in_training": [stem, ...]}``; empty where there is no such note."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def find_images(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Images and slides that ``inputs`` (files, folders, globs) name, in order of name, each once.

    Raises:
        InputError: one names nothing, or two files would write the same output.
    """
    found: dict[Path, None] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = Path(item)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            folder = path / "images" if (path / "images").is_dir() else path
            files = sorted([*list_images(folder), *(entry for entry in folder.iterdir() if _read_in_parts(entry))])
        elif path.exists():
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(str(item), recursive=True)) if p.suffix.lower() in IMAGE_SUFFIXES or _read_in_parts(p))
        if not files:
            raise InputError(
                f"{item} names no image; give an image or slide, a folder of them or a glob (formats: {' '.join(sorted((*IMAGE_SUFFIXES, *SLIDE_SUFFIXES, '.zarr')))})."
            )
        found |= dict.fromkeys(files)
    if not found:
        raise InputError("There is nothing to predict; give an image or slide, a folder of them or a glob.")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(f"{stems[path.stem]} and {path} would write the same output; predict them into different folders.")
        stems[path.stem] = path
    return list(found)


def _read_in_parts(path: Path) -> bool:
    """Whether it is a slide by its name alone; hidden files are none."""
    return not path.name.startswith(".") and (
        (path.suffix.lower() in SLIDE_SUFFIXES and path.is_file()) or (path.suffix.lower() == ".zarr" and path.is_dir())
    )
