"""Measures against hand-counted cases and against a slow reference that follows the papers pixel by pixel."""

import numpy as np
import pytest
from numpy.typing import NDArray

from celladapt.metrics import Detection, Foreground, Panoptic, aji, detection, foreground, panoptic

Labels = NDArray[np.int32]


def canvas(*boxes: tuple[int, int, int, int], size: int = 40) -> Labels:
    """Labels 1, 2, ... of the boxes (top, left, height, width)."""
    labels = np.zeros((size, size), np.int32)
    for value, (top, left, height, width) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = value
    return labels


SQUARE = canvas((5, 5, 10, 10))
EMPTY = canvas()


def test_identical_labels_score_one_in_every_measure() -> None:
    labels = canvas((0, 0, 5, 5), (0, 5, 5, 5), (20, 20, 7, 3))
    assert foreground(labels, labels) == (1.0, 1.0)
    assert aji(labels, labels) == 1.0
    assert panoptic(labels, labels) == (1.0, 1.0, 1.0)
    assert detection(labels, labels) == (1.0, 1.0, 1.0, 3, 0, 0)


@pytest.mark.parametrize(("shift", "iou", "found"), [(2, 80 / 120, True), (3, 70 / 130, True), (4, 60 / 140, False)])
def test_shifted_square_has_the_counted_overlap(shift: int, iou: float, found: bool) -> None:
    moved = np.roll(SQUARE, shift, axis=1)
    assert foreground(moved, SQUARE) == pytest.approx((iou, (10 - shift) / 10))
    assert aji(moved, SQUARE) == pytest.approx(iou)
    assert panoptic(moved, SQUARE) == pytest.approx((iou, iou, 1.0) if found else (0.0, 0.0, 0.0))
    assert detection(moved, SQUARE).tp == found


def test_shifted_disc_has_the_counted_overlap() -> None:
    y, x = np.mgrid[:9, :9]
    disc = np.hypot(y - 4, x - 3) <= 2  # rows of 1, 3, 5, 3, 1 pixels: 13, of which 8 lie in its copy one column on
    moved = np.roll(disc, 1, axis=1)
    assert foreground(moved, disc) == pytest.approx((8 / 18, 16 / 26))
    assert aji(moved, disc) == pytest.approx(8 / 18)


@pytest.mark.parametrize(
    ("pred", "true", "value", "counts"), [(EMPTY, EMPTY, 1.0, (0, 0, 0)), (SQUARE, EMPTY, 0.0, (0, 1, 0)), (EMPTY, SQUARE, 0.0, (0, 0, 1))]
)
def test_empty_images(pred: Labels, true: Labels, value: float, counts: tuple[int, int, int]) -> None:
    assert foreground(pred, true) == Foreground(value, value)
    assert aji(pred, true) == value
    assert panoptic(pred, true) == Panoptic(value, value, value)
    assert detection(pred, true) == Detection(value, value, value, *counts)


def test_split_nucleus() -> None:
    # One nucleus of 100 px as 60 + 40: IoU 0.6 and 0.4, the smaller part is a false positive.
    pred = canvas((5, 5, 6, 10), (11, 5, 4, 10))
    assert aji(pred, SQUARE) == pytest.approx(60 / (100 + 40))
    assert panoptic(pred, SQUARE) == pytest.approx((0.6 * 2 / 3, 0.6, 2 / 3))
    assert detection(pred, SQUARE) == pytest.approx((0.5, 1.0, 2 / 3, 1, 1, 0))


def test_merged_nuclei_enter_the_aji_union_once_each() -> None:
    # Nuclei of 60 and 40 px as one blob of 100: both take it, so I = 60 + 40 and U = 100 + 100.
    true = canvas((5, 5, 6, 10), (11, 5, 4, 10))
    assert aji(SQUARE, true) == pytest.approx(100 / 200)
    assert panoptic(SQUARE, true) == pytest.approx((0.6 * 2 / 3, 0.6, 2 / 3))
    assert detection(SQUARE, true) == pytest.approx((1.0, 0.5, 2 / 3, 1, 0, 1))


def test_missed_and_invented_nuclei_add_their_area_to_the_aji_union() -> None:
    true = canvas((5, 5, 10, 10), (25, 25, 5, 4))
    pred = canvas((5, 5, 10, 10), (30, 5, 3, 3))
    assert aji(pred, true) == pytest.approx(100 / (100 + 20 + 9))


def test_an_iou_of_exactly_one_half_is_detected_but_not_panoptic() -> None:
    half = canvas((5, 5, 5, 10))
    assert detection(half, SQUARE, 0.5).tp == 1
    assert detection(half, SQUARE, 0.51).tp == 0
    assert panoptic(half, SQUARE).pq == 0.0


