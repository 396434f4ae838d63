"""The model card: what a model is for, what it was trained on, how good it is, and where it will fail, for people who have only its file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celladapt.quality import Expectation, by_masks
from celladapt.reporting.reading import mapping, number, read_run, sequence

CARD = "model_card.md"
PAPER = (
    "M. M. Haq and J. Huang, Adversarial Domain Adaptation for Cell Segmentation, Medical Imaging with Deep Learning 2020, "
    "Proceedings of Machine Learning Research 121:277–287"
)
MEASURES = {"iou": "IoU", "dice": "Dice", "aji": "AJI", "pq": "PQ", "f1": "F1 at IoU 0.5"}
_FEW = 10  # test images, below which a mean says little


def facts(folder: Path) -> dict[str, Any]:
    """What a run folder knows of its model beside the weights, to go into the model's header: no paths, and no image's name.

    Returns:
        ``selected``, ``expected``, ``known`` where the model was given masks, ``fell_back``, and ``scores`` (``images``, a number, ``mean`` and ``sd``) where there are test images.

    Raises:
        InputError: ``run.json`` is missing or damaged.
    """
    run = read_run(folder)
    fell_back, baseline = bool(run.info.get("fell_back")), folder / "baseline"
    kept = read_run(baseline) if fell_back and (baseline / "run.json").is_file() else run
    found: dict[str, Any] = {"selected": kept.selected, "fell_back": fell_back}
    found |= {name: entry for name in ("expected", "known") if (entry := mapping(run.info.get(name)))}
    if run.scores:
        found["scores"] = {"images": len(run.scores.images), "mean": run.scores.mean, "sd": run.scores.sd}
    return found


def card(about: Mapping[str, Any]) -> str:
    """The card as Markdown, by as much as ``about``, the header of a model file, knows.

    Args:
        about: of any age and from anywhere; what it lacks or has of another type is said to be unknown.
    """
    parts = [_purpose(about), _training(about), _selection(about), _validation(about), _limits(about), _use(about), _cite(about)]
    # A file name that is not UTF-8 reaches us with lone surrogates, which no encoder accepts.
    return ("\n\n".join(parts) + "\n").encode("utf-8", "replace").decode("utf-8")


def title(about: Mapping[str, Any]) -> str:
    """A name for the model in letters, digits, spaces and hyphens, 64 characters at most."""
    names = (re.sub(r"[^A-Za-z0-9_-]+", " ", str(about.get(domain) or "unknown")).strip()[:16] or "unnamed" for domain in ("source", "target"))
    return f"Nuclei segmentation {' to '.join(names)}"


def _plain(text: str) -> str:
    """Words as Markdown that shows them and does nothing else: no markup, HTML or link."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_\[\]<>&|~@#]|^[-+=]|(?<=\w):(?=//)|(?<=www)\.)", r"\\\1", text, flags=re.IGNORECASE)


def _name(value: object) -> str:
    """A name from a user's disk as Markdown that shows it and does nothing else."""
    text = "".join(c if c.isprintable() else "?" for c in str(value or ""))
    if not text.strip():
        return "unknown"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _purpose(about: Mapping[str, Any]) -> str:
    target = _name(about.get("target"))
    return (
        f"# {title(about)}\n\n"
        f"## What it is for\n"
        f"It marks nuclei in two-dimensional microscopy images like those of {target}: for each pixel the probability that it belongs to a nucleus. "
        "It is meant for research on such images. It is no medical device, and no diagnosis may rest on it."
    )


def _training(about: Mapping[str, Any]) -> str:
    source, target, images = _name(about.get("source")), _name(about.get("target")), mapping(about.get("images"))
    lines = [f"## What it was trained on\nSource (annotated): {source}. Target (to adapt to): {target}. Method: {_name(about.get('method'))}."]
    if document := _plain(str(about.get("method_doc") or "")):
        lines.append(document)
    if counts := {key: int(value) for key in ("source", "target", "target_masks") if (value := number(images.get(key))) is not None}:
        read = f"Training read {counts.get('source', 0)} annotated source images and {counts.get('target', 0)} target images"
        lines.append(f"{read}, {counts.get('target_masks', 0)} of these with their masks.")
    else:
        lines.append("How many images training read is not recorded in the model.")
    config = mapping(about.get("config"))
    shown = [
        f"{key} {_plain(str(config[key]))}"
        for key in ("steps", "batch_size", "crop", "seed", "batch_norm", "match", "ema", "lambda_bce", "augment")
        if key in config
    ]
    if config.get("batch_norm") == "target":
        lines.append("The statistics of its batch normalisation are those of target images.")
    if size := number(about.get("pixel_size")):
        lines.append(f"Target images have {size:.3g} µm per pixel; `celladapt predict` reads slides at that.")
    width = number(about.get("width"))
    shown = ([f"width {width:.0f}"] if width is not None else []) + shown
    if shown:
        lines.append(f"A U-Net; {', '.join(shown)}.")
    if made := ", ".join(_plain(f"{name} {version}") for name, version in mapping(about.get("versions")).items()):
        lines.append(f"Made with {made}.")
    return "\n".join(lines)


