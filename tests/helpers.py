"""Small batches, methods, models and images for the tests."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import celladapt
from celladapt import methods, side_by_side
from celladapt.batch import Batch
from celladapt.config import Config, MethodSpec
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.methods import Method
from celladapt.model import Model
from celladapt.networks import Segmenter, UNet
from celladapt.run import Run
from celladapt.step import take_step
from celladapt.train import make_optimizers


def make_batch(size: int = 4, side: int = 32, seed: int = 0, labelled: tuple[bool, ...] = (), dtype: torch.dtype = torch.float32) -> Batch:
    """Random images and blobby masks; source and target of the same size."""
    g = torch.Generator().manual_seed(seed)
    flags = torch.tensor([*labelled, *[False] * (size - len(labelled))])
    image_s, image_t = torch.randn(2, size, 3, side, side, generator=g, dtype=dtype)
    mask_s, mask_t = (torch.rand(2, size, 1, side, side, generator=g) > 0.7).to(dtype)
    classical_t = (torch.rand(size, 1, side, side, generator=g) > 0.7).to(dtype)
    every = torch.ones(size, dtype=torch.bool)
    return Batch(
        image_s,
        mask_s,
        image_t,
        mask_t * flags.view(-1, 1, 1, 1),
        flags,
        classical_t,
        plausible_t=every,
        stands_t=~every,
        trust_t=torch.full((size,), 0.5),
    )


def part(batch: Batch, chosen: slice) -> Batch:
    """Some images of a batch."""
    return replace(
        batch, **{f.name: value[chosen] for f in fields(batch) if isinstance(value := getattr(batch, f.name), torch.Tensor) and value.ndim}
    )


def teacher_of(method: Method) -> nn.Module:
    """What the loop would average the weights of S into."""
    return copy.deepcopy(method.networks["S"]).requires_grad_(False)


def make_method(name: str, width: int = 4, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    method = methods.build(MethodSpec.parse(name), width)
    method.networks.train()
    return method


def step(method: Method, *batches: Batch, config: Config | None = None, lambda_bce: float = 0.0) -> list[dict[str, float]]:
    optimizers = make_optimizers(method, config or Config())
    return [take_step(method, batch, optimizers, teacher=teacher_of(method), lambda_bce=lambda_bce) for batch in batches]


NORMALISATION = Normalisation((0.5, 0.4, 0.6), (0.2, 0.3, 0.25))


def spread_model(normalisation: Normalisation = NORMALISATION, **about: Any) -> Model:
    """A segmenter with random weights and random batch-normalisation statistics, whose probabilities are spread over most of [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Segmenter(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.05, 0.2, generator=generator)
    network.eval()
    with torch.no_grad():
        logits = UNet.forward(network, normalisation(picture(0, 128, 128))[None])
        network.head.bias -= logits.mean()
        network.head.weight *= 2 / logits.std()
        network.head.bias *= 2 / logits.std()
    return Model(network, normalisation, {"method": "none", **about}, "float32")


def picture(seed: int, h: int, w: int, dtype: type = np.uint8) -> NDArray[np.generic]:
    """Blurred noise, so that there is something at every scale."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    field = sum(ndimage.gaussian_filter(rng.normal(size=(h, w, 3)), (s, s, 0), mode="nearest") * s for s in (1, 4, 16))
    unit = (field - field.min()) / (np.ptp(field) or 1)
    return (unit * np.iinfo(dtype).max).round().astype(dtype)  # type: ignore[type-var]


def in_this_process(runs: Mapping[str, Run], jobs: int) -> Iterator[tuple[str, side_by_side.Failure | None]]:
    """As `side_by_side.carry_out_all`, without the seconds that each process takes to start."""
    for name, run in runs.items():
        if not run.finished:
            try:
                celladapt.resume(run.path)
            except InputError as error:
                yield name, side_by_side.Failure(str(error), ours=False)
            else:
                yield name, None
