"""Prediction by other packages, each built once and then run as it is meant to be run: own windows, own blending, on the same image.

Each is timed only where it is installed (``make bench`` brings them). None gets trained weights: time does not depend on them here.
"""

import importlib.util
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from celladapt.data.normalise import Normalisation
from celladapt.hardware import arithmetic, kept_memory

IMPORTS = {"monai": ("monai",), "instanseg": ("instanseg", "pandas", "seaborn")}
"""What each peer cannot be imported without; instanseg-torch imports two packages that it does not require."""
INSTANSEG_WIDTH = 24
"""309 kFLOP a pixel: of its widths in steps of 8 (others leave vector lanes empty) the nearest to our width 32 with 245. Its default is 32 with 549."""


def installed(peer: str) -> bool:
    """Whether ``peer``, a key of ``IMPORTS``, can be timed here."""
    return all(importlib.util.find_spec(name) for name in IMPORTS[peer])


def monai(network: nn.Module, image: NDArray[np.uint8], window: int, normalisation: Normalisation) -> Callable[[], object]:
    """MONAI's sliding-window inferer, with gaussian blending."""
    from monai.inferers import SlidingWindowInferer

    device = next(network.parameters()).device
    inferer = SlidingWindowInferer(roi_size=(window, window), sw_batch_size=1, overlap=0.25, mode="gaussian")

    def run() -> object:
        with torch.inference_mode(), arithmetic("auto", device), kept_memory():
            return inferer(normalisation(image)[None].to(device, memory_format=torch.channels_last), network).float().cpu().numpy()

    return run


def instanseg_network(width: int = INSTANSEG_WIDTH) -> nn.Module:
    """InstanSeg's U-Net of widths w, 2w, 4w, 8w, untrained: [B, 3, H, W] -> [B, 5, H, W], two offsets, two sigmas and a seed map."""
    from instanseg.utils.loss.instanseg_loss import InstanSeg as Method
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet

    network = InstanSeg_UNet(in_channels=3, out_channels=[2, 2, 1], layers=[8 * width, 4 * width, 2 * width, width])
    made: nn.Module = Method(n_sigma=2, device="cpu").initialize_pixel_classifier(network, MLP_width=5)
    return made.eval()


def instanseg(image: NDArray[np.uint8], window: int, device: torch.device, width: int = INSTANSEG_WIDTH) -> Callable[[], object]:
    """InstanSeg from image to label map, without the drawing of nuclei: percentiles, overlapping windows, its network, search for seeds, stitching.

    Args:
        image: [H, W, 3].
        window: its ``tile_size``; neighbours share 200 pixels, so above that.
        device: to compute on.
        width: of its network.
    """
    from instanseg import InstanSeg
    from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript

    pixel_size = 0.5  # µm, the same for model and image, so that nothing is rescaled
    network = torch.jit.script(InstanSeg_Torchscript(instanseg_network(width), pixel_size=pixel_size, n_sigma=2))  # the form in which it ships models
    network = network.to(memory_format=torch.channels_last)  # as it does itself on a GPU; faster on a CPU too
    pipeline = InstanSeg(network, device=str(device), verbosity=0)
    options = {"pixel_size": pixel_size, "tile_size": window, "return_image_tensor": False}
    options["seed_threshold"] = math.inf  # no nuclei: an untrained network's would be nonsense, and so would their time

    def run() -> object:
        with torch.inference_mode(), arithmetic("auto", device), kept_memory():
            return pipeline.eval_medium_image(image, **options).cpu().numpy()

    return run


def flop_per_pixel(network: nn.Module, side: int = 256) -> float:
    """Of one forward pass on [1, 3, side, side], a multiply-add counted as two."""
    one = next(network.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side, device=one.device, dtype=one.dtype))
    return counter.get_total_flops() / side**2
