"""Megapixels a second from image to probability map, against a plain loop, MONAI with the same network, and InstanSeg with its own.

    python -m benchmarks.predict --json predict.json

The plain loop is what one writes first: eager float32 with torch's own layers, tiles of 256 side by side, one at a time. It has seams; ours has none. MONAI's
sliding window gets the same network, arithmetic and memory settings, its usual overlap of a quarter (which leaves faint seams), and the better of two window sizes.
InstanSeg brings a network of its own, the nearest in arithmetic to our width 32, untrained, and gets the better of two window sizes too. Both are timed where they are installed
(``make bench`` brings them). The headline ratio is ours over the plain loop at width 32.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from benchmarks.measure import clock, conditions, paired, parser, peak_mib, plain_layers, publish
from benchmarks.noise import NORMALISATION
from benchmarks.peers import flop_per_pixel, installed, instanseg, instanseg_network, monai
from celladapt.hardware import pick_device
from celladapt.instances import to_instances
from celladapt.model import Model
from celladapt.networks import Segmenter, UNet

DRAW = 0


def model(width: int) -> Model:
    """A segmenter with random weights and batch-normalisation statistics, whose probabilities are spread over [0, 1] as a trained one's are."""
    torch.manual_seed(DRAW)
    network = Segmenter(width).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.05, 0.2)
        logits = UNet.forward(network, NORMALISATION(picture(128))[None])
        network.head.weight *= 2 / logits.std()
        network.head.bias.copy_((network.head.bias - logits.mean()) * 2 / logits.std())
    return Model(network.to(pick_device("auto"), memory_format=torch.channels_last), NORMALISATION)  # type: ignore[call-overload]


def picture(side: int) -> NDArray[np.uint8]:
    """Noise [side, side, 3]."""
    return np.random.default_rng(DRAW).integers(0, 256, (side, side, 3), dtype=np.uint8)


@torch.inference_mode()
def plain_loop(network: nn.Module, image: NDArray[np.uint8], tile: int = 256) -> NDArray[np.float32]:
    """Eager float32 over tiles that do not overlap, one at a time."""
    device = next(network.parameters()).device
    out = np.zeros(image.shape[:2], np.float32)
    for top in range(0, image.shape[0], tile):
        for left in range(0, image.shape[1], tile):
            x = NORMALISATION(image[top : top + tile, left : left + tile])[None].to(device)
            out[top : top + tile, left : left + tile] = network(x)[0, 0].cpu().numpy()
    return out


def nuclei(side: int) -> NDArray[np.float32]:
    """A probability map with a nucleus to 40 x 40 px: rough discs of 8 to 30 px across, some of which touch."""
    draw = np.random.default_rng(DRAW)
    centres = np.zeros((side, side), np.int32)
    count = max(1, side * side // 1600)
    centres[tuple(draw.integers(0, side, (2, count)))] = np.arange(1, count + 1)
    distance, nearest = ndimage.distance_transform_edt(centres == 0, return_indices=True)
    radius = draw.uniform(4, 15, count + 1)[centres[tuple(nearest)]]
    rough = ndimage.gaussian_filter(draw.normal(size=(side, side)), 3) * 12
    return (1 / (1 + np.exp(np.asarray(distance) - radius + rough))).astype(np.float32)


def cost(side: int, width: int, turns: int) -> dict[str, float]:
    """Seconds of predicting one image and the memory of the process: meant for a process of its own, which ends afterwards."""
    one = model(width)
    one.predict(picture(256))
    image = picture(side)
    seconds = statistics.median(clock(lambda: one.predict(image)) for _ in range(turns))
    held = (image.nbytes + side * side * 4) / 2**20
    return {"side": side, "seconds": seconds, "megapixels_per_second": side**2 / 1e6 / seconds, "peak_mib": peak_mib(), "image_and_answer_mib": held}


def curve(sides: list[int], width: int = 16) -> list[dict[str, float]]:
    """``cost`` of each size."""
    rows = []
    for side in sides:
        script = f"import json; from benchmarks.predict import cost; print(json.dumps(cost({side}, {width}, {3 if side < 5000 else 1})))"
        rows.append(json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout.splitlines()[-1]))
    return rows


def over_best(peers: dict[int, Callable[[], object]], ours: Callable[[], object], turns: int, device: torch.device) -> dict[str, Any]:
    """Ours over the window size (key) that is fastest for the peer."""
    best = min(peers, key=lambda window: clock(peers[window], device))
    return {**paired(peers[best], ours, turns, device=device).record(), "window": best}


def main() -> None:
    """Measure and publish."""
    command = parser(__doc__)
    command.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 5000, 10000, 20000], help="image sizes of the curve")
    a = command.parse_args()
    side, turns, sides = (300, 2, [200, 400]) if a.quick else (3000, 5, a.sides)
    device = pick_device("auto")
    before = conditions(device)
    image = picture(side)
    widths: dict[str, Any] = {}
    corner = image[:1024, :1024]
    for width in (16, 32):
        fast, slow = model(width), plain_layers(model(width).network.to(memory_format=torch.contiguous_format))
        ours = lambda fast=fast: fast.predict(image).probability  # noqa: E731
        times = paired(lambda slow=slow: plain_loop(slow, image), ours, turns, device=device).record()
        exact, found = plain_loop(slow, corner, tile=len(corner)), fast.predict(corner)
        widths[str(width)] = {
            **times,
            "megapixels_per_second": side**2 / 1e6 / times["fast_seconds"],
            "mean_difference": float(np.abs(found.probability - exact).mean()),
            "share_of_mask_pixels_changed": float((found.mask != (exact >= 0.5)).mean()),
        }
        if installed("monai"):
            network = plain_layers(model(width).network)
            monais = {window: monai(network, image, window, NORMALISATION) for window in ((64, 128) if a.quick else (512, 1024))}
            widths[str(width)]["over_monai"] = over_best(monais, ours, turns, device)
        if width == 32 and installed("instanseg"):
            instansegs = {window: instanseg(image, window, device) for window in ((256,) if a.quick else (1024, 1600))}
            work = [flop_per_pixel(slow), flop_per_pixel(instanseg_network())]
            other = over_best(instansegs, ours, turns, device)
            widths[str(width)]["over_instanseg"] = {**other, "flop_per_pixel": work, "ratio_per_flop": other["ratio"] * work[0] / work[1]}
    map_of_nuclei = nuclei(side)
    count = int(to_instances(map_of_nuclei).max())
    split = statistics.median(clock(lambda: to_instances(map_of_nuclei)) for _ in range(turns))
    publish(
        a.json,
        {
            **{key: widths["32"][key] for key in ("ratio", "quartiles", "turns")},
            "what": f"probability map of {side} x {side}, width 32, against a plain float32 loop over tiles",
            "widths": widths,
            "instances": {
                "nuclei": count,
                "megapixels_per_second": side**2 / 1e6 / split,
                "over_network": {width: split / one["fast_seconds"] for width, one in widths.items()},
            },
            "curve": curve(sides),
            **before,
        },
    )


if __name__ == "__main__":
    main()
