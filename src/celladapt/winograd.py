"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3) for float32 and bf16 on the CPU.

    Y = A' [ (G g G') ∘ (B' d B) ] A        (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8)

An image is cut into tiles d of 6 x 6 pixels that overlap by 2; each gives 4 x 4 pixels of the result. Summed over channels, the product ∘ is 36 matrix products
(torch does them), and what is left are the transforms, which numba compiles. Both gradients are of the same form: that of the image is the convolution with the
turned filter, that of the filter G' [ Σ_tiles (A y A') ∘ (B' d B) ] G.

Transforms are computed in float32, and what they give is kept in the type of the image, in which the products are. Rounding errors are some six times
those of a direct convolution: of the result's standard deviation a millionth in float32, 1.3 % in bf16.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numba import prange, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

POINTS = 36
"""Matrix products that stand in for one convolution: one for each pixel of a 6 x 6 tile."""
CHUNK = 2**20
"""Numbers of transformed image that are worked on at a time, 2 or 4 MiB: they stay in the cache from one stage to the next."""

Array = NDArray[np.float32 | np.uint16]
"""float32, or the bits of bf16, which numpy does not have."""
# Not every threading layer of numba bears two callers at once.
_one_caller = threading.Lock()
_compiled = numba.njit(parallel=True, cache=True, fastmath={"contract"}, error_model="numpy", boundscheck=False)
_inlined = numba.njit(inline="always", fastmath={"contract"})


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, above: int = 1) -> Tensor:
    """3x3 convolution of stride 1 with a column of zeros on either side.

    Args:
        x: [B, C, H, W] float32 or bf16 on the CPU, not empty; the products are of this type.
        weight: [K, C, 3, 3] float32 or bf16; its transform is of the type of ``x``.
        bias: [K], likewise, or None.
        above: rows of zeros above and below, 0 or 1; the gradients are of the convolution with 1.

    Returns:
        [B, K, H + 2 above - 2, W] of the type of ``x`` in channels-last layout.
    """
    offset = np.zeros(weight.shape[0], np.float32) if bias is None else bias.detach().float().numpy()
    with _threads():
        return _through(x, _transformed(weight, x.dtype, turned=False).transpose(1, 2), offset, above)


def image_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Of ``convolve`` with respect to ``x``: ``grad`` [B, K, H, W] and ``weight`` [K, C, 3, 3] -> [B, C, H, W], of the type of ``grad``, in channels-last layout."""
    with _threads():
        return _through(grad, _transformed(weight, grad.dtype, turned=True), np.zeros(weight.shape[1], np.float32), above=1)


def filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of ``convolve`` with respect to ``weight``: ``x`` [B, C, H, W] and ``grad`` [B, K, H, W] of one type -> [K, C, 3, 3] float32 in channels-last layout."""
    (b, c, h, w), k = x.shape, grad.shape[1]
    image, above = _channels_last(x), _channels_last(grad)
    result = torch.empty((k, c, 3, 3), memory_format=torch.channels_last)
    with _threads():
        for first, count in _chunks(b, h, w, c, k):
            v, m = (torch.empty(POINTS, count, channels, dtype=x.dtype) for channels in (c, k))
            _of_tiles(image, _array(v), first, 1)
            _of_pixels(above, _array(m), first)
            turned = m.transpose(1, 2)
            if first == 0:
                total = torch.bmm(turned, v)
            elif x.dtype == torch.float32:
                total.baddbmm_(turned, v)
            else:  # a sum in bf16 would lose what each chunk adds
                total = total.float().add_(torch.bmm(turned, v))
        _to_filters(_array(total), _channels_last(result))
    return result


