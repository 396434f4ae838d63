"""One or many processes, same mathematics: N processes of batch B step exactly like one process of batch N·B. (What is re-estimated at a validation is so in batches of B.)

Launched by ``torchrun`` or ``accelerate launch``; a plain ``python`` or ``celladapt`` is one process and every function here is then free.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from celladapt.errors import InputError

CPU = torch.device("cpu")


def start(device: torch.device = CPU) -> None:
    """Join the process group, to compute on ``device``, if a launcher started this process (it sets RANK and WORLD_SIZE)."""
    if launched() and not dist.is_initialized():
        gpu = device.type == "cuda"
        if gpu and not dist.is_nccl_available():
            raise InputError(
                "Several GPUs need NCCL, which this torch lacks (on Windows it has none; WSL does); start one process, or use --device cpu."
            )
        if gpu:
            torch.cuda.set_device(device)
        # The others wait while process 0 validates and evaluates, however long that takes.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(days=1))


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number, 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Hold until every process is here."""
    if world_size() > 1:
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true on any process; every process gets the same answer."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(float(flag))
    if dist.get_backend() == "nccl":
        votes = votes.cuda()
    dist.all_reduce(votes)
    return bool(votes > 0)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        # Every process's loss depends on this process's x, so its gradient is the sum of all of theirs.
        return _SumOverProcesses.forward(ctx, grads[0].contiguous())


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of ``x`` (any shape, the same on each) over all processes, differentiable; ``x`` itself when there is only one."""
    return x if world_size() == 1 else _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, in one flat message however many networks the parameters are of."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world_size()
    for g, mean in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        g.copy_(mean.view_as(g))


@cache
def _normalise() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """What torch.compile leaves alone; made at its first use, because that loads the compiler."""
    return torch.compiler.disable(_Normalise.apply)  # type: ignore[no-any-return, no-untyped-call]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The normalised x, and count, mean and variance (biased) over all processes.
        channels = x.shape[1]
        unused = torch.zeros(2, channels, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)  # whose dtype the statistics take
        mine = torch.cat([unused.new_full((1,), x.numel() // channels), *torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)])
        everyone = mine.new_empty(world_size(), len(mine))
        dist.all_gather(list(everyone), mine)
        counts, means, variances = torch.split(everyone, [1, channels, channels], dim=1)
        # Chan's formula: squares about each process's own mean keep their digits where the mean is large.
        n = counts.sum()
        mean = (counts * means).sum(0) / n
        var = (counts * (variances + (means - mean).square())).sum(0) / n
        ctx.save_for_backward(x, weight, n, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(n, mean, var)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), n, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # With z the normalised x before weight and bias:  dx = weight / std · (dy - Σ dy / n - z · Σ (dy · z) / n), sums over all processes.
        x, weight, n, mean, invstd = ctx.saved_tensors
        # Of this process alone the two sums are the gradients of weight and bias; ``average_gradients`` sees to the others.
        sums = torch.ops.aten.native_batch_norm_backward(dy, x, weight, None, None, mean, invstd, True, 0.0, [False, True, True])[1:]
        total = torch.cat(sums)
        dist.all_reduce(total)
        sum_dyz, sum_dy = total.chunk(2)
        of_dy = weight * invstd
        of_x = -of_dy * invstd * sum_dyz / n
        constant = -of_dy * sum_dy / n - of_x * mean
        dx = torch.addcmul(_per_channel(constant), x, _per_channel(of_x)).addcmul_(dy, _per_channel(of_dy))
        return dx.to(x.dtype), *sums, None


def _per_channel(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, one message each way; ``torch.nn.BatchNorm2d`` when there is only one.

    Torch's SyncBatchNorm runs on GPUs only; this one runs anywhere and keeps the two-process test honest.
    """

    across_processes = True
    """Set to False on a copy that one process uses while the others do something else."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, C, H, W] -> the same shape, normalised per channel."""
        if not self.training or not self.across_processes or world_size() == 1:
            return super().forward(x)
        y: Tensor
        y, n, mean, var = _normalise()(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * n / (n - 1)).to(self.running_var.dtype), momentum)
        return y
