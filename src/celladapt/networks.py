"""The paper's three networks, and a discriminator of features. S and R are one U-Net with other ends; D is a small fully convolutional classifier.

At the published width of 64: S has 14,788,929 parameters, R 14,787,907, D 2,762,689.
"""

import copy
import itertools
from collections.abc import Iterable
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from celladapt.convolution import Conv2d, ConvTranspose2d
from celladapt.parallel import BatchNorm2d

DEPTH = 4  # poolings in the U-Net, so sides must be a multiple of 2**DEPTH inside it
REACH = 7 * 2**DEPTH - 5
"""How far in px an output of the U-Net looks: at each level four 3x3 convolutions, at the bottom two, and up to 2**DEPTH - 1 px through the poolings."""


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Grow ``x`` [B, C, H, W] at the bottom and right to sides that ``multiple`` divides, by reflection (by replication where too small)."""
    h, w = x.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if not (down or right):
        return x
    mode = "reflect" if down < h and right < w else "replicate"
    return F.pad(x, (0, right, 0, down), mode=mode)


class DoubleConv(nn.Sequential):
    """(3x3 convolution, batch normalisation, ReLU) twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            Conv2d(inputs, outputs, 3, padding=1), BatchNorm2d(outputs), nn.ReLU(inplace=True),
            Conv2d(outputs, outputs, 3, padding=1), BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) of the paper, widths w, 2w, 4w, 8w, 8w; up-convolutions keep the channel count.

    Any image size goes: the input is padded to a multiple of 16 and the output cropped back.

    Args:
        inputs: channels in: 3 for S (image), 1 for R (prediction).
        outputs: channels out: 1 for S (logit), 3 for R (image).
        width: channels of the first block; 64 as published.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64) -> None:
        super().__init__()
        w = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([inputs, *w[:-1]], w, strict=True))
        skips = list(reversed(w[:-1]))  # 8w, 4w, 2w, w
        outs = [*skips[1:], width]  # 4w, 2w, w, w
        self.up = nn.ModuleList(ConvTranspose2d(s, s, 2, stride=2) for s in skips)
        self.merge = nn.ModuleList(DoubleConv(2 * s, o) for s, o in zip(skips, outs, strict=True))
        self.head = Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, inputs, H, W] -> [B, outputs, H, W], no output activation."""
        h, w = x.shape[-2:]
        return self.decode(self.encode(x))[..., :h, :w]

    def encode(self, x: Tensor) -> list[Tensor]:
        """``x`` [B, inputs, H, W], padded first -> what each level on the way down sees, [B, w_level, H / 2**level, W / 2**level]; the last is the bottom."""
        x = pad_to_multiple(x, 2**DEPTH)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            levels.append(x)
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """What ``encode`` gave -> [B, outputs, H, W] of the padded size."""
        *skips, x = levels
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # back up, one level a turn
        out: Tensor = self.head(x)
        return out


class Segmenter(UNet):
    """S: image [B, 3, H, W], normalised -> probability of nucleus [B, 1, H, W] in [0, 1]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__(3, 1, width)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, features: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction; with ``features`` also what the bottom of the U sees on the way, [B, 8w, ~H/16, ~W/16], >= 0.

        The sigmoid is taken in at least float32: under bf16 a probability near 1 would have two digits.
        """
        h, w = x.shape[-2:]
        levels = self.encode(x)
        logits = self.decode(levels)[..., :h, :w]
        p = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return (p, levels[-1]) if features else p


class Discriminator(nn.Sequential):
    """D: prediction [B, inputs, H, W] -> map of domain logits [B, 1, ~H/32, ~W/32]; > 0 says target.

    Five 4x4 convolutions of stride 2, widths w, 2w, 4w, 8w, 1, LeakyReLU 0.2 between, no normalisation (AdaptSegNet and DCGAN style).

    Args:
        width: channels after the first convolution; 64 as published.
        inputs: channels in: 1 for a prediction, 2 for its self-information map, 3 for an image.
    """

    SMALLEST = 2**5  # five halvings

    def __init__(self, width: int = 64, inputs: int = 1) -> None:
        layers: list[nn.Module] = []
        w = [inputs, width, 2 * width, 4 * width, 8 * width]
        for a, b in itertools.pairwise(w):
            layers += [Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, Conv2d(w[-1], 1, 4, stride=2, padding=1))

    def forward(self, p: Tensor) -> Tensor:
        """Predictions smaller than 32 pixels are framed with background first."""
        h, w = p.shape[-2:]
        logits: Tensor = super().forward(  # type: ignore[no-untyped-call]
            F.pad(p, (0, max(0, self.SMALLEST - w), 0, max(0, self.SMALLEST - h)))
        )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class FeatureDiscriminator(nn.Sequential):
    """D of features: the bottom of S [B, 8w, h, w] -> map of domain logits [B, 1, h, w]; > 0 says target.

    1x1 convolutions, widths 4w, 2w, 1, LeakyReLU 0.2 between, no normalisation: a place at the bottom has seen 140 x 140 pixels already, and a
    small crop has too few places for D's strides.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__(
            Conv2d(8 * width, 4 * width, 1), nn.LeakyReLU(0.2, inplace=True),
            Conv2d(4 * width, 2 * width, 1), nn.LeakyReLU(0.2, inplace=True),
            Conv2d(2 * width, 1, 1),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        """The logits are in at least float32, as those of ``Discriminator``."""
        logits: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def folded(network: Segmenter) -> Segmenter:
    """A copy of ``network`` for prediction alone, each batch normalisation folded into the convolution before it: the same function up to rounding.

    Where a number of it is not finite, all that it gives is NaN: ``rectified`` would make background of what is no number.
    """
    network = copy.deepcopy(network).eval()
    for block in network.modules():
        if isinstance(block, DoubleConv):
            for at in (0, 3):
                conv, norm = block[at], block[at + 1]
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, BatchNorm2d)
                block[at], block[at + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    if not all(bool(values.isfinite().all()) for values in network.parameters()):
        assert network.head.bias is not None
        network.head.bias.fill_(torch.nan)
    return network


@torch.no_grad()
def with_statistics_of(network: Segmenter, batches: Iterable[Tensor]) -> Segmenter:
    """A copy of ``network`` in evaluation mode whose batch-normalisation statistics are the plain average over ``batches`` (AdaBN, Li et al. 2016).

    Args:
        network: left as it is.
        batches: images [B, 3, H, W] of the domain to predict on, normalised, on the network's device.
    """
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.across_processes = False
            module.reset_running_stats()
            module.momentum = None  # cumulative average instead of a moving one
    for x in batches:
        network(x)
    return network.eval()
