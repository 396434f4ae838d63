"""From two folders to a finished run folder: split, train, evaluate on held-out target images, report."""

import copy
import datetime
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from celladapt import checkpoint, methods, parallel
from celladapt.config import Config, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.images import write_image
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import Pairs, Stream
from celladapt.data.split import Split, choose_labelled, load_splits, make_split
from celladapt.errors import InputError
from celladapt.evaluation import Evaluation, score
from celladapt.files import write_json
from celladapt.hardware import arithmetic, describe, pick_device, uses_bf16
from celladapt.losses import Domain
from celladapt.prediction import Prediction, load_model
from celladapt.progress import say
from celladapt.reporting import report
from celladapt.run import Run
from celladapt.train import Trainer
from celladapt.validate import Held, Validator

EXAMPLES = 6
EXAMPLE_SIDE = 1024
STATISTICS_BATCHES = 16


def adapt(
    source: str | Path, target: str | Path, method: str | None = None, preset: str = "default", out: str | Path | None = None, **options: Any
) -> Run:
    """Adapt a nuclei segmentation model from an annotated domain to another one.

    Args:
        source: folder with images/ and masks/.
        target: folder with images/, and masks/ for those images that have one. Masks are read only by methods that are trained on them,
            and for the final evaluation on test images that training never saw.
        method: see ``celladapt.methods.names()``; cellseguda, unless the preset says otherwise. ``NAME@10%`` hides the other labels, ``NAME:option=value`` sets an option.
        preset: "default", "fast" or "paper", or a TOML file of options.
        out: run folder to make; ``runs/SOURCE-to-TARGET-METHOD`` with a number by default.
        options: any field of ``Config``; they override the preset.

    Returns:
        The finished run: its metrics, model, report and folder.

    Raises:
        InputError: the folders, options or ``out`` are at fault.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; ``resume`` continues.
    """
    values = {**preset_options(preset), "source": Path(source).absolute(), "target": Path(target).absolute(), **options}
    if method is not None:
        values["method"] = method
    config = with_options(Config(), values)
    return carry_out(prepare(config, Path(out) if out is not None else free_name(config)))


def resume(run: str | Path) -> Run:
    """Continue a run that was stopped or killed; it ends with the weights it would have had. A finished run is returned as it is."""
    return carry_out(Run.open(Path(run)))


def free_name(config: Config) -> Path:
    """``runs/SOURCE-to-TARGET-METHOD``, with a number where that is taken."""
    assert config.source
    assert config.target
    base = f"{config.source.name}-to-{config.target.name}-{config.spec.name}"
    names = (Path("runs") / (base if n == 1 else f"{base}-{n}") for n in range(1, 10_000))
    return next(path for path in names if not path.exists())


def prepare(config: Config, out: Path) -> Run:
    """Check the folders, make or take the split, and start the run folder."""
    if config.source is None or config.target is None:
        raise InputError("Name both folders: --source DIR (annotated) and --target DIR.")
    methods.build(config.spec, 1)  # an unknown method or option shows before any work
    source, target = Folder.open(config.source), Folder.open(config.target)
    if config.split is not None:
        splits = load_splits(config.split)
    else:
        part = partial(make_split, val=config.val_fraction, seed=config.split_seed, group=config.group)
        splits = part(source, test=0.0), part(target, test=config.test_fraction)
    _usable(config, source, target, *splits)  # whatever is wrong shows now, not after hours
    pick_device(config.device)
    parallel.start()
    if parallel.rank() == 0:
        Run.create(out, config, *splits)
    parallel.wait()
    return Run.open(out)


def carry_out(run: Run) -> Run:
    """Every stage that ``run`` still lacks: baseline, training, evaluation, report."""
    parallel.start()
    config = run.config
    method = methods.find(config.spec.name)
    if config.baseline and method.reads == {Domain.SOURCE, Domain.TARGET}:
        if not (run.baseline.path / "config.toml").exists() and parallel.rank() == 0:
            Run.create(run.baseline.path, replace(config, method="source_only", target_labels="100%", baseline=False), *run.splits)
        parallel.wait()
        carry_out(run.baseline)
    if not run.finished:
        trainer, notes = _set_up(run)
        trainer.train()
        if parallel.rank() == 0:
            _conclude(run, trainer, notes)
        parallel.wait()
    return run


