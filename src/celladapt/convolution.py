"""Torch's convolutions, with three changes for the CPU, where torch leaves time on the table. Everywhere else they are torch's own.

- 3x3 convolutions between enough channels go by Winograd's algorithm, where numba is installed (the extra ``cpu``). In bf16 it rounds more coarsely than torch does,
  by what docs/performance.md shows; a prediction goes that way there between 128 channels or more alone.
- The gradient of the filter in float32 is computed in contiguous layout where torch's best instructions are AVX2: there oneDNN is four times slower in channels-last.
- In prediction ReLU is part of the convolution before it, on x86 (``rectified``).

Winograd's has no second derivative; no layer of a discriminator goes that way.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ENOUGH_CHANNELS = {torch.float32: 32, torch.bfloat16: 64}  # with fewer the transforms cost more than the products save
_ENOUGH_TILES = 16  # with fewer the transform of the filters does
_ENOUGH_TO_PREDICT = {torch.float32: 48, torch.bfloat16: 128}  # channels, where there are no gradients, which gain the most
_ENOUGH_WORK = {torch.float32: 5e8, torch.bfloat16: 3e9}  # operations, in prediction: of a small image numba would take longer to load than it saves


@cache
def winograd(dtype: torch.dtype) -> ModuleType | None:
    """The module, or None where numba is not installed or does not work in ``dtype``, of which it warns."""
    if find_spec("numba") is None:
        return None
    threads = torch.get_num_threads()
    try:
        from celladapt import winograd as module

        module.convolve(torch.zeros(1, 1, 1, 1, dtype=dtype), torch.zeros(1, 1, 3, 3))
    except Exception as error:  # an installation can fail in many ways, and none may cost a run
        warnings.warn(f"numba does not work here, so convolutions are slower than they could be ({error}).", RuntimeWarning, stacklevel=2)
        return None
    finally:
        # Numba's threads, as they start, set the number of OpenMP's, which are torch's too: on it depend the last bits of what torch computes.
        torch.set_num_threads(threads)
    return module


def contiguous_is_faster() -> bool:
    """Whether the gradient of a filter is better computed in contiguous layout on this processor."""
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX2")


@cache
def bf16_gains() -> bool:
    """Whether fewer products in bf16 are worth transforms in float32 on this processor; not asked of those that multiply tiles (AMX), which was not tried."""
    return bool(torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported())


def pays(dtype: torch.dtype) -> bool:
    """Whether Winograd's algorithm is worth it in ``dtype`` on this processor, where numba is installed."""
    return dtype != torch.bfloat16 or bf16_gains()


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``; the same up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, K, H', W']."""
        dtype = _arithmetic(self, x)
        if dtype and (module := self._by_winograd(x, dtype)):
            if torch.is_grad_enabled():
                return _Winograd.apply(x.to(dtype), self.weight, self.bias, module)  # type: ignore[no-untyped-call, no-any-return]
            return module.convolve(x.to(dtype), self.weight, self.bias, self.padding[0])  # type: ignore[no-any-return]
        if dtype == torch.float32 and torch.is_grad_enabled() and contiguous_is_faster() and self.kernel_size != (1, 1):
            return _convolve(self, x, transposed=False)
        return super().forward(x)

    def _by_winograd(self, x: Tensor, dtype: torch.dtype) -> ModuleType | None:
        """What convolves ``x`` by Winograd's algorithm, where that is worth it."""
        return winograd(dtype) if self._suits_winograd(x, dtype) else None

    def _suits_winograd(self, x: Tensor, dtype: torch.dtype) -> bool:
        shape = (self.kernel_size, self.stride, self.padding[1:], self.dilation, self.groups, self.padding_mode)
        if shape != ((3, 3), (1, 1), (1,), (1, 1), 1, "zeros") or self.padding[0] not in (0, 1):
            return False
        if not pays(dtype):
            return False
        b, _, h, w = x.shape
        tiles, fewest = b * -(-h // 4) * -(-w // 4), min(self.in_channels, self.out_channels)
        if torch.is_grad_enabled():
            return self.padding[0] == 1 and fewest >= _ENOUGH_CHANNELS[dtype] and tiles >= _ENOUGH_TILES
        return fewest >= _ENOUGH_TO_PREDICT[dtype] and 2 * 9 * 16 * tiles * self.in_channels * self.out_channels >= _ENOUGH_WORK[dtype]


def rectified(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """ReLU of ``layer(x)``, up to rounding; without a second pass over the result where oneDNN convolves (x86) and no gradient is wanted.

    There what is no number becomes 0.
    """
    fits = _arithmetic(layer, x) == x.dtype == layer.weight.dtype and x.numel() > 0 and not torch.is_grad_enabled()
    if fits and _onednn_rectifies(x.dtype) and not (isinstance(layer, Conv2d) and layer._by_winograd(x, x.dtype)):
        geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, layer.weight, layer.bias, *geometry, "relu", [], "")
        return y
    return torch.relu_(layer(x))


def _onednn_rectifies(dtype: torch.dtype) -> bool:
    """Whether torch computes convolutions in ``dtype`` by oneDNN here and has the operator with which its own compiler asks for ReLU at the end of one."""
    return bool(
        torch.backends.mkldnn.enabled
        and torch.cpu._is_avx2_supported()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class ConvTranspose2d(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d``; the same up to rounding."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, H, W] -> [B, K, H', W']."""
        if output_size is None and _arithmetic(self, x) == torch.float32 and torch.is_grad_enabled() and contiguous_is_faster():
            return _convolve(self, x, transposed=True)
        return super().forward(x, output_size)


def _arithmetic(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> torch.dtype | None:
    """float32 or bf16, in which ``layer`` computes plainly on the CPU, if it is of a kind that the networks here have; else None."""
    weight, cast = layer.weight, torch.is_autocast_enabled("cpu")
    known = (torch.float32, torch.bfloat16)
    if (
        x.device.type == weight.device.type == "cpu"
        and x.dtype in known
        and weight.dtype in known
        and (cast or x.dtype == weight.dtype)
        and not (weight.dtype == torch.bfloat16 and torch.is_grad_enabled())  # its gradient would have to be bf16, as it is nowhere here
        and x.ndim == 4
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    ):
        dtype = torch.get_autocast_dtype("cpu") if cast else x.dtype
        return dtype if dtype in known else None
    return None


def _convolve(layer: Conv2d | ConvTranspose2d, x: Tensor, transposed: bool) -> Tensor:
    geometry = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, layer.groups)
    y: Tensor = _Convolution.apply(x, layer.weight, layer.bias, geometry)  # type: ignore[no-untyped-call]
    return y


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, module: ModuleType) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.module = module
        y: Tensor = module.convolve(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (
            ctx.module.image_gradient(grad, weight) if ctx.needs_input_grad[0] else None,
            ctx.module.filter_gradient(x, grad) if ctx.needs_input_grad[1] else None,
            grad.sum((0, 2, 3), dtype=torch.float32) if ctx.needs_input_grad[2] else None,
            None,
        )


class _Convolution(torch.autograd.Function):
    # ``backward`` is itself of differentiable functions, so a gradient penalty can go through it.

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        y: Tensor = torch.ops.aten.convolution(x, weight, bias, *geometry)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, *of_filter = ctx.needs_input_grad[:3]
        backward = torch.ops.aten.convolution_backward
        grad_x = backward(grad, x, weight, None, *ctx.geometry, [True, False, False])[0] if of_x else None
        if not any(of_filter):
            return grad_x, None, None, None
        grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
        sizes = [weight.shape[1 if ctx.geometry[3] else 0]]
        _, grad_weight, grad_bias = backward(grad, x, weight, sizes, *ctx.geometry, [False, *of_filter])
        return grad_x, grad_weight, grad_bias, None
