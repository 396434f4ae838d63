"""What training sees: crops, augmentation, normalisation, and the stream of batches."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from celladapt import preparation
from celladapt.batch import Batch
from celladapt.classical import Verdict, classical_mask, witness
from celladapt.data.augment import AUGMENTATIONS, colour, crop, flip
from celladapt.data.folder import Folder
from celladapt.data.images import write_image
from celladapt.data.normalise import Normalisation, to_unit
from celladapt.data.pairs import Cache, Opinion, Pairs, Stream
from celladapt.errors import InputError

TENSORS = [f.name for f in fields(Batch) if f.name not in ("progress", "source_weight")]  # what a batch has of each image
PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def coded(rng: np.random.Generator, h: int, w: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image whose own pixels say what their mask is: the first channel is 200 on nuclei and 100 elsewhere, the others place the pixel."""
    mask = rng.random((h, w)) < 0.4
    y, x = np.mgrid[:h, :w]
    return np.stack([np.where(mask, 200, 100), y, x], axis=2).astype(np.uint8), mask


def domain(root: Path, sizes: list[tuple[int, int]], labelled: set[int], names: str = "abcdefghij") -> Folder:
    """Image i is of ``sizes[i]``; its third channel says i instead of x."""
    for i, (h, w) in enumerate(sizes):
        image, mask = coded(np.random.default_rng(i), h, w)
        image[..., 2] = i
        write_image(root / "images" / f"{names[i]}.png", image)
        if i in labelled:
            write_image(root / "masks" / f"{names[i]}.png", mask.astype(np.uint16) * (i + 1))
    return Folder.open(root)


@pytest.fixture
def target(tmp_path: Path) -> Folder:
    """Five images of several sizes, masks for three of them."""
    return domain(tmp_path / "target", [(40, 50), (36, 33), (64, 48), (33, 33), (50, 40)], {0, 1, 4})


def streams(folder: Folder, seed: int = 3, side: Any = 32, augment: str = "flip") -> tuple[Stream, Stream]:
    return Stream(folder, PLAIN, side, augment, (seed, 0)), Stream(folder, PLAIN, side, augment, (seed, 1))


def pairs(folder: Folder, batch_size: int = 2, seed: int = 3, **kwargs: int) -> Pairs:
    return Pairs(*streams(folder, seed), batch_size, **kwargs)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def which(images: torch.Tensor) -> list[int]:
    """Number of the image that each crop of a batch is from."""
    return [round(255 * float(image[2, 0, 0])) for image in images]


# --- the stream -----------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step_alone(target: Folder) -> None:
    whole = list(pairs(target).between(0, 9))
    assert len(whole) == 9
    again = pairs(target)
    assert all(equal(again[step], whole[step]) for step in (8, 0, 5, 5, 3))  # in any order, another object
    resumed = list(pairs(target).between(4, 9, ahead=2, workers=3))
    assert len(resumed) == 5
    assert all(equal(a, b) for a, b in zip(whole[4:], resumed, strict=True))
    assert not any(equal(a, b) for a, b in zip(whole, pairs(target, seed=4).between(0, 9), strict=True))
    assert not equal(whole[0], whole[1])


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.2), (0.25, 0.25), (0.5, 0.5), (1.0, 1.0)])
def test_few_labelled_images_are_drawn_more_often(tmp_path: Path, share: float, expected: float) -> None:
    folder = domain(tmp_path, [(33, 33)] * 5, labelled={3})
    stream = Stream(folder, PLAIN, 32, "none", (3, 1), labelled_share=share)
    drawn = [stream.stem(n) for n in range(400)]
    assert drawn.count("d") / 400 == pytest.approx(expected, abs=0.005)
    if share < 1:
        counts = [drawn.count(stem) for stem in "abce"]
        assert max(counts) - min(counts) <= 1, "the others share the rest evenly"
    assert all("d" in drawn[n : n + 4] for n in range(0, 400, 4)) == (share >= 0.25)
    taught, half = replace(stream, classical=True), replace(stream, labelled_share=share / 2)
    assert [taught._next(n) for n in range(400)] == [half._next(n) for n in range(400)], "what stands for masks teaches too"


