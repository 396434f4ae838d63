"""Models for other programs: every way to compute agrees, windows agree with the whole, and what is written is whole, known and private."""

import hashlib
import json
import re
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import NORMALISATION, picture, spread_model

import celladapt
from celladapt import exporting, onnx_model
from celladapt.cli import main
from celladapt.data.images import read_mask, write_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.expectation import expected_quality
from celladapt.exporting import export
from celladapt.loading import load_model
from celladapt.model import Model
from celladapt.networks import REACH
from celladapt.onnx_graph import as_onnx
from celladapt.prediction import predict
from celladapt.selection import CLUES
from celladapt.strips import HALO

GREY = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), grey=True)
SIZES = [(1, 1), (17, 33), (250, 311)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Model:
    return spread_model(NORMALISATION, known={"iou": 0.6, "clues": dict.fromkeys(CLUES, 0.5), "images": 2})


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, "onnx", tmp_path_factory.mktemp("onnx") / "model.onnx")


# --- the same, however it is computed -------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_torch_and_onnx_runtime_agree(model: Model, file: Path, size: tuple[int, int], dtype: type) -> None:
    image = picture(1, *size, dtype)
    exact = model.probability(image)
    other = load_model(file).probability(image)
    assert other.shape == size
    assert other.dtype == np.float32
    np.testing.assert_allclose(other, exact, rtol=0, atol=5e-5)
    fast = Model(model.network, model.normalisation, precision="bf16").probability(image)
    np.testing.assert_allclose(fast, exact, rtol=0, atol=0.1)  # bf16 has two to three digits, in logits spread by 2
    assert np.abs(fast - exact).mean() < 0.01
    if min(size) > 100:
        assert np.ptp(exact) > 0.5, "a flat prediction would prove nothing"


@pytest.mark.parametrize("normalisation", [GREY, Normalisation((0.5, 0.4, 0.6), (0.2, 0.3, 0.25), grey=True)])
def test_a_model_without_colours_takes_their_mean_in_the_graph(tmp_path: Path, normalisation: Normalisation) -> None:
    """So that a program which only normalises each channel sees what we see."""
    grey = spread_model(normalisation)
    loaded = load_model(export(grey, "onnx", tmp_path / "grey.onnx"))
    assert loaded.normalisation == normalisation
    image = picture(2, 48, 64)
    exact = grey.predict(image).probability
    np.testing.assert_allclose(loaded.predict(image).probability, exact, rtol=0, atol=5e-5)
    coloured = Normalisation(normalisation.mean, normalisation.std)(image)[None]
    assert np.abs(coloured.numpy() - normalisation(image)[None].numpy()).max() > 0.1
    np.testing.assert_allclose(loaded.network(coloured)[0, 0].numpy(), exact, rtol=0, atol=5e-5)


def test_windows_agree_with_the_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, loaded = picture(3, 330, 291), load_model(file)
    whole = loaded.predict(image).probability
    seen: list[tuple[int, ...]] = []
    real = type(loaded.network).forward
    monkeypatch.setattr(type(loaded.network), "forward", lambda network, x: (seen.append(tuple(x.shape)), real(network, x))[1])
    monkeypatch.setattr(onnx_model, "WINDOW_BYTES", 4 * 4 * (64 + 2 * HALO) ** 2)
    np.testing.assert_allclose(loaded.predict(image).probability, whole, rtol=0, atol=5e-5)
    assert len(seen) == 6 * 5
    assert max(max(shape[2:]) for shape in seen) == 64 + 2 * HALO, "whatever the size of the image"
    monkeypatch.setattr(onnx_model, "HALO", 32)
    monkeypatch.setattr(onnx_model, "WINDOW_BYTES", 4 * 4 * (64 + 2 * 32) ** 2)
    assert np.abs(loaded.predict(image).probability - whole).max() > 1e-4, "that the comparison can fail"