def _set_up(run: Run) -> tuple[Trainer, list[str]]:
    """Networks, data and validator of ``run``, and what a reader of its report should know."""
    config, (split_s, split_t) = run.config, run.splits
    assert config.source
    assert config.target
    source, target = Folder.open(config.source), Folder.open(config.target)
    fingerprint = {"source": source.fingerprint(), "target": target.fingerprint()}
    for domain, before in run.record.get("fingerprint", {}).items():
        if before != fingerprint[domain]:
            raise InputError(f"The files in {getattr(config, domain)} have changed since {run.path} began; start a new run with another --out.")

    if run.record.get("processes", parallel.world_size()) != parallel.world_size():
        raise InputError(f"{run.path} began with {run.record['processes']} processes; continue it with as many, or it would see other batches.")

    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    method = methods.build(config.spec, config.width)
    notes: list[str] = []
    train_s, train_t, seen_t, usable = _usable(config, source, target, split_s, split_t)
    if method.target_masks:
        notes.append(f"Trained with the masks of {len(usable)} of {len(split_t.train)} target training images.")

    normalise_s = Normalisation.of(source.image(stem) for stem in split_s.train)
    normalise_t = Normalisation.of(target.image(stem) for stem in split_t.train)
    stream_s = Stream(train_s, normalise_s, config.crop, config.augment, (config.seed, 0))
    stream_t = Stream(train_t, normalise_t, config.crop, config.augment, (config.seed, 1))
    pairs = Pairs(
        stream_s if Domain.SOURCE in method.reads else None,
        stream_t if Domain.TARGET in method.reads else None,
        config.batch_size,
        parallel.rank(),
        parallel.world_size(),
    )
    plain = Stream(target.subset(split_t.train).without_masks(), normalise_t, config.crop, "none", (config.seed, 2))

    def statistics() -> Iterator[Tensor]:
        for k in range(STATISTICS_BATCHES):
            yield plain.draw(range(k * config.batch_size, (k + 1) * config.batch_size))[0].to(device, memory_format=torch.channels_last)

    if config.select == "labelled":
        notes.append(
            "The checkpoint was picked with LABELLED target validation images: right for reproducing the paper, not for an unlabelled target."
        )
    held_s = _held(source.subset(split_s.val), normalise_s, config.validation_images, masks=True, crop=config.crop)
    held_t = _held(seen_t, normalise_t, config.validation_images, masks=config.select == "labelled", crop=config.crop)
    compute = partial(arithmetic, config.precision, device)
    if parallel.rank() == 0:
        run.note(
            **describe(device),
            arithmetic="bf16" if uses_bf16(config.precision, device) else "float32",
            processes=parallel.world_size(),
            started=run.record.get("started") or _now(),
            finished=None,
            fingerprint=fingerprint,
            method_doc=(type(method).__doc__ or "").strip(),
            terms=dict(method.equations),
            parameters={name: sum(p.numel() for p in network.parameters()) for name, network in method.networks.items()},
            target_labelled=usable,
            notes=notes,
        )
        if device.type == "cpu" and config.width >= 32:
            say(f"No GPU here: width {config.width} will take long (the bar shows how long); --preset fast is made for this machine.")
    about = {"method": config.method, "source": config.source.name, "target": config.target.name}
    label = f"{config.method}, seed {config.seed}"
    validator = Validator(held_s, held_t, device, compute)
    return Trainer(run.path, config, method, pairs, validator, normalise_t, statistics, device, compute, about, label), notes


def _usable(config: Config, source: Folder, target: Folder, split_s: Split, split_t: Split) -> tuple[Folder, Folder, Folder, list[str]]:
    """What training may read: source and target training images, target validation images, and the target images whose masks are given.

    Raises:
        InputError: there is nothing to train on or to select with, or the labels asked for do not go with the method.
    """
    method = methods.find(config.spec.name)
    if not method.target_masks and config.labels != "100%":
        raise InputError(f"Method '{config.spec.name}' reads no target masks, so --target-labels {config.labels} means nothing; leave it out.")
    usable = choose_labelled([stem for stem in split_t.train if stem in target.masks], config.labels, config.seed) if method.target_masks else []
    train_s = source.subset(stem for stem in split_s.train if stem in source.masks)
    train_t = target.subset(split_t.train).keep_masks(usable)
    if method.reads == {Domain.TARGET}:
        train_t = train_t.subset(usable)
    for domain, folder in ((Domain.SOURCE, train_s), (Domain.TARGET, train_t)):
        if domain in method.reads and not len(folder):
            raise InputError(f"{folder.root} has no mask to train on; put label images with the images' names into its masks/ folder.")
    seen_t = target.subset(split_t.val or split_t.train)
    if config.select == "labelled":
        seen_t = seen_t.subset(seen_t.labelled)
        if not len(seen_t):
            raise InputError(f"--select labelled needs masks for target validation images in {target.root}; use a criterion without labels.")
    else:
        seen_t = seen_t.without_masks()
    if lost := [stem for stem in split_t.test if stem not in target.masks]:
        raise InputError(f"{target.root} has no mask for the test image {lost[0]} of the split; use a split of these folders.")
    return train_s, train_t, seen_t, usable