def test_where_many_are_labelled_all_are_drawn_alike(target: Folder) -> None:
    plain, shared = (Stream(target, PLAIN, 32, "none", (3, 1), labelled_share=share) for share in (0.0, 0.5))
    assert [plain.stem(n) for n in range(50)] == [shared.stem(n) for n in range(50)]


def test_an_image_with_nothing_to_teach_gives_its_draw_to_one_with_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = domain(tmp_path, [(33, 33)] * 8, labelled={3, 6})
    bare = [stem for stem in folder.images if stem not in folder.masks]
    plausible = set(bare[:1])
    closer = set(bare[1:3])  # and these would be plausible, had it not had to look closer

    def verdict(cache: Cache, stem: str) -> Verdict | None:
        believed = plausible | closer | {"d"}  # half of all, so that it has a say
        return Verdict(float(stem in believed), 0.0, stem in closer) if cache.classical else None

    monkeypatch.setattr(Cache, "verdict", verdict)
    every, rule = (Stream(folder, PLAIN, 32, "none", (3, 1), classical, 0.25) for classical in (False, True))
    before, drawn = ([stream.stem(n) for n in range(400)] for stream in (every, rule))
    assert set(drawn) == {*folder.masks, *plausible}
    assert all(one == other for one, other in zip(before, drawn, strict=True) if one in folder.masks or one in plausible), "the other draws stay"
    given = [drawn.count(stem) for stem in folder.masks]
    assert max(given) <= 1.5 * min(given), "to each alike"
    again = Stream(folder, PLAIN, 32, "none", (3, 1), True, 0.25)
    assert [again.stem(n) for n in reversed(range(400))][::-1] == drawn, "a draw is a function of seed and number alone"
    alike = Stream(folder, PLAIN, 32, "none", (3, 1), True, 0.0)
    assert {alike.stem(n) for n in range(400)} == set(folder.images), "a share of 0 draws all alike"


def test_it_is_said_what_the_classical_segmentation_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = domain(tmp_path, [(33, 33)] * 4, set())
    verdicts = {stem: Verdict((0.85, 0.86, 0.885, 0.91)[n], 0.0, n == 1) for n, stem in enumerate(folder.images)}
    monkeypatch.setattr(Cache, "verdict", lambda cache, stem: verdicts[stem])
    says = preparation._witnessed(Stream(folder, PLAIN, 32, "none", (3, 1), classical=True))
    for words in ("in 3 of 4 target images", "In 1 of them it had to look closer", "count for 50% less"):
        assert words in says
    monkeypatch.setattr(Cache, "verdict", lambda cache, stem: verdicts[next(iter(folder.images))])
    says = preparation._witnessed(Stream(folder, PLAIN, 32, "none", (3, 1), classical=True))
    assert "in 0 of 4" in says
    assert "less" not in says


def test_the_shape_of_nuclei_in_few_images_is_an_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = domain(tmp_path, [(33, 33)] * 4, set())
    first, second, *_ = folder.images
    for believed, heard in (({first}, False), ({first, second}, True)):
        monkeypatch.setattr(Cache, "verdict", lambda cache, stem, believed=believed: Verdict(0.9 if stem in believed else 0.5, 0.0))
        stream = Stream(folder, PLAIN, 32, "none", (3, 1), classical=True)
        assert stream.stands(first) == heard
        draws = [stream[n] for n in range(4)]
        assert sum(bool(draw.plausible) for draw in draws) == sum(bool(draw.stands) for draw in draws) == (2 if heard else 0)
        assert sum(float(draw.trust) for draw in draws) > 0 or not heard
        assert ("in too few to be believed, so it teaches nothing here" in preparation._witnessed(stream)) != heard


