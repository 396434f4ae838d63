"""From a run's options to what trains: networks, streams of images, validation images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from celladapt import methods, parallel
from celladapt.classical import witness
from celladapt.config import Config
from celladapt.data.folder import Folder
from celladapt.data.images import deep
from celladapt.data.look import Match, look_of, match
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import MOST_WITNESSED, Pairs, Stream
from celladapt.data.sample import evenly, middle
from celladapt.data.slide import tiff_pixel_size
from celladapt.data.split import group_pattern, groups_of
from celladapt.errors import InputError
from celladapt.files import now
from celladapt.hardware import arithmetic, describe, pick_device, uses_bf16
from celladapt.losses import Domain
from celladapt.preflight import no_target_mask, usable_data
from celladapt.progress import say
from celladapt.run import Run
from celladapt.shape import WITNESS
from celladapt.step import CROSS_ENTROPY, has_cross_entropy
from celladapt.threshold import Annotated, Teachers
from celladapt.train import Trainer
from celladapt.validate import Held, Validator

STATISTICS_BATCHES = 16
MOST_ASKED = 64  # images in which the classical segmentation may have to be found before the first step
MOST_LOOKED_AT = 50  # masks: more were not drawn by hand a moment ago


def set_up(run: Run) -> tuple[Trainer, list[str]]:
    """Networks, data and validator of ``run``, and what a reader of its report should know."""
    config, (split_s, split_t) = run.config, run.splits
    assert config.source
    assert config.target
    source, target = Folder.open(config.source), Folder.open(config.target)
    if run.record.get("processes", parallel.world_size()) != parallel.world_size():
        raise InputError(f"{run.path} began with {run.record['processes']} processes; continue it with as many, or it would see other batches.")

    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    method = methods.build(config.spec, config.width)
    notes: list[str] = []
    train_s, train_t, seen_t, usable = usable_data(config, source, target, split_s, split_t)
    shared = groups_of(source, config.group, source.images) & groups_of(target, config.group, split_t.test)
    if shared and Domain.SOURCE in method.reads:
        some = ", ".join(sorted(shared)[:3]) + (", ..." if len(shared) > 3 else "")
        notes.append(
            f"Source images and target test images share {len(shared)} group names ({some}): if these are the same patients, the scores flatter."
        )
    # Not even for a fingerprint is a target mask opened that training was not given.
    may_read = [*usable, *seen_t.masks]
    drawn_s, drawn_t = source.subset([*split_s.train, *split_s.val]), target.subset([*split_t.train, *split_t.val]).without_masks()
    fingerprint = {
        "source": source.fingerprint(),
        "source_training": drawn_s.fingerprint(),
        "target": target.without_masks().fingerprint(),
        "target_training": drawn_t.fingerprint(),
    }
    labels = target.subset(may_read).fingerprint() if may_read else None
    record = run.record  # read once: the first of several processes writes it below
    before = record.get("fingerprint", {})
    # A run that has not begun to train is still to see what the model saw that it will be held against.
    compared = before or (run.baseline.record.get("fingerprint", {}) if run.baseline.finished else {})
    # A test image that is found damaged at the end may be mended, and images added; runs of before know their folders as a whole.
    changed = f"have changed since {run.path} began; put them back as they were, or start a new run with another --out."
    for domain in ("source", "target"):
        name = f"{domain}_training" if f"{domain}_training" in compared else domain
        if compared.get(name, fingerprint[name]) != fingerprint[name]:
            raise InputError(f"The files in {getattr(config, domain)} {changed}")
    if before and record.get("fingerprint_of_labels") != labels:
        raise InputError(f"The masks in {config.target} {changed}")
    if Domain.SOURCE in method.reads and (bare := _blank(train_s, list(train_s.images))):
        notes.append(_blank_words("source mask", bare))
        if not (record.get("started") or run.baseline.finished):  # which have said so
            _say_blank(source, bare)
    if blank := _blank(target, usable):
        notes.append(_blank_words("mask", blank))
        _say_blank(target, blank)
    if not config.baseline and parallel.rank() == 0 and (lack := no_target_mask(config, target, split_t)):
        say(lack)
    target_given, target = target.subset(usable), target.without_masks()
    if method.target_masks:
        notes.append(f"Trained with the masks of {len(usable)} of {len(split_t.train)} target training images.")

    shown, strange, witnessed = _as_the_target(config, method, train_s, target.subset(split_t.train))
    taught = len(blank) < len(usable[:MOST_LOOKED_AT]) or (method.classical and witnessed >= WITNESS)
    # A run goes on as it began; in one that does not say how, no target kept its colours.
    grey = record.get("target_grey", strange and not (taught and not record.get("started")))
    if shown.words:
        notes.append(f"Source images were shown {shown.words}, to look like the target's.")
    if grey:
        notes.append("The source has no colours, so the target was seen without its own.")
    source, train_s = replace(source, shown=shown), replace(train_s, shown=shown)
    normalise_s = Normalisation.of(source.image(stem) for stem in split_s.train)
    normalise_t = Normalisation.of((target.image(stem) for stem in split_t.train), grey)
    stream_s = Stream(train_s, normalise_s, config.crop, config.augment, (config.seed, 0))
    stream_t = Stream(train_t, normalise_t, config.crop, config.augment, (config.seed, 1), method.classical, config.labelled_share)
    pairs = Pairs(
        stream_s if Domain.SOURCE in method.reads else None,
        stream_t if Domain.TARGET in method.reads else None,
        config.batch_size,
        parallel.rank(),
        parallel.world_size(),
    )
    # Validation images too: no mask is needed, and of few images each one counts.
    plain = Stream(drawn_t, normalise_t, config.crop, "none", (config.seed, 2))

    def statistics() -> Iterator[Tensor]:
        for k in range(STATISTICS_BATCHES):
            yield plain.draw(range(k * config.batch_size, (k + 1) * config.batch_size)).image.to(device, memory_format=torch.channels_last)

    if method.classical:
        notes.append(_witnessed(stream_t))
    size = config.pixel_size or _stated_pixel_size(target.subset(split_t.train))
    if size is not None:
        notes.append(f"Target images have {size:.3g} µm per pixel; `celladapt predict` sees slides at that.")
    if config.select == "labelled":
        notes.append(
            "The checkpoint was picked with LABELLED target validation images: right for reproducing the paper, not for an unlabelled target."
        )
    held_s = _held(source.subset(split_s.val), normalise_s, config.validation_images, masks=True, crop=config.crop)
    held_t = _held(seen_t, normalise_t, config.validation_images, masks=config.select == "labelled", crop=config.crop, classical=True)
    compute = partial(arithmetic, config.precision, device)
    teachers = Teachers()
    if config.fit_threshold:
        held = partial(_held, most=config.validation_images, crop=config.crop)
        given = held(target_given, normalise_t, masks=True) if usable else Held([])
        # Where there are masks for it, the classical segmentation and the source have no say.
        asked = not any(mask.any() for mask in given.masks)
        taught_s = held(replace(drawn_s, shown=shown), normalise_s, masks=True) if asked and Domain.SOURCE in method.reads else Held([])
        standing = _witnesses(stream_t, config.validation_images, config.crop) if asked and method.classical else []
        teachers = Teachers(list(zip(given.images, given.masks, strict=True)), standing, list(zip(taught_s.images, taught_s.masks, strict=True)))
    by = "bf16" if uses_bf16(config.precision, device) else "float32"
    arithmetics = list(dict.fromkeys([*record.get("arithmetics", [record["arithmetic"]] if "arithmetic" in record else []), by]))
    if len(arithmetics) > 1:
        notes.append(
            f"Computed in {' and '.join(arithmetics)}, as it went on on another machine: not quite the model that one of them would have trained."
        )
        if parallel.rank() == 0:
            say(notes[-1])
    if parallel.rank() == 0:
        run.note(
            **describe(device),
            arithmetic=by,
            arithmetics=arithmetics,
            processes=parallel.world_size(),
            started=run.record.get("started") or now(),
            finished=None,
            fingerprint={**before, **fingerprint},
            fingerprint_of_labels=labels,
            target_grey=grey,
            group=group_pattern(target, config.group),
            method_doc=(type(method).__doc__ or "").strip(),
            terms={**method.equations, **(CROSS_ENTROPY if has_cross_entropy(method, config.lambda_bce) else {})},
            parameters={name: sum(p.numel() for p in network.parameters()) for name, network in method.networks.items()},
            target_labelled=usable,
            notes=notes,
        )
        if device.type == "cpu" and config.width >= 32:
            say(f"No GPU here: width {config.width} will take long (the bar shows how long); --preset fast is made for this machine.")
    # Validation images too, as of the target: masks of the source may say where masks are cut.
    learned_s = source.subset(stem for stem in (*split_s.train, *split_s.val) if stem in source.masks and Domain.SOURCE in method.reads)
    trained_on = sorted({*learned_s.digests(), *target.subset([*split_t.train, *split_t.val]).digests()})
    about = {
        "method": config.method,
        "method_doc": (type(method).__doc__ or "").strip(),
        "paper": method.paper,
        "source": config.source.name,
        "target": config.target.name,
        "images": {
            "source": len(train_s) if Domain.SOURCE in method.reads else 0,
            "target": len(train_t) if Domain.TARGET in method.reads else 0,
            "target_masks": len(usable),
        },
        "config": {
            key: value for key, value in asdict(config).items() if key not in ("source", "target", "split")
        },  # a model may travel, paths may not
        "versions": {name: describe(device)[name] for name in ("celladapt", "torch")},
        "trained_on": trained_on,
        "pixel_size": size,
        "deep": _deep(target.subset(split_t.train)),
        "classical": method.classical,
    }
    label = f"{config.method}, seed {config.seed}"
    validator = Validator(held_s, held_t, device, compute, teachers)
    return Trainer(run.path, config, method, pairs, validator, normalise_t, statistics, device, compute, about, label), notes


def _stated_pixel_size(folder: Folder) -> float | None:
    """µm per pixel that the middle one of some files states; None where none does."""
    stated = [size for path in evenly(list(folder.images.values()), MOST_WITNESSED) if (size := tiff_pixel_size(path)) is not None]
    return float(np.median(stated)) if stated else None


def _deep(folder: Folder) -> bool | None:
    """Whether images have more than 8 bits a channel; None where some have and others not."""
    found = {deep(path) for path in evenly(list(folder.images.values()), MOST_WITNESSED)}
    return found.pop() if len(found) == 1 else None


def _blank(folder: Folder, stems: Sequence[str]) -> list[str]:
    """Those whose mask holds no nucleus, of the first ``MOST_LOOKED_AT``."""
    return [stem for stem in stems[:MOST_LOOKED_AT] if not folder.mask(stem).any()]


def _say_blank(folder: Folder, stems: list[str]) -> None:
    if parallel.rank() == 0:
        say(f"{folder.masks[stems[0]]} holds no nucleus ({len(stems)} such); if it is unfinished, stop here and fill it or take it away.")


def _blank_words(what: str, stems: list[str]) -> str:
    return (
        f"The {what} of {stems[0]} ({len(stems)} such) holds no nucleus: right if there is none, but an unfinished mask teaches that there is none."
    )


def _as_the_target(config: Config, method: methods.Method, source: Folder, target: Folder) -> tuple[Match, bool, float]:
    """How to show the source, whether the target has colours that it has not, and in what share of the target's images the classical segmentation is plausible."""
    if not (config.match and Domain.SOURCE in method.reads):
        return Match(), False, 0.0
    looks = look_of(source), look_of(target)
    return match(*looks), looks[0].grey and not looks[1].grey, looks[1].witnessed


