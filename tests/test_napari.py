"""The napari plugin: planes, without a viewer; and the panel, driven by code on a screen that nobody sees."""

import ast
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

import celladapt
from celladapt import plane
from celladapt.data.images import image_of, read_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.instances import to_instances
from celladapt.loading import load_model
from celladapt.model import Model
from celladapt.networks import Segmenter
from celladapt.plane import find_nuclei, newest_model, other_magnification, plane_at

PLENTY = 1e9
ALL = slice(None)


pytestmark = pytest.mark.usefixtures("one_thread")


def write_model(path: Path, seed: int = 4, **about: Any) -> Path:
    """A run folder whose model has random weights and probabilities spread around one half."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = Segmenter(4).eval()
        network.head.bias -= torch.logit(network((torch.rand(1, 3, 64, 64) - 0.5) / 0.3)).mean()
        for weights in (network.head.weight, network.head.bias):
            weights *= 500
    Model(network, Normalisation((0.5, 0.5, 0.5), (0.3, 0.3, 0.3)), about).save(path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "run", pixel_size=0.25)


def values(*shape: int, dtype: type = np.uint8, seed: int = 0) -> NDArray[Any]:
    unit = np.random.default_rng(seed).random(shape)
    return unit.astype(dtype) if np.issubdtype(dtype, np.floating) else (unit * np.iinfo(dtype).max).astype(dtype)


def expected(run_folder: Path, image: NDArray[Any], threshold: float = 0.5, min_size: int = 20) -> NDArray[np.int32]:
    labels = to_instances(load_model(run_folder).probability(image_of(image, "image")), threshold, min_size)
    assert labels.max() > 1, "no nuclei would prove nothing"
    return labels


# --- planes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "point", "displayed", "where"),
    [
        ((30, 40), (0, 0), (0, 1), (ALL, ALL)),
        ((5, 30, 40), (3.2, 7, 7), (1, 2), (3, ALL, ALL)),
        ((2, 5, 30, 40), (1, 4.4, 0, 0), (2, 3), (1, 4, ALL, ALL)),
        ((5, 30, 40), (9, 7, 7), (1, 2), (4, ALL, ALL)),
        ((5, 30, 40), (-1, 7, 7), (1, 2), (0, ALL, ALL)),
        ((5, 30, 40), (3, 7, 7), (0, 2), (ALL, 7, ALL)),
        ((5, 30, 40), (3, 7, 7), (2, 1), (3, ALL, ALL)),
        ((5, 30, 40), (2, 7, 7), (0, 1, 2), (2, ALL, ALL)),
        ((30, 40), (0, 0), (-1, 0), (ALL, ALL)),
    ],
)
def test_the_plane_on_the_screen(shape: tuple[int, ...], point: tuple[float, ...], displayed: tuple[int, ...], where: plane.Where) -> None:
    assert plane_at(shape, point, displayed) == where


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("samples", [0, 3, 4])
def test_an_array_is_read_as_a_file_that_holds_it(dtype: type, samples: int, tmp_path: Path) -> None:
    array = values(9, 11, *([samples] if samples else []), dtype=dtype)
    photometric, extra = ("rgb" if samples else "minisblack"), (["unassalpha"] if samples == 4 else None)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, extrasamples=extra)
    np.testing.assert_array_equal(image_of(array, "a"), read_image(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.full((8, 8), np.nan, np.float32), "not finite"),
        (np.zeros((8, 8), np.complex64), "complex64"),
        (np.zeros((8, 8, 4), np.complex64), "complex64"),
        (np.zeros((8, 8, 5), np.uint8), "5 channels"),
        (np.zeros((0, 8), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_no_images_are_refused_by_name(array: NDArray[Any], problem: str) -> None:
    with pytest.raises(InputError, match=f"^slide 7 .*{problem}"):
        image_of(array, "slide 7")


def test_one_plane_of_a_stack_is_segmented(run_folder: Path) -> None:
    stack = values(3, 40, 50, dtype=np.uint16)
    found = find_nuclei(run_folder, stack, (1, ALL, ALL), "stack", 0.6, 5, 0.25, PLENTY)
    np.testing.assert_array_equal(found.labels, expected(run_folder, stack[1], 0.6, 5))
    assert found.probability.shape == (40, 50)
    assert (found.where, found.warning) == ((1, ALL, ALL), "")


def test_a_plane_too_large_for_the_memory_is_not_read() -> None:
    class Slide:
        shape = (30_000, 40_000, 3)

    with pytest.raises(InputError, match=r"slide is 40000 x 30000 pixels, which take 96\.0 GB of memory where 1\.0 GB are free"):
        plane.read_plane(Slide(), (ALL, ALL), "slide", PLENTY)


def test_the_newest_run_is_offered(tmp_path: Path) -> None:
    assert newest_model(tmp_path / "runs") is None
    for name, second in (("a", 2), ("b", 3), ("c", 1)):
        os.utime(write_model(tmp_path / name) / "model.safetensors", (second, second))
    (tmp_path / "d").mkdir()
    assert newest_model(tmp_path) == tmp_path / "b"


@pytest.mark.parametrize(
    ("trained", "pixel_size", "words"),
    [
        (0.25, 0.5, "slide has 0.5 µm per pixel and the model was trained at 0.25: nuclei look 2.0 times smaller to it"),
        (0.25, 0.2, "1.2 times larger"),
        (0.25, 0.29, ""),
        (0.25, None, ""),
        (None, 0.5, ""),
        (0, 0.5, ""),
    ],
)
def test_another_magnification_is_told(trained: float | None, pixel_size: float | None, words: str) -> None:
    about = {} if trained is None else {"pixel_size": trained}
    said = other_magnification(Model(Segmenter(4), Normalisation((0, 0, 0), (1, 1, 1)), about), pixel_size, "slide")
    assert words in said
    assert bool(said) == bool(words)


# --- the manifest ---------------------------------------------------------------------------------


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    npe2 = pytest.importorskip("npe2")
    root = Path(celladapt.__file__).parent
    manifest = npe2.PluginManifest.from_file(root / "napari.yaml")
    assert [widget.command for widget in manifest.contributions.widgets] == [command.id for command in manifest.contributions.commands]
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        code = ast.parse((root.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in code.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert [entry.value for entry in entry_points(group="napari.manifest", name="celladapt")] == ["celladapt:napari.yaml"]


# --- the panel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _screen() -> Iterator[None]:
    """Qt without a display, and napari without the user's settings."""
    pytest.importorskip("napari", reason="napari is not installed (the extra `napari`)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        patch.setenv("NAPARI_CONFIG", "")
        # A Qt that lacks a system library ends its process, which must not be this one.
        probe = "from qtpy.QtWidgets import QApplication; QApplication([])"
        if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode != 0:
            pytest.skip("Qt is not installed or lacks a system library")
        from qtpy.QtWidgets import QApplication

        app = QApplication.instance() or QApplication([])
        yield
        app.processEvents()


@pytest.fixture
def said(_screen: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What napari was asked to tell the user."""
    told: list[str] = []
    for name in ("show_error", "show_warning"):
        monkeypatch.setattr(f"napari.utils.notifications.{name}", told.append)
    return told


@pytest.fixture
def viewer(_screen: None) -> Any:
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def panel(viewer: Any, run_folder: Path, said: list[str]) -> Any:
    """A panel with a model; it follows the layers of ``viewer`` as napari lets it."""
    from celladapt.napari_plugin import NucleiWidget

    made = NucleiWidget(viewer)
    for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
        event.connect(made.reset_choices)
    made.model.value = run_folder
    return made


def press(panel: Any) -> None:
    """Press the button and wait until it can be pressed again."""
    from qtpy.QtWidgets import QApplication

    panel.run.native.click()
    end = time.monotonic() + 60
    while not panel.run.enabled:
        QApplication.processEvents()
        assert time.monotonic() < end, "the worker did not come back"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "image",
    [
        values(40, 50),
        values(40, 50, dtype=np.uint16),
        values(40, 50, dtype=np.float64),
        values(40, 50, 3),
        np.maximum(values(40, 50, 4), np.array([0, 0, 0, 200], np.uint8)),
        values(40, 50, 3, dtype=np.float32),
    ],
    ids=["grey", "16 bits", "float", "RGB", "RGBA", "float RGB"],
)
def test_nuclei_become_a_layer_that_lies_on_the_image(image: NDArray[Any], viewer: Any, panel: Any, run_folder: Path, said: list[str]) -> None:
    place = {"scale": (2, 3), "translate": (5, 6), "rotate": 30, "shear": [0.1], "affine": np.array([[0, 1, 7], [1, 0, 8], [0, 0, 1]])}
    layer = viewer.add_image(image, name="cells", **place)
    press(panel)
    (nuclei,) = viewer.layers[1:]
    assert (nuclei.name, type(nuclei).__name__, said) == ("cells_nuclei", "Labels", [])
    np.testing.assert_array_equal(nuclei.data, expected(run_folder, image))
    np.testing.assert_allclose(nuclei.data_to_world((3, 4)), layer.data_to_world((3, 4)))
    assert panel.result.value == f"{nuclei.data.max()} nuclei in cells"


def test_another_run_replaces_what_the_first_one_found(viewer: Any, panel: Any, run_folder: Path) -> None:
    image = values(40, 50, 3)
    layer = viewer.add_image(image, name="cells")
    press(panel)
    layer.scale = (2, 2)
    panel.threshold.value, panel.min_size.value, panel.with_probability.value = 0.6, 5, True
    press(panel)
    press(panel)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells_nuclei", "cells_probability"]
    np.testing.assert_array_equal(viewer.layers[1].data, expected(run_folder, image, 0.6, 5))
    np.testing.assert_array_equal(viewer.layers[1].scale, (2, 2))
    probability = viewer.layers[2].data
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < 0.6 < probability.max() <= 1
    assert list(panel.image.choices) == [layer], "not what the panel itself has added"


def test_a_layer_that_the_user_has_drawn_is_left_alone(viewer: Any, panel: Any) -> None:
    viewer.add_image(values(40, 50), name="cells")
    drawn = viewer.add_labels(np.ones((40, 50), np.int32), name="cells_nuclei")
    press(panel)
    assert (drawn.data == 1).all()
    assert len(viewer.layers) == 3


def test_each_plane_of_a_stack_gets_its_own_nuclei(viewer: Any, panel: Any, run_folder: Path) -> None:
    stack = values(2, 4, 40, 50, dtype=np.uint16)
    viewer.add_image(stack, name="stack", scale=(1, 2.5, 1, 1), translate=(0, 10, 0, 0))
    for at in ((1, 2), (0, 3)):
        viewer.dims.current_step = (*at, 0, 0)
        press(panel)
    nuclei = viewer.layers["stack_nuclei"]
    assert nuclei.data.shape == stack.shape
    for at in np.ndindex(2, 4):
        seen = expected(run_folder, stack[at]) if at in ((1, 2), (0, 3)) else np.zeros((40, 50))
        np.testing.assert_array_equal(nuclei.data[at], seen)


def test_a_stack_seen_from_the_side(viewer: Any, panel: Any, run_folder: Path) -> None:
    stack = values(48, 40, 50)
    viewer.add_image(stack, name="stack")
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 7)
    press(panel)
    nuclei = viewer.layers["stack_nuclei"].data
    np.testing.assert_array_equal(nuclei[:, 7], expected(run_folder, stack[:, 7]))
    assert not np.delete(nuclei, 7, axis=1).any()


def test_of_a_pyramid_the_finest_level_is_taken(viewer: Any, panel: Any, run_folder: Path) -> None:
    import dask.array

    image = values(80, 96, 3)
    viewer.add_image([dask.array.from_array(image[::step, ::step]) for step in (1, 2)], name="slide", multiscale=True, scale=(0.5, 0.5))
    press(panel)
    np.testing.assert_array_equal(viewer.layers["slide_nuclei"].data, expected(run_folder, image))
    np.testing.assert_array_equal(viewer.layers["slide_nuclei"].scale, (0.5, 0.5))


def test_the_button_waits_and_the_network_runs_in_another_thread(viewer: Any, panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, Any] = {}

    def seen(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            threads[name] = (threading.current_thread(), panel.run.enabled)
            return real(*arguments, **options)

        return call

    monkeypatch.setattr("celladapt.napari_plugin.find_nuclei", seen("find", find_nuclei))
    monkeypatch.setattr("celladapt.napari_plugin.blank", seen("show", plane.blank))
    viewer.add_image(values(40, 50))
    press(panel)
    assert threads["find"][0] is not threading.main_thread()
    assert threads["show"][0] is threading.main_thread()
    assert not threads["find"][1]


def test_who_leaves_while_it_runs_is_not_troubled(viewer: Any, panel: Any, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: said.append(str(error)))
    viewer.add_image(values(40, 50))
    ended: list[bool] = []
    panel.start().finished.connect(lambda: ended.append(True))
    panel.native.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    end = time.monotonic() + 60
    while not ended:
        QApplication.processEvents()
        assert time.monotonic() < end, "the worker did not come back"
        time.sleep(0.005)
    assert (len(viewer.layers), said) == (1, [])


def test_an_image_that_is_gone_gets_no_nuclei(viewer: Any, panel: Any) -> None:
    viewer.add_image(values(40, 50))
    panel.start()
    viewer.layers.clear()
    press(panel)
    assert len(viewer.layers) == 0
    assert panel.result.value == ""


def no_image(viewer: Any, panel: Any) -> None:
    viewer.layers.clear()


def no_model(viewer: Any, panel: Any) -> None:
    panel.model.line_edit.value = " "


def wrong_model(viewer: Any, panel: Any) -> None:
    panel.model.line_edit.value = "nowhere/run"


def damaged_model(viewer: Any, panel: Any) -> None:
    panel.model.value = __file__


def not_finite(viewer: Any, panel: Any) -> None:
    viewer.layers[0].data = np.full((40, 50), np.inf)


def too_large(viewer: Any, panel: Any) -> None:
    plane.PEAK_BYTES = 10**12


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (no_image, "no image"),
        (no_model, "Choose a model"),
        (wrong_model, "nowhere/run does not exist"),
        (damaged_model, "is no model of celladapt; give a run folder"),
        (not_finite, "cells has values that are not finite"),
        (too_large, "cells is 50 x 40 pixels"),
    ],
)
def test_a_mistake_is_one_sentence(
    mistake: Callable[[Any, Any], None], sentence: str, viewer: Any, panel: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "PEAK_BYTES", plane.PEAK_BYTES)
    viewer.add_image(values(40, 50, dtype=np.float32), name="cells")
    mistake(viewer, panel)
    press(panel)
    assert len(said) == 1
    assert sentence in said[0]
    assert "\n" not in said[0]
    assert panel.result.value == ""
    assert len(viewer.layers) <= 1


def test_a_unit_of_length_lets_magnifications_be_compared(viewer: Any, panel: Any, said: list[str]) -> None:
    layer = viewer.add_image(values(40, 50), name="cells", scale=(500, 500), units=("nm", "nm"))
    press(panel)
    assert ["0.5 µm per pixel" in sentence and "0.25" in sentence for sentence in said] == [True]
    layer.scale = (250, 250)
    press(panel)
    layer.scale, layer.units = (5, 5), ("pixel", "pixel")
    press(panel)
    assert len(said) == 1
