"""The last stage of a run, the only place where target test images are looked at: evaluation, examples, the model's card, report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt import checkpoint
from celladapt.card import CARD, card, facts
from celladapt.data.folder import Folder
from celladapt.data.images import write_image
from celladapt.data.split import group_names, group_pattern
from celladapt.evaluation import Evaluation, score, tells_none_apart
from celladapt.files import now, write_json, write_text
from celladapt.model import Prediction
from celladapt.reporting import report
from celladapt.run import Run

EXAMPLES = 6
EXAMPLE_SIDE = 1024

Predict = Callable[[NDArray[Any]], Prediction]
"""Image as ``Folder.image`` gives it -> what is seen in it."""
Reconstruct = Callable[[NDArray[np.float32]], NDArray[np.uint8]]
"""(H, W) probability in [0, 1] -> R's image of it, (H, W, 3)."""


def conclude(run: Run, target: Folder, predict: Predict, reconstruct: Reconstruct | None, notes: list[str], **found: Any) -> None:
    """Score ``predict`` on the target's test images, write pictures of some and the model's card, and finish the run's record with ``notes`` and ``found``."""
    _, split_t = run.splits
    if not split_t.test:
        notes = [*notes, "The target has no annotated test images, so this run cannot state its own quality; look at the examples."]
    scores, empty, binary = {}, 0, 0
    examples = (split_t.test or [*split_t.val, *split_t.train])[:EXAMPLES]
    for stem in dict.fromkeys([*split_t.test, *examples]):
        image, truth = target.pair(stem) if stem in split_t.test else (target.image(stem), None)
        prediction = predict(image)
        if truth is not None:
            scores[stem] = score(prediction.instances, truth, prediction.mask)
            empty += not truth.any()
            binary += tells_none_apart(truth)
        if stem in examples:
            _write_example(run.path / "examples" / stem, image, prediction, truth, reconstruct)
    if scores:
        names = group_names(target, group_pattern(target, run.config.group))
        groups = {stem: names[stem] for stem in scores if stem in names}
        evaluation = Evaluation(scores, binary_truths=binary, empty_truths=empty, groups=groups)
        notes = [*notes, *filter(None, [evaluation.empty, evaluation.binary])]
        write_json(run.path / "metrics.json", evaluation.to_json())
        evaluation.write_csv(run.path / "metrics.csv")
    fingerprint = {**run.record.get("fingerprint", {}), **({"test": target.subset(split_t.test).fingerprint()} if split_t.test else {})}
    if run.baseline.finished and run.baseline.record.get("fingerprint", {}).get("test", fingerprint.get("test")) != fingerprint.get("test"):
        notes = [*notes, "CAUTION: the test images or their masks have changed since the source-only model was scored, so the two do not compare."]
    run.note(**found, fingerprint=fingerprint, notes=notes)
    _describe_model(run.path)
    moment = now()
    report(run.path, moment)
    run.note(finished=moment)  # last, because nothing is done again in a finished run


def _describe_model(folder: Path) -> None:
    """Write what is now known about the model into its header, for those who get no more than its file, and as its card."""
    model = folder / "model.safetensors"
    if not model.exists():  # the classical segmentation has none
        return
    tensors, about = checkpoint.load(model)
    about |= facts(folder)
    checkpoint.save(model, tensors, about)
    write_text(folder / CARD, card(about))


def _write_example(folder: Path, image: NDArray[Any], prediction: Prediction, truth: NDArray[Any] | None, reconstruct: Reconstruct | None) -> None:
    part = np.s_[:EXAMPLE_SIDE, :EXAMPLE_SIDE]
    bits8 = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    pictures = {
        "image": bits8[part],
        "probability": (prediction.probability[part] * 255).round().astype(np.uint8),
        "prediction": prediction.mask[part],
    }
    if truth is not None:
        pictures["truth"] = (
            np.unique(np.append(0, truth[part]), return_inverse=True)[1][1:].reshape(truth[part].shape).astype(np.uint16)
        )  # labels may be huge numbers
    if reconstruct is not None:
        pictures["reconstruction"] = reconstruct(prediction.probability[part])
    for name, picture in pictures.items():
        write_image(folder / f"{name}.png", picture)