def _selection(about: Mapping[str, Any]) -> str:
    selected = mapping(about.get("selected"))
    text = "## How it was chosen\n"
    if about.get("fell_back"):
        text += "As far as can be told without masks, source-only was clearly better than the adapted model, so this is the SOURCE-ONLY model, trained on the source alone. "
    if not selected:
        return text + "How the checkpoint was chosen is not recorded in the model."
    step, criterion = number(about.get("step", selected.get("step"))), str(selected.get("criterion") or "")
    labels = (
        "Target masks had a part in that, so its scores are those of a labelled choice."
        if selected.get("uses_target_labels")
        else "No target mask had a part in that."
    )
    when = f" of step {step:.0f}" if step is not None else ""
    return f"{text}It is the checkpoint{when} that came first by the criterion {_name(criterion)} among those validated. {labels}"


def _validation(about: Mapping[str, Any]) -> str:
    scores, expected = mapping(about.get("scores")), mapping(about.get("expected"))
    text = "## Validation: how good it is\n"
    mean, sd, count = mapping(scores.get("mean")), mapping(scores.get("sd")), number(scores.get("images"))
    rows = [
        f"| {name} | {value:.3f} | {f'{spread:.3f}' if (spread := number(sd.get(key))) is not None and count != 1 else 'unknown'} |"
        for key, name in MEASURES.items()
        if (value := number(mean.get(key))) is not None
    ]
    if rows:
        told = f"{count:.0f} annotated target image{'s' if count != 1 else ''}" if count is not None else "annotated target images"
        text += (
            f"On {told} that training never saw:\n\n| measure | mean over images | standard deviation |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
        )
        if count is not None and count < _FEW:
            text += "So few images leave the means uncertain. "
    iou, low, high = (number(expected.get(key)) for key in ("iou", "low", "high"))
    if iou is not None and low is not None and high is not None:
        given = number(expected.get("masks"))
        by = by_masks(int(given)) if given else "without masks from how the model behaves"
        can_be_told = Expectation(iou, low, high).told
        text += (
            f"Expected IoU {iou:.2f} ({low:.2f} to {high:.2f}), estimated {by}: no measurement. "
            if can_be_told
            else "What IoU to expect could not be told without masks. "
        )
    elif not rows:
        text += "The model's file holds no scores: nothing is known about its quality. "
    return (
        text + "To validate it on your own images: annotate some that it has not seen, `celladapt predict MODEL IMAGES --out masks`, "
        "then `celladapt evaluate masks YOUR_MASKS`."
    )


def _limits(about: Mapping[str, Any]) -> str:
    grey = " It looks at brightness alone, as its source had no colours." if mapping(about.get("normalisation")).get("grey") else ""
    return (
        "## Limits\n"
        "Only nuclei against everything else, no cell types; touching nuclei are told apart afterwards, by shape. Images of another organ, stain, microscope or "
        "magnification than the target's are another problem, on which it can fail without a sign. Where images agree on a wrong structure, such as dark debris, it "
        f"is wrong and sure: look at its masks before using them.{grey}"
    )


def _use(about: Mapping[str, Any]) -> str:
    normalised = mapping(about.get("normalisation"))
    mean, std = (
        ", ".join(f"{value:.4f}" for item in sequence(normalised.get(key)) if (value := number(item)) is not None) for key in ("mean", "std")
    )
    how = (
        f"less the mean ({mean}), divided by the standard deviation ({std}), channel by channel" if mean and std else "normalised as its header says"
    )
    first = " (the mean of the three channels is taken first)" if normalised.get("grey") else ""
    return (
        "## How to use it\n"
        "`celladapt predict MODEL IMAGES --out masks` takes images of any size and does all of this by itself. In other programs: "
        f"RGB images in [0, 1]{first}, {how}; sides that are multiples of 16; out comes the probability of nucleus, of which 0.5 or more is nucleus."
    )


def _cite(about: Mapping[str, Any]) -> str:
    version = mapping(about.get("versions")).get("celladapt")
    own = _plain(str(about.get("paper") or ""))
    return f"## How to cite\n{f'The method: {own}. What it rests on here: ' if own else ''}{PAPER}. The software: celladapt{f' {_plain(str(version))}' if version else ''}."
