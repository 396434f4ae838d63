"""Where on a slide there is tissue, told from a small picture of it, so that glass need not be segmented."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_FAINTEST, _FAINT_ENOUGH = 0.03, 0.06
"""Of what tells tissue from background, in [0, 1]: less is noise, more is certainly tissue. Otsu's threshold is kept between them, because on a slide that is all tissue it
would part dense tissue from loose."""
_SPECK = 4  # px of the small picture
_GROW = 2  # px; tissue fades out


def find_tissue(overview: NDArray[Any]) -> NDArray[np.bool_]:
    """[h, w, 3] uint8 or uint16, the slide at a few µm a pixel or coarser -> [h, w] bool, rather too much than too little.

    Stained tissue is darker or more coloured than glass, fluorescent tissue brighter than what surrounds it.
    """
    from skimage.filters import threshold_otsu

    x = ndimage.gaussian_filter(overview / np.float32(np.iinfo(overview.dtype).max), (1, 1, 0))
    light = x.mean(axis=2)
    if np.median(light) > 0.35 or np.quantile(light, 0.9) > 0.7:  # on glass, however little of it
        signal = np.maximum(np.quantile(light, 0.99) - light, x.max(axis=2) - x.min(axis=2))
    else:
        signal = light - np.quantile(light, 0.01)
    threshold = float(np.clip(threshold_otsu(signal) if np.ptp(signal) > 0 else np.inf, _FAINTEST, _FAINT_ENOUGH))  # type: ignore[no-untyped-call]
    mask = signal > threshold
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) >= _SPECK
    large[0] = False
    grown: NDArray[np.bool_] = ndimage.binary_dilation(large[labels], iterations=_GROW)
    return grown
