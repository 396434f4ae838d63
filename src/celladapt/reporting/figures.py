"""Pictures of the page: curves as inline SVG that takes the page's colours, overlays as JPEG in a data URI."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, uniform_filter1d
from skimage.measure import find_contours

# Bright line, dark casing: seen on stained tissue and on black alike, and told apart with any colour vision.
CONTOUR = {"prediction": "#ffe34d", "truth": "#4dd8ff", "baseline": "#ffffff"}
WHOLE = 768  # px; a longer image is shown by its centre, because its nuclei would be too small to judge
WINDOW = 512  # px
POINTS = 300  # per curve

INK = "#0a0b0c"  # stands for the page's text colour
LINE = "#0c0d{:02x}"  # stands for the page's colour number i; not black, which the writer leaves out of a filled shape


@dataclass(frozen=True)
class Line:
    """One curve: ``x``, ``y`` (N,), the number of its colour in the page's style sheet, and whether it is drawn faintly."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: int = 0
    faint: bool = False


def training_lines(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[Line]:
    """A noisy curve as a faint line of its extremes and a strong moving average over a fiftieth of the run, some hundred points each."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) < 2:
        return [Line(x, y)]
    smooth = uniform_filter1d(y, size=max(1, len(y) // 50), mode="nearest")
    kept = np.unique(np.linspace(0, len(x) - 1, POINTS).astype(int))
    if len(x) <= 2 * POINTS:
        return [Line(x, y, faint=True), Line(x[kept], smooth[kept])]
    bins = np.array_split(np.arange(len(x)), POINTS)
    # Lowest and highest of each bin in their order, so that a spike survives.
    extremes = np.array([index for part in bins for index in sorted((part[y[part].argmin()], part[y[part].argmax()]))])
    return [Line(x[extremes], y[extremes], faint=True), Line(x[kept], smooth[kept])]


def spans_decades(y: NDArray[np.float64]) -> bool:
    """Whether a curve is positive and its bulk spans so much that only a logarithmic axis shows it."""
    y = y[np.isfinite(y)]
    if len(y) < 2 or y.min() <= 0:
        return False
    low, high = np.percentile(y, [1, 99])
    return bool(high > 50 * low)


def curve(lines: Sequence[Line], *, label: str, mark: float | None = None, log: bool = False) -> Markup:
    """Draw lines over training steps as an ``<svg>`` whose colours are the page's variables; ``mark`` is a step to point at."""
    with matplotlib.rc_context({"font.size": 8.5}):
        figure = Figure(figsize=(4.3, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for line in lines:
            few = len(line.x) < 40 and not line.faint
            style = {"lw": 0.8, "alpha": 0.35} if line.faint else {"lw": 1.7, "marker": "o" if few else None, "ms": 2.6}
            axes.plot(line.x, line.y, color=LINE.format(line.colour), solid_joinstyle="round", **style)
        if mark is not None:
            axes.axvline(mark, color=LINE.format(1), lw=1.3, dashes=(4, 2.5))
            on_mark = [(line, np.flatnonzero(line.x == mark)) for line in lines]
            for line, index in on_mark:
                axes.plot(line.x[index], line.y[index], "o", color=LINE.format(1), ms=6.5, zorder=5)
        if log:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("step", color=INK)
        axes.tick_params(which="both", colors=INK, length=0)
        axes.grid(True, color=INK, alpha=0.12, lw=0.7)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color=INK, alpha=0.4)
        return inline(figure, label, "curve")


def inline(figure: Figure, label: str, kind: str) -> Markup:
    """A figure drawn in ``INK`` and ``LINE`` as an ``<svg>`` of class ``kind`` in the page's colours, its words as text in the page's font.

    Words in the figure are escaped by its writer and the label here, so the markup is safe to place in the page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "celladapt"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"#0c0d([0-9a-f]{2})\b", lambda match: f"var(--c{int(match[1], 16)})", svg)
    return Markup(svg).replace("<svg ", Markup('<svg class="{}" role="img" aria-label="{}" ').format(kind, label), 1)


@dataclass(frozen=True)
class Window:
    """The part of an image that is shown, and the size it is shown at."""

    full: tuple[int, int]
    rows: slice
    columns: slice
    shown: tuple[int, int]

    @property
    def note(self) -> str:
        """Words for what is shown, in pixels, width first."""
        height, width = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        size = f"{self.full[1]} × {self.full[0]} px"
        return size if (height, width) == self.full else f"centre {width} × {height} px of {size}"


def window(height: int, width: int) -> Window:
    """Choose what to show of an image: all of it up to 768 px, otherwise the middle 512 px; at least 320 px on the short side."""

    def middle(length: int) -> slice:
        start = (length - WINDOW) // 2
        return slice(start, start + WINDOW) if length > WINDOW else slice(0, length)

    whole = max(height, width) <= WHOLE
    rows, columns = (slice(0, height), slice(0, width)) if whole else (middle(height), middle(width))
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    scale = min(max(WINDOW / max(high, wide), 320 / min(high, wide)), 2 * WINDOW / max(high, wide))
    return Window((height, width), rows, columns, (max(1, round(high * scale)), max(1, round(wide * scale))))


def read_picture(path: Path, *, colour: bool) -> NDArray[np.generic] | None:
    """An example's image (H, W, 3) uint8, or its mask or probability (H, W) as stored; None where the file is absent or damaged."""
    try:
        if not path.is_file():
            return None
        with Image.open(path) as image:
            array = np.asarray(image.convert("RGB") if colour else image)
    except Exception:  # on damaged bytes the decoders raise dozens of types
        return None
    return array if colour or array.ndim == 2 else array[..., 0]


def outlines(labels: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Closed outlines [(N, 2) of x, y in pixels] of a mask (H, W): one around each label, or around each blob of a binary mask."""
    values, flat = np.unique(labels, return_inverse=True)
    dense = flat.reshape(labels.shape) + (values[0] != 0)
    result = []
    for label, box in enumerate(find_objects(dense.astype(np.int32)), start=1):
        if box is not None:
            padded = np.pad(dense[box] == label, 1).astype(float)
            corner = np.array([box[1].start - 1, box[0].start - 1])
            result += [contour[:, ::-1] + corner for contour in find_contours(padded, 0.5)]  # type: ignore[no-untyped-call]
    return result


def overlay(image: NDArray[np.generic], view: Window, masks: dict[str, NDArray[np.generic]] | None = None) -> str:
    """An image (H, W, 3) or probability (H, W) in 0..255 as the page shows it, with the outlines of ``masks`` {kind: (H, W)}; a data URI."""
    part = image[view.rows, view.columns]
    figure = Figure(figsize=(view.shown[1] / 100, view.shown[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(part, cmap="magma", vmin=0, vmax=255, aspect="auto", interpolation="bicubic")
    for kind, mask in (masks or {}).items():
        lines = outlines(mask[view.rows, view.columns])
        axes.add_collection(LineCollection(lines, colors="black", alpha=0.6, linewidths=3.4), autolim=False)
        axes.add_collection(LineCollection(lines, colors=CONTOUR[kind], linewidths=1.9), autolim=False)
    buffer = io.BytesIO()
    # Without chroma subsampling the coloured lines stay crisp.
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 84, "subsampling": 0, "optimize": True})
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
