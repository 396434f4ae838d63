"""S over an image of any height, a strip of rows at a time: what the whole image would give, in the memory of a strip, with nothing computed twice.

A 3x3 convolution looks one row up and down. So what it gives lags one row behind what it is given, and it keeps two rows for the strip that follows.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from celladapt.convolution import rectified
from celladapt.networks import DEPTH, REACH, DoubleConv, Segmenter

GRID: int = 2**DEPTH
HALO: int = -(-REACH // GRID) * GRID
"""Pixels around a part of an image on which what is told of it depends, in whole steps of the grid."""
SMALLEST = 2 * GRID
LAG = GRID - 2
"""Rows that the first strip is longer than the others: two convolutions lag two rows, so that at every level an even number of rows is left to pool."""

Part = list[Tensor]
"""Some channels of an input, in pieces [1, C, rows, W] one below the other."""


def reflected(h: int, w: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of an image as ``networks.pad_to_multiple`` would grow it."""
    down, right = -h % GRID, -w % GRID
    mode: Literal["reflect", "edge"] = "reflect" if down < h and right < w else "edge"
    return np.pad(np.arange(h), (0, down), mode), np.pad(np.arange(w), (0, right), mode)


def spans(height: int, rows: int) -> list[slice]:
    """Strips of ``rows`` (a multiple of 16 from ``SMALLEST`` on), the first one longer by ``LAG``, that cover ``height`` (a multiple of 16)."""
    ends = [*range(rows + LAG, height, rows), height]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class InStrips:
    """The pass of ``network`` over one image.

    Args:
        network: see ``networks.folded``; its weights are shared, not copied.
    """

    def __init__(self, network: Segmenter) -> None:
        self.network = network
        self.down = [_Block(block) for block in network.down]  # type: ignore[arg-type]
        self.merge = [_Block(block) for block in network.merge]  # type: ignore[arg-type]
        self.skips: list[list[Tensor]] = [[] for _ in network.merge]

    def __call__(self, strips: Iterable[Tensor], count: int) -> Iterator[Tensor]:
        """Probabilities in [0, 1] of all rows, in order, as they are ready.

        Args:
            strips: normalised images [1, 3, rows, W] that ``spans`` cut, from the top; W is a multiple of 16.
            count: how many.

        Yields:
            [rows, W] float32.
        """
        for number, strip in enumerate(strips, start=1):
            y = self._level(0, strip, last=number == count)
            if y.shape[2]:
                logits = self.network.head(y)
                yield torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))[0, 0]

    def _level(self, level: int, x: Tensor, last: bool) -> Tensor:
        """Rows of ``x`` through this level and all below."""
        x = self.down[level]([[x]], last)
        if level == DEPTH:
            return x
        self.skips[level].append(x)
        pooled = _pooled(x)
        below = self._level(level + 1, pooled, last)
        number = DEPTH - 1 - level
        up = self.network.up[number](below) if below.shape[2] else below.repeat(1, 1, 1, 2)
        return self.merge[number]([self._skipped(level, up.shape[2]), [up]], last)

    def _skipped(self, level: int, rows: int) -> list[Tensor]:
        """The oldest ``rows`` of what waits at ``level``."""
        pieces, waiting = [], self.skips[level]
        while rows and waiting:
            piece = waiting.pop(0)
            pieces.append(piece[:, :, :rows])
            if piece.shape[2] > rows:
                waiting.insert(0, piece[:, :, rows:])
            rows -= pieces[-1].shape[2]
        return pieces


def _pooled(x: Tensor) -> Tensor:
    """Max pooling of 2 x 2 pixels, of even sides: on a CPU twice as fast as torch's, which finds out where each maximum was."""
    if x.is_cuda:
        return F.max_pool2d(x, 2) if x.shape[2] else x[..., ::2]
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


class _Block:
    """(3x3 convolution, ReLU) twice."""

    def __init__(self, block: DoubleConv) -> None:
        first, second = (layer for layer in block if isinstance(layer, nn.Conv2d))
        self.first, self.second = _Rows(first), _Rows(second)

    def __call__(self, parts: list[Part], last: bool) -> Tensor:
        return self.second([[self.first(parts, last)]], last)


class _Rows:
    """A 3x3 convolution of rows that come in pieces, and ReLU."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = copy.copy(layer)
        self.layer.padding = (0, 1)
        self.above: Tensor | None = None

    def __call__(self, parts: list[Part], last: bool) -> Tensor:
        """As many rows [1, K, rows, W] as can be told from ``parts``, whose channels are put side by side, and all before."""
        like = parts[-1][-1]
        rows, before = sum(piece.shape[2] for piece in parts[-1]), 1 if self.above is None else self.above.shape[2]
        shape = (1, self.layer.in_channels, before + rows + last, like.shape[3])
        x = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
        x[:, :, :before] = 0 if self.above is None else self.above
        if last:
            x[:, :, -1] = 0
        channel = 0
        for pieces in parts:  # written to where they are needed below the rows above, so that nothing has to be moved there
            row = before
            for piece in pieces:
                x[:, channel : channel + piece.shape[1], row : row + piece.shape[2]] = piece
                row += piece.shape[2]
            channel += pieces[0].shape[1] if pieces else 0
        self.above = x[:, :, -2:].clone()
        if x.shape[2] < 3:
            return x.new_empty((1, self.layer.out_channels, 0, x.shape[3]))
        return rectified(self.layer, x)
