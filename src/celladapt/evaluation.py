"""Predictions against annotated masks: scores of each image, their mean and spread."""

import csv
import io
import statistics
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from celladapt import metrics
from celladapt.cells import as_cell
from celladapt.data.folder import MASK_ENDINGS, Folder, composed, image_of_mask, list_images, same_stem, subfolder
from celladapt.data.images import read_mask
from celladapt.data.split import group_names, matches
from celladapt.errors import FileError
from celladapt.files import write_text
from celladapt.instances import label_components
from celladapt.job import noted
from celladapt.provenance import doubts, record_of, some
from celladapt.reporting.paired import of_mean

MEASURES = {"iou": "IoU", "dice": "Dice", "aji": "AJI", "pq": "PQ", "f1": "F1"}
EMPTY_RULE = "An image without nuclei scores 1 if none are predicted, else 0; an image where none are predicted but some exist scores 0."


def score(pred_labels: NDArray[Any], true_labels: NDArray[Any], mask: NDArray[Any] | None = None) -> dict[str, float]:
    """All measures of one image, each in [0, 1]: foreground ``iou`` and ``dice``, and ``aji``, ``pq``, ``f1`` (at IoU >= 0.5) over nuclei.

    The measures over nuclei need labels. Where a prediction or a truth is binary (one value beside 0) or of classes (a few values, each in many pieces),
    its 4-connected pieces of one value stand in for the nuclei, so that touching nuclei of a binary truth count as one, and a prediction that tells them apart loses on aji, pq and f1 (not on iou and dice).

    Args:
        pred_labels: (H, W) integers, 0 = background.
        true_labels: (H, W) integers, 0 = background.
        mask: (H, W) predicted foreground for ``iou`` and ``dice``, before small pieces and holes were cleaned away; by default ``pred_labels``.

    Raises:
        ValueError: the shapes differ, or values are not labels.
    """
    for labels in (pred_labels, true_labels):
        if labels.ndim != 2 or labels.dtype.kind not in "bui":
            raise ValueError(
                f"labels are integers of shape (H, W), not {labels.dtype} of shape {labels.shape}; cut a map of probabilities at 0.5 first"
            )
    iou, dice = metrics.foreground(pred_labels if mask is None else mask, true_labels)
    pred, true = label_components(pred_labels), label_components(true_labels)
    return {"iou": iou, "dice": dice, "aji": metrics.aji(pred, true), "pq": metrics.panoptic(pred, true).pq, "f1": metrics.detection(pred, true).f1}


def tells_none_apart(labels: NDArray[Any]) -> bool:
    """Whether (H, W) labels are binary or of classes, and have several pieces of one value."""
    return np.unique(label_components(labels)).size > np.unique(labels).size