def _through(x: Tensor, filters: Tensor, offset: Array, above: int) -> Tensor:
    """``x`` [B, C, H, W] and transformed ``filters`` [36, C, K] -> [B, K, H + 2 above - 2, W]."""
    (b, c, h, w), k = x.shape, filters.shape[2]
    h += 2 * above - 2
    image, result = _channels_last(x), torch.empty((b, k, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    pixels = _channels_last(result)
    for first, count in _chunks(b, h, w, c, k):
        v = torch.empty(POINTS, count, c, dtype=x.dtype)
        _of_tiles(image, _array(v), first, above)
        _to_pixels(_array(torch.bmm(v, filters)), offset, pixels, first)
    return result


def _transformed(weight: Tensor, dtype: torch.dtype, turned: bool) -> Tensor:
    """``weight`` [K, C, 3, 3] -> [36, K, C], of the filters turned by half a turn or as they are."""
    u = torch.empty(POINTS, *weight.shape[:2], dtype=dtype)
    _of_filters(_channels_last(weight), _array(u), turned)
    return u


def _chunks(b: int, h: int, w: int, c: int, k: int) -> Iterator[tuple[int, int]]:
    """(first tile, how many) so that their transforms fit the cache; where the transformed filters do not fit anyway, as large as those, lest they be read too often."""
    count = b * -(-h // 4) * -(-w // 4)
    step = max(1, max(CHUNK, POINTS * c * k) // (POINTS * max(c, k)))
    for first in range(0, count, step):
        yield first, min(step, count - first)


def _channels_last(x: Tensor) -> Array:
    """[B, H, W, C]; the memory of ``x`` itself where that is its layout."""
    return _array(x.detach().permute(0, 2, 3, 1).contiguous())


def _array(x: Tensor) -> Array:
    """The memory of ``x``."""
    array: Array = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    return array


@contextmanager
def _threads() -> Iterator[None]:
    """As many threads as torch uses, one caller at a time; products in the type of what they are of, whatever autocast says."""
    with _one_caller, torch.autocast("cpu", enabled=False):
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            numba.set_num_threads(before)


# The points of the interpolation are 0, a, -a, b, -b and infinity. 3/4 and 3/2 round half as coarsely as the usual 1 and 2. Of the type of the data: a Python
# number would make numba compute in float64.
_A, _B = 3 / 4, 3 / 2
_a1, _a2, _a3 = (np.float32(_A**n) for n in (1, 2, 3))
_b1, _b2, _b3 = (np.float32(_B**n) for n in (1, 2, 3))
_AABB, _AA_BB = np.float32(_A**2 * _B**2), np.float32(_A**2 + _B**2)
# Rows of G are (1, p, p²) over the product of p's distances from the other points.
_g0 = np.float32(1 / (_A**2 * _B**2))
_ga0, _ga1, _ga2 = (np.float32(_A**n / (2 * _A**2 * (_A**2 - _B**2))) for n in (0, 1, 2))
_gb0, _gb1, _gb2 = (np.float32(_B**n / (2 * _B**2 * (_B**2 - _A**2))) for n in (0, 1, 2))


@_inlined
def _b(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:  # B' of six values
    near, beside = d4 - _b2 * d2, _a1 * (d3 - _b2 * d1)
    far, aside = d4 - _a2 * d2, _b1 * (d3 - _a2 * d1)
    return _AABB * d0 - _AA_BB * d2 + d4, near + beside, near - beside, far + aside, far - aside, _AABB * d1 - _AA_BB * d3 + d5


@_inlined
def _a(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:  # A' of six values
    even, odd, far, wide = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + even + far, _a1 * odd + _b1 * wide, _a2 * even + _b2 * far, _a3 * odd + _b3 * wide + m5


@_inlined
def _a_turned(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:  # A of four values
    even, odd, far, wide = y0 + _a2 * y2, _a1 * y1 + _a3 * y3, y0 + _b2 * y2, _b1 * y1 + _b3 * y3
    return y0, even + odd, even - odd, far + wide, far - wide, y3


@_inlined
def _g(g0: Any, g1: Any, g2: Any) -> Any:  # G of three values
    near, beside, far, aside = _ga0 * g0 + _ga2 * g2, _ga1 * g1, _gb0 * g0 + _gb2 * g2, _gb1 * g1
    return _g0 * g0, near + beside, near - beside, far + aside, far - aside, g2


@_inlined
def _g_turned(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> Any:  # G' of six values
    near, far = u1 + u2, u3 + u4
    return _g0 * u0 + _ga0 * near + _gb0 * far, _ga1 * (u1 - u2) + _gb1 * (u3 - u4), _ga2 * near + _gb2 * far + u5


def _value(x: Any) -> Any:
    """A number of an array as float32."""


def _kept(x: Any, like: Any) -> Any:
    """A float32 as a number of the array ``like``, rounded to nearest, ties to even; of NaN those that arithmetic gives."""


@overload(_value, inline="always")
def _value_of(x):  # type: ignore[no-untyped-def]  # numba compares the signatures with those of what is returned
    if isinstance(x, types.Float):
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@overload(_kept, inline="always")
def _kept_in(x, like):  # type: ignore[no-untyped-def]
    if isinstance(like.dtype, types.Float):
        return lambda x, like: x

    def bf16(x, like):  # type: ignore[no-untyped-def]
        bits = np.float32(x).view(np.uint32)
        half = np.uint32(0x7FFF) + np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16(np.uint32(bits + half) >> np.uint32(16))

    return bf16


@_inlined
def _place(tile: int, h: int, w: int) -> tuple[int, int, int]:
    """Image, first row and first column of a tile's 4 x 4 pixels of a result of ``h`` x ``w``."""
    high, wide = (h + 3) // 4, (w + 3) // 4
    return tile // (high * wide), 4 * (tile // wide % high), 4 * (tile % wide)


@_compiled
def _of_tiles(image: Array, v: Array, first: int, above: int) -> None:
    """B' d B of the tiles from ``first`` on: ``image`` [B, H, W, C] -> ``v`` [36, tiles, C]."""
    _, h, w, channels = image.shape
    for tile in prange(v.shape[1]):
        n, top, left = _place(first + tile, h + 2 * above - 2, w)
        top, left = top - above, left - 1
        d = np.empty((6, 6, channels), np.float32)
        for j in range(6):
            x = left + j
            if x < 0 or x >= w:
                d[:, j] = 0
                continue
            if top >= 0 and top + 6 <= h:
                for c in range(channels):
                    d[0, j, c], d[1, j, c], d[2, j, c], d[3, j, c], d[4, j, c], d[5, j, c] = _b(
                        _value(image[n, top, x, c]), _value(image[n, top + 1, x, c]), _value(image[n, top + 2, x, c]),
                        _value(image[n, top + 3, x, c]), _value(image[n, top + 4, x, c]), _value(image[n, top + 5, x, c]),
                    )  # fmt: skip
                continue
            for i in range(6):
                if 0 <= top + i < h:
                    for c in range(channels):
                        d[i, j, c] = _value(image[n, top + i, x, c])
                else:
                    d[i, j] = 0
            for c in range(channels):
                d[0, j, c], d[1, j, c], d[2, j, c], d[3, j, c], d[4, j, c], d[5, j, c] = _b(
                    d[0, j, c], d[1, j, c], d[2, j, c], d[3, j, c], d[4, j, c], d[5, j, c]
                )
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                v0, v1, v2, v3, v4, v5 = _b(d[i, 0, c], d[i, 1, c], d[i, 2, c], d[i, 3, c], d[i, 4, c], d[i, 5, c])
                v[p, tile, c], v[p + 1, tile, c], v[p + 2, tile, c] = _kept(v0, v), _kept(v1, v), _kept(v2, v)
                v[p + 3, tile, c], v[p + 4, tile, c], v[p + 5, tile, c] = _kept(v3, v), _kept(v4, v), _kept(v5, v)


@_compiled
def _to_pixels(m: Array, bias: Array, image: Array, first: int) -> None:
    """A' m A + bias into the tiles from ``first`` on: ``m`` [36, tiles, K] -> ``image`` [B, H, W, K]."""
    _, h, w, channels = image.shape
    for tile in prange(m.shape[1]):
        n, top, left = _place(first + tile, h, w)
        e = np.empty((4, 6, channels), np.float32)
        for j in range(6):
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c], e[3, j, c] = _a(
                    _value(m[j, tile, c]),
                    _value(m[6 + j, tile, c]),
                    _value(m[12 + j, tile, c]),
                    _value(m[18 + j, tile, c]),
                    _value(m[24 + j, tile, c]),
                    _value(m[30 + j, tile, c]),
                )
        y = np.empty((4, channels), np.float32)
        for i in range(min(4, h - top)):
            for c in range(channels):
                y[0, c], y[1, c], y[2, c], y[3, c] = _a(e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c], e[i, 4, c], e[i, 5, c])
            for j in range(min(4, w - left)):
                for c in range(channels):
                    image[n, top + i, left + j, c] = _kept(y[j, c] + bias[c], image)


@_compiled
def _of_pixels(image: Array, m: Array, first: int) -> None:
    """A y A' of the tiles from ``first`` on: ``image`` [B, H, W, K] -> ``m`` [36, tiles, K]."""
    _, h, w, channels = image.shape
    for tile in prange(m.shape[1]):
        n, top, left = _place(first + tile, h, w)
        y = np.zeros((4, 4, channels), np.float32)
        for i in range(min(4, h - top)):
            for j in range(min(4, w - left)):
                for c in range(channels):
                    y[i, j, c] = _value(image[n, top + i, left + j, c])
        e = np.empty((6, 4, channels), np.float32)
        for j in range(4):
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c], e[3, j, c], e[4, j, c], e[5, j, c] = _a_turned(y[0, j, c], y[1, j, c], y[2, j, c], y[3, j, c])
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                m0, m1, m2, m3, m4, m5 = _a_turned(e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c])
                m[p, tile, c], m[p + 1, tile, c], m[p + 2, tile, c] = _kept(m0, m), _kept(m1, m), _kept(m2, m)
                m[p + 3, tile, c], m[p + 4, tile, c], m[p + 5, tile, c] = _kept(m3, m), _kept(m4, m), _kept(m5, m)


@_compiled
def _of_filters(filters: Array, u: Array, turned: bool) -> None:
    """G g G': ``filters`` [K, 3, 3, C] -> ``u`` [36, K, C]."""
    channels = filters.shape[3]
    start, step = (2, -1) if turned else (0, 1)
    for k in prange(filters.shape[0]):
        e = np.empty((6, 3, channels), np.float32)
        for j in range(3):
            x = start + step * j
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c], e[3, j, c], e[4, j, c], e[5, j, c] = _g(
                    _value(filters[k, start, x, c]), _value(filters[k, 1, x, c]), _value(filters[k, 2 - start, x, c])
                )
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                u0, u1, u2, u3, u4, u5 = _g(e[i, 0, c], e[i, 1, c], e[i, 2, c])
                u[p, k, c], u[p + 1, k, c], u[p + 2, k, c] = _kept(u0, u), _kept(u1, u), _kept(u2, u)
                u[p + 3, k, c], u[p + 4, k, c], u[p + 5, k, c] = _kept(u3, u), _kept(u4, u), _kept(u5, u)


@_compiled
def _to_filters(u: Array, filters: Array) -> None:
    """G' u G: ``u`` [36, K, C] -> ``filters`` [K, 3, 3, C]."""
    channels = filters.shape[3]
    for k in prange(filters.shape[0]):
        e = np.empty((3, 6, channels), np.float32)
        for j in range(6):
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c] = _g_turned(
                    _value(u[j, k, c]),
                    _value(u[6 + j, k, c]),
                    _value(u[12 + j, k, c]),
                    _value(u[18 + j, k, c]),
                    _value(u[24 + j, k, c]),
                    _value(u[30 + j, k, c]),
                )
        for i in range(3):
            for c in range(channels):
                filters[k, i, 0, c], filters[k, i, 1, c], filters[k, i, 2, c] = _g_turned(
                    e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c], e[i, 4, c], e[i, 5, c]
                )
