"""Small batches and methods for the tests of training."""

import copy
from dataclasses import fields, replace

import torch
from torch import nn

from celladapt import methods
from celladapt.batch import Batch
from celladapt.config import Config, MethodSpec
from celladapt.methods import Method
from celladapt.train import make_optimizers, take_step


def make_batch(size: int = 4, side: int = 32, seed: int = 0, labelled: tuple[bool, ...] = (), dtype: torch.dtype = torch.float32) -> Batch:
    """Random images and blobby masks; source and target of the same size."""
    g = torch.Generator().manual_seed(seed)
    flags = torch.tensor([*labelled, *[False] * (size - len(labelled))])
    image_s, image_t = torch.randn(2, size, 3, side, side, generator=g, dtype=dtype)
    mask_s, mask_t = (torch.rand(2, size, 1, side, side, generator=g) > 0.7).to(dtype)
    classical_t = (torch.rand(size, 1, side, side, generator=g) > 0.7).to(dtype)
    return Batch(image_s, mask_s, image_t, mask_t * flags.view(-1, 1, 1, 1), flags, classical_t, torch.ones(size, dtype=torch.bool))


def part(batch: Batch, chosen: slice) -> Batch:
    """Some images of a batch."""
    return replace(batch, **{f.name: value[chosen] for f in fields(batch) if isinstance(value := getattr(batch, f.name), torch.Tensor)})


def teacher_of(method: Method) -> nn.Module:
    """What the loop would average the weights of S into."""
    return copy.deepcopy(method.networks["S"]).requires_grad_(False)


def make_method(name: str, width: int = 4, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    method = methods.build(MethodSpec.parse(name), width)
    method.networks.train()
    return method


def step(method: Method, *batches: Batch, config: Config | None = None) -> list[dict[str, float]]:
    optimizers = make_optimizers(method, config or Config())
    return [take_step(method, batch, optimizers, teacher=teacher_of(method)) for batch in batches]
