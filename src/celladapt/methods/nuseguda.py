"""NuSegUDA: CellSegUDA, adapted in feature space and trained on translated source images too (Haq, Ma and Huang, Front. Big Data 2023).

The paper (doi 10.3389/fdata.2023.1108659) names what it adds to CellSegUDA: adaptation in feature space, an adversarial loss on the reconstructed
image, and a supervised loss on source images translated to the target. We had its abstract alone, so equations, networks and weights are our reading.
With F(I) the features at the bottom of S, D_feature their discriminator and D_image one of images:

    L_D = CellSegUDA's + BCE(D_feature(F(I_s)), source) + BCE(D_feature(F(I_t)), target) + BCE(D_image(I_t), real) + BCE(D_image(R(S(I_t))), drawn)
    L   = CellSegUDA's + lambda_feature · L_feature + lambda_image · L_image + lambda_translated · L_translated
          L_feature    = BCE(D_feature(F(I_t)), source)
          L_image      = BCE(D_image(R(S(I_t))), real)
          L_translated = soft Dice of S(R(S(I_s))) against Y_s

R has learnt to draw a target image from a prediction, so R(S(I_s)) is the source with the target's look. D_image sees what the paper calls the
reconstructed image, R(S(I_t)), and not the translation, which profits only through R. L_image and L_translated move S and R both: the gradient
of L_translated goes through the translated image on purpose, since it holds R to drawing nuclei where S saw them; that the two agree on a
picture of their own is what D_image and L_rec are against. All discriminators move first, in one turn.
"""

from dataclasses import dataclass

from torch import Tensor

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, soft_dice_loss
from celladapt.methods import Term, Terms
from celladapt.methods.cellseguda import CellSegUDA, CellSegUDAOptions
from celladapt.networks import Discriminator, FeatureDiscriminator, UNet
from celladapt.parallel import sum_over_processes

REAL, DRAWN = Domain.TARGET, Domain.SOURCE


@dataclass(frozen=True)
class NuSegUDAOptions(CellSegUDAOptions):
    """CellSegUDA's, and the weights of what is added; with each of them 0 it is CellSegUDA."""

    lambda_feature: float = 0.001
    """Weight of the adversarial loss on features, that of the adversarial loss on predictions; 0 leaves D_feature out."""
    lambda_image: float = 0.001
    """Weight of the adversarial loss on the reconstructed image; 0 leaves D_image out."""
    lambda_translated: float = 0.1
    """Weight of the Dice loss on translated source images, below 1 because R draws badly at first; 0 leaves it out."""


class NuSegUDA(CellSegUDA):
    """Unsupervised: target masks are never read. R is left out only where lambda_rec, lambda_image and lambda_translated are all 0."""

    Options = NuSegUDAOptions
    options: NuSegUDAOptions
    features = True
    paper = (
        "M. M. Haq, H. Ma and J. Huang, NuSegDA: Domain adaptation for nuclei segmentation, Frontiers in Big Data 2023, "
        "doi 10.3389/fdata.2023.1108659"
    )
    equations = {
        **CellSegUDA.equations,
        "feature_s": "BCE(D_feature(F(I_s)), source): D_feature on source features",
        "feature_t": "BCE(D_feature(F(I_t)), target): D_feature on target features",
        "image_real": "BCE(D_image(I_t), real): D_image on target images",
        "image_drawn": "BCE(D_image(R(S(I_t))), drawn): D_image on reconstructed images",
        "adv_feature": "L_feature = BCE(D_feature(F(I_t)), source): S passing target features as source",
        "adv_image": "L_image = BCE(D_image(R(S(I_t))), real): S and R passing the reconstruction as a target image",
        "translated": "L_translated: soft Dice of S(R(S(I_s))) against the source masks",
    }

    def __init__(self, width: int, options: NuSegUDAOptions) -> None:
        super().__init__(width, options)
        if "R" not in self.networks and (options.lambda_image or options.lambda_translated):
            self.networks["R"] = UNet(1, 3, width)
        if options.lambda_feature:
            self.networks["D_feature"] = FeatureDiscriminator(width)
        if options.lambda_image:
            self.networks["D_image"] = Discriminator(width, inputs=3)

    def discriminator_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_D"""
        terms, c = super().discriminator_terms(b, p_s, p_t), self.options
        if c.lambda_feature:
            D_feature = self.networks["D_feature"]
            terms["feature_s"] = Term(1.0, domain_loss(D_feature(b.features_s), Domain.SOURCE))
            terms["feature_t"] = Term(1.0, domain_loss(D_feature(b.features_t), Domain.TARGET))
        if c.lambda_image:
            D_image, R = self.networks["D_image"], self.networks["R"]
            terms["image_real"] = Term(1.0, domain_loss(D_image(b.image_t), REAL))
            terms["image_drawn"] = Term(1.0, domain_loss(D_image(R(p_t)), DRAWN))
        return terms

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """CellSegUDA's + lambda_feature · L_feature + lambda_image · L_image + lambda_translated · L_translated"""
        terms, c = super().segmenter_terms(b, p_s, p_t), self.options
        if c.lambda_feature:
            D_feature = self.networks["D_feature"]
            terms["adv_feature"] = Term(c.lambda_feature, domain_loss(D_feature(b.features_t), Domain.SOURCE))
        if c.lambda_translated:
            S, R = self.networks["S"], self.networks["R"]
            terms["translated"] = Term(c.lambda_translated, soft_dice_loss(S(R(p_s)), b.mask_s, sum_over_processes))
        return terms

    def reconstruction_terms(self, b: Batch, reconstruction: Tensor) -> Terms:
        """lambda_rec · L_rec + lambda_image · L_image"""
        terms, c = super().reconstruction_terms(b, reconstruction), self.options
        if c.lambda_image:
            terms["adv_image"] = Term(c.lambda_image, domain_loss(self.networks["D_image"](reconstruction), REAL))
        return terms
