"""Splits depend on names and seed only, keep groups together and never test without a mask."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from celladapt.data.folder import Folder
from celladapt.data.split import Split, as_tiles, choose_labelled, groups_of, load_splits, make_split, save_splits
from celladapt.errors import InputError


def folder(stems: list[str], masks: list[str] | None = None) -> Folder:
    """A folder of these names, in this order; a split opens no file."""
    return Folder(Path("d"), {stem: Path(stem) for stem in stems}, {stem: Path(stem) for stem in (stems if masks is None else masks)})


NAMES = [f"image{index:02}" for index in range(40)]
PATIENTS = [f"p{patient}_{index}" for patient in range(10) for index in range(patient % 3 + 1)]


def test_fractions_and_disjointness() -> None:
    split = make_split(folder(NAMES), val=0.1, test=0.25, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == (26, 4, 10)
    assert sorted([*split.train, *split.val, *split.test]) == NAMES
    assert split.train == sorted(split.train)


def test_the_listing_order_does_not_matter_but_the_seed_does() -> None:
    split = make_split(folder(NAMES), val=0.2, test=0.2, seed=3)
    assert make_split(folder(NAMES[::-1]), val=0.2, test=0.2, seed=3) == split
    assert make_split(folder(NAMES), val=0.2, test=0.2, seed=4) != split


def test_a_split_is_the_same_on_every_machine() -> None:
    assert make_split(folder(list("abcdefgh")), val=0.25, test=0.25, seed=0) == Split(train=["a", "b", "c", "e"], val=["d", "g"], test=["f", "h"])


@pytest.mark.parametrize("pattern", [r"^(p\d+)_", r"^p\d+"])
def test_groups_stay_together(pattern: str) -> None:
    split = make_split(folder(PATIENTS), val=0.2, test=0.3, seed=1, group=pattern)
    patients = [{stem.split("_")[0] for stem in part} for part in (split.train, split.val, split.test)]
    assert [len(part) for part in patients] == [5, 2, 3]
    assert len(set.union(*patients)) == 10
    assert sorted([*split.train, *split.val, *split.test]) == sorted(PATIENTS)


def test_an_optional_parenthesis_and_names_without_a_match() -> None:
    split = make_split(folder(["s1_a", "s1_b", "other", "s2"]), val=0, test=0.5, seed=0, group=r"s\d(_x)?")
    assert len({"s1_a", "s1_b"} & set(split.test)) in (0, 2)
    assert sorted([*split.train, *split.test]) == ["other", "s1_a", "s1_b", "s2"]


def test_unlabelled_images_are_never_tested() -> None:
    labelled = NAMES[::4]
    for seed in range(5):
        split = make_split(folder(NAMES, labelled), val=0.2, test=0.3, seed=seed)
        assert len(split.test) == 3
        assert set(split.test) <= set(labelled)
        assert len(split.val) == 2 + 6
        assert len(split.train) == 5 + 24
    nothing = make_split(folder(NAMES, []), val=0.2, test=0.3, seed=0)
    assert (len(nothing.train), len(nothing.val), nothing.test) == (32, 8, [])


def test_unlabelled_images_of_a_test_patient_are_left_out() -> None:
    masks = [stem for stem in PATIENTS if stem.endswith("_0")]
    split = make_split(folder(PATIENTS, masks), val=0.2, test=0.3, seed=2, group=r"^p\d+")
    tested = {stem.split("_")[0] for stem in split.test}
    assert set(split.test) <= set(masks)
    assert not tested & {stem.split("_")[0] for stem in [*split.train, *split.val]}
    left_out = set(PATIENTS) - {*split.train, *split.val, *split.test}
    assert left_out == {stem for stem in PATIENTS if stem.split("_")[0] in tested and stem not in masks}


@pytest.mark.parametrize(("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1))])
def test_few_images(count: int, sizes: tuple[int, int, int]) -> None:
    split = make_split(folder(NAMES[:count]), val=0.01, test=0.01, seed=0)
    assert (len(split.train), len(split.val), len(split.test)) == sizes


def test_train_is_never_empty_and_zero_means_none() -> None:
    assert make_split(folder(NAMES[:3]), val=0.0, test=0.99, seed=0).train
    split = make_split(folder(NAMES), val=0.0, test=0.0, seed=0)
    assert (len(split.train), split.val, split.test) == (40, [], [])


def test_halves_are_rounded_up() -> None:
    assert len(make_split(folder(NAMES[:10]), val=0, test=0.15, seed=0).test) == 2
    assert len(make_split(folder(NAMES[:10]), val=0, test=0.25, seed=0).test) == 3


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (0.2, 1.0), (float("nan"), 0.1)])
def test_bad_fractions(val: float, test: float) -> None:
    with pytest.raises(InputError, match="fractions"):
        make_split(folder(NAMES), val=val, test=test, seed=0)


@pytest.mark.parametrize(("pattern", "message"), [("(", "not a regular expression"), ("^patient", "matches no image name")])
def test_bad_patterns(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_split(folder(NAMES), val=0.1, test=0.1, seed=0, group=pattern)


def test_label_budgets_are_nested() -> None:
    chosen = [choose_labelled(NAMES, share, seed=5) for share in ("0", "1", "10%", "25%", "20", "100%")]
    assert [len(stems) for stems in chosen] == [0, 1, 4, 10, 20, 40]
    for small, large in pairwise(chosen):
        assert set(small) <= set(large)
    assert choose_labelled(NAMES[::-1], "25%", seed=5) == chosen[3]
    assert choose_labelled(NAMES, "25%", seed=6) != chosen[3]


def test_a_share_above_zero_gives_at_least_one() -> None:
    assert len(choose_labelled(NAMES[:3], " 0.5 % ", seed=0)) == 1
    assert choose_labelled(NAMES, "0%", seed=0) == choose_labelled([], "50%", seed=0) == []


@pytest.mark.parametrize("share", ["", "ten", "0.1", "-1", "-5%", "101%", "41", "1e3", "%", "٣", "9" * 5000, "nan%"])
def test_bad_shares(share: str) -> None:
    with pytest.raises(InputError):
        choose_labelled(NAMES, share, seed=0)


def test_splits_are_saved_and_loaded(tmp_path: Path) -> None:
    source, target = Split(["a"], ["ü"], []), Split(["x"], [], ["y"])
    save_splits(tmp_path / "split.json", source, target)
    assert load_splits(tmp_path / "split.json") == (source, target)


GOOD = {"train": ["a"], "val": [], "test": []}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"source": GOOD}),
        json.dumps({"source": GOOD, "target": {"train": ["a"]}}),
        json.dumps({"source": GOOD, "target": {**GOOD, "val": "b"}}),
        json.dumps({"source": GOOD, "target": {**GOOD, "val": [1]}}),
        json.dumps({"source": GOOD, "target": {**GOOD, "test": ["a"]}}),
        "\udcff",
    ],
)
def test_bad_split_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"split\.json"):
        load_splits(path)


def test_a_missing_split_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_splits(tmp_path / "split.json")


@pytest.mark.parametrize(
    ("stems", "slides"),
    [
        (["a_0_0", "a_0_512", "b_0_0", "b_512_0"], {"a", "b"}),
        (["a b-x0-y0", "a b-x1-y0", "c-x0-y0", "c-x0-y1", "other"], {"a b", "c", "other"}),
        (["s1 [d=2,x=0,y=0,w=512,h=512]", "s1 [d=2,x=512,y=0,w=512,h=512]", "s2 [x=0,y=0]", "s2 [x=9,y=0]"], {"s1", "s2"}),
    ],
)
def test_names_of_tiles_tell_their_slides(stems: list[str], slides: set[str]) -> None:
    pattern = as_tiles(folder(stems))
    assert pattern is not None
    assert groups_of(folder(stems), pattern, stems) == slides


@pytest.mark.parametrize(
    "stems", [NAMES, PATIENTS, ["a_0_0", "a_0_1", "b_0_0"], ["TCGA-18-5592-01Z-00-DX1", "TCGA-18-5592-01Z-00-DX2"], ["2018_01_02", "2018_01_03"]]
)
def test_other_names_are_left_alone(stems: list[str]) -> None:
    assert as_tiles(folder(stems)) is None
