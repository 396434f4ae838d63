"""Embedded data: H&E-like tissue with exact instance masks in two domains, rendered from a seed at first use.

Each image arises as on a microscope: tissue absorbs light by its two stains (Beer-Lambert: transmitted = exp(-density)), a lens blurs the light, a sensor
adds noise. The masks are the nuclear outlines before the lens, so they are exact by construction.
The two looks differ in what normalising each domain by its own mean and deviation cannot remove: chromatin (dense against vesicular, a dark rim
around a pale centre), stained cytoplasm, focus, and dark structures that are no nuclei. The outlines follow one law in both, at similar sizes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from celladapt.data.images import write_image
from celladapt.errors import InputError
from celladapt.files import staged, write_text
from celladapt.locks import sweep

Field = NDArray[np.float32]
Vector = tuple[float, float, float]
INK: Vector = (0.60, 0.60, 0.53)


@dataclass(frozen=True)
class DomainLook:
    """What the slides of one laboratory look like. Lengths are in pixels, stains in optical density (base e), counts per 256 x 256 pixels."""

    name: str
    haematoxylin: Vector  # absorption of red, green, blue light at density 1 (Ruifrok and Johnston 2001)
    eosin: Vector
    # nuclei
    nuclei: int  # tried; fewer find room
    radius: float  # median
    chromatin: float  # density of dense chromatin
    pallor: float  # share of the chromatin missing in the centre: 0 dense, near 1 vesicular
    rim: float  # extra density of the nuclear membrane
    clumps: float  # relative amplitude of the chromatin texture
    clump_size: float
    nucleoli: float  # mean number in a nucleus
    # tissue
    cytoplasm: float  # eosin
    basophilia: float  # haematoxylin outside nuclei
    fibres: float  # contrast of the stroma
    clearing: float  # how empty the cell bodies are, 0..1
    membranes: float  # eosin of the cell borders; negative: white cracks between shrunken cells
    lumen: float  # share of white gaps
    # what looks like a nucleus and is not
    debris: float
    erythrocytes: float
    ink: float
    mucin: float
    # microscope
    blur: tuple[float, float]  # standard deviation of the point spread in the sharpest and the most defocused place
    noise: float  # sensor noise, standard deviation in grey levels


SOURCE_LOOK = DomainLook(
    name="source",
    haematoxylin=(0.62, 0.69, 0.36),
    eosin=(0.13, 0.82, 0.50),
    nuclei=56,
    radius=8.0,
    chromatin=2.1,
    pallor=0.30,
    rim=0.0,
    clumps=0.24,
    clump_size=1.6,
    nucleoli=0.0,
    cytoplasm=0.50,
    basophilia=0.10,
    fibres=0.22,
    clearing=0.90,
    membranes=0.30,
    lumen=0.10,
    debris=1.0,
    erythrocytes=3.0,
    ink=0.0,
    mucin=0.0,
    blur=(0.6, 1.2),
    noise=2.0,
)

TARGET_LOOK = DomainLook(
    name="target",
    haematoxylin=(0.67, 0.65, 0.34),
    eosin=(0.22, 0.83, 0.34),
    nuclei=40,
    radius=10.0,
    chromatin=1.25,
    pallor=0.62,
    rim=0.45,
    clumps=0.35,
    clump_size=1.8,
    nucleoli=1.3,
    cytoplasm=0.42,
    basophilia=0.38,
    fibres=0.30,
    clearing=0.0,
    membranes=-0.55,
    lumen=0.05,
    debris=14.0,
    erythrocytes=4.0,
    ink=5.0,
    mucin=4.0,
    blur=(0.8, 2.0),
    noise=3.5,
)


def embedded(root: Path, seed: int = 0, count: int = 24, size: int = 256) -> tuple[Path, Path]:
    """Render both domains unless they are there already; return ``(root/"source", root/"target")``, each with ``images/`` and ``masks/``.

    A domain takes its name only when whole, ``recipe.json`` included, so a killed render never passes for a complete one. A domain rendered by
    another recipe (seed, count, size, look) is replaced.

    Raises:
        InputError: a folder of that name was not rendered here or cannot be written; ``count`` or ``size`` is out of range.
    """
    sweep(Path(root).glob(".*"))
    for look in (SOURCE_LOOK, TARGET_LOOK):
        folder = Path(root) / look.name
        recipe = json.dumps({"seed": seed, "count": count, "size": size, "look": asdict(look)}, indent=2) + "\n"
        marker = folder / "recipe.json"
        if marker.is_file() and marker.read_text(encoding="utf-8") == recipe:
            continue
        if folder.exists() and not marker.is_file():
            raise InputError(f"{folder} exists and was not rendered by celladapt; choose another folder or move it away.")
        with staged(folder, replace=True) as fresh:
            render_domain(fresh, look, count, size, seed)
            write_text(fresh / marker.name, recipe)
    return Path(root) / SOURCE_LOOK.name, Path(root) / TARGET_LOOK.name


def render_domain(root: Path, domain: DomainLook, count: int, size: int, seed: int) -> None:
    """Write ``count`` pairs ``root/images/*.png`` (RGB, 8-bit) and ``root/masks/*.png`` (labels, 16-bit, 0 = background), ``size`` pixels square.

    Every file is written atomically. Image ``i`` depends on the look, ``size``, ``seed`` and ``i``, never on ``count``.

    Raises:
        InputError: ``count`` or ``size`` is out of range, or the folder cannot be written.
    """
    if count < 1 or size < 64:
        raise InputError(f"Cannot render {count} images of {size} pixels; ask for at least 1 image of at least 64 pixels.")
    for index in range(count):
        rng = np.random.default_rng([seed, index, *domain.name.encode()])
        image, labels = _slide(domain, size, rng)
        write_image(root / "images" / f"{domain.name}-{index:03d}.png", image)
        write_image(root / "masks" / f"{domain.name}-{index:03d}.png", labels)


def specimen(size: int) -> NDArray[np.uint8]:
    """One image (size, size, 3) of the target, always the same: for where an image is needed that belongs to nobody."""
    return _slide(TARGET_LOOK, size, np.random.default_rng(0))[0]


def _slide(look: DomainLook, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """One slide: RGB image (size, size, 3) and instance labels (size, size), contiguous from 1."""
    gaps = _noise(rng, size, 20) + 0.12 * _noise(rng, size, 5) + 0.03 * _noise(rng, size, 2)
    lumen = _step(gaps - np.quantile(gaps, 1 - look.lumen * rng.uniform(0.3, 1.7)), 0.08)
    stroma = _step(_noise(rng, size, 36) - 0.2, 0.3) * (1 - lumen)
    angle = rng.uniform(0, np.pi)
    labels, centres, chromatin = _nuclei(look, rng, lumen, stroma, angle)
    section = _tissue(look, rng, lumen, stroma, angle, centres)
    inside = ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.6)
    section *= np.stack([1 - inside, 1 - 0.65 * inside, 1 - inside])  # a nucleus displaces the cytoplasm it stands in
    section[0] += chromatin
    _distract(look, rng, section, labels > 0)
    return _photograph(look, rng, section), labels


def _nuclei(
    look: DomainLook, rng: np.random.Generator, lumen: Field, stroma: Field, angle: float
) -> tuple[NDArray[np.uint16], NDArray[np.float64], Field]:
    """Place nuclei one by one, half of them beside an earlier one: labels (H, W), centres (n, 2) and haematoxylin density (H, W)."""
    size = len(lumen)
    labels = np.zeros((size, size), np.uint16)
    density = np.zeros((size, size), np.float32)
    texture = _noise(rng, size, look.clump_size)
    centres: list[NDArray[np.float64]] = []
    tried = 0
    while tried < _per_area(look.nuclei, size) or not centres:
        tried += 1
        radius = look.radius * float(np.exp(rng.normal(0, 0.16)))
        centre = rng.uniform(0, size, 2)
        if centres and rng.random() < 0.5:
            turn = rng.uniform(0, 2 * np.pi)
            centre = centres[rng.integers(len(centres))] + radius * rng.uniform(1.9, 2.6) * np.array([np.sin(turn), np.cos(turn)])
        y, x = np.clip(centre, 0, size - 1).astype(int)
        spindle = rng.random() < stroma[y, x]  # stromal nuclei are slender and follow the fibres
        stretch = rng.uniform(1.3, 1.6) if spindle else rng.uniform(1.0, 1.2)
        tilt = angle + rng.normal(0, 0.3) if spindle else rng.uniform(0, np.pi)
        window, rho = _blob(rng, size, centre, radius * stretch, radius / stretch, tilt)
        shape = (rho < 1) & (labels[window] == 0)
        if lumen[y, x] > 0.4 or shape.sum() < max(40, 0.85 * (rho < 1).sum()) or ndimage.label(shape)[1] != 1:
            continue
        centres.append(centre)
        labels[window][shape] = len(centres)
        pallor = min(look.pallor * rng.uniform(0.5, 1.3), 0.9)
        profile = 1 - pallor * (1 - rho**6) + look.rim * np.exp(-(((rho - 0.9) * radius / 1.1) ** 2))
        profile = profile * np.clip(1 + look.clumps * texture[window], 0.15, None)
        strength = look.chromatin * float(np.exp(rng.normal(0, 0.22)))
        density[window][shape] = (strength * profile)[shape]
        for _ in range(rng.poisson(look.nucleoli)):
            spot, near = _blob(rng, size, centre + rng.uniform(-0.4, 0.4, 2) * radius, 1.7, 1.7, 0)
            density[spot] += 0.9 * strength * np.exp(-(near**4)) * (labels[spot] == len(centres))
    return labels, np.array(centres).reshape(-1, 2), ndimage.gaussian_filter(density, 0.5)


def _tissue(
    look: DomainLook, rng: np.random.Generator, lumen: Field, stroma: Field, angle: float, centres: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Everything between the nuclei: densities (3, H, W) of haematoxylin, eosin and ink."""
    size = len(lumen)
    grid = np.indices((size, size), dtype=np.float32)
    warp = np.stack([_noise(rng, size, 25), _noise(rng, size, 25)])
    # Fibres: noise stretched along their direction, sampled on bent coordinates.
    y, x = grid + 9 * warp
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    fibres = sum(ndimage.map_coordinates(_noise(rng, size, w), [across, along / 12], order=1, mode="wrap") for w in (1.3, 3.0)) / 1.4
    # Cells: each pixel belongs to the nearest centre; halfway to the next one runs the border.
    empty = rng.uniform(0, size, (round(_per_area(60, size)), 2))
    sites = np.concatenate([centres, empty])
    distance, owner = cKDTree(sites).query((grid + 2.5 * warp).reshape(2, -1).T, k=2)
    margin = (distance[:, 1] - distance[:, 0]).reshape(size, size)
    body = _step(margin - 5, 1.5) * rng.uniform(0, 1, len(sites))[owner[:, 0]].reshape(size, size)
    border = np.exp(-((margin / 2.5) ** 2)) * _step(_noise(rng, size, 10) + 0.6, 0.3)
    grain = 0.10 * _noise(rng, size, 1.2) + 0.10 * _noise(rng, size, 4) + 0.12 * _noise(rng, size, 18)
    cells = (1 + grain) * (1 - look.clearing * body) + look.membranes * border
    fibrous = 1.15 + 0.5 * grain + look.fibres * fibres
    texture = np.clip((1 - stroma) * cells + stroma * fibrous, 0.04, None) * (1 - 0.97 * lumen)
    blueness = np.clip(1 - 0.7 * stroma + 0.35 * _noise(rng, size, 14) + 0.2 * _noise(rng, size, 2), 0.1, None)
    return np.stack([look.basophilia * blueness * texture, look.cytoplasm * texture, np.zeros_like(texture)]).astype(np.float32)


def _distract(look: DomainLook, rng: np.random.Generator, section: Field, nuclei: NDArray[np.bool_]) -> None:
    """Add to ``section`` (3, H, W) what resembles nuclei, outside of ``nuclei`` (H, W)."""
    size = len(nuclei)
    # number, smallest and largest radius, sharpness of the edge, densities of haematoxylin, eosin and ink
    kinds = (
        (look.debris, 1.5, 3.6, 5, (1.9, 0.2, 0.0)),
        (look.erythrocytes, 3.5, 5.0, 8, (0.0, 0.9, 0.0)),
        (look.ink, 2.0, 5.0, 9, (0.0, 0.0, 1.8)),
        (look.mucin, 9.0, 17.0, 2, (0.45, 0.0, 0.0)),
    )
    for number, smallest, largest, sharpness, stains in kinds:
        for _ in range(rng.poisson(_per_area(number, size))):
            radius, stretch = rng.uniform(smallest, largest), rng.uniform(1.0, 1.25)
            window, rho = _blob(rng, size, rng.uniform(0, size, 2), radius * stretch, radius / stretch, rng.uniform(0, np.pi))
            weight = rng.uniform(0.7, 1.1) * np.exp(-np.log(2) * rho**sharpness) * ~nuclei[window]
            section[:, *window] += np.multiply.outer(np.array(stains, np.float32), weight)


def _photograph(look: DomainLook, rng: np.random.Generator, section: Field) -> NDArray[np.uint8]:
    """Stain densities (3, H, W) -> 8-bit RGB (H, W, 3): Beer-Lambert, a focus that varies over the field, sensor noise."""
    amounts = section * np.exp(rng.normal(0, [0.10, 0.15, 0.0]))[:, None, None]  # batches of stain differ
    light = np.exp(-np.einsum("shw,sc->hwc", amounts, np.array([look.haematoxylin, look.eosin, INK])))
    sharp, soft = (ndimage.gaussian_filter(light, (sigma, sigma, 0)) for sigma in look.blur)
    defocus = _step(_noise(rng, len(light), 50) + rng.normal(0, 0.7), 0.5)[..., None]
    levels = 244 * (sharp * (1 - defocus) + soft * defocus) + rng.normal(0, look.noise, light.shape)
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _per_area(number: float, size: int) -> float:
    return number * (size / 256) ** 2


def _step(field: Field, width: float) -> Field:
    """Soft threshold at 0."""
    return np.asarray(1 / (1 + np.exp(-np.clip(field / width, -30, 30))), np.float32)


def _noise(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Gaussian noise (size, size), periodic, correlated over ``scale`` pixels, mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    smooth = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * np.exp(-2 * (np.pi * scale * frequency) ** 2), (size, size))
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def _blob(
    rng: np.random.Generator, size: int, centre: NDArray[np.float64], long: float, short: float, tilt: float
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """A smooth irregular ellipse: its window in the image, and there the distance from the centre in units of the outline (inside < 1)."""
    reach = 1.5 * long + 2
    low = np.clip(np.floor(centre - reach).astype(int), 0, size)
    high = np.clip(np.ceil(centre + reach).astype(int), 0, size)
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    dy, dx = y - centre[0], x - centre[1]
    u, v = (np.cos(tilt) * dx + np.sin(tilt) * dy) / long, (np.cos(tilt) * dy - np.sin(tilt) * dx) / short
    theta = np.arctan2(v, u)
    outline = 1 + sum(rng.normal(0, 0.11 / order) * np.cos(order * theta + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4, 5))
    return (slice(low[0], high[0]), slice(low[1], high[1])), np.hypot(u, v) / outline
