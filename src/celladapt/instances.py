"""From a probability map to a mask, to one label per nucleus, to outlines.

Touching nuclei are told apart by shape. The distance to the background has one peak per convex nucleus and a saddle at the neck between two; two
peaks are two nuclei if the saddle is clearly lower than the lower peak. The comparison is a ratio, so nothing has to be known about the size of
the nuclei, and large and small ones in one image are treated alike.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SMOOTHING = 1.0  # px, sigma; removes the pixel staircase from the distance map, more would join nuclei of 10 px
# A saddle below this share of the lower peak separates two nuclei. Tuned on the masks of eight tissue types, exact and roughened: mean PQ is flat
# from 0.88 to 0.90, and the lower end is slower to split an irregular nucleus. docs/splitting.md has the rules that were tried beside it.
_NECK = 0.88
_SMOOTHED = 3  # times that a polygon's points are averaged with their neighbours, (1, 2, 1) / 4; takes the staircase and leaves lobes of a few px
_KEPT = 0.9  # share of its area that a polygon keeps at least when it is smoothed, or it is not
_MOST_CLASSES = 16  # values beside 0; more number nuclei
_PIECES, _PIECE = 5, 20  # of a class on average in an image, each of so many px at least: a nucleus that was cut apart has no more
_WHOLE = 0.8  # share of its area that a simplified polygon has at least, if simplification broke nothing off


def to_mask(probability: NDArray[Any], threshold: float = 0.5) -> NDArray[np.bool_]:
    """(H, W) probabilities in [0, 1], or a boolean mask -> (H, W) bool, true where ``probability >= threshold`` (NaN is background).

    Raises:
        ValueError: not two-dimensional, or integers (grey values 0..255 are not probabilities).
    """
    if probability.ndim != 2:
        raise ValueError(f"a probability map has shape (height, width), not {probability.shape}")
    if not (probability.dtype == bool or np.issubdtype(probability.dtype, np.floating)):
        raise ValueError(f"a probability map holds floats in [0, 1] or booleans, not {probability.dtype}")
    mask: NDArray[np.bool_] = probability >= threshold
    return mask


def to_instances(probability: NDArray[Any], threshold: float = 0.5, min_size: int = 20) -> NDArray[np.int32]:
    """(H, W) probabilities in [0, 1], or a boolean mask -> (H, W) int32 labels 1..n, 0 = background.

    Watershed of the smoothed distance to the background, seeded at its peaks; basins without a clear neck between them are joined (the ratio form
    of the dynamics of Grimaud 1992). Every nucleus is 4-connected and at least ``min_size`` px² large: smaller pieces of mask are dropped,
    enclosed holes smaller than that are filled, and no split leaves less. Beyond this the foreground is that of ``to_mask``, pixel for pixel.

    Raises:
        ValueError: as ``to_mask``.
    """
    from skimage.morphology import local_maxima

    mask = _without_small(to_mask(probability, threshold), min_size)
    # The frame of background makes the image border an edge like any other, also for a mask that covers everything.
    mask = np.pad(filled(mask, min_size), 1)
    distance = ndimage.distance_transform_edt(mask).astype(np.float32)
    height = np.where(mask, ndimage.gaussian_filter(distance, _SMOOTHING), 0)
    seeds, _ = ndimage.label(local_maxima(height) & mask, structure=np.ones((3, 3)))  # type: ignore[no-untyped-call]
    basins = _basins(height, seeds, mask)
    labels: NDArray[np.int32] = _join_basins(basins, height, min_size)[basins[1:-1, 1:-1]]
    return labels


def tells_apart(labels: NDArray[Any]) -> bool:
    """Whether (H, W) labels number nuclei: more values than one beside 0, and not a few that each stand for many pieces, as the classes of nuclei do."""
    values = np.unique(labels[labels > 0])
    if not 1 < values.size <= _MOST_CLASSES:
        return bool(values.size > 1)
    pieces = sum(int(np.count_nonzero(np.bincount(ndimage.label(labels == value)[0].ravel())[1:] >= _PIECE)) for value in values)
    return pieces < _PIECES * values.size


def label_components(mask: NDArray[Any]) -> NDArray[np.int32]:
    """(H, W) mask that is binary or of classes -> its 4-connected pieces of one value as int32 labels; a label image (see ``tells_apart``) is returned as it is."""
    if tells_apart(mask):
        return mask.astype(np.int32)
    labels, found = np.zeros(mask.shape, np.int32), 0
    for value in np.unique(mask[mask > 0]):
        pieces, count = ndimage.label(mask == value, output=np.int32)
        labels += np.where(pieces > 0, pieces + found, 0)
        found += count
    return labels


def polygons(labels: NDArray[Any], tolerance: float = 0.3) -> list[NDArray[np.float64]]:
    """Smooth outlines for viewers and GIS: one closed ring (N, 2) of (x, y) per nucleus, N >= 4, in the order of the labels.

    x grows to the right and y down, and the first pixel covers [0, 1]², as QuPath has it. A ring does not cross itself, stays within the image, and
    encloses as much as the pixels of the nucleus and its holes (where it must not leave the image, a little less). Of a nucleus in pieces
    (pixels that meet in a corner alone are two) the largest is taken; holes are left out.

    Args:
        labels: (H, W) integers, 0 = background.
        tolerance: px; how far simplification may move the smoothed outline (Douglas and Peucker 1973).
    """
    import shapely

    points, ends, area = _outlines(labels)
    if not len(ends):
        return []
    ring = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    first = np.concatenate(([0], ends[:-1]))
    before, after = np.arange(len(points)) - 1, np.arange(len(points)) + 1
    before[first], after[ends - 1] = ends - 1, first
    smooth = points
    for _ in range(_SMOOTHED):
        smooth = (smooth[before] + 2 * smooth + smooth[after]) / 4
    exact, shapes = (shapely.polygons(shapely.linearrings(corners, indices=ring)) for corners in (points, smooth))
    fine = shapely.area(shapes) < _KEPT * area  # a few px small or wide, of which smoothing would leave little
    shapes[fine] = exact[fine]
    shapes = _as_large_as(area, _simplified(shapes, tolerance), (labels.shape[1], labels.shape[0]))
    # Smoothing can fold a narrow part; the outline as it was never crosses itself.
    if (folded := ~shapely.is_valid(shapes)).any():
        shapes[folded] = _simplified(exact[folded], tolerance)
    corners, of = shapely.get_coordinates(shapes, return_index=True)
    return np.split(corners, np.flatnonzero(np.diff(of)) + 1)


def filled(mask: NDArray[np.bool_], min_size: int) -> NDArray[np.bool_]:
    """(H, W) ``mask`` without its holes of fewer than ``min_size`` pixels; what is open to the border of the image is no hole."""
    return ~_without_small(~np.pad(mask, 1), min_size, keep_first=True)[1:-1, 1:-1]


def _without_small(mask: NDArray[np.bool_], min_size: int, keep_first: bool = False) -> NDArray[np.bool_]:
    """``mask`` without its 4-connected components of fewer than ``min_size`` pixels; the first one, which holds the corner, may be kept at any size."""
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= min_size
    keep[0], keep[1:2] = False, keep[1:2] | keep_first
    kept: NDArray[np.bool_] = keep[labels]
    return kept


def _basins(height: NDArray[np.float32], seeds: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Watershed of ``-height`` from ``seeds``, all in ``mask``. A component with one seed, as most have, is its basin without a flood."""
    from skimage.segmentation import watershed

    components, count = ndimage.label(mask)
    places = np.flatnonzero(seeds)
    component, seed = components.ravel()[places], seeds.ravel()[places]
    only = np.zeros(count + 1, np.int32)
    only[component] = seed
    several = np.zeros(count + 1, bool)
    several[component[seed != only[component]]] = True
    only[several] = 0
    basins: NDArray[np.int32] = only[components]
    if several.any():
        basins += watershed(-height, seeds, mask=several[components])  # type: ignore[no-untyped-call]
    return basins


