"""From two folders to a finished run folder: split, train, evaluate on held-out target images, report."""

import copy
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from celladapt import checkpoint, methods, parallel
from celladapt.conclusion import conclude
from celladapt.config import Config, preset_options, with_options
from celladapt.convolution import pays, winograd
from celladapt.data.folder import Folder
from celladapt.data.images import read_image
from celladapt.data.limits import at_most
from celladapt.data.sample import evenly, middle
from celladapt.data.split import Split, as_tiles, group_pattern, load_splits, make_split, matches
from celladapt.errors import InputError, out_of_memory
from celladapt.expectation import MOST_IMAGES, SIDE, clues_on, known_on
from celladapt.files import atomic
from celladapt.hardware import check_compiler, pick_device, uses_bf16
from celladapt.loading import load_model
from celladapt.locks import alone
from celladapt.losses import Domain
from celladapt.model import Prediction, Predictor
from celladapt.preflight import check_readable, check_sizes, no_target_mask, usable_data
from celladapt.preparation import set_up
from celladapt.progress import say
from celladapt.quality import expected_iou, falls_back, may_know_classical, preference
from celladapt.run import Run
from celladapt.shell import as_typed
from celladapt.train import LAST, Trainer

ADAPTED = "adapted.safetensors"
"""The adapted model of a run that kept the source-only one."""
_WIDE, _WIDE_IN_BF16 = 32, 64  # from this width on most of a step is spent in convolutions that Winograd's algorithm serves


def adapt(
    source: str | Path | None = None,
    target: str | Path | None = None,
    method: str | None = None,
    preset: str = "default",
    out: str | Path | None = None,
    **options: Any,
) -> Run:
    """Adapt a nuclei segmentation model from an annotated domain to another one.

    Args:
        source: folder with images/ and masks/; left out where the preset names it, and so is ``target``.
        target: folder with images/, and masks/ for those images that have one. Masks are read only by methods that are trained on them,
            and for the final evaluation on test images that training never saw.
        method: see ``celladapt.methods.names()``; weakuda, unless the preset says otherwise. ``NAME@10%`` hides the other labels, ``NAME:option=value`` sets an option.
        preset: one of ``celladapt.config.presets()``, or a TOML file of options.
        out: run folder to make; ``runs/SOURCE-to-TARGET-METHOD`` with a number by default.
        options: any field of ``Config``; they override the preset.

    Returns:
        The finished run: its metrics, model, report and folder.

    Raises:
        InputError: the folders, options or ``out`` are at fault.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; ``resume`` continues.
    """
    given = {"source": source, "target": target, "method": method, **options}
    values = {**preset_options(preset), **{name: value for name, value in given.items() if value is not None}}
    for domain in ("source", "target"):
        if domain in values:
            values[domain] = Path(values[domain]).absolute()
    config = with_options(Config(), values)
    return carry_out(prepare(config, Path(out) if out is not None else free_name(config)))


def resume(run: str | Path) -> Run:
    """Continue a run that was stopped or killed; it ends with the weights it would have had. A finished run is returned as it is."""
    begun = Run.open(Path(run))
    if begun.finished:
        say(f"{run} is finished already; nothing was left to do.")
        return carry_out(begun)
    if gone := next((path for path in _both(begun.config) if not path.exists()), None):
        files = " and ".join(str(one.path / "config.toml") for one in (begun, begun.baseline) if (one.path / "config.toml").is_file())
        raise InputError(f"{begun.path} is trained on {gone}, which is not there; where that has moved, write its new place into {files}.")
    return carry_out(begun)


def free_name(config: Config) -> Path:
    """``runs/SOURCE-to-TARGET-METHOD``, with a number where that is taken."""
    source, target = _both(config)
    base = f"{source.name}-to-{target.name}-{config.spec.name}"
    names = (Path("runs") / (base if n == 1 else f"{base}-{n}") for n in range(1, 10_000))
    return next(path for path in names if not path.exists())


def prepare(config: Config, out: Path) -> Run:
    """Check the folders, make or take the split, and start the run folder."""
    return begin(out, config, *checked(config))


def checked(config: Config) -> tuple[Split, Split]:
    """The source and the target split of a run with ``config``, once all is found in order that can be told before it; nothing is written.

    Raises:
        InputError: an option, a folder or a file in it is at fault.
    """
    methods.build(config.spec, 1)  # an unknown method or option shows before any work
    source, target = (Folder.open(path) for path in _both(config))
    splits = make_splits(config, source, target)
    device = pick_device(config.device)
    if config.compile:
        check_compiler(device)
    method = methods.find(config.spec.name)
    with at_most(config.max_megapixels):
        # Whatever is wrong shows now, not after hours.
        train_s, train_t, seen_t, usable = usable_data(config, source, target, *splits)
        drawn_s, drawn_t = (folder.subset([*split.train, *split.val]) for folder, split in zip((source, target), splits, strict=True))
        check_readable([drawn_s, drawn_t.keep_masks([*usable, *seen_t.masks])])
        check_sizes(config, train_s, train_t, drawn_t)
        if config.select == "labelled" and not any(stem in target.masks for stem in splits[1].val):
            raise InputError(f"--select labelled needs masks for target validation images in {target.root}; use a criterion without labels.")
        taught_by = train_s if Domain.SOURCE in method.reads else train_t
        if not any(taught_by.mask(stem).any() for stem in taught_by.masks):
            raise InputError(
                f"No mask of {taught_by.root} to train on holds a nucleus, so there is nothing to learn from; see that the masks are finished."
            )
        _no_test_image_twice(method, source, target, splits[1])
    return splits


