"""Splitting touching nuclei by shape, cleaning, outlines; and the gain over connected components on real masks."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.segmentation import watershed

from celladapt.data.images import read_mask
from celladapt.instances import _basins, filled, label_components, polygons, tells_apart, to_instances, to_mask
from celladapt.metrics import aji, panoptic


def discs(*circles: tuple[float, float, float], shape: tuple[int, int] = (80, 80)) -> NDArray[np.bool_]:
    """Union of discs (row, column, radius)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask: NDArray[np.bool_] = np.any([np.hypot(y - r, x - c) <= radius for r, c, radius in circles], axis=0)
    return mask


def test_mask_includes_the_threshold_and_leaves_nan_out() -> None:
    probability = np.array([[0.5, 0.499, np.nan, 1.0]], np.float32)
    assert to_mask(probability).tolist() == [[True, False, False, True]]
    assert to_mask(probability, 0.4).tolist() == [[True, True, False, True]]
    assert to_mask(np.array([[True, False]])).tolist() == [[True, False]]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 1), np.float32), np.zeros((4, 4), np.uint8)])
def test_what_is_no_probability_map_is_refused(bad: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="probability map"):
        to_instances(bad)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_two_touching_discs_are_two_nuclei_at_any_size(scale: float) -> None:
    shape = (int(80 * scale), int(80 * scale))
    mask = discs((40 * scale, 28 * scale, 12 * scale), (40 * scale, 50 * scale, 12 * scale), shape=shape)
    labels = to_instances(mask)
    assert labels.dtype == np.int32
    assert sorted(np.unique(labels)) == [0, 1, 2]
    left, right = labels[:, : int(39 * scale)], labels[:, int(39 * scale) + 1 :]
    assert len(np.unique(left[left > 0])) == len(np.unique(right[right > 0])) == 1


def test_a_small_nucleus_beside_a_large_one_is_kept_apart() -> None:
    labels = to_instances(discs((40, 30, 18), (40, 53, 6)))
    assert labels.max() == 2
    assert labels[40, 55] != labels[40, 30]


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.5])
@pytest.mark.parametrize("angle", [0.0, 0.4, 1.0])
def test_a_convex_nucleus_is_not_split(ratio: float, angle: float) -> None:
    y, x = np.mgrid[:80, :80] - 40.0
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    assert to_instances((u / ratio) ** 2 + v**2 <= 11**2).max() == 1


def test_rough_edges_do_not_split_a_nucleus() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius = 14 + rng.uniform(-1, 1, 40)
        edge = 40 + radius[:, None] * np.stack((np.sin(turn), np.cos(turn)), 1)
        assert to_instances(polygon2mask((80, 80), edge)).max() == 1  # type: ignore[no-untyped-call]


def test_specks_go_and_pinholes_are_filled_by_the_same_bound() -> None:
    mask = discs((40, 40, 15))
    mask[38:42, 38:42] = False
    mask[5:9, 5:9] = True
    labels = to_instances(mask, min_size=17)
    assert labels[6, 6] == 0
    assert labels[40, 40] == 1
    kept = to_instances(mask, min_size=16)
    assert kept[6, 6] > 0
    assert kept[40, 40] == 0


@pytest.mark.parametrize("seed", range(4))
def test_every_nucleus_is_connected_and_large_enough_and_no_foreground_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = discs(*((*rng.uniform(0, 120, 2), rng.uniform(3, 14)) for _ in range(60)), shape=(120, 120)) & (rng.random((120, 120)) > 0.02)
    labels = to_instances(mask, min_size=30)
    areas = np.bincount(labels.ravel())[1:]
    assert areas.min() >= 30
    assert len(areas) == labels.max()
    for value in range(1, labels.max() + 1):
        assert label_components(labels == value).max() == 1
    pieces = label_components(mask)
    large = (np.bincount(pieces.ravel()) >= 30)[pieces] & mask
    assert (labels[large] > 0).all()
    np.testing.assert_array_equal(labels, to_instances(mask, min_size=30))


def test_a_gap_at_the_border_is_no_hole() -> None:
    mask = np.ones((30, 30), bool)
    mask[0, 10:14] = mask[15, 15] = False
    labels = to_instances(mask)
    assert not labels[0, 10:14].any()
    assert labels[15, 15] > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (7, 3), (64, 64)])