def _join_basins(basins: NDArray[np.int32], height: NDArray[np.float32], min_size: int) -> NDArray[np.int32]:
    """Table from basin to nucleus, both counted from 1 with 0 = background: join across saddles from the highest down, unless they part two nuclei."""
    count = int(basins.max())
    area = np.bincount(basins.ravel(), minlength=count + 1).tolist()
    peak = np.zeros(count + 1, np.float32)
    np.maximum.at(peak, basins.ravel(), height.ravel())
    peaks = peak.tolist()
    parent = list(range(count + 1))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    for one, other, saddle in _saddles(basins, height):
        low, high = sorted((root(one), root(other)), key=lambda basin: (peaks[basin], -basin))
        if low == high:
            continue
        if saddle < _NECK * peaks[low] and min(area[low], area[high]) >= min_size:
            continue
        parent[low] = high
        area[high] += area[low]

    roots = np.array([root(basin) for basin in range(count + 1)])
    return np.searchsorted(np.unique(roots), roots).astype(np.int32)


def _saddles(basins: NDArray[np.int32], height: NDArray[np.float32]) -> list[tuple[int, int, float]]:
    """(basin, basin, height of the highest pass between them) for every two adjacent basins, highest first."""
    pairs, passes = [], []
    for here, there in (((slice(1, None),), (slice(None, -1),)), ((slice(None), slice(1, None)), (slice(None), slice(None, -1)))):
        a, b = basins[here], basins[there]
        border = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.sort(np.stack((a[border], b[border]), axis=1), axis=1))
        passes.append(np.minimum(height[here], height[there])[border])
    pair, level = np.concatenate(pairs), np.concatenate(passes)
    order = np.lexsort((pair[:, 1], pair[:, 0], -level))
    pair, level = pair[order], level[order]
    first = np.sort(np.unique(pair[:, 0].astype(np.int64) * (int(basins.max()) + 1) + pair[:, 1], return_index=True)[1])
    return list(zip(pair[first, 0].tolist(), pair[first, 1].tolist(), level[first].tolist(), strict=True))


