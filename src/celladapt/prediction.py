"""From images to probabilities, masks and nuclei: arrays, files, folders and globs, of any size."""

import glob
import json
import os
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from celladapt.data.folder import digest, list_images
from celladapt.data.images import IMAGE_SUFFIXES, read_image, write_image
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.model import Prediction, Predictor, load_model
from celladapt.progress import Bar

Output = Literal["mask", "instances", "probability"]
RECORD = "predictions.json"
_WRITERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_WAITING_PIXELS = 2**26


@dataclass(frozen=True)
class Written:
    """One image's outputs on disk and what is in them."""

    image: Path
    outputs: dict[str, Path]
    nuclei: int
    foreground: float
    """Share of pixels that are nucleus, in [0, 1]."""
    median_area: float
    """Of the nuclei, in px²; 0 without one. Far less than the eye says means fragments."""


def predict(
    model: Predictor | str | Path,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    save: str | Sequence[str] = ("mask", "instances"),
    overwrite: bool = False,
) -> list[Written]:
    """Segment files, folders and globs into ``out``: ``<stem>_mask.png`` (0/255), ``<stem>_instances.tif``, ``<stem>_probability.tif``.

    A file that cannot be read does not stop the others; it is named in the error at the end.

    Args:
        model: a model, or where to load it from.
        inputs: image files, folders of images (or domain folders with images/) and globs.
        out: folder to write to, made if absent.
        save: one or more of "mask", "instances" (int32 labels, 0 background) and "probability" (float32 in [0, 1]).
        overwrite: whether existing outputs may be replaced.

    Raises:
        InputError: nothing to read, an output that exists already (then nothing is written), or files that failed.
    """
    save = [word.strip() for word in save.split(",")] if isinstance(save, str) else save
    for word in save:
        if word not in get_args(Output):
            raise InputError(f"--save has '{word}'; choose from {', '.join(get_args(Output))}.")
    images = find_images(inputs)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out.")
    planned = {path: {word: out / f"{path.stem}_{word}{'.png' if word == 'mask' else '.tif'}" for word in save} for path in images}
    existing = [p for outputs in planned.values() for p in outputs.values() if p.exists()]
    if existing and not overwrite:
        raise InputError(f"{existing[0]} exists already ({len(existing)} such files); choose another --out, or --overwrite to replace them.")
    if isinstance(model, (str, Path)):
        model = load_model(model)
    known = set(model.about.get("trained_on", ()))
    seen = [path.stem for path in images if digest(path) in known]
    done: list[Written] = []
    failed: list[str] = []
    waiting: deque[tuple[Path, int, Future[Written]]] = deque()
    with Bar("predicting", len(images)) as bar, ThreadPoolExecutor(_WRITERS) as writers:

        def finish() -> None:
            path, _, written = waiting.popleft()
            try:
                done.append(written.result())
            except InputError as error:
                failed.append(str(error))
            bar.step(path.name)

        for path, outputs in planned.items():
            try:
                prediction = model.predict(read_image(path))
            except InputError as error:
                failed.append(str(error))
                bar.step(path.name)
                continue
            # Nuclei are found and files written while the network is at the next image. Few and small images wait, so that memory is bounded.
            pixels = prediction.probability.size
            while waiting and (len(waiting) >= _WRITERS or pixels + sum(size for _, size, _ in waiting) > _WAITING_PIXELS):
                finish()
            waiting.append((path, pixels, writers.submit(_write, path, prediction, outputs)))
            del prediction
        while waiting:
            finish()
    earlier = record_of(out)
    kept = [stem for stem in earlier.get("seen_in_training", []) if stem not in {path.stem for path in images}]
    if seen or earlier:
        write_json(out / RECORD, {**earlier, "seen_in_training": sorted([*kept, *seen])})
    if failed:
        raise InputError(f"{len(failed)} of {len(images)} images failed, the others are in {out}: " + " ".join(failed))
    return done


def _write(path: Path, prediction: Prediction, outputs: dict[str, Path]) -> Written:
    for word, output in outputs.items():
        write_image(output, getattr(prediction, word))
    areas = np.bincount(prediction.instances.ravel())[1:]
    median = float(np.median(areas)) if areas.size else 0.0
    return Written(path, outputs, areas.size, float(prediction.mask.mean()), median)


def record_of(folder: Path) -> dict[str, Any]:
    """What ``predict`` noted about the predictions in ``folder``: ``{"seen_in_training": [stem, ...]}``; empty where there is no such note."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def find_images(inputs: str | Path | Iterable[str | Path]) -> list[Path]:
    """Image files that ``inputs`` (files, folders, globs) name, in order of name, each once.

    Raises:
        InputError: one names nothing, or two files would write the same output.
    """
    found: dict[Path, None] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = Path(item)
        if path.is_dir():
            files = list_images(path / "images" if (path / "images").is_dir() else path)
        elif path.exists():
            files = [path]
        else:
            files = sorted(Path(p) for p in glob.glob(str(item), recursive=True) if Path(p).suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise InputError(
                f"{item} names no image; give an image file, a folder of images or a glob (formats: {' '.join(sorted(IMAGE_SUFFIXES))})."
            )
        found |= dict.fromkeys(files)
    if not found:
        raise InputError("There is nothing to predict; give an image file, a folder of images or a glob.")
    stems: dict[str, Path] = {}
    for path in found:
        if path.stem in stems:
            raise InputError(f"{stems[path.stem]} and {path} would write the same output; predict them into different folders.")
        stems[path.stem] = path
    return list(found)