def test_detection_matches_one_to_one_with_the_most_pairs() -> None:
    # True A = columns 0..9, B = 10..13; predicted P = 4..13, Q = 0..3. At 0.2 P fits both, Q only A; a greedy pick of (A, P), the best IoU, finds 1.
    true, pred = canvas((0, 0, 5, 10), (0, 10, 5, 4)), canvas((0, 4, 5, 10), (0, 0, 5, 4))
    assert detection(pred, true, 0.2) == pytest.approx((1.0, 1.0, 1.0, 2, 0, 0))
    assert detection(SQUARE, canvas((5, 5, 5, 10), (10, 5, 5, 10)), 0.5).tp == 1


def test_a_mask_counts_as_one_nucleus() -> None:
    assert panoptic(SQUARE > 0, SQUARE).pq == 1.0
    assert aji(SQUARE.astype(np.uint16) * 65535, SQUARE) == 1.0


@pytest.mark.parametrize("seed", range(8))
def test_random_labels_agree_with_the_slow_reference(seed: int) -> None:
    pred, true = random_pair(seed)
    i, u = table(pred, true)
    assert aji(pred, true) == pytest.approx(reference_aji(pred, true))
    matched = (i / u)[i / u > 0.5]
    rq = matched.size / (0.5 * sum(i.shape))
    assert panoptic(pred, true) == pytest.approx((rq * matched.mean(), matched.mean(), rq))
    for threshold in (0.1, 0.3, 0.5, 0.75):
        tp = most_pairs((i / u) >= threshold)
        assert detection(pred, true, threshold)[3:] == (tp, i.shape[1] - tp, i.shape[0] - tp)


@pytest.mark.parametrize("seed", range(4))
def test_label_values_do_not_matter(seed: int) -> None:
    pred, true = random_pair(seed)
    rng = np.random.default_rng(seed)
    values = np.append(0, rng.permutation(2**30 - np.arange(1, 200) * 4_000_037)).astype(np.int32)
    for a, b in ((values[pred], true), (pred, values[true]), (values[pred], values[::-1].take(-true - 1) * (true > 0))):
        assert aji(a, b) == aji(pred, true)
        assert panoptic(a, b) == panoptic(pred, true)
        assert detection(a, b, 0.2) == detection(pred, true, 0.2)


def test_bad_input_is_named() -> None:
    for measure in (foreground, aji, panoptic, detection):
        with pytest.raises(ValueError, match="same shape"):
            measure(EMPTY, EMPTY[:-1])
    with pytest.raises(ValueError, match="non-negative integers"):
        aji(-SQUARE, SQUARE)
    with pytest.raises(ValueError, match="non-negative integers"):
        panoptic(SQUARE.astype(np.float32), SQUARE)
    with pytest.raises(ValueError, match="threshold"):
        detection(SQUARE, SQUARE, 0.0)


def random_pair(seed: int) -> tuple[Labels, Labels]:
    """Truth of overlapping random boxes; a prediction with nuclei moved, merged, dropped and invented."""
    rng = np.random.default_rng(seed)
    boxes = [(*rng.integers(0, 36, 2), *rng.integers(3, 12, 2)) for _ in range(14)]
    moved = [(max(0, t + rng.integers(-2, 3)), max(0, left + rng.integers(-2, 3)), h, w) for t, left, h, w in boxes[2:]]
    true, pred = canvas(*boxes), canvas(*moved, (30, 30, 4, 4))
    pred[pred == 3] = 4
    return pred, true


def table(pred: Labels, true: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intersections and unions (true, pred) from whole-image masks, nuclei in raster order."""
    t, p = ([image == v for v in dict.fromkeys(image.ravel().tolist()) if v] for image in (true, pred))
    return np.array([[(a & b).sum() for b in p] for a in t]).astype(float), np.array([[(a | b).sum() for b in p] for a in t]).astype(float)


def reference_aji(pred: Labels, true: Labels) -> float:
    i, u = table(pred, true)
    areas = [(pred == v).sum() for v in dict.fromkeys(pred.ravel().tolist()) if v]
    total_i = total_u = 0.0
    used = set()
    for row, value in enumerate(v for v in dict.fromkeys(true.ravel().tolist()) if v):
        best = int(np.argmax(i[row] / u[row]))
        if i[row, best] == 0:
            total_u += (true == value).sum()
            continue
        total_i, total_u = total_i + i[row, best], total_u + u[row, best]
        used.add(best)
    return float(total_i / (total_u + sum(a for column, a in enumerate(areas) if column not in used)))


def most_pairs(fits: NDArray[np.bool_]) -> int:
    """Size of the largest one-to-one matching, by trying to re-seat (Kuhn)."""
    partner: dict[int, int] = {}

    def seat(row: int, tried: set[int]) -> bool:
        for column in np.flatnonzero(fits[row]).tolist():
            if column not in tried:
                tried.add(column)
                if column not in partner or seat(partner[column], tried):
                    partner[column] = row
                    return True
        return False

    return sum(seat(row, set()) for row in range(len(fits)))
