"""The napari plugin: a panel that finds nuclei in the plane on the screen. `napari.yaml` names it to napari."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, Label, PushButton, SpinBox

from celladapt.errors import InputError
from celladapt.plane import Found, blank, find_nuclei, newest_model, plane_at

if TYPE_CHECKING:
    from napari.components import ViewerModel

MODEL_FILES = "*.safetensors *.onnx"
"""What the file dialog shows; `loading.load_model` judges what is chosen or typed."""
TRANSFORMS = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""What puts a layer in its place."""


class NucleiWidget(Container):
    """Image, model, threshold and size in; a layer of numbered nuclei out."""

    def __init__(self, napari_viewer: "ViewerModel") -> None:
        self._viewer = napari_viewer
        self.image = ComboBox(label="Image", choices=self._images, tooltip="Image layer to look for nuclei in: the plane on the screen.")
        self.model = FileEdit(
            label="Model",
            mode="r",
            filter=MODEL_FILES,
            value=newest_model(Path("runs")),
            tooltip="Run folder of `celladapt adapt` (type or paste it), the model.safetensors in one, or a .onnx file of `celladapt export`. At first the newest run in runs/.",
        )
        self.model.choose_btn.text = "Choose…"
        self.threshold = FloatSpinBox(
            label="Threshold",
            value=0.5,
            min=0.01,
            max=0.99,
            step=0.05,
            tooltip="A pixel is nucleus from this probability on: lower finds more and larger nuclei.",
        )
        self.min_size = SpinBox(
            label="Minimum size (px²)", value=20, min=0, max=1_000_000, tooltip="Smaller pieces are dropped, and smaller holes filled."
        )
        self.with_probability = CheckBox(text="Add the probability as a layer", tooltip="Adds the probability of nucleus as an image layer too.")
        self.run = PushButton(
            text="Find nuclei", tooltip="Runs the model on the plane on the screen. A later run replaces what an earlier one found there."
        )
        self.result = Label(value="")
        super().__init__(widgets=[self.image, self.model, self.threshold, self.min_size, self.with_probability, self.run, self.result])
        if (active := napari_viewer.layers.selection.active) in self.image.choices:
            self.image.value = active
        self.run.changed.connect(self.start)
        self._closed = False
        self.native.destroyed.connect(partial(setattr, self, "_closed", True))

    def start(self) -> Any:
        """Find nuclei in another thread; returns the worker, or nothing where something is missing."""
        from napari.qt.threading import create_worker
        from napari.utils.notifications import show_warning
        from psutil import virtual_memory

        layer, model = self.image.value, self.model.line_edit.value.strip()
        if layer is None:
            show_warning("There is no image to look at; open one.")
            return None
        if not model:
            show_warning("Choose a model: a run folder of `celladapt adapt`, the model.safetensors in one, or a .onnx file of `celladapt export`.")
            return None
        data = layer.data[0] if layer.multiscale else layer.data
        shape = data.shape[: layer.ndim]
        offset = self._viewer.dims.ndim - layer.ndim
        displayed = [axis - offset for axis in self._viewer.dims.displayed]
        where = plane_at(shape, layer.world_to_data(self._viewer.dims.point), displayed)
        self.run.enabled, self.result.value = False, "Looking …"
        return create_worker(
            _find,
            (Path(model), data, where, layer.name, self.threshold.value, self.min_size.value, _pixel_size(layer, where), virtual_memory().available),
            _progress={"desc": f"nuclei in {layer.name}"},
            _connect={"returned": partial(self._show, layer, shape), "finished": self._done},
        )

    def _show(self, layer: Any, shape: tuple[int, ...], found: Found | str) -> None:
        from napari.utils.notifications import show_error, show_warning

        if self._closed or layer not in self._viewer.layers:
            return
        try:
            if isinstance(found, str):
                raise InputError(found)
            if self.with_probability.value:
                look = {"colormap": "magma", "contrast_limits": (0, 1), "opacity": 0.5}
                self._put("probability", layer, shape, found.where, found.probability, partial(self._viewer.add_image, **look))
            self._put("nuclei", layer, shape, found.where, found.labels, self._viewer.add_labels)
        except InputError as error:
            self.result.value = ""
            show_error(str(error))
            return
        self.result.value = f"{np.count_nonzero(np.unique(found.labels))} nuclei in {layer.name}"
        if found.warning:
            show_warning(found.warning)

    def _put(self, what: str, layer: Any, shape: tuple[int, ...], where: tuple[int | slice, ...], plane: Any, add: Any) -> None:
        """Write ``plane`` into the layer of an earlier run, or into a new one."""
        name, place = f"{layer.name}_{what}", {key: getattr(layer, key) for key in TRANSFORMS}
        # The mark tells our layer from one that the user has given this name.
        mine = [
            other for other in self._viewer.layers if other.metadata.get("celladapt") == what and other.name == name and other.data.shape == shape
        ]
        if mine:
            mine[0].data[where] = plane
            for key, value in place.items():
                setattr(mine[0], key, value)
            mine[0].refresh()
        else:
            data = blank(shape, plane.dtype.type, layer.name)
            data[where] = plane
            add(data, name=name, metadata={"celladapt": what}, **place)

    def _done(self) -> None:
        if self._closed:
            return
        self.run.enabled = True
        if self.result.value == "Looking …":  # the image has been removed; or the worker failed, and napari has said how
            self.result.value = ""

    def _images(self, _: Any) -> list[tuple[str, Any]]:
        from napari.layers import Image

        layers = [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer.metadata.get("celladapt") is None]
        return [(layer.name, layer) for layer in layers]


def _find(arguments: tuple[Any, ...]) -> Found | str:
    """In the other thread; of a user's mistake the sentence is returned, because napari would show what is raised as a fault, with its traceback."""
    try:
        return find_nuclei(*arguments)
    except InputError as error:
        return str(error)


def _pixel_size(layer: Any, where: tuple[int | slice, ...]) -> float | None:
    """Of the plane in µm, where the layer's unit is a length."""
    sizes = [
        abs(float(scale)) * float((1 * unit).to("micrometer").magnitude)
        for scale, unit, at in zip(layer.scale, layer.units, where, strict=True)
        if isinstance(at, slice) and (1 * unit).check("[length]")
    ]
    return float(np.mean(sizes)) if len(sizes) == 2 else None
