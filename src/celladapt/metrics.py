"""How well a prediction agrees with the truth: foreground overlap and four measures that count nuclei.

Label images are (H, W) integers, 0 = background, one value per nucleus; values need be neither contiguous nor ordered, and a nucleus may lie in
several pieces. No measure depends on which value a nucleus carries. Everywhere: nothing predicted and nothing there = 1.0; exactly one of the
two empty = 0.0. All functions raise ``ValueError`` for shapes that differ and for values that are not labels.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching


class Foreground(NamedTuple):
    """Pixel overlap of two masks, both in [0, 1]."""

    iou: float
    dice: float


class Panoptic(NamedTuple):
    """Panoptic quality and its two factors, ``pq = sq * rq``, all in [0, 1]."""

    pq: float
    sq: float
    rq: float


class Detection(NamedTuple):
    """Precision, recall and F1 in [0, 1], with the counts of nuclei behind them."""

    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int


def foreground(pred: NDArray[Any], true: NDArray[Any]) -> Foreground:
    """IoU ``|P & T| / |P | T|`` and Dice ``2 |P & T| / (|P| + |T|)`` of two (H, W) masks; anything non-zero is foreground."""
    _check_shapes(pred, true)
    p, t = pred != 0, true != 0
    both, total = int(np.count_nonzero(p & t)), int(np.count_nonzero(p)) + int(np.count_nonzero(t))
    if total == 0:
        return Foreground(1.0, 1.0)
    return Foreground(both / (total - both), 2 * both / total)


def aji(pred: NDArray[Any], true: NDArray[Any]) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017, algorithm 1), in [0, 1].

    Each true nucleus takes the predicted nucleus of greatest IoU; intersections and unions are summed, and predictions that no true nucleus took
    are added to the union. The reading is the literal one: a prediction stays available after it was taken, so one blob over two nuclei enters
    the union twice, and the result does not depend on the order of the nuclei. A true nucleus that no prediction touches adds its own area to
    the union. Of equal IoUs the prediction met first from the top left is taken.
    """
    o = _overlap(pred, true)
    if o.empty is not None:
        return o.empty
    order = np.lexsort((o.pred, -o.iou, o.true))
    best = order[np.unique(o.true[order], return_index=True)[1]]
    untouched = np.ones(len(o.true_area), bool)
    untouched[o.true[best]] = False
    unused = np.ones(len(o.pred_area), bool)
    unused[o.pred[best]] = False
    intersection = o.intersection[best].sum()
    union = (o.true_area[o.true[best]] + o.pred_area[o.pred[best]]).sum() - intersection
    return float(intersection / (union + o.true_area[untouched].sum() + o.pred_area[unused].sum()))


def panoptic(pred: NDArray[Any], true: NDArray[Any]) -> Panoptic:
    """Panoptic quality (Kirillov et al., CVPR 2019; for nuclei Graham et al., MedIA 2019) of one class.

    Nuclei match where IoU > 0.5, strictly, which makes the match unique. ``sq`` is the mean IoU of the matches (0.0 without any) and ``rq`` their
    F1, ``tp / (tp + fp/2 + fn/2)``.
    """
    o = _overlap(pred, true)
    if o.empty is not None:
        return Panoptic(o.empty, o.empty, o.empty)
    matched = o.iou[o.iou > 0.5]
    sq = float(matched.mean()) if len(matched) else 0.0
    rq = 2 * len(matched) / (len(o.true_area) + len(o.pred_area))
    return Panoptic(sq * rq, sq, rq)


def detection(pred: NDArray[Any], true: NDArray[Any], threshold: float = 0.5) -> Detection:
    """Precision, recall and F1 of nuclei found: IoU >= ``threshold``, matched one to one.

    The bound counts as a hit (>=, where ``panoptic`` has >). At thresholds up to 0.5 a nucleus can have several candidates; the matching with
    the most pairs counts.

    Raises:
        ValueError: ``threshold`` is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the IoU threshold must lie in (0, 1], not {threshold}")
    o = _overlap(pred, true)
    n_pred, n_true = len(o.pred_area), len(o.true_area)
    tp = 0
    if o.empty is None:
        hit = o.iou >= threshold
        candidates = coo_array((np.ones(hit.sum(), np.int8), (o.true[hit], o.pred[hit])), shape=(n_true, n_pred))
        tp = int(np.count_nonzero(maximum_bipartite_matching(candidates.tocsr(), perm_type="column") >= 0))
    precision, recall, f1 = (o.empty,) * 3 if o.empty is not None else (tp / n_pred, tp / n_true, 2 * tp / (n_pred + n_true))
    return Detection(precision, recall, f1, tp, fp=n_pred - tp, fn=n_true - tp)


@dataclass(frozen=True)
class _Overlap:
    """The contingency table, sparse: one entry per pair of nuclei that share a pixel. Nuclei are counted from 0 in raster order."""

    true_area: NDArray[np.int64]  # (n_true,) pixels
    pred_area: NDArray[np.int64]  # (n_pred,) pixels
    true: NDArray[np.int64]  # (pairs,) index of the true nucleus
    pred: NDArray[np.int64]  # (pairs,) index of the predicted nucleus
    intersection: NDArray[np.int64]  # (pairs,) pixels, > 0

    @property
    def iou(self) -> NDArray[np.float64]:
        return self.intersection / (self.true_area[self.true] + self.pred_area[self.pred] - self.intersection)

    @property
    def empty(self) -> float | None:
        """The value of every measure when there is nothing to compare, else None."""
        if len(self.true_area) and len(self.pred_area):
            return None
        return float(len(self.true_area) == len(self.pred_area))


def _overlap(pred: NDArray[Any], true: NDArray[Any]) -> _Overlap:
    _check_shapes(pred, true)
    p, t = _raster_order(pred), _raster_order(true)
    true_area, pred_area = np.bincount(t)[1:], np.bincount(p)[1:]
    shared = (p > 0) & (t > 0)
    pairs = t[shared].astype(np.int64) * (len(pred_area) + 1) + p[shared]
    cells, intersection = np.unique(pairs, return_counts=True)
    rows, columns = np.divmod(cells, len(pred_area) + 1)
    return _Overlap(true_area, pred_area, rows - 1, columns - 1, intersection)


def _raster_order(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Flatten and renumber 1..n by first pixel, 0 kept: what makes ties, and so every measure, blind to the label values."""
    flat = labels.ravel()
    if flat.dtype == bool:
        flat = flat.astype(np.uint8)
    if not np.issubdtype(flat.dtype, np.integer) or (flat.size and flat.min() < 0):
        raise ValueError("labels must be non-negative integers, 0 = background")
    # Sorting the distinct values and searching in them is an order faster than np.unique(..., return_inverse=True) on a million pixels.
    values = np.unique(flat)
    values = values[values > 0]
    index = np.searchsorted(values, flat) + 1
    index[flat == 0] = 0
    first = np.zeros(len(values) + 1, np.int64)
    first[index[::-1]] = np.arange(len(index))[::-1]  # the last write, the topmost pixel, stays
    rank = np.zeros(len(values) + 1, np.int64)
    rank[1 + np.argsort(first[1:])] = np.arange(1, len(values) + 1)
    return rank[index]


def _check_shapes(pred: NDArray[Any], true: NDArray[Any]) -> None:
    if pred.shape != true.shape:
        raise ValueError(f"prediction {pred.shape} and truth {true.shape} must have the same shape")