def test_the_classical_segmentation_is_cut_and_turned_with_its_image(tmp_path: Path) -> None:
    image, mask = coded(np.random.default_rng(0), 60, 50)
    image[..., 1:] = image[..., :1]
    write_image(tmp_path / "images" / "a.png", image)
    folder = Folder.open(tmp_path)
    stream = Stream(folder, PLAIN, 32, "flip", (3, 1), classical=True)
    whole = classical_mask(image)
    assert 0.2 < whole.mean() < 0.6
    assert (whole == mask).mean() < 1
    placed = np.dstack([whole * 255, *[np.zeros_like(image[..., 0])] * 2]).astype(np.uint8)
    write_image(tmp_path / "other" / "images" / "a.png", placed)
    where = Stream(Folder.open(tmp_path / "other"), PLAIN, 32, "flip", (3, 1))
    for n in range(8):
        assert torch.equal(stream[n].classical[0], where[n].image[0])
        assert stream[n].plausible == witness(image).verdict.plausible
        assert not where[n].plausible, "nobody asked"
        assert stream[n].stands == stream[n].plausible, "no image has a mask"
        assert stream[n].trust == pytest.approx(witness(image).verdict.trust)
        assert not where[n].stands
        assert where[n].trust == 0
        assert not stream[n].mask.any()


@pytest.mark.parametrize(
    ("solidity", "separability", "passable"),
    [(0.79, 0.9, False), (0.81, 0.7, True), (0.85, 0.7, True), (0.85, 0.65, False), (0.87, 0.1, True)],
)
def test_nearly_the_shape_of_nuclei_will_do_where_they_stand_out_clearly_and_no_image_has_a_mask(
    target: Folder, solidity: float, separability: float, passable: bool
) -> None:
    stream, stem = Stream(target, PLAIN, 32, "none", (0, 1), classical=True, labelled_share=0.5), list(target.images)[2]
    found = witness(target.image(stem))
    odd = replace(found.verdict, solidity=solidity, separability=separability)
    assert odd.passable == passable
    plausible = solidity > 0.86
    for folder, stands in ((target, plausible), (target.without_masks(), passable)):
        stream = replace(stream, folder=folder)
        stream.cache._opinions |= dict.fromkeys(target.images, Opinion(np.packbits(found.mask), odd))
        assert stream.stands(stem) == stands
        assert ("In 5 others it nearly has" in preparation._witnessed(stream)) == (stands and not plausible)


def test_beside_masks_what_had_to_look_closer_never_stands_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = domain(tmp_path, [(33, 33)] * 3, labelled={1})
    monkeypatch.setattr(Cache, "verdict", lambda cache, stem: Verdict(0.9, 0.0, closer=True))
    bare = next(stem for stem in folder.images if stem not in folder.masks)
    for share in (0.0, 0.5):
        assert not Stream(folder, PLAIN, 32, "none", (3, 1), True, share).stands(bare)
    assert Stream(folder.without_masks(), PLAIN, 32, "none", (3, 1), True).stands(bare)


def test_source_and_target_draw_independently(target: Folder) -> None:
    drawn = list(pairs(target).between(0, 10))
    assert [which(b.image_s) for b in drawn] != [which(b.image_t) for b in drawn]


def test_between_of_nothing_and_of_less_than_ahead(target: Folder) -> None:
    assert list(pairs(target).between(3, 3)) == []
    assert len(list(pairs(target).between(3, 4, ahead=8))) == 1


def test_between_may_be_left_early(target: Folder) -> None:
    stream = pairs(target).between(0, 1000)
    assert equal(next(stream), pairs(target)[0])
    stream.close()


