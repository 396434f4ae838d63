"""What to annotate first: the images, or tiles of large ones, whose masks should help a semi-supervised run most, as a folder to annotate.

How candidates are ranked is in ``ranking``; here they are cut and looked at one by one with the model's own segmenter; ``worklist`` writes them.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from celladapt import checkpoint
from celladapt.data.folder import Folder
from celladapt.data.normalise import to_unit
from celladapt.data.split import Split, save_splits
from celladapt.errors import InputError
from celladapt.files import staged
from celladapt.hardware import kept_memory
from celladapt.inputs import check_out
from celladapt.instances import to_instances
from celladapt.loading import load_weights
from celladapt.locks import sweep
from celladapt.model import Model
from celladapt.networks import Segmenter, folded
from celladapt.progress import Bar, say
from celladapt.ranking import Candidates, rank
from celladapt.run import Run
from celladapt.selection import pixel_entropy
from celladapt.worklist import Box, Suggestion, Suggestions, cut, next_steps, write

SMALLEST_TILE = 64
PIECE = 512
"""Side in px of what the network sees at once, up to half of it more, so that memory is bounded whatever the tile."""
_AROUND = 6  # px; uncertainty is looked for this far from predicted nuclei, as it lies along their borders
_GRAIN = 8  # px; contrast is between patches of this size, about a small nucleus, in which camera noise averages out


@dataclass
class _Looked:
    """What was seen in all candidates, an entry each, and in what is annotated."""

    places: list[tuple[str, Path, Box]] = field(default_factory=list)
    features: list[NDArray[np.float64]] = field(default_factory=list)
    numbers: list[tuple[float, int, float]] = field(default_factory=list)  # uncertainty, nuclei, contrast
    annotated: list[NDArray[np.float64]] = field(default_factory=list)


def suggest(model: str | Path | Run, target: str | Path, out: str | Path, k: int = 5, tile: int = 512, device: str = "auto") -> Suggestions:
    """Choose the ``k`` images without a mask, or tiles of large ones, to annotate first for a run with few masks (method weakssda); write them to ``out``.

    A candidate is described by the mean and standard deviation over space of the bottom level of the segmenter S. k clusters of candidates are to be covered,
    those near annotated images being covered already, and of each a typical candidate is chosen of which S is unsure: with few labels typical and diverse
    examples beat uncertain ones (Hacohen et al., ICML 2022; Sener and Savarese, ICLR 2018). The same files and model give the same answer.

    ``out`` gets ``images/``, ``masks/`` with an empty 16-bit label image for each, to be filled, ``suggestions.csv``, ``overview.png``, and ``split.json``
    where ``model`` is a run on ``target``: that run's split, with the tiles among the training images.

    Args:
        model: a run (its folder, or as an object), or a ``.safetensors`` file.
        target: domain folder. Images with a mask are covered already. Where ``model`` is a run on it, only its training images are looked at: masks of the
            others would never be trained on.
        out: folder to make.
        k: how many; all, where there are no more candidates.
        tile: side of a tile in px; an image less than half as long again is one candidate, and larger ones are cut into tiles of about this size.
        device: auto, cpu or cuda.

    Raises:
        InputError: nothing to suggest, a file that cannot be read, options out of range, or ``out`` is not empty; then nothing is written.
    """
    out = Path(out)
    if k < 1:
        raise InputError(f"-k is {k}; it must be 1 or more.")
    if tile < SMALLEST_TILE:
        raise InputError(f"--tile is {tile}; it must be {SMALLEST_TILE} pixels or more.")
    if out.is_dir():
        sweep(out.glob(".*"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; choose another --out.")
    check_out([], out)
    path = model.path if isinstance(model, Run) else Path(model)
    folder = Folder.open(Path(target))
    run = _run_on(path, folder)
    usable = folder if run is None else folder.subset(stem for stem in run.splits[1].train if stem in folder.images)
    if run is not None and len(usable) < len(folder):
        left = len(folder) - len(usable)
        say(f"{left} of {len(folder)} images are not among the training images of {run.path} (but for validation, testing, or new) and are left out.")
    if len(usable.masks) == len(usable):
        cure = "add images to it" if run is None else "train again with more images"
        raise InputError(f"{folder.root} has no image{'' if run is None else ' for training'} without a mask; {cure}.")
    loaded = load_weights(path, device)
    seen = _look(loaded, usable, folder, tile)
    if not seen.places:
        raise InputError(f"Every tile of the images in {folder.root} is an image of its own already; annotate those, or choose another --tile.")
    if len(seen.places) < k:
        say(f"There are {len(seen.places)} candidates, fewer than the {k} asked for: all are suggested.")
    items = _ranked(seen, k)
    with staged(out) as staging:
        write(staging, items, folder, loaded)
        if run is not None:
            source, split = run.splits
            tiles = [item.name for item in items if not item.whole]
            save_splits(staging / "split.json", source, Split(sorted([*split.train, *tiles]), split.val, split.test))
    return Suggestions(out, items, next_steps(out, items, folder, loaded, run))


def boxes(width: int, height: int, side: int) -> list[Box]:
    """Tiles of an image, row by row, each pixel in exactly one: as near to ``side`` as sides that differ by a pixel at most can be.

    So no tile is longer than 1.5 or, of an image that is cut at all, shorter than 0.75 times ``side``.
    """

    def cuts(length: int) -> list[tuple[int, int]]:
        count = max(1, round(length / side))
        return list(pairwise(at * length // count for at in range(count + 1)))

    return [(left, top, right - left, bottom - top) for top, bottom in cuts(height) for left, right in cuts(width)]


def contrast(image: NDArray[Any]) -> float:
    """Standard deviation between small patches, of the channel where it is largest, in [0, 0.5].

    Args:
        image: [H, W, 3] uint8 or uint16.
    """
    patches = ndimage.uniform_filter(to_unit(image), (_GRAIN, _GRAIN, 1), mode="nearest")[:: _GRAIN // 2, :: _GRAIN // 2]
    return float(patches.std(axis=(0, 1)).max())


def uncertainty(probability: NDArray[np.float32], instances: NDArray[np.int32]) -> float:
    """Mean entropy over ln 2, in [0, 1], of a probability [H, W] in and around nuclei [H, W]; 0 without a nucleus."""
    around = ndimage.binary_dilation(instances > 0, iterations=_AROUND)
    entropy = pixel_entropy(torch.from_numpy(probability)).numpy() / np.log(2)
    return float(entropy[around].mean()) if around.any() else 0.0


def _look(model: Model, usable: Folder, folder: Folder, tile: int) -> _Looked:
    """Look at every candidate, one image at a time."""
    network, seen = folded(model.network), _Looked()
    with Bar("looking at images", len(usable)) as bar:
        for stem, path in usable.images.items():
            image = folder.image(stem)
            for box in boxes(image.shape[1], image.shape[0], tile):
                name = stem if box[2:] == (image.shape[1], image.shape[0]) else f"{stem}_x{box[0]}_y{box[1]}"
                if name != stem and name in folder.images:  # suggested and put there before
                    continue
                pixels = cut(image, box)
                features, probability = _see(network, model, pixels)
                if stem in folder.masks:
                    seen.annotated.append(features)
                    continue
                instances = to_instances(probability)
                seen.places.append((name, path, box))
                seen.features.append(features)
                seen.numbers.append((uncertainty(probability, instances), int(instances.max()), contrast(pixels)))
            bar.step(path.name)
    return seen


@torch.inference_mode()
def _see(network: Segmenter, model: Model, pixels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """[H, W, 3] -> features [F], mean and standard deviation over space of S's bottom level, and probability [H, W]; in float32 on any hardware."""
    height, width = pixels.shape[:2]
    probability = np.empty((height, width), np.float32)
    sums: list[torch.Tensor] = []
    count = 0
    with kept_memory() if model.device.type == "cpu" else nullcontext():
        for x, y, w, h in boxes(width, height, PIECE):
            piece = model.normalisation(pixels[y : y + h, x : x + w])[None].to(model.device, memory_format=torch.channels_last)
            p, features = network(piece, features=True)
            bottom = features[0].flatten(1).double()  # [C, positions]
            sums.append(torch.stack([bottom.sum(1), (bottom**2).sum(1)]))
            count += bottom.shape[1]
            probability[y : y + h, x : x + w] = p[0, 0].cpu().numpy()
    mean, square = torch.stack(sums).sum(0) / count
    spread = (square - mean**2).clamp(min=0).sqrt()
    return torch.cat([mean, spread]).cpu().numpy(), probability