def test_nothing_and_everything(shape: tuple[int, int]) -> None:
    assert not to_instances(np.zeros(shape, np.float32)).any()
    assert (to_instances(np.ones(shape, np.float32), min_size=1) == 1).all()
    assert polygons(np.zeros(shape, np.int32)) == []


def test_components_of_a_binary_mask_and_labels_as_they_are() -> None:
    mask = discs((20, 20, 5), (50, 50, 5))
    assert label_components(mask).max() == label_components(mask.astype(np.uint8) * 255).max() == 2
    assert label_components(np.eye(3, dtype=bool)).max() == 3
    labels = np.array([[7, 7, 0, 300]], np.uint16)
    assert label_components(labels).tolist() == labels.tolist()
    assert label_components(labels).dtype == np.int32


def test_pieces_of_classes_are_nuclei_and_a_nucleus_in_pieces_is_one() -> None:
    centres = [(12 + 18 * row, 12 + 18 * column) for row in range(3) for column in range(4)]
    classes = sum((1 + index % 2) * discs((*centre, 6)).astype(np.int32) for index, centre in enumerate(centres))
    assert not tells_apart(classes)
    assert label_components(classes).max() == 12
    assert np.array_equal(label_components(classes) > 0, classes > 0)
    nuclei = label_components(classes > 0)
    assert tells_apart(nuclei)
    cut = np.where(np.arange(nuclei.shape[0])[:, None] % 4 == 0, 0, nuclei)  # each nucleus in four pieces
    assert tells_apart(cut)
    assert np.array_equal(label_components(cut), cut)
    assert not tells_apart(classes > 0)
    assert not tells_apart(np.zeros_like(classes))


def rings(labels: NDArray[np.int32]) -> list[shapely.Polygon]:
    """The polygons of ``labels``, each closed and valid."""
    found = polygons(labels)
    for ring in found:
        assert ring.dtype == np.float64
        assert len(ring) >= 4
        np.testing.assert_array_equal(ring[0], ring[-1])
    shapes = [shapely.Polygon(ring) for ring in found]
    assert all(shape.is_valid for shape in shapes)
    return shapes


def covered(shape: shapely.Polygon, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies in ``shape``."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside: NDArray[np.bool_] = shapely.contains_xy(shape, x, y)
    return inside


@pytest.mark.parametrize("radius", [4, 8, 20])
def test_a_polygon_is_its_nucleus_without_the_staircase(radius: int) -> None:
    mask = discs((40.3, 38.6, radius))
    (shape,) = rings(mask.astype(np.int32))
    assert shape.area == pytest.approx(mask.sum())
    assert (covered(shape, mask.shape) != mask).sum() < 0.1 * mask.sum()
    assert shape.length == pytest.approx(2 * np.pi * np.sqrt(mask.sum() / np.pi), rel=0.03), "a staircase is a quarter longer"
    assert len(shape.exterior.coords) < 1.5 * radius + 12
    assert (shape.centroid.x, shape.centroid.y) == pytest.approx((39.1, 40.8), abs=0.2), "x to the right, y down, the first pixel in [0, 1]²"


def test_small_and_thin_nuclei_have_polygons() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[3, 4] = 1
    labels[6, 3:15] = 2
    labels[9, 9:11] = 3
    one, line, two = rings(labels)
    assert one.area == pytest.approx(1)
    assert (one.centroid.x, one.centroid.y) == pytest.approx((4.5, 3.5))
    assert line.bounds == pytest.approx((3, 6, 15, 7), abs=0.6)
    assert line.area == pytest.approx(12)
    assert two.area == pytest.approx(2)


def test_polygons_stay_within_the_image() -> None:
    mask = discs((2, 30, 12), (30, 58, 9), shape=(32, 60))
    for shape in [*rings(label_components(mask)), *rings(np.ones((32, 60), np.int32))]:
        left, top, right, bottom = shape.bounds
        assert min(left, top) >= 0
        assert right <= 60
        assert bottom <= 32
    (upper, lower) = rings(label_components(mask))
    assert upper.bounds[1] == pytest.approx(0, abs=0.1)
    assert lower.bounds[2:] == pytest.approx((60, 32), abs=0.1)
    assert upper.area == pytest.approx(label_components(mask)[label_components(mask) == 1].size, rel=0.03)


def test_a_horseshoe_stays_open_and_a_hole_is_left_out() -> None:
    ring = discs((40, 40, 20)) & ~discs((40, 40, 12))
    horseshoe = ring.copy()
    horseshoe[:40, 36:45] = False
    (shape,) = rings(horseshoe.astype(np.int32))
    assert not shape.contains(shapely.Point(40.5, 40.5))
    assert shape.area == pytest.approx(horseshoe.sum(), rel=0.02)
    (whole,) = rings(ring.astype(np.int32))
    assert whole.contains(shapely.Point(40.5, 40.5))
    assert whole.area == pytest.approx(discs((40, 40, 20)).sum())


def test_polygons_of_touching_nuclei_touch_and_come_in_label_order() -> None:
    labels = to_instances(discs((40, 28, 12), (40, 50, 12)))
    labels[labels == 1] = 1_000_000_000
    right, left = rings(labels)
    assert right.centroid.x > left.centroid.x
    assert right.intersection(left).area < 0.02 * left.area
    assert right.distance(left) < 0.5


def test_of_a_nucleus_in_pieces_the_largest_is_outlined() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[2:4, 2:4] = labels[4:12, 4:12] = 7
    assert [shape.area for shape in rings(labels)] == pytest.approx([64])


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.5])
def test_polygons_are_valid_however_ragged_the_mask(sigma: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((90, 90)), sigma)
    labels = label_components(noise > np.median(noise))
    shapes = rings(labels)
    assert len(shapes) == labels.max()
    filled = [ndimage.binary_fill_holes(labels == value).sum() for value in range(1, labels.max() + 1)]  # type: ignore[no-untyped-call]
    assert [shape.area for shape in shapes] == pytest.approx(filled, rel=0.5)
    assert np.mean([shape.area / pixels for shape, pixels in zip(shapes, filled, strict=True)]) == pytest.approx(1, abs=0.06)


