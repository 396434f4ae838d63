"""WeakSSDA: WeakUDA with the masks of those target images that have one.

Per step as in WeakUDA, with

    Y_t   = the mask of a target image that has one; in the others C(I_t), where it may stand for one

C may stand for masks if what they and, in images without one, the teacher mark is at least half of what it sees: people's masks overrule it.
"""

from celladapt.methods.weakuda import WeakUDA, WeakUDAOptions


class WeakSSDA(WeakUDA):
    """Semi-supervised: the masks of labelled target images teach, and judge the source and the classical segmentation. Without any it is WeakUDA.

    Where the classical segmentation is not plausible, images with a mask meet the adversary, as in CellSegSSDA. Images without one are not drawn there, nor where it had to look
    closer, unless no image has a mask (``data.pairs.Stream``): there is nothing to learn from them that a mask does not say better.
    """

    Options = WeakUDAOptions
    target_masks = True
