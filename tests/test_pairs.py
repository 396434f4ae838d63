"""Batches as a pure function of seed and step; crops and augmentation that keep image and mask together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from celladapt.batch import Batch
from celladapt.data.augment import AUGMENTATIONS, crop
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import Cache, Pairs, Stream

PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def pairs(domains: tuple[Path, Path], batch_size: int = 3, **process: int) -> Pairs:
    source, target = (Folder.open(path) for path in domains)
    target = target.keep_masks(target.labelled[:3])
    return Pairs(Stream(source, PLAIN, 32, "colour", (0, 0)), Stream(target, PLAIN, 32, "colour", (0, 1)), batch_size, **process)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in Batch.__dataclass_fields__)


def test_a_batch_depends_on_seed_and_step_alone(tiny_domains: tuple[Path, Path]) -> None:
    stream = list(pairs(tiny_domains).between(0, 7))
    assert len(stream) == 7
    resumed = list(pairs(tiny_domains).between(4, 7))
    assert all(equal(a, b) for a, b in zip(stream[4:], resumed, strict=True))
    assert all(equal(stream[k], pairs(tiny_domains)[k]) for k in (6, 0, 3))
    assert not equal(stream[0], stream[1])


def test_two_processes_share_the_draws_of_one(tiny_domains: tuple[Path, Path]) -> None:
    one = pairs(tiny_domains, 4)[5]
    halves = [pairs(tiny_domains, 2, rank=rank, processes=2)[5] for rank in range(2)]
    assert equal(one, Batch(*(torch.cat([getattr(half, name) for half in halves]) for name in Batch.__dataclass_fields__)))


def test_an_epoch_shows_each_image_once(tiny_domains: tuple[Path, Path]) -> None:
    stream = Stream(Folder.open(tiny_domains[0]), PLAIN, 32, "none", (0, 0))
    epochs = [[stream.stem(8 * epoch + n) for n in range(8)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(stream.folder.images) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_labelled_and_unlabelled_mix_in_a_batch(tiny_domains: tuple[Path, Path]) -> None:
    batch = pairs(tiny_domains, 8)[0]
    assert batch.labelled_t.sum() == 3
    assert not batch.mask_t[~batch.labelled_t].any()
    assert batch.mask_t[batch.labelled_t].any()


@pytest.mark.parametrize("augment", list(AUGMENTATIONS))
def test_image_and_mask_stay_together(augment: str) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) > 0.5
    image = np.repeat(np.where(mask, 200, 50).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(20):
        i, m = AUGMENTATIONS[augment](*crop(image, mask, 64 if seed % 2 else 32, np.random.default_rng(seed)), np.random.default_rng(seed))
        assert i.shape[:2] == m.shape
        assert i[m].min() > i[~m].max()  # nuclei stay the brighter ones
        assert np.ptp(i, axis=2).max() == 0  # grey stays grey


def test_the_cache_is_bounded(tiny_domains: tuple[Path, Path]) -> None:
    folder = Folder.open(tiny_domains[0])
    cache = Cache(folder, limit=2 * 64 * 64 * 4)
    for stem in [*folder.images, *folder.images]:
        image, mask = cache[stem]
        assert (image == folder.image(stem)).all()
        assert (mask == (folder.mask(stem) > 0)).all()
        assert len(cache._held) <= 2


def test_normalisation_of_a_domain(tiny_domains: tuple[Path, Path]) -> None:
    folder = Folder.open(tiny_domains[1])
    images = [folder.image(stem) for stem in folder.images]
    normalise = Normalisation.of(images)
    x = torch.stack([normalise(image) for image in images]).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert np.abs(normalise.undo(normalise(images[0])).astype(int) - images[0]).max() <= 1
    deep = [image.astype(np.uint16) * 257 for image in images]
    assert Normalisation.of(deep).mean == pytest.approx(normalise.mean)
    flat = np.full((4, 4, 3), 9, np.uint8)
    assert Normalisation.of([flat])(flat).isfinite().all()
