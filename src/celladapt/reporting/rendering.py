"""Templates, and the words and numbers that both pages need."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

METRICS = {"iou": "IoU", "dice": "Dice", "aji": "AJI", "pq": "PQ", "f1": "F1"}
METHODS = {
    "classical": "Classical",
    "source_only": "Source only",
    "da_adv": "DA-ADV",
    "advent": "AdvEnt",
    "cellseguda": "CellSegUDA",
    "cellsegssda": "CellSegSSDA",
    "nuseguda": "NuSegUDA",
    "nusegssda": "NuSegSSDA",
    "weakuda": "WeakUDA",
    "weakssda": "WeakSSDA",
    "supervised": "Supervised",
}
CRITERIA = {
    "infomax": "Information maximisation on target predictions: each pixel decided, the image as a whole not all one class. Uses no labels.",
    "snd": "Soft neighbourhood density of target predictions (Saito et al., ICCV 2021). Uses no labels.",
    "entropy": "Minus the mean entropy of target predictions: high means sure, which can also be surely wrong; empty and full masks are put below all others. Uses no labels.",
    "consistency": "Agreement of target predictions with those for mirrored, fainter, noisy copies. Uses no labels.",
    "zoom": "Agreement of target predictions with those for copies at three quarters of the size. Uses no labels.",
    "agreement": "IoU of target predictions with a classical segmentation, which learns nothing; 0 where that has not the shape of nuclei. Uses no labels.",
    "contrast": "How well target predictions divide nuclei from what surrounds them in colour and brightness. Uses no labels.",
    "solidity": "Whether predicted nuclei have the shape of nuclei: area by area of the convex hull, 0.94 to 0.96 for masks drawn by hand. Uses no labels.",
    "likeness": "IoU of target predictions with a classical segmentation, times how much that has the shape of nuclei. Uses no labels.",
    "witnessed": "Share of the validation images in which the classical segmentation has the shape of nuclei. The same at every step.",
    "expected": "IoU to expect on the target, from four clues together (docs/method.md). Uses no labels.",
    "source_iou": "Foreground IoU on the source validation images.",
    "labelled": "Foreground IoU on the annotated target validation images. Uses target labels.",
}
PAGE_BYTES = 5_000_000  # of pictures; examples stop before the page grows too heavy to mail


def method_name(method: str) -> str:
    """A method as its paper writes it, an unknown one as it is; labels and options of "name@25%:option=value" follow in brackets."""
    name, *rest = re.split("[@:]", method)
    return METHODS.get(name, name) + (f" ({', '.join(rest)})" if rest else "")


def score(value: float | None) -> str:
    """A score with three digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference with its sign, typeset."""
    return f"{value:+.3f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in the two units that matter."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def render(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped unless it is markup of our own making."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=score, signed=signed, duration=duration, method_name=method_name)
    environment.globals.update(METRICS=METRICS, CRITERIA=CRITERIA)
    return environment
