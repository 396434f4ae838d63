"""WeakSSDA: WeakUDA with the masks of those target images that have one.

Per step as in WeakUDA, with

    Y_t   = the mask of a target image that has one; in the others C(I_t), where it stands for one

In a batch in which images with a mask have a plausible C, it stands for masks in the others only if the masks, too, mark at least half of what C sees: so people's masks overrule it.
"""

from celladapt.methods.weakuda import WeakUDA


class WeakSSDA(WeakUDA):
    """Semi-supervised: the masks of labelled target images teach, and judge the source and the classical segmentation. Without any it is WeakUDA.

    Where the classical segmentation is not plausible, images with a mask meet the adversary, as in CellSegSSDA. Images without one are not drawn there, nor where it had to look
    closer, unless no image has a mask or ``--labelled-share`` is 0 (``data.pairs.Stream``): there is nothing to learn from them that a mask does not say better.
    """

    target_masks = True