def _ranked(seen: _Looked, k: int) -> list[Suggestion]:
    unsure, nuclei, contrasts = np.array(seen.numbers, np.float64).T
    area = np.array([box[2] * box[3] for *_, box in seen.places], np.float64)
    features = np.stack(seen.features)
    annotated = np.stack(seen.annotated) if seen.annotated else np.empty((0, features.shape[1]))
    picks = rank(Candidates(features, unsure, nuclei, contrasts, area), annotated, k)
    usual = float(np.median(unsure[nuclei > 0])) if nuclei.any() else 0.0
    items = []
    for number, pick in enumerate(picks, start=1):
        name, path, box = seen.places[pick.index]
        found, doubt = int(nuclei[pick.index]), float(unsure[pick.index])
        why = f"typical of {pick.size} of {len(area)} candidates" if pick.size > 1 else "unlike the others"
        if not found:
            why += "; the model finds no nucleus there"
        else:
            why += f"; the model is {'less' if doubt > usual else 'more'} sure than usual of the {found} nuclei it finds"
        items.append(Suggestion(number, name, path, *box, pick.score, pick.size, doubt, found, why))
    return items


def _run_on(path: Path, folder: Folder) -> Run | None:
    """The run that the model at ``path`` is of, if its target is ``folder``, wherever that has moved since."""
    home = path if path.is_dir() else path.parent
    if not (home / "config.toml").is_file():
        return None
    run = Run.open(home)
    if run.config.target is not None and run.config.target.resolve() == folder.root.resolve():
        return run
    model = path if path.is_file() else home / "model.safetensors"
    if not (home / "split.json").is_file() or not model.is_file():
        return None  # a model that somebody has passed on, with its options
    _, split = run.splits
    trained, stems = set(checkpoint.load(model)[1].get("trained_on") or ()), [*split.train, *split.val]
    return run if stems and set(stems) <= folder.images.keys() and set(folder.subset(stems).digests()) <= trained else None