def test_a_gpu_copies_from_pinned_memory(target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    pinned: list[Batch] = []
    monkeypatch.setattr(Batch, "pinned", lambda self: pinned.append(self) or self)
    monkeypatch.setattr(Batch, "to", lambda self, device: asked.append(device) or self)
    for name, count in (("cpu", 0), ("cuda", 5)):
        batches = list(pairs(target).on(torch.device(name), 2, 7))
        assert all(equal(batch, pairs(target)[step]) for step, batch in enumerate(batches, start=2))
        assert len(batches) == 5
        assert len(pinned) == count
        assert {device.type for device in asked} == {name}
        asked.clear()


def test_an_unreadable_image_stops_the_stream_with_its_name(target: Folder) -> None:
    target.images["c"].write_bytes(b"")
    with pytest.raises(InputError, match=r"c\.png"):
        list(pairs(target).between(0, 5))


def test_every_epoch_visits_each_image_once_in_another_order(target: Folder) -> None:
    stream, _ = streams(target)
    epochs = [[stream.stem(n) for n in range(start, start + 5)] for start in range(0, 100, 5)]
    assert all(sorted(epoch) == list("abcde") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    seen = [i for batch in pairs(target, batch_size=4).between(0, 5) for i in which(batch.image_s)]  # 4 epochs of 5 in batches of 4
    assert all(sorted(seen[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))


def test_slots_of_two_processes_are_one_process_of_twice_the_batch(target: Folder) -> None:
    one = pairs(target, batch_size=4)
    two = [pairs(target, batch_size=2, rank=rank, processes=2) for rank in range(2)]
    for step in (0, 1, 7):
        together = Batch(**{name: torch.cat([getattr(p[step], name) for p in two]) for name in TENSORS})
        assert equal(together, one[step])


def test_order_does_not_depend_on_the_listing(tmp_path: Path, target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listed(self), reverse=True))
    shuffled = Folder.open(target.root)
    backwards = target.subset(reversed(list(target.images)))
    for folder in (shuffled, backwards):
        assert equal(pairs(folder)[6], pairs(target)[6])


def test_masks_are_cut_and_turned_with_their_images(target: Folder) -> None:
    for augment in ("none", "flip", "colour"):
        stream, _ = streams(target.subset(target.labelled), side=32, augment=augment)
        for n in range(12):
            image, mask, _, labelled, *_ = stream[n]
            assert image.shape == (3, 32, 32)
            assert image.dtype == mask.dtype == torch.float32
            assert mask.shape == (1, 32, 32)
            assert labelled
            if augment == "colour":  # nuclei stay the brighter ones, clipped or not
                assert image[0][mask[0] == 1].min() > image[0][mask[0] == 0].max()
            else:
                assert torch.equal(mask[0] == 1, image[0] > 0.6)


def test_crops_reach_every_corner(target: Folder) -> None:
    stream, _ = streams(target.subset(["c"]), side=32, augment="none")  # 64 x 48
    tops = {round(255 * float(stream[n].image[1, 0, 0])) for n in range(400)}
    assert tops == set(range(64 - 32 + 1))


def test_unlabelled_targets_have_an_empty_mask_and_say_so(target: Folder) -> None:
    batch = Pairs(*streams(target), batch_size=5)[0]
    labelled = [i in (0, 1, 4) for i in which(batch.image_t)]
    assert batch.labelled_t.dtype == torch.bool
    assert batch.labelled_t.tolist() == labelled
    assert [bool(mask.any()) for mask in batch.mask_t] == labelled
    assert set(batch.mask_t.unique().tolist()) == {0.0, 1.0}
    hidden = Pairs(*streams(target.without_masks()), batch_size=5)[0]
    assert not hidden.labelled_t.any()
    assert not hidden.mask_t.any()
    assert torch.equal(hidden.image_t, batch.image_t), "hiding a mask must not change the images"


def test_a_domain_that_is_not_read_is_an_empty_batch(target: Folder) -> None:
    source, _ = streams(target)
    batch = Pairs(source, None, batch_size=2)[0]
    assert batch.image_s.shape == (2, 3, 32, 32)
    assert batch.image_t.shape[:2] == (0, 3)
    assert batch.mask_t.shape[:2] == (0, 1)
    assert batch.labelled_t.shape == (0,)
    assert Pairs(None, source, batch_size=2)[0].image_s.shape[0] == 0


def test_whole_images_of_several_sizes_go_one_at_a_time(target: Folder) -> None:
    stream, _ = streams(target, side="whole")
    shapes = {tuple(Pairs(stream, None, 1)[step].image_s.shape[2:]) for step in range(5)}
    assert shapes == {(40, 50), (36, 33), (64, 48), (33, 33), (50, 40)}
    with pytest.raises(InputError, match="different sizes"):
        list(Pairs(stream, None, 2).between(0, 3))


def test_whole_images_of_one_size_share_a_batch(tmp_path: Path) -> None:
    folder = domain(tmp_path / "d", [(40, 50)] * 3, {0, 1, 2})
    batch = Pairs(*streams(folder, side="whole"), 3)[0]
    assert batch.image_s.shape == (3, 3, 40, 50)
    assert torch.equal(batch.mask_s[:, 0] == 1, batch.image_s[:, 0] > 0.6)


def test_a_mask_of_another_size_is_named(target: Folder) -> None:
    write_image(target.masks["b"], np.ones((5, 5), np.uint8))
    with pytest.raises(InputError, match=r"b\.png"):
        list(pairs(target).between(0, 5))


def test_the_cache_is_bounded_and_tells_nothing_false(target: Folder) -> None:
    expected = {stem: Cache(target)[stem] for stem in target.images}
    sizes = {stem: image.nbytes + mask.nbytes for stem, (image, mask) in expected.items()}
    limit = sizes["a"] + sizes["b"] + 10
    cache = Cache(target, limit)
    rng = np.random.default_rng(0)
    for stem in rng.choice(list(target.images), 60):
        image, mask = cache[stem]
        np.testing.assert_array_equal(image, expected[stem][0])
        np.testing.assert_array_equal(mask, expected[stem][1])
        held = sum(sizes[kept] for kept in cache._held)
        assert held == cache.bytes
        assert held <= max(limit, sizes[stem])
    cache = Cache(target, limit)
    first, second, _ = cache["a"][0], cache["b"][0], cache["a"]
    cache["d"]  # makes room by dropping b, which was used before a
    assert cache["a"][0] is first
    assert cache["b"][0] is not second


# --- crops and augmentation -----------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 90), (5, 7), (31, 200), (32, 32), (33, 40), (100, 3)])
def test_crop_of_any_image(h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    image, mask = coded(rng, h, w)
    for _ in range(5):
        cut, cut_mask = crop(image, mask, 32, rng)
        assert cut.shape == (32, 32, 3)
        assert cut_mask.shape == (32, 32)
        np.testing.assert_array_equal(cut_mask, cut[..., 0] == 200)
        assert {tuple(p) for p in cut.reshape(-1, 3)} <= {tuple(p) for p in image.reshape(-1, 3)}
        if h >= 32 and w >= 32:  # a window of the image, not a mixture
            np.testing.assert_array_equal(np.diff(cut[..., 1].astype(int), axis=0), 1)
            np.testing.assert_array_equal(np.diff(cut[..., 2].astype(int), axis=1), 1)


@pytest.mark.parametrize(("shape", "count"), [((12, 12), 8), ((12, 10), 4)])
def test_flip_draws_every_symmetry_and_keeps_the_mask_in_place(shape: tuple[int, int], count: int) -> None:
    rng = np.random.default_rng(1)
    image, mask = coded(rng, *shape)
    seen = set()
    for _ in range(100):
        turned, turned_mask = flip(image, mask, rng)
        assert turned.shape == image.shape
        np.testing.assert_array_equal(turned_mask, turned[..., 0] == 200)
        seen.add(turned.tobytes())
    assert len(seen) == count


def test_colour_leaves_the_mask_and_the_type() -> None:
    for top, dtype in ((255, np.uint8), (65535, np.uint16)):
        rng = np.random.default_rng(2)
        unit, mask = rng.random((20, 20, 3)), rng.random((20, 20)) < 0.5
        image = (unit * top).astype(dtype)
        flipped, flipped_mask = flip(image, mask, np.random.default_rng(7))
        changed, changed_mask = colour(image, mask, np.random.default_rng(7))
        np.testing.assert_array_equal(changed_mask, flipped_mask)  # the colours cost the mask nothing
        assert changed.dtype == dtype
        shift = np.abs(changed.astype(float) - flipped) / top
        assert 0.005 < shift.mean() < 0.46
        assert shift.max() <= 2 * 1.5 * 0.15 + 1e-2
    same, _ = colour(image, mask, np.random.default_rng(7), strength=0.0)
    np.testing.assert_array_equal(same, flipped)


def test_colour_changes_channels_apart_but_keeps_grey_grey() -> None:
    rng = np.random.default_rng(3)
    grey = np.repeat(rng.integers(60, 180, (16, 16, 1)), 3, axis=2).astype(np.uint8)
    tinted = grey.copy()
    tinted[0, 0, 0] += 1
    mask = np.zeros((16, 16), bool)
    for _ in range(20):
        changed, _ = colour(grey, mask, rng)
        assert (changed == changed[..., :1]).all()
        changed, _ = colour(tinted, mask, rng)
        assert not (changed == changed[..., :1]).all()


def test_augmentation_draws_from_the_generator_alone_and_leaves_its_input() -> None:
    image, mask = coded(np.random.default_rng(4), 16, 16)
    before = image.copy(), mask.copy()
    for name, augment in AUGMENTATIONS.items():
        a, b = augment(image, mask, np.random.default_rng(5)), augment(image, mask, np.random.default_rng(5))
        np.testing.assert_array_equal(a[0], b[0], err_msg=name)
        np.testing.assert_array_equal(a[1], b[1], err_msg=name)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert AUGMENTATIONS["none"](image, mask, np.random.default_rng(0))[0] is image


# --- normalisation --------------------------------------------------------------------------------


def test_a_normalised_domain_has_mean_0_and_standard_deviation_1() -> None:
    rng = np.random.default_rng(0)
    images = [(rng.random((h, w, 3)) * (200, 100, 50) + (20, 0, 200)).astype(np.uint8) for h, w in ((20, 30), (50, 7), (1, 1))]
    normalisation = Normalisation.of(images)
    pixels = torch.cat([normalisation(image).flatten(1) for image in images], dim=1).double()  # images weigh by their pixels
    torch.testing.assert_close(pixels.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.std(1, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def test_channels_stay_channels() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    image[1, 2] = (51, 102, 255)
    x = Normalisation((0.0, 0.2, 0.5), (1.0, 0.5, 0.25))(image)
    assert x.shape == (3, 4, 5)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, 1, 2], torch.tensor([0.2, 0.4, 2.0]))


def test_sixteen_bits_are_eight_bits_finer() -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    deep = image.astype(np.uint16) * 257
    np.testing.assert_allclose(to_unit(deep), to_unit(image), atol=1e-7)
    a, b = Normalisation.of([image]), Normalisation.of([deep])
    np.testing.assert_allclose(a.mean + a.std, b.mean + b.std, atol=1e-7)
    torch.testing.assert_close(a(image), b(deep), atol=1e-5, rtol=0)


def test_undo_is_the_way_back() -> None:
    image = np.random.default_rng(2).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    normalisation = Normalisation.of([image])
    np.testing.assert_array_equal(normalisation.undo(normalisation(image)), image)
    assert normalisation.undo(torch.full((3, 2, 2), 1e6)).min() == 255
    assert normalisation.undo(torch.full((3, 2, 2), -1e6)).max() == 0


def test_an_empty_channel_stays_small_whatever_augmentation_adds_to_it() -> None:
    """As of a nuclear stain in the blue of an RGB file, black crops of it among them."""
    rng = np.random.default_rng(3)
    images = [
        np.stack([np.zeros((32, 32)), np.zeros((32, 32)), rng.integers(0, 200, (32, 32)) * (rng.random((32, 32)) < share)], 2).astype(np.uint8)
        for share in (0.3, 0.0)
    ]
    normalise, mask = Normalisation.of(images), np.zeros((32, 32, 1), bool)
    drawn = [normalise(AUGMENTATIONS["colour"](image, mask, rng)[0]) for image in images for _ in range(20)]
    assert max(float(x[:2].abs().max()) for x in drawn) < 1
    assert max(float(x[2].std()) for x in drawn) > 1
    dim = [
        np.where(rng.random((32, 32, 1)) < 0.005, 12, 2).astype(np.uint8).repeat(3, 2) for _ in range(2)
    ]  # nuclei are a few pixels of twelve grey levels
    assert float(Normalisation.of(dim)(dim[0]).std()) == pytest.approx(1, abs=0.3), "a domain that is dim all over is no empty one"


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_domain_stays_finite(value: int) -> None:
    image = np.full((6, 6, 3), value, np.uint8)
    x = Normalisation.of([image])(image)
    assert x.abs().max() < 0.01
    assert torch.isfinite(Normalisation.of([image])(np.zeros_like(image))).all()
