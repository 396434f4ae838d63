"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3) for float32 on the CPU.

    Y = A' [ (G g G') ∘ (B' d B) ] A        (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, eq. 8)

An image is cut into tiles d of 6 x 6 pixels that overlap by 2; each gives 4 x 4 pixels of the result. Summed over channels, the product ∘ is 36 matrix products
(torch does them), and what is left are the transforms, which numba compiles. Both gradients are of the same form: that of the image is the convolution with the
turned filter, that of the filter G' [ Σ_tiles (A y A') ∘ (B' d B) ] G. Rounding errors are some ten times those of a direct convolution in float32, a hundredth of
those of bf16.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

POINTS = 36
"""Matrix products that stand in for one convolution: one for each pixel of a 6 x 6 tile."""
CHUNK = 2**20
"""Floats of transformed image that are worked on at a time, 4 MiB: they stay in the cache from one stage to the next."""

Array = NDArray[np.float32]
# Not every threading layer of numba bears two callers at once.
_one_caller = threading.Lock()
_compiled = numba.njit(parallel=True, cache=True, fastmath={"contract"}, error_model="numpy", boundscheck=False)
_inlined = numba.njit(inline="always", fastmath={"contract"})


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, above: int = 1) -> Tensor:
    """3x3 convolution of stride 1 with a column of zeros on either side.

    Args:
        x: [B, C, H, W] float32 on the CPU, any size.
        weight: [K, C, 3, 3] float32.
        bias: [K] or None.
        above: rows of zeros above and below, 0 or 1; the gradients are of the convolution with 1.

    Returns:
        [B, K, H + 2 above - 2, W] in channels-last layout.
    """
    offset = np.zeros(weight.shape[0], np.float32) if bias is None else bias.detach().numpy()
    with _threads():
        return _through(x, _transformed(weight, turned=False).transpose(1, 2), offset, above)


def image_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Of ``convolve`` with respect to ``x``: ``grad`` [B, K, H, W] and ``weight`` [K, C, 3, 3] -> [B, C, H, W] in channels-last layout."""
    with _threads():
        return _through(grad, _transformed(weight, turned=True), np.zeros(weight.shape[1], np.float32), above=1)


def filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of ``convolve`` with respect to ``weight``: ``x`` [B, C, H, W] and ``grad`` [B, K, H, W] -> [K, C, 3, 3] in channels-last layout."""
    (b, c, h, w), k = x.shape, grad.shape[1]
    image, above = _channels_last(x), _channels_last(grad)
    result = torch.empty((k, c, 3, 3), memory_format=torch.channels_last)
    with _threads():
        total = torch.empty(POINTS, k, c)
        for first, count in _chunks(b, h, w, c, k):
            v, m = torch.empty(POINTS, count, c), torch.empty(POINTS, count, k)
            _of_tiles(image, v.numpy(), first, 1)
            _of_pixels(above, m.numpy(), first)
            total.baddbmm_(m.transpose(1, 2), v, beta=float(first > 0))  # beta 0 does not read what was there
        _to_filters(total.numpy(), _channels_last(result))
    return result


def _through(x: Tensor, filters: Tensor, offset: Array, above: int) -> Tensor:
    """``x`` [B, C, H, W] and transformed ``filters`` [36, C, K] -> [B, K, H + 2 above - 2, W]."""
    (b, c, h, w), k = x.shape, filters.shape[2]
    h += 2 * above - 2
    image, result = _channels_last(x), torch.empty((b, k, h, w), memory_format=torch.channels_last)
    pixels = _channels_last(result)
    for first, count in _chunks(b, h, w, c, k):
        v = torch.empty(POINTS, count, c)
        _of_tiles(image, v.numpy(), first, above)
        _to_pixels(torch.bmm(v, filters).numpy(), offset, pixels, first)
    return result


def _transformed(weight: Tensor, turned: bool) -> Tensor:
    """``weight`` [K, C, 3, 3] -> [36, K, C], of the filters turned by half a turn or as they are."""
    u = torch.empty(POINTS, *weight.shape[:2])
    _of_filters(_channels_last(weight), u.numpy(), turned)
    return u