def _outlines(labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """The outer outline of each nucleus, or of its largest piece, in the order of the labels.

    Returns:
        (points, 2) middles (x, y) of the pixel edges around all nuclei, one nucleus after the other, each clockwise on the screen and not closed;
        where each nucleus ends in them; the px² that each outline encloses.
    """
    grid = np.pad(labels, 1)
    flat, width = grid.ravel(), grid.shape[1]
    ways = np.array((1, width, -1, -width))  # right, down, left, up: along the upper, right, lower and left edge of a pixel, nucleus to the right
    inside = np.flatnonzero(flat)
    edges = np.sort(np.concatenate([4 * inside[flat[inside] != flat[inside + ways[side - 1]]] + side for side in range(4)]))
    pixel, side = edges // 4, edges % 4
    ahead = pixel + ways[side]
    beside = ahead + ways[side - 1]
    turns = flat[ahead] != flat[pixel]
    straight = flat[beside] != flat[pixel]
    following = np.where(turns, 4 * pixel + (side + 1) % 4, np.where(straight, 4 * ahead + side, 4 * beside + (side - 1) % 4))
    order, ends = _cycles(np.searchsorted(edges, following).tolist())

    middles = np.stack((pixel % width - 1 + np.array((0.5, 1, 0.5, 0))[side], pixel // width - 1 + np.array((0, 0.5, 1, 0.5))[side]), axis=1)
    # Green's theorem: only edges along y count. Around a hole the sum is negative.
    swept = np.array((0, 1, 0, -1))[side] * middles[:, 0]
    first = np.concatenate((np.zeros(min(1, len(ends)), np.intp), ends[:-1]))
    area = np.add.reduceat(swept[order], first) if len(ends) else np.zeros(0)
    value = flat[pixel[order[first]]]
    ranked = np.lexsort((-area, value))
    largest = ranked[np.unique(value[ranked], return_index=True)[1]]
    lengths = (ends - first)[largest]
    stops = np.cumsum(lengths)
    taken = np.arange(stops[-1] if len(stops) else 0) + np.repeat(first[largest] - stops + lengths, lengths)
    return middles[order[taken]], stops, area[largest]


def _cycles(following: list[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The cycles of a permutation, one after the other, and where each ends."""
    order: list[int] = []
    ends: list[int] = []
    seen = bytearray(len(following))
    for edge in range(len(following)):
        if seen[edge]:
            continue
        while not seen[edge]:
            seen[edge] = 1
            order.append(edge)
            edge = following[edge]
        ends.append(len(order))
    return np.array(order, np.intp), np.array(ends, np.intp)


def _simplified(exact: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """shapely polygons with fewer corners, three at least."""
    import shapely

    shapes: NDArray[Any] = shapely.simplify(exact, tolerance, preserve_topology=False)
    # The way that never breaks a polygon takes ten times as long, so only those that broke go it.
    broken = (shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON) | (shapely.area(shapes) < _WHOLE * shapely.area(exact))
    shapes[broken] = shapely.simplify(exact[broken], tolerance, preserve_topology=True)
    return shapes


def _as_large_as(area: NDArray[np.float64], shapes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Polygons grown about their centroids to ``area``, as smoothing and simplification shrink them, and kept within an image of ``size`` (width, height)."""
    import shapely

    corners, of = shapely.get_coordinates(shapes, return_index=True)
    centre, now = shapely.get_coordinates(shapely.centroid(shapes)), shapely.area(shapes)
    growth = np.sqrt(area / np.maximum(now, 1e-9))
    corners = np.clip(centre[of] + growth[of, None] * (corners - centre[of]), 0, size)
    grown: NDArray[Any] = shapely.set_coordinates(shapes, corners)
    return grown
