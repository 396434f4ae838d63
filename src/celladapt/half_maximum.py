"""Outlines at half maximum: each nucleus reaches to where the image is halfway between it and its own surroundings, as a straight edge that a lens has blurred does.

One threshold for an image cuts those nuclei short that stand out less than most, and draws those too wide that stand out more. A threshold for each object is old; this form of it is ours.
The widths below are in pixels of whatever magnification; they were set once and hardly matter (docs/method.md).
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
    """``mask`` with every outline where ``height`` is halfway between the medians of the nucleus and of a ring around it.

    The ring begins ``BLURRED`` px outside, is as wide as the usual nucleus' radius, and is what is nearer to this nucleus than to any other and of none. Every pixel within ``REACH`` px of a nucleus
    belongs to the nearest one, and is kept if it is higher than halfway: so a nucleus may fall apart, meet another, or have holes, and there may be less of it than there was.

    Args:
        mask: (H, W) of a first segmentation; touching nuclei are told apart by ``to_instances``, which leaves out pieces below 20 px².
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
    ring, inside = (away > BLURRED) & (away <= BLURRED + radius) & seen, nuclei > 0
    each = np.arange(1, count + 1)
    alone = np.bincount(owner[ring], minlength=count + 1)[1:] > FEW
    around = np.full(count, np.median(ground))
    if alone.any():  # scipy wants something to be looked at
        around[alone] = ndimage.median(height[ring], owner[ring], each[alone])
    halfway = (ndimage.median(height[inside], owner[inside], each) + around) / 2
    return np.asarray((height > halfway[owner - 1]) & (away <= REACH) & seen)
