"""Telling nuclei from what is none by their shape alone, without a mask and in whatever tissue or stain.

Nuclei are solid: masks drawn by hand cover 0.94 to 0.96 of their convex hulls in every domain at hand. Stroma, cytoplasm and debris that a segmentation takes
for nuclei come in ragged or netlike pieces.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from celladapt.instances import to_instances

SOLID = 0.85
"""Solidity from which on a piece is taken for a nucleus; 97 to 100 % of the area of hand-drawn masks is in such pieces."""
CRUMB, GIANT = 0.2, 5
"""Shares of the usual nucleus's area below which a piece is no nucleus, and above which it may be several, or the lumen of a gland."""


def solidity(labels: NDArray[Any]) -> float:
    """Mean solidity (area / area of the convex hull) of the nuclei in (H, W) labels, each pixel counting alike; in [0, 1], 0 where there is none."""
    from skimage.measure import regionprops

    pieces = regionprops(labels)  # type: ignore[no-untyped-call]
    return float(sum(piece.area * piece.solidity for piece in pieces) / max(1, sum(piece.area for piece in pieces)))


def usual_area(areas: NDArray[Any]) -> float:
    """Area of the nucleus that the median pixel of all nuclei lies in, so that crumbs count by their area alone; 0 where there is none."""
    areas = np.sort(areas[areas > 0])
    if not areas.size:
        return 0.0
    filled = np.cumsum(areas)
    return float(areas[np.searchsorted(filled, filled[-1] / 2)])


@torch.no_grad()
def cleaned(p: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """What of a prediction can be learned from, in the images that are wanted.

    Holes are filled, as nuclei have none. Solid pieces about as large as most of the solid ones are nuclei; crumbs, by their share of that area or below 20 px²,
    are background. Of ragged pieces nothing is known, nor of very large ones and of crumbs at the border, which may be nuclei that are cut there.

    Args:
        p: [B, 1, H, W] in [0, 1].
        wanted: [B] bool.

    Returns:
        nuclei and known, [B, 1, H, W] bool on the device of ``p``; both all false in an image that is not wanted.
    """
    nuclei, known = torch.zeros(2, *p.shape, dtype=torch.bool)
    for n in wanted.nonzero().flatten().tolist():
        nuclei[n, 0], known[n, 0] = map(torch.from_numpy, _cleaned(p[n, 0].float().cpu().numpy()))
    return nuclei.to(p.device), known.to(p.device)


def _cleaned(p: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    from skimage.measure import regionprops

    nuclei, known = np.zeros(p.shape, bool), np.ones(p.shape, bool)
    pieces = regionprops(to_instances(ndimage.binary_fill_holes(p >= 0.5)))  # type: ignore[no-untyped-call]
    usual = usual_area(np.array([piece.area for piece in pieces if piece.solidity >= SOLID]))
    for piece in pieces:
        place = tuple(piece.coords.T)
        if piece.area < CRUMB * usual:
            known[place] = not _touches_border(piece.bbox, p.shape)
        else:
            nuclei[place] = known[place] = piece.solidity >= SOLID and piece.area <= GIANT * usual
    return nuclei, known


def _touches_border(bbox: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    top, left, bottom, right = bbox
    return top == 0 or left == 0 or bottom == shape[0] or right == shape[1]