def begin(out: Path, config: Config, source: Split, target: Split) -> Run:
    """Start the run folder of a run that is ``checked``, with the splits of that."""
    device = pick_device(config.device)
    parallel.start(device)
    if parallel.rank() == 0:
        try:
            Run.create(out, config, source, target)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*[out] if (out / "config.toml").exists() else []) from None
        bf16 = uses_bf16(config.precision, device)
        dtype = torch.bfloat16 if bf16 else torch.float32
        wide = config.width >= (_WIDE_IN_BF16 if bf16 else _WIDE)
        if device.type == "cpu" and wide and pays(dtype) and not winograd(dtype):
            share = "three quarters" if bf16 else "half"
            say(
                f"Training on a CPU: with numba (`pip install numba`, or the extra celladapt[cpu]) a model this wide takes about {share} of the time."
            )
    parallel.wait()
    return Run.open(out)


def _no_test_image_twice(method: type[methods.Method], source: Folder, target: Folder, split: Split) -> None:
    """Raise InputError where a file of the target is in the source too, or a test image is in another part of the split under another name.

    Files are compared, not pixels: quick, and what copying folders brings about. Blank images are alike without being one.
    """
    seen = {digest: target.images[stem] for digest, stem in target.subset([*split.train, *split.val]).digests().items()}
    tested = {digest: target.images[stem] for digest, stem in target.subset(split.test).digests().items()}
    sources = {digest: source.images[stem] for digest, stem in source.digests().items()} if Domain.SOURCE in method.reads else {}
    pairs = [(path, (seen | tested)[digest]) for digest, path in sources.items() if digest in seen or digest in tested]
    pairs += [(path, seen[digest]) for digest, path in tested.items() if digest in seen]
    twice = [(one, other) for one, other in pairs if np.ptp(read_image(one)) > 0]
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        one, other = twice[0]
        if source.root.resolve() == target.root.resolve():
            raise InputError(f"{source.root} is given as --source and as --target; name two folders.")
        raise InputError(
            f"{one} and {other} are the same image{more}; keep each image once, in one of the two folders: `celladapt data check` lists them."
        )


def _both(config: Config) -> tuple[Path, Path]:
    if config.source is None or config.target is None:
        raise InputError("Name both folders: --source DIR (annotated images) and --target DIR (images to adapt to).")
    return config.source, config.target


def make_splits(config: Config, source: Folder, target: Folder) -> tuple[Split, Split]:
    """The source and the target split that ``config`` asks for; of the source nothing is held out for testing.

    Images of one patient or slide stay together as ``config.group`` says, or each folder's ``dataset.toml`` where that matches nothing in it.
    """
    if config.split is not None:
        return load_splits(config.split)

    if config.group is not None and not any(matches(folder, config.group) for folder in (source, target)):
        raise InputError(f"--group '{config.group}' matches no image name in {source.root} or {target.root}; correct it.")
    if config.group is None and parallel.rank() == 0 and (pattern := as_tiles(target)):
        say(
            f"Images in {target.root} have names like tiles of several slides, and are split one by one: scores flatter where tiles of one slide are in "
            f"training and test. --group {as_typed(pattern)} keeps those of one together."
        )

    def part(folder: Folder, test: float) -> Split:
        group = group_pattern(folder, config.group)
        return make_split(folder, val=config.val_fraction, test=test, seed=config.split_seed, group=group)

    return part(source, 0.0), part(target, config.test_fraction)


def carry_out(run: Run) -> Run:
    """Every stage that ``run`` still lacks: baseline, training, evaluation, report.

    Raises:
        InputError: there is not memory enough, or what a stage says.
        KeyboardInterrupt: stopped; its argument is the folder to resume.
    """
    if parallel.launched():  # else a finished run is shown wherever it is
        parallel.start(pick_device(run.config.device))
    try:
        with at_most(run.config.max_megapixels):
            _stages(run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.path) from None
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        anew = "start a new run with a smaller --batch-size, --crop or --width"
        raise InputError(
            f"{run.path} needs more memory than there is; free some (fewer runs at once, too) and continue it with --resume, or {anew}."
        ) from error
    return run


