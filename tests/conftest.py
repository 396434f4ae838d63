"""Fixtures: the real labelled images where they are at hand, and two tiny domains."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: spinning threads slow a busy machine tenfold

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from celladapt.data.images import write_image


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real labelled microscopy beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real labelled images (../shared/data) are not on this machine")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose more by waiting for a second thread than they gain, ten times more on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def no_charts() -> Iterator[None]:
    """Pages of runs have no curves, which take most of the time of a run this small; test_report and test_cli look at whole pages."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_charts(patch.setattr)
        yield


def leave_out_charts(setattr: Callable[[object, str, object], None]) -> None:
    from markupsafe import Markup

    from celladapt.reporting import comparison, run

    for page in (comparison, run):
        setattr(page, "curve", lambda *_, **__: Markup(""))


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Torch's random numbers are those of the test alone, in whatever order the tests run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A domain folder of three small images of several kinds."""
    from helpers import picture

    root = tmp_path / "slides"
    write_image(root / "images" / "a.b 1.png", picture(6, 40, 30))
    write_image(root / "images" / "c.tif", picture(7, 33, 47, np.uint16))
    write_image(root / "images" / "d.png", picture(8, 20, 20)[..., 0])
    write_image(root / "masks" / "d.png", np.ones((20, 20), np.uint8))
    (root / "images" / "notes.txt").write_text("no image")
    (root / "images" / ".hidden.png").write_bytes(b"")
    return root


@pytest.fixture
def tiny_domains(tmp_path: Path) -> tuple[Path, Path]:
    return draw_domains(tmp_path)


def draw_domains(folder: Path) -> tuple[Path, Path]:
    """Source and target domain folders: 8 images of 64x64 each, all with masks; bright blobs on black against violet blobs on pink."""
    source, target = folder / "source", folder / "target"
    for domain, root in enumerate((source, target)):
        for index in range(8):
            rng = np.random.default_rng([domain, index])
            labels = blobs(rng, 64)
            nucleus, background = (([190.0], [25.0]), ([110.0, 60.0, 140.0], [235.0, 200.0, 220.0]))[domain]
            clean = np.where((labels > 0)[..., None], nucleus, background)
            image = np.clip(clean + rng.normal(0, 8, clean.shape), 0, 255).astype(np.uint8)
            write_image(root / "images" / f"{root.name}{index}.png", image[..., 0] if domain == 0 else image)
            write_image(root / "masks" / f"{root.name}{index}.png", labels)
    return source, target


def blobs(rng: np.random.Generator, size: int, count: int = 6) -> NDArray[np.int32]:
    """(size, size) labels of up to ``count`` discs with a gap between them."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for _ in range(count):
        centre, radius = rng.uniform(6, size - 6, 2), rng.uniform(4, 7)
        distance = np.hypot(y - centre[0], x - centre[1])
        if not labels[distance <= radius + 2].any():
            labels[distance <= radius] = labels.max() + 1
    return labels


def cloudy(seed: int, side: int = 96) -> np.ndarray:
    """A grey image without a nucleus: clouds of every size, whose outlines are ragged."""
    rng = np.random.default_rng(seed)
    clouds = sum(s * gaussian_filter(rng.normal(size=(side, side)), s) for s in (1.0, 2.0, 4.0, 8.0))
    return np.clip(128 + 60 * clouds / clouds.std(), 0, 255).astype(np.uint8)
