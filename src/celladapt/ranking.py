"""Which images to annotate first: the criterion alone, on arrays.

Where only a handful is annotated, typical and diverse examples teach more than uncertain ones (Hacohen et al., TypiClust, ICML 2022), and what is not near
any annotated example is not learned (coresets, Sener and Savarese, ICLR 2018). So the candidates are covered by as many clusters as there are masks to draw,
and uncertainty decides only among the typical ones of a cluster, and between clusters. Nothing here is random.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLANK = 0.1
"""Content below which a candidate is as good as empty."""
_EVIDENCE = 5  # nuclei that weigh as much as what is known of the other candidates
_CHUNK = 1024  # rows of a distance matrix at a time
_ROUNDS = 100
_SAME = 1e-5  # standard deviations; nearer is rounding


@dataclass(frozen=True)
class Pick:
    """One candidate to annotate, and the cluster that it stands for."""

    index: int
    """Of the candidate."""
    score: float
    """What its mask would teach, summed over the cluster; at least 0."""
    size: int
    """Candidates in the cluster, itself counted."""


@dataclass(frozen=True)
class Candidates:
    """What is known of N candidates, an entry each."""

    features: Floats
    """[N, F], any scale: what the network sees."""
    uncertainty: Floats
    """[N] in [0, 1]: mean entropy around predicted nuclei; not looked at where there are none."""
    nuclei: Floats
    """[N] predicted."""
    contrast: Floats
    """[N] at least 0: of the image itself, whatever is predicted."""
    area: Floats
    """[N] in px²."""


def rank(candidates: Candidates, annotated: Floats, k: int) -> list[Pick]:
    """The ``k`` candidates to annotate, best first; all of them where there are no more.

    A cluster's pick is, of the half of its members nearest the centre, the one with most to learn: uncertainty times content. Its score is the sum over the
    cluster of what is to be learned of each member times how much nearer its centre is than what is annotated, over the farthest that any candidate is from
    that; times 1 where nothing is annotated.

    Args:
        candidates: N of them, at least 1.
        annotated: [M, F] features of what is annotated already; M may be 0.
        k: at least 1.
    """
    full = content(candidates.nuclei / candidates.area, candidates.contrast)
    worth = np.flatnonzero(full >= BLANK)
    if len(worth) < k:  # the emptiest are left out only where others are there to be taken
        worth = np.sort(np.argsort(-full, kind="stable")[:k])
    both = standardised(np.concatenate([candidates.features[worth], annotated]))
    points, fixed = both[: len(worth)], both[len(worth) :]
    learn = (supported(candidates.uncertainty, candidates.nuclei) * full)[worth]
    clusters, centres = cover(points, fixed, k)
    before = np.sqrt(_squared(points, fixed).min(axis=1, initial=np.inf))
    picks = []
    for cluster, centre in enumerate(centres):
        members = np.flatnonzero(clusters == cluster)
        after = np.sqrt(_squared(points[members], points[[centre]])[:, 0])
        off_centre = _squared(points[members], points[members].mean(axis=0, keepdims=True))[:, 0]
        typical = members[np.argsort(off_centre, kind="stable")[: (len(members) + 1) // 2]]
        best = typical[learn[typical].argmax()]
        # The distance itself, not a share of it: to split what is covered already brings less than to cross from one tissue to another.
        nearer = (before[members] - after).clip(0) / max(before.max(), _SAME) if len(fixed) else np.ones(len(members))
        picks.append(Pick(int(worth[best]), float((nearer * learn[members]).sum()), len(members)))
    return sorted(picks, key=lambda pick: (-pick.score, pick.index))


def content(density: Floats, contrast: Floats) -> Floats:
    """How much there is to annotate, [N] in [0, 1]: full from half of what the richest tenth has, in predicted nuclei per area or in contrast.

    The larger of the two counts: a model that fails predicts nothing at all, so an image is empty only where it has no structure either.
    """

    def share(values: Floats) -> Floats:
        rich = np.percentile(values, 90)
        return np.clip(2 * values / rich, 0, 1) if rich > 0 else (values > 0).astype(np.float64)

    return np.maximum(share(density), share(contrast))


def supported(uncertainty: Floats, nuclei: Floats) -> Floats:
    """Uncertainty [N] drawn to the median of the candidates with predicted nuclei, the more the fewer nuclei it rests on; 1 where none has any.

    A candidate in which nothing is predicted so counts as neither sure nor unsure.
    """
    known = nuclei > 0
    usual = float(np.median(uncertainty[known])) if known.any() else 1.0
    return (np.where(known, nuclei * uncertainty, 0) + _EVIDENCE * usual) / (nuclei + _EVIDENCE)


def standardised(features: Floats) -> Floats:
    """[N, F] with mean 0 and standard deviation 1 in each column; 0 in a column that does not vary."""
    centred = features - features.mean(axis=0)
    spread = centred.std(axis=0)
    varies = spread > 1e-6 * (1 + np.abs(features).max(axis=0))
    return np.asarray(np.where(varies, centred / np.where(varies, spread, 1), 0))


def cover(points: Floats, fixed: Floats, k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """k-medoids of [N, F] points beside [M, F] fixed centres; min(k, N) clusters, none of them empty.

    The medoids begin as the points that, one after the other, bring all points nearest to a centre (BUILD of Kaufman and Rousseeuw 1990): a start from the
    farthest points would begin, and with few clusters end, at outliers. Medoids rather than means, since a fixed centre is one image: beside a mean, which is
    nearer to all than any image is, it would lose even its own kind.

    Returns:
        [N] cluster of each point, -1 where a fixed centre is nearest; and the clusters' medoids [min(k, N)] as indices of points.
    """
    chosen: list[int] = []
    near = _squared(points, fixed).min(axis=1, initial=np.inf)
    while len(chosen) < min(k, len(points)):
        parts = (points[at : at + _CHUNK] for at in range(0, len(points), _CHUNK))
        left = np.concatenate([np.minimum(_squared(part, points), near).sum(axis=1) for part in parts])
        left[chosen] = np.inf
        chosen.append(int(left.argmin()))
        near = np.minimum(near, _squared(points, points[chosen[-1:]])[:, 0])
    medoids = np.array(chosen)
    for _ in range(_ROUNDS):
        nearest = _squared(points, np.concatenate([fixed, points[medoids]])).argmin(axis=1) - len(fixed)
        clusters = np.maximum(nearest, -1)
        clusters[medoids] = np.arange(len(medoids))  # also where two are equal
        moved = medoids.copy()
        for cluster in range(len(medoids)):
            members = np.flatnonzero(clusters == cluster)
            moved[cluster] = members[_squared(points[members], points[members].mean(axis=0, keepdims=True))[:, 0].argmin()]
        if np.array_equal(moved, medoids):
            break
        medoids = moved
    return clusters, medoids


def _squared(a: Floats, b: Floats) -> Floats:
    """[N, F], [M, F] -> squared distances [N, M]; by a matrix product, as thousands of candidates have hundreds of features."""
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T), 0))