def _stages(run: Run) -> None:
    main = parallel.rank() == 0
    if parallel.any_process(main and run.finished):
        return
    with alone(run.path) if main else nullcontext():
        config, method = run.config, methods.find(run.config.spec.name)
        if config.baseline and method.reads == {Domain.SOURCE, Domain.TARGET}:
            if not (run.baseline.path / "config.toml").exists() and main:
                Run.create(run.baseline.path, baseline_of(config), *run.splits)
            parallel.wait()
            if not run.baseline.finished and main:
                assert config.target
                if lack := no_target_mask(config, Folder.open(config.target), run.splits[1]):
                    say(lack)
                say(f"First of two models: source_only with the same budget, to compare with (--no-baseline leaves it out). Then {config.method}.")
            _stages(run.baseline)
        # Another process may have done it while this one waited. Those that train together go by what one of them sees.
        if not parallel.any_process(main and run.finished):
            trainer, notes = set_up(run)
            trainer.train()
            if main:
                _conclude(run, trainer, notes)
        parallel.wait()


def baseline_of(config: Config) -> Config:
    """The source-only run that a run with ``config`` is held against."""
    return replace(config, method="source_only", target_labels="100%", baseline=False)


def _conclude(run: Run, trainer: Trainer, notes: list[str]) -> None:
    """Evaluate the selected model, with the R of the same step where the method has one; or source-only's, where that promises more."""
    config, notes = run.config, [*notes, *trainer.method.remarks()]
    assert config.target
    model, adapted = run.path / "model.safetensors", run.path / ADAPTED
    # After a kill below, the one in its place is source-only's.
    loaded, reconstruct = load_model(adapted if adapted.exists() else model, config.device, config.precision), _reconstruction(run, trainer)
    looked_at = _looked_at(run)
    after, before = _clues(run, loaded, looked_at), None
    # Labels of the target, where they had a part, know better than a criterion that sees none.
    labelled = trainer.picked.uses_target_labels or bool(run.record.get("target_labelled"))
    if run.baseline.finished and config.fallback and not labelled:
        before = _clues(run, load_model(run.baseline.path, config.device, config.precision), looked_at)
    fell_back = before is not None and falls_back(preference(before), preference(after))
    if before is not None and fell_back:
        if not adapted.exists():
            model.rename(adapted)
        with atomic(model) as temporary:
            shutil.copyfile(run.baseline.path / "model.safetensors", temporary)
        notes = [
            *notes,
            "As far as can be told without masks, source-only is clearly the better one, so the SOURCE-ONLY model was kept: it is what is scored and shown here. "
            f"The adapted one is in {ADAPTED}.",
        ]
        loaded, after, reconstruct = load_model(model, config.device, config.precision), before, None
    elif adapted.exists():  # an earlier call, cut off, had fallen back and would not now
        adapted.replace(model)
    target, known = Folder.open(config.target), None
    if given := evenly(run.record.get("target_labelled") or [], MOST_IMAGES):
        try:
            known = known_on(loaded, map(target.pair, given))
        except InputError as error:  # nobody should lose a finished training for that
            notes = [*notes, f"What to expect is estimated without the masks that were given: {error}"]
    checkpoint.previous(run.path / LAST).unlink(missing_ok=True)  # which nobody needs once the last step is safe
    facts = {
        "seconds": round(trainer.seconds, 1),
        "selected": asdict(trainer.picked),
        "expected": asdict(expected_iou(after, alone=len(looked_at) == 1, known=known, classical=may_know_classical(loaded.about))),
        "known": asdict(known) if known else None,
        "fell_back": fell_back,
    }
    conclude(run, target, lambda image: Prediction(loaded.probability(image)), reconstruct, notes, **facts)


def _looked_at(run: Run) -> list[str]:
    """Target images, of validation if there are some, by which what is to be told without masks is told: as many as wherever else that is asked."""
    _, split = run.splits
    return evenly(split.val or split.train, MOST_IMAGES)


def _clues(run: Run, model: Predictor, stems: list[str]) -> Mapping[str, float]:
    """What is to be told of ``model`` without masks, by as many pixels of each image as wherever else that is asked."""
    assert run.config.target
    held = Folder.open(run.config.target)
    return clues_on(model, [middle(held.image(stem), SIDE) for stem in stems])


def _reconstruction(run: Run, trainer: Trainer) -> Callable[[NDArray[np.float32]], NDArray[np.uint8]] | None:
    """Probability (H, W) in [0, 1] -> R of it as an image (H, W, 3); None where the method has no R."""
    if "R" not in trainer.method.networks:
        return None
    path = run.path / "reconstructor.safetensors"
    decoder = copy.deepcopy(trainer.method.networks["R"])
    checkpoint.fill(decoder, checkpoint.load(path)[0], path)
    decoder = decoder.to(trainer.device).eval()

    @torch.inference_mode()
    def reconstruct(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
        image: Tensor = decoder(torch.from_numpy(probability)[None, None].to(trainer.device))
        return trainer.normalisation.undo(image[0])

    return reconstruct