def _witnessed(target: Stream) -> str:
    """In how many target images the classical segmentation can be believed, for people."""
    verdicts = target.verdicts
    plausible, closer = sum(verdict.plausible for verdict in verdicts.values()), sum(verdict.closer for verdict in verdicts.values())
    nearly = sum(target.stands(stem) and not verdict.plausible for stem, verdict in verdicts.items())
    alone = "" if nearly else " alone"
    heard = sum(target.stands(stem) and verdict.plausible for stem, verdict in verdicts.items())
    where = "there" if heard == plausible else f"in {heard} of these"
    seen_in = f"What the classical segmentation sees has the shape of nuclei in {plausible} of {len(verdicts)} target images"
    if not target.heard:
        return f"{seen_in}: in too few to be believed, so it teaches nothing here."
    sentences = [
        f"{seen_in}; it can teach {where}{alone}."
        + ("" if heard == plausible else " In the others masks teach, or it had to look closer where other images have masks.")
    ]
    if closer:
        sentences.append(f"In {closer} of them it had to look closer, at clumps of dark cells in which the nuclei are.")
    trust = [verdict.trust for stem, verdict in verdicts.items() if target.stands(stem)]
    less = f"{float(np.mean(trust)) if trust else 0:.0%}"
    if less != "0%":
        sentences.append(f"Where it does, the masks of the source count for {less} less, on average, as its outlines are trusted that far.")
    if nearly:
        sentences.append(
            f"In {nearly} other{'s' if nearly > 1 else ''} it nearly has, and the image falls clearly in two classes: it can teach there too."
        )
    return " ".join(sentences)


