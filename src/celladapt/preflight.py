"""What is found out before a run writes anything: what training may read, and that it can be read and used."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from celladapt import methods
from celladapt.config import Config
from celladapt.data.check import MOST_FOREGROUND
from celladapt.data.folder import Folder
from celladapt.data.limits import TAKEN_CHANNELS
from celladapt.data.mask_look import MOST_COMPARED, OTHER_IMAGES, difference, light_of, of_other_images
from celladapt.data.pairs import different_sizes
from celladapt.data.split import Split, choose_labelled
from celladapt.data.tiff import planes_and_channels
from celladapt.errors import InputError
from celladapt.losses import Domain
from celladapt.networks import DEPTH
from celladapt.progress import Bar, say

_MANY = 100
"""Images that take long enough to read for a bar."""
_SHAPES: dict[tuple[Path, int], tuple[int, ...]] = {}
"""Of the image, for each file that has been read, in the state it had."""


def usable_data(config: Config, source: Folder, target: Folder, split_s: Split, split_t: Split) -> tuple[Folder, Folder, Folder, list[str]]:
    """What training may read: source and target training images, target validation images, and the target images whose masks are given.

    Raises:
        InputError: there is nothing to train on or to select with, or the labels asked for do not go with the method.
    """
    method = methods.find(config.spec.name)
    for folder, split, read in ((source, split_s, Domain.SOURCE in method.reads), (target, split_t, True)):
        if read and not split.train:
            raise InputError(
                f"The split leaves no image of {folder.root} to train on, and {config.method} has to see some; mend the split, or leave --split out."
            )
    if not method.target_masks and config.labels != "100%":
        raise InputError(f"Method '{config.spec.name}' reads no target masks, so --target-labels {config.labels} means nothing; leave it out.")
    usable = _given(config, target, split_t)
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


def _given(config: Config, target: Folder, split_t: Split) -> list[str]:
    """Target training images whose masks the method is given."""
    masks = methods.find(config.spec.name).target_masks
    return choose_labelled([stem for stem in split_t.train if stem in target.masks], config.labels, config.seed) if masks else []


def no_target_mask(config: Config, target: Folder, split_t: Split) -> str:
    """That a method which learns from masks of the target is given none, and why, for people; "" where it is, or has no use for any."""
    if not methods.find(config.spec.name).target_masks or _given(config, target, split_t):
        return ""
    hidden = target.subset(split_t.train).masks
    none = f"--target-labels {config.labels} hides all masks of {target.root}" if hidden else f"{target.root} has no mask to train with"
    return f"{none}: without one, {config.method} is the method without target labels."


def check_readable(folders: Iterable[Folder]) -> None:
    """Raise InputError where an image cannot be read, or a mask does not fit its image: before anything is written, not after hours. A file that was read is not read for another run."""
    todo, marked, stacks = [], dict[Path, list[tuple[Path, float, float]]](), list[Path]()
    four: list[Path] = []
    for folder in folders:
        for stem, image in folder.images.items():
            files = [_state(path) for path in (image, folder.masks.get(stem)) if path]
            if not _SHAPES.keys() >= set(files):
                todo.append((folder, stem, files))
    first = os.environ.get("RANK", "0") == "0"
    with Bar("reading images", len(todo), shown=first and len(todo) > _MANY) as bar:
        for folder, stem, files in todo:
            if stem in folder.masks:
                image_there, labels = folder.pair(stem)
                known = marked.setdefault(folder.root, [])
                apart = difference(light_of(image_there), labels) if len(known) < MOST_COMPARED else float("nan")
                known.append((folder.masks[stem], np.count_nonzero(labels) / labels.size, apart))
            else:
                image_there = folder.image(stem)
            if folder.images[stem].suffix.lower().startswith(".tif"):
                planes, channels = planes_and_channels(folder.images[stem])
                stacks += [folder.images[stem]] if planes > 1 else []
                four += [folder.images[stem]] if channels > TAKEN_CHANNELS else []
            _SHAPES.update(dict.fromkeys(files, image_there.shape))
            bar.step()
    if stacks and first:
        say(f"{stacks[0]} ({len(stacks)} such) holds several planes or images, of which the first alone is read.")
    if four and first:
        say(
            f"{four[0]} ({len(four)} such) has more than {TAKEN_CHANNELS} channels: the first {TAKEN_CHANNELS} are seen; where nuclei are in another one, save that alone."
        )
    for masks in marked.values() if first else ():
        full = [path for path, share, _ in masks if share > MOST_FOREGROUND]
        if 2 * len(full) > len(masks):
            say(f"WARNING: {full[0]} ({len(full)} such) marks most of its image as nuclei; see that 0 is the background, and stop here if it is not.")
        if of_other_images([apart for *_, apart in masks]):
            say(f"WARNING: {masks[0][0]} {'; '.join(OTHER_IMAGES)}.")


def _state(path: Path) -> tuple[Path, int]:
    """A file as it is now; 0 where there is none."""
    return path, path.stat().st_mtime_ns if path.exists() else 0


def check_sizes(config: Config, source: Folder, target: Folder, drawn: Folder) -> None:
    """Raise InputError where whole images of different sizes would have to share a batch, in training or in what batch normalisation is estimated on, or are too small for a batch of one.

    Args:
        config: of the run, whose images are ``check_readable``.
        source: training images of it.
        target: likewise.
        drawn: all training and validation images of the target, from which batch normalisation is estimated.
    """
    if config.crop != "whole":
        return
    reads, anew = methods.find(config.spec.name).reads, config.batch_norm == "target"
    for domain, folder in ((Domain.SOURCE, source), (Domain.TARGET, drawn if anew else target)):
        if domain not in reads and not (anew and domain is Domain.TARGET):
            continue
        sizes = {path: _SHAPES[_state(path)] for path in folder.images.values()}
        if config.batch_size > 1 and len(set(sizes.values())) > 1:
            raise different_sizes(folder.root)
        # Of one image that is so small the network's bottom is one pixel, which has no variance to normalise by.
        small = next((path for path, (height, width, *_) in sizes.items() if max(height, width) <= 2**DEPTH), None)
        if config.batch_size == 1 and small:
            raise InputError(
                f"{small} is too small to train on alone and whole (at most {2**DEPTH} pixels on either side); leave it out, or give --crop a number."
            )