def _held(folder: Folder, normalise: Normalisation, most: int, masks: bool, crop: int | str) -> Held:
    """At most ``most`` images, evenly chosen, of crop training only their middle, four crops wide, so that validation stays short and bounded."""
    stems = list(folder.images)
    stems = [stems[i] for i in np.unique(np.linspace(0, len(stems) - 1, min(most, len(stems))).round().astype(int))]
    if masks:
        stems = [stem for stem in stems if stem in folder.masks]

    def middle(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if isinstance(crop, str):
            return array
        top, left = (max(0, (n - 4 * crop) // 2) for n in array.shape[:2])
        return array[top : top + 4 * crop, left : left + 4 * crop]

    if not masks:
        return Held([normalise(middle(folder.image(stem))) for stem in stems])
    pairs = [folder.pair(stem) for stem in stems]
    return Held([normalise(middle(image)) for image, _ in pairs], [torch.from_numpy(middle(mask) > 0) for _, mask in pairs])


def _conclude(run: Run, trainer: Trainer, notes: list[str]) -> None:
    """The final evaluation, the only place where target test images are read; examples, metrics, report."""
    config, (_, split_t) = run.config, run.splits
    assert config.target
    target = Folder.open(config.target)
    model = load_model(run.path, config.device, config.precision)
    if not split_t.test:
        notes.append("The target has no annotated test images, so this run cannot state its own quality; look at the examples.")
    scores = {}
    examples = (split_t.test or split_t.val or split_t.train)[:EXAMPLES]
    for stem in dict.fromkeys([*split_t.test, *examples]):
        image, truth = target.pair(stem) if stem in split_t.test else (target.image(stem), None)
        prediction = model.predict(image)
        if truth is not None:
            scores[stem] = score(prediction.instances, truth, prediction.mask)
        if stem in examples:
            _write_example(run.path / "examples" / stem, image, prediction, truth)
    if "R" in trainer.method.networks:
        _write_reconstructions(run, examples, target, model.normalisation, trainer.method.networks["R"], trainer.device)
    if scores:
        evaluation = Evaluation(scores)
        write_json(run.path / "metrics.json", evaluation.to_json())
        evaluation.write_csv(run.path / "metrics.csv")
    run.note(
        seconds=round(trainer.seconds, 1),
        finished=_now(),
        notes=notes,
        selected=asdict(trainer.picked),
    )
    report(run.path)


def _write_example(folder: Path, image: np.ndarray[Any, Any], prediction: Prediction, truth: np.ndarray[Any, Any] | None) -> None:
    bits8 = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    pictures = {"image": bits8, "probability": (prediction.probability * 255).round().astype(np.uint8), "prediction": prediction.mask}
    if truth is not None:
        pictures["truth"] = truth.astype(np.uint16)
    for name, picture in pictures.items():
        write_image(folder / f"{name}.png", picture[:EXAMPLE_SIDE, :EXAMPLE_SIDE])


@torch.inference_mode()
def _write_reconstructions(
    run: Run, stems: list[str], target: Folder, normalise: Normalisation, decoder: torch.nn.Module, device: torch.device
) -> None:
    """R(S(I_t)) of each example, with the R of the selected step."""
    path = run.path / "reconstructor.safetensors"
    network = copy.deepcopy(decoder)
    checkpoint.fill(network, checkpoint.load(path)[0], path)
    network = network.to(device).eval()
    for stem in stems:
        x = normalise(target.image(stem)[:EXAMPLE_SIDE, :EXAMPLE_SIDE])[None].to(device)
        p = run.model.network.to(device)(x)
        write_image(run.path / "examples" / stem / "reconstruction.png", normalise.undo(network(p)[0]))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
