"""How long until something happens: ``celladapt --help``, ``import celladapt``, and one small image predicted, against what Python and torch take.

    python -m benchmarks.startup --json startup.json

The headline ratio is ``import torch`` against ``celladapt --help``: how much of the wait is spared by importing late.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import conditions, paired, parser, publish
from celladapt.data.images import write_image
from celladapt.data.normalise import Normalisation
from celladapt.model import Model
from celladapt.networks import Segmenter


def run(*command: str) -> None:
    """A process of its own, to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, *command], check=True, capture_output=True)


def first_prediction(folder: Path) -> float:
    """Seconds of the first prediction in a process of its own, that has imported everything and loaded the model."""
    script = (
        "import sys, time; from celladapt.data.images import read_image; from celladapt.loading import load_model\n"
        "model, image = load_model(sys.argv[1]), read_image(__import__('pathlib').Path(sys.argv[2]))\n"
        "began = time.perf_counter(); model.predict(image); print(time.perf_counter() - began)"
    )
    command = [sys.executable, "-c", script, str(folder / "model.safetensors"), str(folder / "image.png")]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> None:
    """Measure and publish."""
    a = parser(__doc__).parse_args()
    turns = 2 if a.quick else 11
    before = conditions()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        Model(Segmenter(16).eval(), Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))).save(folder / "model.safetensors")
        write_image(folder / "image.png", np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
        predict = (
            "-m",
            "celladapt",
            "predict",
            str(folder / "model.safetensors"),
            str(folder / "image.png"),
            "--out",
            str(folder / "out"),
            "--overwrite",
        )
        times = paired(lambda: run("-c", "import torch"), lambda: run("-m", "celladapt", "--help"), turns)
        one = paired(lambda: run(*predict), lambda: run("-c", "import torch, scipy.ndimage, PIL.Image"), turns)
        plain = paired(lambda: run("-c", "import celladapt"), lambda: run("-c", "pass"), turns)
        first = statistics.median(first_prediction(folder) for _ in range(turns))
    record = times.record()
    publish(
        a.json,
        {
            **record,
            "what": "import torch against celladapt --help",
            "help_seconds": record["fast_seconds"],
            "import_celladapt_seconds": plain.record()["slow_seconds"],
            "python_seconds": plain.record()["fast_seconds"],
            "import_torch_seconds": record["slow_seconds"],
            "predict_one_image_seconds": one.record()["slow_seconds"],
            "imports_it_cannot_do_without_seconds": one.record()["fast_seconds"],
            "the_network_itself_seconds": first,
            **before,
        },
    )


if __name__ == "__main__":
    main()