def _chunks(b: int, h: int, w: int, c: int, k: int) -> Iterator[tuple[int, int]]:
    """(first tile, how many) so that their transforms fit the cache; where the transformed filters do not fit anyway, as large as those, lest they be read too often."""
    count = b * -(-h // 4) * -(-w // 4)
    step = max(1, max(CHUNK, POINTS * c * k) // (POINTS * max(c, k)))
    for first in range(0, count, step):
        yield first, min(step, count - first)


def _channels_last(x: Tensor) -> Array:
    """[B, H, W, C]; the memory of ``x`` itself where that is its layout."""
    array: Array = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
    return array


@contextmanager
def _threads() -> Iterator[None]:
    """As many threads as torch uses, one caller at a time."""
    with _one_caller:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            yield
        finally:
            numba.set_num_threads(before)


# Of the type of the data: a Python number would make numba compute in float64.
_2, _4, _5, _8 = np.float32(2), np.float32(4), np.float32(5), np.float32(8)
_QUARTER, _SIXTH, _12TH, _24TH = np.float32(1 / 4), np.float32(1 / 6), np.float32(1 / 12), np.float32(1 / 24)


@_inlined
def _b(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:  # B' of six values
    even, odd, low, high = d4 - _4 * d2, d3 - _4 * d1, d4 - d2, _2 * (d3 - d1)
    return _4 * d0 - _5 * d2 + d4, even + odd, even - odd, low + high, low - high, _4 * d1 - _5 * d3 + d5


@_inlined
def _a(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:  # A' of six values
    even, odd, far, wide = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + even + far, odd + _2 * wide, even + _4 * far, odd + _8 * wide + m5


@_inlined
def _a_turned(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:  # A of four values
    even, odd, far, wide = y0 + y2, y1 + y3, y0 + _4 * y2, _2 * y1 + _8 * y3
    return y0, even + odd, even - odd, far + wide, far - wide, y3


@_inlined
def _g(g0: Any, g1: Any, g2: Any) -> Any:  # G of three values
    outer, near, far = _SIXTH * (g0 + g2), _24TH * g0 + _SIXTH * g2, _12TH * g1
    return _QUARTER * g0, -outer - _SIXTH * g1, _SIXTH * g1 - outer, near + far, near - far, g2


@_inlined
def _g_turned(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> Any:  # G' of six values
    inner, far = _SIXTH * (u1 + u2), u3 + u4
    return _QUARTER * u0 - inner + _24TH * far, _SIXTH * (u2 - u1) + _12TH * (u3 - u4), _SIXTH * far - inner + u5


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
                        image[n, top, x, c], image[n, top + 1, x, c], image[n, top + 2, x, c],
                        image[n, top + 3, x, c], image[n, top + 4, x, c], image[n, top + 5, x, c],
                    )  # fmt: skip
                continue
            for i in range(6):
                if 0 <= top + i < h:
                    d[i, j] = image[n, top + i, x]
                else:
                    d[i, j] = 0
            for c in range(channels):
                d[0, j, c], d[1, j, c], d[2, j, c], d[3, j, c], d[4, j, c], d[5, j, c] = _b(
                    d[0, j, c], d[1, j, c], d[2, j, c], d[3, j, c], d[4, j, c], d[5, j, c]
                )
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                v[p, tile, c], v[p + 1, tile, c], v[p + 2, tile, c], v[p + 3, tile, c], v[p + 4, tile, c], v[p + 5, tile, c] = _b(
                    d[i, 0, c], d[i, 1, c], d[i, 2, c], d[i, 3, c], d[i, 4, c], d[i, 5, c]
                )


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
                    m[j, tile, c], m[6 + j, tile, c], m[12 + j, tile, c], m[18 + j, tile, c], m[24 + j, tile, c], m[30 + j, tile, c]
                )
        y = np.empty((4, channels), np.float32)
        for i in range(min(4, h - top)):
            for c in range(channels):
                y[0, c], y[1, c], y[2, c], y[3, c] = _a(e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c], e[i, 4, c], e[i, 5, c])
            for j in range(min(4, w - left)):
                for c in range(channels):
                    image[n, top + i, left + j, c] = y[j, c] + bias[c]


@_compiled
def _of_pixels(image: Array, m: Array, first: int) -> None:
    """A y A' of the tiles from ``first`` on: ``image`` [B, H, W, K] -> ``m`` [36, tiles, K]."""
    _, h, w, channels = image.shape
    for tile in prange(m.shape[1]):
        n, top, left = _place(first + tile, h, w)
        y = np.zeros((4, 4, channels), np.float32)
        for i in range(min(4, h - top)):
            for j in range(min(4, w - left)):
                y[i, j] = image[n, top + i, left + j]
        e = np.empty((6, 4, channels), np.float32)
        for j in range(4):
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c], e[3, j, c], e[4, j, c], e[5, j, c] = _a_turned(y[0, j, c], y[1, j, c], y[2, j, c], y[3, j, c])
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                m[p, tile, c], m[p + 1, tile, c], m[p + 2, tile, c], m[p + 3, tile, c], m[p + 4, tile, c], m[p + 5, tile, c] = _a_turned(
                    e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c]
                )


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
                    filters[k, start, x, c], filters[k, 1, x, c], filters[k, 2 - start, x, c]
                )
        for i in range(6):
            p = 6 * i
            for c in range(channels):
                u[p, k, c], u[p + 1, k, c], u[p + 2, k, c], u[p + 3, k, c], u[p + 4, k, c], u[p + 5, k, c] = _g(e[i, 0, c], e[i, 1, c], e[i, 2, c])


@_compiled
def _to_filters(u: Array, filters: Array) -> None:
    """G' u G: ``u`` [36, K, C] -> ``filters`` [K, 3, 3, C]."""
    channels = filters.shape[3]
    for k in prange(filters.shape[0]):
        e = np.empty((3, 6, channels), np.float32)
        for j in range(6):
            for c in range(channels):
                e[0, j, c], e[1, j, c], e[2, j, c] = _g_turned(
                    u[j, k, c], u[6 + j, k, c], u[12 + j, k, c], u[18 + j, k, c], u[24 + j, k, c], u[30 + j, k, c]
                )
        for i in range(3):
            for c in range(channels):
                filters[k, i, 0, c], filters[k, i, 1, c], filters[k, i, 2, c] = _g_turned(
                    e[i, 0, c], e[i, 1, c], e[i, 2, c], e[i, 3, c], e[i, 4, c], e[i, 5, c]
                )
