"""A trained model for other programs: one ONNX file, or a package of the BioImage Model Zoo."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from celladapt.card import facts
from celladapt.errors import InputError, optional
from celladapt.files import atomic
from celladapt.loading import load_model, load_weights
from celladapt.model import Model
from celladapt.onnx_graph import as_onnx
from celladapt.onnx_model import OnnxModel
from celladapt.run import Run
from celladapt.zoo import check_licence, write_package

Format = Literal["onnx", "bioimageio"]
SUFFIX = {"onnx": ".onnx", "bioimageio": ".zip"}
_LARGEST_DIFFERENCE = 1e-3  # of a probability; rounding makes 1e-6


def export(
    model: Model | Run | str | Path,
    to: str,
    out: str | Path,
    license: str | None = None,
    authors: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a model for other programs, and check that ONNX Runtime computes from it what torch does.

    ``onnx`` is one file from normalised images [N, 3, H, W] to probabilities of nucleus [N, 1, H, W], float32, H and W multiples of 16; with its header it is
    a model for ``load_model`` too. ``bioimageio`` is a zip with that file, its description, the model card, a cover and a drawn test image, which
    bioimageio.core has tested. Neither holds an image, a path or an image's name of the user's.

    Args:
        model: a model, a run (as an object, or its folder), or a ``.safetensors`` file.
        to: "onnx" or "bioimageio".
        out: file to make, ending in .onnx or .zip.
        license: SPDX identifier of the model's licence, such as CC-BY-4.0, for ``bioimageio``. There is no default: only who trained a model, and knows what
            the training images allow, can license it.
        authors: names of who made the model, for ``bioimageio``; none by default.
        overwrite: whether ``out`` may be replaced.

    Returns:
        ``out``.

    Raises:
        InputError: no such format or licence, ``out`` exists or has another ending, a library is missing, or the model is damaged; then nothing is written.
        RuntimeError: what was written does not compute the same.
    """
    out = Path(out)
    if to not in get_args(Format):
        raise InputError(f"--to is '{to}'; choose one of {', '.join(get_args(Format))}.")
    if out.suffix.lower() != SUFFIX[to]:
        raise InputError(f"{out} does not end in {SUFFIX[to]}, as --to {to} needs it; give another --out.")
    if out.is_dir():
        raise InputError(f"{out} is a folder; choose another --out.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another --out, or --overwrite to replace it.")
    if to == "onnx" and (license is not None or authors):
        raise InputError("--license and --author go into a BioImage Model Zoo package alone; leave them out, or use --to bioimageio.")
    for library in ("onnx", "onnxruntime", *(["bioimageio.core"] if to == "bioimageio" else [])):
        optional(library, "Export", "export")
    if license is not None:
        check_licence(license)
    loaded = _loaded(model)
    with atomic(out) as temporary:
        if to == "onnx":
            _write_onnx(temporary, loaded)
        else:
            with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", suffix=".part", dir=out.parent) as folder:
                weights, package = Path(folder) / "weights.onnx", Path(folder) / "package.zip"
                write_package(package, weights, _write_onnx(weights, loaded), license, authors)
                package.replace(temporary)
    return out


def _loaded(model: Model | Run | str | Path) -> Model:
    """The model with all that is known of it."""
    if isinstance(model, Model):  # a GPU may round to fewer digits than ONNX Runtime
        return replace(model, network=copy.deepcopy(model.network).cpu(), precision="float32")
    path = model.path if isinstance(model, Run) else Path(model)
    loaded = load_weights(path, "cpu", "float32")
    # A run of an earlier version knows more than the header of its model.
    return replace(loaded, about={**loaded.about, **facts(path)}) if (path / "run.json").is_file() else loaded


def _write_onnx(path: Path, model: Model) -> OnnxModel:
    """Write ``model`` to ``path``, read it back, and compare."""
    onnx = optional("onnx", "Export", "export")
    onnx.save(as_onnx(model.network, model.normalisation, model.header), path)
    written = load_model(path)
    assert isinstance(written, OnnxModel)
    _compare(model, written)
    return written


@torch.inference_mode()
def _compare(model: Model, written: OnnxModel) -> None:
    """Raise RuntimeError where the two do not agree on noise, of odd sides and in a batch, and InputError where there is nothing to agree on."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (77, 131, 3)).astype(np.uint8)
    exact = Model(model.network, model.normalisation, precision="float32")
    pairs = [(exact.probability(image), written.probability(image))]
    batch = torch.stack([model.normalisation(image[:48, :80]), model.normalisation(image[20:68, 40:120])])
    pairs.append((model.network(batch.to(model.device)).cpu().numpy(), written.network(batch).numpy()))
    if not np.isfinite(pairs[0][0]).all():
        raise InputError("The model predicts values that are not numbers: its training diverged or its file is damaged; give another one.")
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    if not difference <= _LARGEST_DIFFERENCE:
        raise RuntimeError(f"ONNX Runtime computes something else than torch: probabilities differ by up to {difference:.3g}.")
