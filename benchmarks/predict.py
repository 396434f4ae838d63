"""Megapixels a second from image to probability map, against a plain loop and against other packages with the same network.

    python -m benchmarks.predict --json predict.json

The plain loop is what one writes first: eager float32, tiles of 256 side by side, one at a time. It has seams; ours has none and pays for it with
overlapping windows. The headline ratio is ours over the plain loop at width 32. MONAI's sliding window and InstanSeg's pipeline are timed where they are
installed (``pip install monai instanseg-torch``); the latter brings its own network, so its figure is of another amount of work.
"""

import importlib.util
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from benchmarks.measure import clock, conditions, paired, parser, publish
from celladapt.data.normalise import Normalisation
from celladapt.hardware import pick_device
from celladapt.instances import to_instances
from celladapt.networks import Segmenter
from celladapt.prediction import Model

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def model(width: int) -> Model:
    """An untrained segmenter, whose speed is that of a trained one."""
    torch.manual_seed(0)
    network = Segmenter(width).to(pick_device("auto"), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network.eval(), NORMALISATION)


def picture(side: int) -> NDArray[np.uint8]:
    """Blurred noise [side, side, 3]."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (side, side, 3), dtype=np.uint8)


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


def monai(network: nn.Module, image: NDArray[np.uint8]) -> Callable[[], object]:
    """MONAI's sliding-window inferer with its usual overlap of a quarter and gaussian blending, in the arithmetic that is fastest here."""
    from monai.inferers import SlidingWindowInferer

    device = next(network.parameters()).device
    inferer = SlidingWindowInferer(roi_size=(512, 512), sw_batch_size=1, overlap=0.25, mode="gaussian")

    def run() -> object:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            return inferer(NORMALISATION(image)[None].to(device, memory_format=torch.channels_last), network).float().cpu().numpy()

    return run


def nuclei(side: int) -> NDArray[np.float32]:
    """A probability map as a trained model gives it: discs of 8 to 16 px, one to 40 x 40 px, some of which touch."""
    draw = np.random.default_rng(0)
    seeds = np.zeros((side, side), bool)
    seeds[tuple(draw.integers(0, side, (2, side * side // 1600)))] = True
    distance = ndimage.distance_transform_edt(~seeds)
    return (1 / (1 + np.exp(np.asarray(distance) - 12))).astype(np.float32)


def curve(one: Model, sides: list[int]) -> list[dict[str, Any]]:
    """Seconds and memory beside the image and the answer, by image size."""
    rows = []
    for side in sides:
        image = picture(side)
        began = time.perf_counter()
        answer = one.predict(image).probability
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB, of the process so far; sizes ascend
        held = (image.nbytes + answer.nbytes) / 2**20
        rows.append(
            {"side": side, "megapixels_per_second": side**2 / 1e6 / seconds, "seconds": seconds, "peak_mib_beside_image_and_answer": peak - held}
        )
    return rows


def main() -> None:
    """Measure and publish."""
    command = parser(__doc__)
    command.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 4000, 8000], help="image sizes of the curve; 20000 takes minutes")
    a = command.parse_args()
    side, turns, sides = (300, 2, [200, 400]) if a.quick else (2048, 5, a.sides)
    before = conditions()
    image = picture(side)
    widths: dict[str, Any] = {}
    for width in (16, 32):
        fast = model(width)
        slow = Segmenter(width).to(fast.device).eval()
        slow.load_state_dict(fast.network.state_dict())
        times = paired(lambda: plain_loop(slow, image), lambda: fast.predict(image).probability, turns, device=fast.device).record()  # noqa: B023
        widths[str(width)] = {
            **times,
            "megapixels_per_second": side**2 / 1e6 / times["fast_seconds"],
            "largest_difference_in_probability": float(np.abs(fast.predict(image).probability - _whole(slow, image)).max()),
        }
        if importlib.util.find_spec("monai"):
            peer = paired(monai(fast.network, image), lambda: fast.predict(image).probability, turns, device=fast.device).record()  # noqa: B023
            widths[str(width)]["over_monai"] = peer
    map_of_nuclei = nuclei(side)
    found = int(to_instances(map_of_nuclei).max())
    split = min(clock(lambda: to_instances(map_of_nuclei)) for _ in range(turns))
    publish(
        a.json,
        {
            **{key: widths["32"][key] for key in ("ratio", "quartiles", "turns")},
            "what": f"probability map of {side} x {side}, width 32, against a plain float32 loop over tiles",
            "widths": widths,
            "instances": {"nuclei": found, "seconds": split, "megapixels_per_second": side**2 / 1e6 / split},
            "curve": curve(model(16), sides),
            **before,
        },
    )


@torch.inference_mode()
def _whole(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    x = NORMALISATION(image)[None].to(next(network.parameters()).device)
    return np.asarray(network(x)[0, 0].cpu().numpy())


if __name__ == "__main__":
    main()
