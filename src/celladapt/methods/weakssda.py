"""WeakSSDA: WeakUDA, and the masks of those target images that have one, in place of their weak labels; the masks also judge both other teachers.

The equations are WeakUDA's with Y_t the masks of the labelled target images of the batch, so that r = IoU of C(I_t) and Y_t, or T(I_t) where there is no mask, over
plausible images, and n is 1 in a batch that has images without a mask, as only plausible ones are drawn (``data.pairs.Stream``).
"""

from celladapt.methods.weakuda import WeakUDA


class WeakSSDA(WeakUDA):
    """Semi-supervised: L_seg gains the soft Dice loss over the labelled target images of the batch, and the source counts as far as these bear it out. Without any it is WeakUDA.

    Where the classical segmentation is not plausible, images with a mask meet the adversary, as in CellSegSSDA. Images without one are not drawn there, nor where it had to look
    closer, unless no image has a mask: there is nothing to learn from them that a mask does not say better. As soon as one image has a mask, it stands for none.
    """

    target_masks = True