def test_the_network_looks_as_far_as_is_said_and_no_farther(model: Model) -> None:
    x = torch.randn(1, 3, 16, 352, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reach = 0
    for column in range(176, 192):  # at every place in a square of 16
        (gradient,) = torch.autograd.grad(model.network(x)[..., column].sum(), x)
        touched = gradient.abs().sum((0, 1, 2)).nonzero().ravel()
        reach = max(reach, column - int(touched[0]), int(touched[-1]) - column)
    assert reach <= REACH
    assert reach > REACH - 16


def test_a_file_alone_predicts_folders_and_says_what_to_expect(model: Model, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "in" / "a.png", picture(4, 70, 50))
    predict(model, tmp_path / "in", tmp_path / "torch")
    assert main(["predict", str(file), str(tmp_path / "in"), "--out", str(tmp_path / "onnx")]) == 0
    for name in ("a_mask.png", "a_instances.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / "onnx" / name), read_mask(tmp_path / "torch" / name))
    by_torch, by_onnx = (expected_quality(each, tmp_path / "in") for each in (model, load_model(file)))
    assert by_onnx.iou == pytest.approx(by_torch.iou, abs=1e-3)
    assert by_onnx.masks == 2, "what is known of the model is in the file too"
    assert capsys.readouterr().out.splitlines()[-1] == by_onnx.words


# --- what is written ------------------------------------------------------------------------------


def test_an_onnx_file_is_what_its_description_says(model: Model, file: Path) -> None:
    written = onnx.load(file)
    about = json.loads({entry.key: entry.value for entry in written.metadata_props}["celladapt"])
    assert about == json.loads(json.dumps(model.header))
    assert about["width"] == 4
    shapes = [[d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in (*written.graph.input, *written.graph.output)]
    assert shapes == [["n", 3, "h", "w"], ["n", 1, "h", "w"]]
    assert "BatchNormalization" not in {node.op_type for node in written.graph.node}


def test_a_graph_that_computes_something_else_is_never_left(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Any:
        written = as_onnx(*arguments)
        weight = next(w for w in written.graph.initializer if len(w.dims) == 4)
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.2, weight.name))
        return written

    monkeypatch.setattr(exporting, "as_onnx", wrong)
    with pytest.raises(RuntimeError, match="something else than torch"):
        export(model, "onnx", tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def package(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[Any]]:
    """A package of a model that comes from oddly named folders, whom its making tried to reach, and what the zoo's own test found."""
    import bioimageio.core

    asked: list[Any] = []
    found: list[Any] = []
    test_model = bioimageio.core.test_model

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network here")

    about = {"source": "../a`b\n# <b>|x", "target": "c\udc80d [x](y)", "method": "weakuda"}
    odd = Model(model.network, GREY, about, "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(bioimageio.core, "test_model", lambda loaded: (found.append(test_model(loaded)), found[-1])[1])
        out = export(odd, "bioimageio", tmp_path_factory.mktemp("package") / "model.zip", "CC-BY-4.0", ["Ada Lovelace", "Åsa Ö."])
    return out, asked, found


def test_a_package_passes_the_zoos_own_test_without_a_network(package: tuple[Path, list[Any], list[Any]]) -> None:
    path, asked, (summary,) = package
    assert not asked
    assert summary.status == "passed"
    tested = [detail.name for detail in summary.details if detail.status == "passed"]
    assert any(name.startswith("Reproduce test outputs") for name in tested)
    assert sum(name.startswith("Run onnx inference") for name in tested) >= 4, "batches and sizes"
    with zipfile.ZipFile(path) as archive:
        names = {"rdf.yaml", "weights.onnx", "README.md", "cover.png", "test_input.npy", "test_output.npy"}
        assert set(archive.namelist()) == names
        text = archive.read("rdf.yaml").decode()
        for name in ("weights.onnx", "test_input.npy", "test_output.npy"):
            assert hashlib.sha256(archive.read(name)).hexdigest() in text
        card = archive.read("README.md").decode()
    assert re.search(r"^license: CC-BY-4.0$", text, re.M)
    assert "Ada Lovelace" in text
    assert "Haq and J. Huang" in text
    assert "name: Nuclei segmentation a b b x to c d x y" in text
    assert "It looks at brightness alone" in card
    assert [path.name] == [each.name for each in path.parent.iterdir()], "nothing is left beside it"


def test_in_another_program_a_package_gives_what_we_give(model: Model, package: tuple[Path, list[Any], list[Any]]) -> None:
    """By bioimageio.core's own reading of the description: 8 bits in, preprocessing as described, probability out."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_description

    loaded = load_description(package[0], perform_io_checks=False)
    image = picture(6, 256, 272)
    sample = create_sample_for_model(loaded, inputs={"image": image.transpose(2, 0, 1)[None]})
    # By itself it reflects the image at its border, as far as the halo, where our network sees zeros.
    plainly = {"skip_input_padding": True, "skip_output_cropping": True}
    result = create_prediction_pipeline(loaded).predict_sample_without_blocking(sample, **plainly).members["probability"].data.to_numpy()
    ours = Model(model.network, GREY, precision="float32").predict(image).probability
    np.testing.assert_allclose(result[0, 0], ours, rtol=0, atol=5e-5)
    assert np.ptp(ours) > 0.3


def test_a_package_that_the_zoo_does_not_accept_is_never_left(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celladapt import zoo

    real = zoo._describe
    monkeypatch.setattr(zoo, "_describe", lambda *arguments: {**real(*arguments), "inputs": []})
    with pytest.raises(InputError, match="cannot read the package"):
        export(model, "bioimageio", tmp_path / "model.zip")
    assert not any(tmp_path.iterdir())


def test_the_documentations_python_runs(model: Model, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8"), re.S)
    scope: dict[str, Any] = {}
    exec(compile(code, "export.md", "exec"), scope)
    np.testing.assert_allclose(scope["probability"][0, 0], model.predict(scope["image"]).probability, rtol=0, atol=5e-5)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_damaged_run_leaves_nothing_half_written(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "model.safetensors"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    for to, out in (("onnx", "m.onnx"), ("bioimageio", "m.zip")):
        assert main(["export", str(tmp_path / "run"), "--to", to, "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert "model.safetensors" in error
        assert error.count("\n") == 1
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_a_model_that_predicts_no_numbers_is_not_passed_on(tmp_path: Path) -> None:
    diverged = spread_model(NORMALISATION)
    with torch.no_grad():
        diverged.network.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not numbers"):
        export(diverged, "onnx", tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_told(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"exists already.*--overwrite"):
        export(model, "onnx", out)
    assert out.read_bytes() == b"mine"
    export(model, "onnx", out, overwrite=True)
    assert load_model(out).about["width"] == 4
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        export(model, "onnx", tmp_path / "folder.onnx", overwrite=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "tflite"}, "choose one of onnx, bioimageio"),
        ({"to": "bioimageio"}, r"does not end in \.zip"),
        ({"license": "MIT"}, "package alone"),
        ({"to": "bioimageio", "out": "m.zip", "license": "mine"}, "no SPDX identifier"),
    ],
)
def test_options_that_mean_nothing(model: Model, tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        export(model, **{"to": "onnx", **options, "out": tmp_path / options.get("out", "m.onnx")})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("library", "to"), [("onnx", "onnx"), ("onnxruntime", "onnx"), ("bioimageio.core", "bioimageio")])
def test_a_missing_library_is_named_with_the_cure(model: Model, tmp_path: Path, library: str, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf'needs {library} .*pip install "celladapt\[export\]"'):
        export(model, to, tmp_path / f"m{exporting.SUFFIX[to]}")
    assert not any(tmp_path.iterdir())


def test_files_that_are_no_model_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = file.read_bytes()
    for content in (b"", b"no model", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"m\.onnx is damaged") as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
    foreign = onnx.load(file)
    del foreign.metadata_props[:]
    onnx.save(foreign, path)
    with pytest.raises(InputError, match="without celladapt's header"):
        load_model(path)
    for header, words in (("{}", "lacks the width"), ("[]", "lacks the width"), ("{", "damaged")):
        onnx.helper.set_model_props(foreign, {"celladapt": header})
        onnx.save(foreign, path)
        with pytest.raises(InputError, match=words):
            load_model(path)
    foreign.graph.input[0].name = foreign.graph.node[0].input[0] = "data"
    onnx.save(foreign, path)
    with pytest.raises(InputError, match="it computes data, probability"):
        load_model(path)
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "none.onnx")


def test_what_an_onnx_model_cannot_do_is_said(file: Path, tmp_path: Path) -> None:
    for options in ({"device": "cuda"}, {"precision": "bf16"}):
        with pytest.raises(InputError, match=r"leave --(device cuda|precision bf16) out"):
            load_model(file, **options)
    write_image(tmp_path / "a.png", picture(5, 64, 64))
    for call in (lambda: celladapt.suggest(file, tmp_path, tmp_path / "out"), lambda: export(file, "onnx", tmp_path / "b.onnx")):
        with pytest.raises(InputError, match="only predicts"):
            call()
    for array in (np.zeros((8, 8, 5), np.float32), np.zeros((0, 8), np.uint8)):
        with pytest.raises(InputError, match=r"The image has"):
            load_model(file).predict(array)