@dataclass(frozen=True)
class Evaluation:
    """Scores of at least one image."""

    images: dict[str, dict[str, float]]
    """Stem -> measure -> value in [0, 1]; kept in order of the stem."""
    seen_in_training: tuple[str, ...] = ()
    """Stems of images that the predicting model had seen in training, as far as `celladapt predict` has noted it: their scores are no test scores."""
    binary_truths: int = 0
    """Images whose truth tells no nuclei apart, having one value beside 0, or a few that stand for classes."""
    binary_predictions: int = 0
    """Images whose prediction tells none apart."""
    empty_truths: int = 0
    """Images whose truth has no nucleus."""
    groups: dict[str, str] = field(default_factory=dict)
    """Stem -> patient or slide, where these are known: what the interval counts."""
    doubts: tuple[str, ...] = ()
    """Sentences on predictions that do not belong together, by the notes of `celladapt predict`."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("an evaluation needs at least one image")
        object.__setattr__(self, "images", dict(sorted(self.images.items())))

    @property
    def mean(self) -> dict[str, float]:
        """Mean over images of each measure."""
        return self._over_images(statistics.fmean)

    @property
    def sd(self) -> dict[str, float]:
        """Sample standard deviation over images (n - 1) of each measure; 0.0 for a single image."""
        return self._over_images(lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)

    @property
    def interval(self) -> dict[str, tuple[float, float]]:
        """95 % interval of the mean of each measure, over groups where they are known (Student's t); empty with fewer than six images or groups."""
        groups = [self.groups[stem] for stem in self.images] if self.groups else None
        found = {key: of_mean([values[key] for values in self.images.values()], groups) for key in MEASURES}
        return {key: ends for key, ends in found.items() if ends}

    @property
    def spread(self) -> str:
        """What stands beside the means, in sentences; "" for a single image, which has no spread."""
        if len(self.images) == 1:
            return ""
        over = f"the {len(set(self.groups.values()))} groups of images" if self.groups else "images"
        told = f" Below, the 95 % interval of the mean for other images of this kind, by Student's t over {over}." if self.interval else ""
        return f"mean ± standard deviation over images.{told}"

    def table(self) -> Table:
        """Mean ± standard deviation over images, which a single one has not, and the interval of the mean, which a few have not, for the terminal."""
        mean, sd, several, interval = self.mean, self.sd, len(self.images) > 1, self.interval
        caption = " ".join(filter(None, [self.spread, EMPTY_RULE, self.empty, self.binary, self.caution]))
        table = Table("images", *MEASURES.values(), caption=Text(caption), caption_justify="left")
        table.add_row(str(len(self.images)), *(f"{mean[key]:.3f} ± {sd[key]:.3f}" if several else f"{mean[key]:.3f}" for key in MEASURES))
        if interval:
            table.add_row("", *(f"{low:.3f} to {high:.3f}" for low, high in interval.values()))
        return table

    @property
    def binary(self) -> str:
        """What binary masks and predictions do to the measures over nuclei, in a sentence each; "" where there are none."""
        sentences = [
            f"{count} of {len(self.images)} {what} {'is' if count == 1 else 'are'} binary or of classes: touching nuclei count as one there, so AJI, PQ and F1 say little."
            for count, what in ((self.binary_truths, "masks"), (self.binary_predictions, "predictions"))
            if count
        ]
        return " ".join(sentences)

    @property
    def empty(self) -> str:
        """How many masks hold no nucleus, in a sentence; "" where there are none."""
        if not self.empty_truths:
            return ""
        holds = "mask holds" if len(self.images) == 1 else f"masks {'holds' if self.empty_truths == 1 else 'hold'}"
        return f"{self.empty_truths} of {len(self.images)} {holds} no nucleus: right if there is none in the image; if it was not annotated yet, take the mask out."

    @property
    def caution(self) -> str:
        """What keeps these scores from being test scores of one model, in sentences; "" where nothing is known to."""
        if not self.seen_in_training:
            return " ".join(self.doubts)
        seen = f"CAUTION: the model saw {len(self.seen_in_training)} of these {len(self.images)} images in training ({some(self.seen_in_training)}); this is no test score."
        return " ".join([seen, *self.doubts])

    def to_json(self) -> dict[str, Any]:
        """``{"mean": {...}, "sd": {...}, "interval": {measure: [low, high]}, "images": {stem: {...}}, "groups": {stem: group}, "seen_in_training": [...]}``; without what is empty."""
        interval = {key: list(ends) for key, ends in self.interval.items()}
        more = {"interval": interval, "groups": self.groups, "seen_in_training": list(self.seen_in_training)}
        return {"mean": self.mean, "sd": self.sd, "images": self.images} | {name: value for name, value in more.items() if value}

    def write_csv(self, path: Path) -> None:
        """Write one row per image: its stem as ``image``, then the measures in full precision.

        Raises:
            InputError: the file cannot be written.
        """
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["image", *MEASURES])
        rows.writerows([as_cell(stem), *(values[key] for key in MEASURES)] for stem, values in self.images.items())
        write_text(path, text.getvalue())

    def _over_images(self, summary: Callable[[list[float]], float]) -> dict[str, float]:
        return {key: summary([values[key] for values in self.images.values()]) for key in MEASURES}