def test_a_polygon_is_the_same_wherever_its_nucleus_lies() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[discs((20, 20, 9), shape=(60, 60))] = 5
    alone = polygons(labels)[0]
    moved = np.roll(labels, (11, 23), axis=(0, 1))
    moved[50:54, 3:9] = 9
    np.testing.assert_allclose(polygons(moved)[0], alone + np.array([23, 11]), atol=1e-9)


@pytest.mark.parametrize(
    ("domain", "gain"), [("monuseg/kidney", 0.08), ("monuseg/breast", 0.05), ("dsb2018/fluorescence-large", 0.05), ("dsb2018/tissue-violet", 0.07)]
)
def test_real_nuclei_are_told_apart_better_than_by_components(shared_data: Path, domain: str, gain: float) -> None:
    truths = [read_mask(path) for path in sorted((shared_data / domain / "masks").iterdir())[:4]]
    ours = np.array([(panoptic(p, t).pq, aji(p, t)) for t in truths for p in [to_instances(t > 0)]])
    plain = np.array([(panoptic(p, t).pq, aji(p, t)) for t in truths for p in [label_components(t > 0)]])
    assert (ours.mean(axis=0) > plain.mean(axis=0) + np.array([gain / 2, gain])).all(), (ours.mean(axis=0), plain.mean(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_basins_are_those_of_the_whole_watershed(seed: int) -> None:
    """Whether a component has several seeds, one, or none."""
    draw = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(draw.normal(size=(80, 90)), 2) > 0.05
    height = np.where(mask, ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1), 0).astype(np.float32)
    seeds = ndimage.label(mask & (draw.random(mask.shape) < 0.01))[0]
    counts = [len(np.unique(seeds[ndimage.label(mask)[0] == one])) - 1 for one in range(1, ndimage.label(mask)[1] + 1)]
    assert {0, 1} < set(counts)
    np.testing.assert_array_equal(_basins(height, seeds, mask), watershed(-height, seeds, mask=mask))


def test_holes_are_filled_up_to_a_size_and_what_is_open_to_the_border_is_no_hole() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:6, 1:6], mask[3, 2:5] = True, False  # a hole of 3 px
    mask[8:12, 1:6], mask[9:12, 2:5] = True, False  # open below
    whole = mask.copy()
    whole[3, 2:5] = True
    np.testing.assert_array_equal(filled(mask, 4), whole)
    np.testing.assert_array_equal(filled(mask, 3), mask)
    assert filled(np.ones((4, 4), bool), 9).all()
    assert not filled(np.zeros((4, 4), bool), 99).any()
