"""Outlines at half of the way from a nucleus to its surroundings, each nucleus by its own: where the edge of what a lens has blurred truly is.

One threshold for an image is right for one nucleus only. It cuts those short that stand out less than most, and draws those too wide that stand out more.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from celladapt.instances import to_instances
from celladapt.shape import usual_area

BLURRED = 2.0
"""px beyond an outline as it is that say nothing of the surroundings yet: the slope of the edge."""
REACH = 3.0
"""px that an outline may move outwards. Inwards there is no limit but the image."""
FEW = 5
"""Pixels of surroundings up to which a nucleus, hemmed in by others, is held against all of the background."""


def outlined(mask: NDArray[np.bool_], height: NDArray[Any], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``mask`` with every outline where ``height`` is halfway between the medians of the nucleus and of a ring around it, as wide as the usual nucleus' radius.

    Args:
        mask: (H, W) of a first segmentation; touching nuclei are told apart by ``to_instances``, which leaves out crumbs.
        height: (H, W) float, higher on nuclei.
        seen: (H, W), false where there is nothing to be seen.

    Returns:
        (H, W); ``mask`` itself where there is no nucleus, or nothing but nuclei.
    """
    nuclei = to_instances(mask)
    ground = height[(nuclei == 0) & seen]
    count = int(nuclei.max())
    if not (count and ground.size):
        return mask
    away, nearest = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    owner = nuclei[tuple(nearest)]
    radius = np.sqrt(usual_area(np.bincount(nuclei.ravel())[1:]) / np.pi)
    ring = np.where((away > BLURRED) & (away <= BLURRED + radius) & seen, owner, 0)
    each = np.arange(1, count + 1)
    alone = np.bincount(ring.ravel(), minlength=count + 1)[1:] > FEW
    around = np.full(count, np.median(ground))
    around[alone] = ndimage.median(height, ring, each[alone])
    halfway = (ndimage.median(height, nuclei, each) + around) / 2
    return np.asarray((height > halfway[owner - 1]) & (away <= REACH) & seen)
