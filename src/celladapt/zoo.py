"""A model as a package of the BioImage Model Zoo (specification 0.5): ONNX weights, their description, a test image, a cover and the model card."""

import hashlib
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from celladapt.card import PAPER, card, title
from celladapt.data.images import write_image
from celladapt.data.synthetic import specimen
from celladapt.errors import InputError, optional
from celladapt.files import write_text
from celladapt.onnx_graph import OPSET
from celladapt.onnx_model import OnnxModel
from celladapt.onnx_network import INPUT, OUTPUT
from celladapt.strips import GRID, HALO

FORMAT = "0.5.3"
"""Of the specification; nothing newer is needed, and older programs read it."""
SMALLEST = 256
"""Sides of a package's input start here: programs cut the halo from each side of a tile, and something must be left."""
PAPER_URL = "https://proceedings.mlr.press/v121/haq20a.html"
_FOUND = np.array([255, 227, 77], np.uint8)
_TAGS = ["2d", "unet", "nuclei", "segmentation", "semantic-segmentation", "other", "domain-adaptation", "onnx"]


def write_package(path: Path, weights: Path, model: OnnxModel, licence: str | None, authors: Sequence[str]) -> None:
    """Write the package of ``model`` to ``path``, a ``.zip`` that is there and empty, and let bioimageio.core test it; nothing is downloaded.

    No image of the user's goes into it: the test image and the cover are drawn.

    Args:
        path: its folder also takes the parts, which are left there.
        weights: the ONNX file of ``model``, in the same folder.
        licence: SPDX identifier; None leaves it out.
        authors: names; none leaves them out.

    Raises:
        InputError: a library is not installed, or not in a version that works.
        RuntimeError: the package does not pass.
    """
    core = optional("bioimageio.core", "Export", "export")
    spec = optional("bioimageio.spec", "Export", "export")
    folder = path.parent
    image = specimen(SMALLEST)
    probability = model.probability(image)
    np.save(folder / "test_input.npy", image.transpose(2, 0, 1)[None])
    np.save(folder / "test_output.npy", probability[None, None])
    write_image(folder / "cover.png", np.hstack([image, np.where(probability[..., None] >= 0.5, _FOUND, image)]))
    write_text(folder / "README.md", card(model.about))
    described = _describe(folder, weights, model, licence, authors)
    optional("bioimageio.spec.utils", "Export", "export").write_yaml(described, folder / "rdf.yaml")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in ("rdf.yaml", weights.name, "README.md", "cover.png", "test_input.npy", "test_output.npy"):
            package.write(folder / name, name)
    # An address that is known already is not looked up.
    loaded = spec.load_description(path, perform_io_checks=True, known_files={PAPER_URL: None})
    if isinstance(loaded, spec.InvalidDescr):
        reason = "; ".join(" ".join(error.msg.split())[:200] for detail in loaded.validation_summary.details for error in detail.errors)
        versions = ", ".join(f"{name} {version(name)}" for name in ("bioimageio.spec", "pydantic"))
        raise InputError(f'{versions} cannot read the package ({reason}); install versions that go together: pip install "celladapt[export]".')
    summary = core.test_model(loaded)
    if summary.status != "passed":
        raise RuntimeError(f"bioimageio.core does not accept the package:\n{summary.format()}")


def _describe(folder: Path, weights: Path, model: OnnxModel, licence: str | None, authors: Sequence[str]) -> dict[str, Any]:
    """The description of the package, whose other files are in ``folder``."""
    mean, std = ([255 * value for value in values] for values in (model.normalisation.mean, model.normalisation.std))

    def as_float() -> dict[str, Any]:
        return {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}

    def file(path: Path) -> dict[str, str]:
        return {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    image = {
        "id": INPUT,
        "description": "RGB image, 0 to 255; a grey image three times over",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["red", "green", "blue"]},
            *({"type": "space", "id": axis, "size": {"min": SMALLEST, "step": GRID}} for axis in "yx"),
        ],
        "data": {"type": "uint8", "range": [0, 255]},
        "preprocessing": [
            as_float(),
            {"id": "fixed_zero_mean_unit_variance", "kwargs": {"axis": "channel", "mean": mean, "std": std}},
            as_float(),
        ],
        "test_tensor": file(folder / "test_input.npy"),
    }
    probability = {
        "id": OUTPUT,
        "description": "Probability of nucleus; 0.5 or more is nucleus",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["nucleus"]},
            *({"type": "space", "id": axis, "size": {"tensor_id": INPUT, "axis_id": axis}, "halo": HALO} for axis in "yx"),
        ],
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": file(folder / "test_output.npy"),
    }
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": title(model.about),
        "description": "Nuclei of 2-D microscopy images, by a U-Net trained with celladapt for a domain that nobody had annotated",
        "authors": [{"name": name} for name in authors],
        **({"license": licence} if licence is not None else {}),
        "cite": [{"text": PAPER, "url": PAPER_URL}],
        "tags": _TAGS,
        "documentation": "README.md",
        "covers": ["cover.png"],
        "inputs": [image],
        "outputs": [probability],
        "weights": {"onnx": {**file(weights), "opset_version": OPSET}},
    }


def check_licence(name: str) -> None:
    """Raise InputError where ``name`` is no SPDX identifier of a licence."""
    if name not in {entry["licenseId"] for entry in optional("bioimageio.spec.utils", "Export", "export").get_spdx_licenses()["licenses"]}:
        raise InputError(f"--license {name} is no SPDX identifier of a licence; give one of https://spdx.org/licenses, such as CC-BY-4.0.")
