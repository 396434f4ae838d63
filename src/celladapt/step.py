"""One training step: a method's turns in order, S run once for all of them. A method's equations are in its file, not here."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from celladapt import parallel
from celladapt.batch import Batch
from celladapt.errors import InputError
from celladapt.losses import Domain, cross_entropy_loss
from celladapt.methods import Method, Term, Terms
from celladapt.parallel import sum_over_processes

Optimizers = Mapping[str, torch.optim.Optimizer]
Arithmetic = Callable[[], AbstractContextManager[Any]]


def take_step(
    method: Method,
    batch: Batch,
    optimizers: Optimizers,
    arithmetic: Arithmetic = nullcontext,
    teacher: nn.Module | None = None,
    lambda_bce: float = 0.0,
) -> dict[str, float]:
    """One training step: every turn of ``method``, in order.

    S runs once per image. In a turn that does not move S its predictions and features are cut from the graph; since S has not moved and has
    no dropout, they are what a second run would give, and every network that the turn does not move is frozen.

    Args:
        method: networks on the batch's device, in training mode.
        batch: images and masks, see ``Batch``.
        optimizers: one for each network, by name.
        arithmetic: context of the forward passes (bf16 autocast or nothing).
        teacher: predicts ``batch.image_t`` where the method is taught; in training mode, and not moved here.
        lambda_bce: weight of the cross-entropy that joins the terms of a method with target masks, or what may stand for them, wherever S moves; 0 leaves it out.

    Returns:
        Log name -> value of each term, unweighted.

    Raises:
        InputError: a term is NaN or infinite; nothing has moved in its turn.
    """
    networks = method.networks
    networks["S"].requires_grad_(True)
    if method.taught:
        assert teacher is not None
        with torch.no_grad(), arithmetic():
            batch = replace(batch, teacher_t=teacher(batch.image_t))
    batch = method.taken(batch)
    with arithmetic():
        if method.features:  # which are of both domains
            (p_s, features_s), (p_t, features_t) = (networks["S"](images, features=True) for images in (batch.image_s, batch.image_t))
            batch = replace(batch, features_s=features_s, features_t=features_t)
        else:
            p_s = _run(networks["S"], batch.image_s, Domain.SOURCE in method.reads)
            p_t = _run(networks["S"], batch.image_t, Domain.TARGET in method.reads)
    batch = replace(batch, source_weight=method.source_weight(batch, p_s.detach()))
    values: dict[str, float] = {}
    for turn in method.turns:
        for name, network in networks.items():
            network.requires_grad_(name in turn.moves)
        seen = (batch, p_s, p_t) if "S" in turn.moves else (batch.cut(), p_s.detach(), p_t.detach())
        with arithmetic():
            terms = turn.terms(*seen)
        if "S" in turn.moves and has_cross_entropy(method, lambda_bce):
            terms |= {"bce": Term(lambda_bce, mask_cross_entropy(batch, p_t))}
        finite = _sent(terms)
        for name in turn.moves:
            optimizers[name].zero_grad()
        torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        values |= finite()
        parallel.average_gradients(parameter for name in turn.moves for parameter in networks[name].parameters())
        for name in turn.moves:
            optimizers[name].step()
    return values


CROSS_ENTROPY = {"bce": "L_bce: cross-entropy of S against the masks of the target, or what stands for them, pixel by pixel"}
"""As in ``Method.equations``."""


def has_cross_entropy(method: Method, lambda_bce: float) -> bool:
    """Whether L_bce joins the terms of S: of a method that is given target masks or what may stand for them, unless its weight is 0."""
    return (method.target_masks or method.classical) and lambda_bce > 0


def mask_cross_entropy(b: Batch, p_t: Tensor) -> Tensor:
    """L_bce of S against the masks of the target that the method is given or takes.

    Not against those of the source: cross-entropy also teaches how common nuclei are, which need not be so in the target.
    """
    return cross_entropy_loss(p_t, b.mask_t, b.labelled_t, sum_over_processes)


def _run(network: nn.Module, images: Tensor, read: bool) -> Tensor:
    return network(images) if read else images[:, :1]


def _sent(terms: Terms) -> Callable[[], dict[str, float]]:
    """Send the values of ``terms`` to the host; what is returned waits for them, and on a GPU for nothing that was begun after them.

    So the GPU has the backward pass to work on while the host reads the values and goes on.
    """
    numbers = torch.stack([term.value.detach() for term in terms.values()])  # one message, not one a term
    sent = numbers.to("cpu", non_blocking=True)
    arrival = torch.cuda.current_stream(numbers.device).record_event() if numbers.is_cuda else None

    def finite() -> dict[str, float]:
        if arrival is not None:
            arrival.synchronize()
        values: dict[str, float] = dict(zip(terms, sent.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise InputError(f"The loss term '{name}' became {value}; lower the learning rates (--lr-s, --lr-d) or use --precision float32.")
        return values

    return finite