def evaluate(predictions: Path, masks: Path, group: str | None = None) -> Evaluation:
    """Score a folder of predictions against every mask.

    Of an image the first of these is read: ``<stem>_instances``, ``<stem>_mask``, ``<stem>``, with any image suffix, or what other programs write, such as ``<stem>_cp_masks``;
    beside instances, a ``<stem>_mask`` gives the foreground for IoU and Dice. A mask called ``<stem>_mask``, or otherwise as other programs call masks, is that of ``<stem>`` where there are such predictions of it. Predictions without a mask are not counted, as an image without annotation has no truth.

    Args:
        predictions: folder of label images or binary masks.
        masks: folder of masks, or a domain folder with ``masks/``.
        group: as of ``adapt``: a regular expression that tells patients or slides apart in the masks' names, over which the interval of the mean is then taken.
            By default what ``dataset.toml`` of the domain folder says.

    Raises:
        InputError: a folder is missing or holds no mask, a mask without a prediction, two files of one stem, sizes that differ, an unreadable file, a pattern that matches no name.
    """
    predictions, masks = Path(predictions), Path(masks)
    truths = _by_stem(subfolder(masks, "masks") or masks)
    if not truths:
        raise FileError(masks, "holds no mask", "name a folder of masks, or a domain folder with masks/")
    found = _by_stem(predictions)
    nuclei, masks_of = ({name.removesuffix(f"_{word}") for name in found if name.endswith(f"_{word}")} for word in ("instances", "mask"))
    image = {stem: _image_of(stem, found, nuclei, nuclei | masks_of) for stem in truths}
    labels = {
        stem: next((found[name] for name in (f"{image[stem]}_instances", f"{image[stem]}_mask", stem, *_elsewhere(stem)) if name in found), [])
        for stem in truths
    }
    foregrounds = {stem: found.get(f"{image[stem]}_mask", labels[stem]) for stem in truths}
    if missing := [stem for stem in truths if not labels[stem]]:
        others = any(noted(predictions, image[stem]) for stem in missing)
        cure = "predict them with --save instances" if others else "predict these images too, or take their masks out"
        raise FileError(predictions, f"has no prediction for {some(missing)}", cure)
    for files in (*truths.values(), *labels.values(), *foregrounds.values()):
        if len(files) > 1:
            raise FileError(files[1], *same_stem(files[0]))
    known = set(map(composed, record_of(predictions).get("seen_in_training", ())))
    used = {name: words for stem in truths for name, words in _used(image[stem], labels[stem][0], foregrounds[stem][0]).items()}
    scored = {stem: _score_files(labels[stem][0], foregrounds[stem][0], truths[stem][0]) for stem in truths}
    return Evaluation(
        {stem: one.scores for stem, one in scored.items()},
        tuple(stem for stem in truths if image[stem] in known),
        sum(one.binary_truth for one in scored.values()),
        sum(one.binary_prediction for one in scored.values()),
        sum(one.empty for one in scored.values()),
        _groups(masks, group, list(truths)),
        tuple(doubts(predictions, used, _images_beside(masks))),
    )


def _groups(masks: Path, group: str | None, stems: list[str]) -> dict[str, str]:
    """Stem -> patient or slide; empty where no pattern tells."""
    domain = masks if subfolder(masks, "masks") else masks.absolute().parent
    named = Folder(domain, dict.fromkeys(stems, domain), {})
    if group is None and not (named.group and matches(named, named.group)):
        return {}
    return group_names(named, named.group if group is None else group)


def _images_beside(masks: Path) -> dict[str, Path]:
    """Stem -> image of the domain folder that ``masks`` is, or is in; empty where it is in none."""
    folder = subfolder(masks, "images") or (subfolder(masks.absolute().parent, "images") if masks.name.lower() == "masks" else None)
    return {path.stem: path for path in list_images(folder)} if folder else {}


@dataclass(frozen=True)
class _Scored:
    """An image's measures, and whether its truth and its prediction tell no nuclei apart or the truth has none."""

    scores: dict[str, float]
    binary_truth: bool
    binary_prediction: bool
    empty: bool


def _score_files(labels: Path, foreground: Path, true: Path) -> _Scored:
    truth = read_mask(true)
    pred = _read_like(labels, true, truth)
    scores = score(pred, truth, pred if foreground == labels else _read_like(foreground, true, truth))
    return _Scored(scores, tells_none_apart(truth), tells_none_apart(pred), not truth.any())


def _image_of(stem: str, predictions: Container[str], nuclei: Container[str], anything: Container[str]) -> str:
    """The image that a mask called ``stem`` is of: itself, or without an ending such as ``_mask`` where nuclei are predicted of that, or nothing is called as the mask is."""
    if stem in anything:
        return stem
    return image_of_mask(stem, nuclei if stem in predictions else anything) or stem


def _elsewhere(stem: str) -> list[str]:
    """What other programs may call a prediction for the image whose mask is called ``stem``."""
    plain = next((stem.removesuffix(end) for end in MASK_ENDINGS if stem.endswith(end)), stem)
    return [f"{name}{end}" for name in (stem, plain) for end in ("", *MASK_ENDINGS)]


def _used(image: str, *files: Path) -> dict[str, set[str]]:
    """Stem, as it is written, -> words of ``--save`` that these files of ``image`` would be of."""
    found: dict[str, set[str]] = {}
    for file in files:
        for word in ("instances", "mask"):
            if composed(file.stem) == f"{image}_{word}":
                found.setdefault(file.stem.removesuffix(f"_{word}"), set()).add(word)
    return found


def _read_like(path: Path, true: Path, truth: NDArray[np.int32]) -> NDArray[np.int32]:
    labels = read_mask(path)
    if labels.shape != truth.shape:
        size, wanted = (f"{shape[1]}×{shape[0]}" for shape in (labels.shape, truth.shape))
        raise FileError(path, f"is {size} pixels but the mask {true} is {wanted}", "compare files of the same image and size")
    return labels


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder by stem, in order; two of one stem matter only if they are used."""
    if not folder.is_dir():
        raise FileError(folder, "is not a folder", "check the path")
    files: dict[str, list[Path]] = {}
    for path in list_images(folder):
        files.setdefault(composed(path.stem), []).append(path)
    return files