def _witnesses(stream: Stream, most: int, crop: int | str) -> Annotated:
    """As ``_held``: images with what the classical segmentation of the whole of each sees there, where it may stand for a mask."""
    found = []
    asked = evenly(list(stream.folder.images), MOST_ASKED) if parallel.rank() == 0 else ()
    for stem in evenly([stem for stem in asked if stream.stands(stem)], most):
        image, masks = (whole if isinstance(crop, str) else middle(whole, 4 * crop) for whole in stream.cache[stem])
        found.append((stream.normalisation(image), torch.from_numpy(masks[..., 1])))
    return found


def _held(folder: Folder, normalise: Normalisation, most: int, masks: bool, crop: int | str, classical: bool = False) -> Held:
    """At most ``most`` images, evenly chosen, of crop training only their middle, four crops wide, so that validation stays short and bounded."""
    held = Held([], [], [])
    stems = evenly(folder.labelled if masks else list(folder.images), most)
    for stem in stems if parallel.rank() == 0 else ():  # which alone validates
        image, mask = folder.pair(stem) if masks else (folder.image(stem), None)
        if not isinstance(crop, str):
            image, mask = middle(image, 4 * crop), None if mask is None else middle(mask, 4 * crop)
        held.images.append(normalise(image))
        if mask is not None:
            held.masks.append(torch.from_numpy(mask > 0))
        if classical:
            held.classical.append(witness(image))
    return held
