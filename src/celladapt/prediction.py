"""From images to probabilities, masks and nuclei: arrays, files, folders and globs, of any size."""

import glob
import json
import os
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from celladapt import checkpoint
from celladapt.data.folder import digest, list_images
from celladapt.data.images import IMAGE_SUFFIXES, read_image, write_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.hardware import kept_memory, pick_device, uses_bf16
from celladapt.instances import to_instances, to_mask
from celladapt.networks import Segmenter, folded
from celladapt.progress import Bar
from celladapt.strips import GRID, SMALLEST, InStrips, spans

Output = Literal["mask", "instances", "probability"]
RECORD = "predictions.json"
_WRITERS = max(1, min(4, (os.cpu_count() or 1) // 2))
_WAITING_PIXELS = 2**26
FEATURE_BYTES = 2**25
"""Of the first block's output for one strip of rows."""


@dataclass(frozen=True)
class Prediction:
    """What a model sees in one image."""

    probability: NDArray[np.float32]
    """[H, W] in [0, 1]: probability of nucleus."""
    threshold: float = 0.5

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W]: probability >= threshold."""
        return to_mask(self.probability, self.threshold)

    @cached_property
    def instances(self) -> NDArray[np.int32]:
        """[H, W]: 0 background, nuclei numbered from 1."""
        return to_instances(self.probability, self.threshold)


@dataclass(frozen=True)
class Model:
    """A trained segmenter with all that prediction needs."""

    network: Segmenter
    normalisation: Normalisation
    about: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: method, domains, step, how it was selected."""
    precision: str = "auto"
    _made: dict[tuple[object, ...], Segmenter] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    def predict(self, image: NDArray[Any] | str | Path) -> Prediction:
        """Segment one image.

        Args:
            image: an image file; or [H, W, 3] or [H, W], uint8, or uint16 whose full range is black to white (files of 16 bits are stretched).

        Raises:
            InputError: the array is not such an image.
        """
        if isinstance(image, (str, Path)):
            image = read_image(Path(image))
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype not in (np.uint8, np.uint16):
            raise InputError(f"The image is {image.dtype} of shape {image.shape}; give uint8 or uint16 of shape (H, W) or (H, W, 3).")
        h, w = image.shape[:2]
        rows, columns = _reflected(h, w)
        strips = spans(len(rows), self._rows_at_a_time(len(columns)))
        probability, done = np.empty((h, w), np.float32), 0
        with torch.inference_mode(), kept_memory() if self.device.type == "cpu" else nullcontext():
            inputs = (self._input(image[rows[strip]].take(columns, axis=1) if len(columns) > w else image[rows[strip]]) for strip in strips)
            for piece in InStrips(self._fast())(inputs, len(strips)):
                part = probability[done : done + len(piece)]
                part[:] = piece[: len(part), :w].cpu().numpy()
                done += len(piece)
        return Prediction(probability)

    def _input(self, image: NDArray[Any]) -> torch.Tensor:
        return self.normalisation(image)[None].to(self.device, self._dtype, memory_format=torch.channels_last)

    def _rows_at_a_time(self, w: int) -> int:
        width = int(self.network.head.in_channels)
        limit = FEATURE_BYTES * (8 if self.device.type == "cuda" else 1)  # a GPU has no cache to stay in, and wants large pieces
        return max(SMALLEST, limit // (w * width * self._dtype.itemsize) // GRID * GRID)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if uses_bf16(self.precision, self.device) else torch.float32

    def _fast(self) -> Segmenter:
        """The network as it computes fastest: batch normalisation folded away, weights in the type of the arithmetic rather than cast at each use.

        Made anew when the weights have changed or moved.
        """
        state = self.network.state_dict().values()
        key = (self.device, self._dtype, *((values.data_ptr(), 0 if values.is_inference() else values._version) for values in state))
        if key not in self._made:
            self._made.clear()
            self._made[key] = folded(self.network).to(dtype=self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._made[key]

    def save(self, path: Path) -> None:
        """Write the model to one ``.safetensors`` file, atomically."""
        about = {**self.about, "width": self.network.head.in_channels, "normalisation": asdict(self.normalisation)}
        checkpoint.save(path, self.network.state_dict(), about)


def load_model(path: str | Path, device: str = "auto", precision: str = "auto") -> Model:
    """Load a model from a run folder or a ``.safetensors`` file.

    Raises:
        InputError: there is none at ``path``, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "config.toml").is_file() and not (path / "model.safetensors").is_file():
            raise InputError(f"{path} has no model yet: its training was stopped early; go on with `celladapt adapt --resume {path}`.")
        path = path / "model.safetensors"
    tensors, about = checkpoint.load(path)
    try:
        width, normalised = int(about["width"]), about["normalisation"]
        normalisation = Normalisation(tuple(normalised["mean"]), tuple(normalised["std"]), bool(normalised.get("grey", False)))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} is not a model (its header lacks the width or the normalisation); give a run folder or its model.safetensors."
        ) from None
    network = Segmenter(width)
    checkpoint.fill(network, tensors, path)
    network = network.to(pick_device(device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Model(network, normalisation, about, precision)


def _reflected(h: int, w: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of an image as ``networks.pad_to_multiple`` would grow it."""
    down, right = -h % GRID, -w % GRID
    mode: Literal["reflect", "edge"] = "reflect" if down < h and right < w else "edge"
    return np.pad(np.arange(h), (0, down), mode), np.pad(np.arange(w), (0, right), mode)


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
    model: Model | str | Path,
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
    if not isinstance(model, Model):
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
