"""Properties that hold for whatever values: what is written is read back, and bytes of any kind give a value or one sentence."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from reliability.corpus import KINDS, READERS, Kind

from celladapt.cells import as_cell, of_cell
from celladapt.config import Config
from celladapt.data.images import as_image, decode, image_of, read_image, read_mask, write_image
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.records import read_json

quick = settings(derandomize=True, database=None, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
thorough = settings(database=None, deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
LABELS = st.sampled_from((np.uint8, np.uint16, np.int32, np.int64)).flatmap(
    lambda dtype: arrays.arrays(dtype, SHAPES, elements=st.integers(0, min(np.iinfo(dtype).max, 2**31 - 1)))
)
PIXELS = st.one_of(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from((3, 4)))),
    arrays.arrays(st.sampled_from((np.uint8, np.bool_)), SHAPES),
    arrays.arrays(np.uint16, SHAPES),
)
FILES = [kind for kind in KINDS if kind.reader in ("image", "mask", "config", "split", "model", "archive", "annotation", "matlab", "array")]


@quick
@given(labels=LABELS, suffix=st.sampled_from((".png", ".tif")))
def test_labels_are_read_back(labels: NDArray[Any], suffix: str) -> None:
    assume(suffix == ".tif" or labels.max() < 2**16)
    with TemporaryDirectory() as folder:
        write_image(Path(folder) / f"a{suffix}", labels)
        found = read_mask(Path(folder) / f"a{suffix}")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


@quick
@given(pixels=PIXELS, suffix=st.sampled_from((".png", ".tif")))
def test_a_file_is_read_as_the_array_that_it_holds(pixels: NDArray[Any], suffix: str) -> None:
    assume(pixels.shape[2:] != (4,) or suffix == ".png")  # a TIFF written here says of a fourth channel only that it is there
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write_image(path, pixels)
        found = read_image(path)
        np.testing.assert_array_equal(found, as_image(decode(path)))
    if pixels.dtype == np.uint8 and pixels.shape[2:] != (4,):
        np.testing.assert_array_equal(found, np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels)
    else:
        np.testing.assert_array_equal(found, image_of(pixels, "a"))


@quick
@given(
    pixels=arrays.arrays(
        st.sampled_from((np.float32, np.float64, np.int16, np.int64, np.uint32, np.complex64)), arrays.array_shapes(min_dims=2, max_dims=3)
    )
)
def test_an_array_of_any_values_is_an_image_or_one_sentence(pixels: NDArray[Any]) -> None:
    said = ""
    try:
        found = image_of(pixels, "a plane")
    except InputError as error:
        said = str(error)
    assert said.startswith("a plane ") or (not said and found.dtype in (np.uint8, np.uint16) and found.shape == (*pixels.shape[:2], 3))


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "source": st.text("abc äß'\"\\/\n\t#=[]", min_size=1, max_size=9).map(Path),
            "steps": st.integers(1, 2**62),
            "crop": st.one_of(st.just("whole"), st.integers(32, 4096)),
            "seed": st.integers(0, 2**62),
            "lr_s": st.floats(1e-300, 1e300),
            "ema": st.floats(0, 1, exclude_max=True),
            "labelled_share": st.floats(0, 1),
            "lambda_bce": st.floats(0, 1e9),
            "group": st.sampled_from((None, "^[^_]+", r"(\d+)", "ä")),
            "pixel_size": st.one_of(st.none(), st.floats(1e-9, 1e9)),
            "method": st.sampled_from(("weakuda", "cellsegssda@10%", "cellseguda:lambda_rec=0")),
            "val_fraction": st.floats(0, 0.5),
            "compile": st.booleans(),
        },
    )
)
def test_options_are_read_back(options: dict[str, Any]) -> None:
    config = Config(**options)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_text(config.to_toml(), encoding="utf-8")
        assert asdict(Config.from_toml(path)) == asdict(config)


WORDS = st.text('a"\\\n\0ü\u2028😀\udcff', max_size=6)


@quick
@given(
    st.dictionaries(
        WORDS, st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS, lambda inner: st.lists(inner, max_size=3))
    )
)
def test_json_is_read_back(value: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "a.json", value)
        assert read_json(Path(folder) / "a.json") == value


@settings(quick, max_examples=200)
@given(st.text("'=+-@\t\n＝＋－＠a1. \"", max_size=5))
def test_cells_are_read_back(text: str) -> None:
    cell = as_cell(text)
    assert of_cell(cell) == text
    assert not cell.startswith(tuple("=@\t\n＝＋－＠")) or _is_number(cell)


def _is_number(text: str) -> bool:
    try:
        return float(text) is not None
    except ValueError:
        return False


def changed(content: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    """Some bytes put in place of others."""
    for place, new, lost in changes:
        at = place % (len(content) + 1)
        content = content[:at] + new + content[at + lost :]
    return content


def broken(kind: Kind, changes: list[tuple[int, bytes, int]]) -> None:
    """A file of the corpus with some bytes changed is read, or refused in one sentence that names it."""
    with TemporaryDirectory() as folder:
        path = kind.make(Path(folder), kind.stem[:100])
        if not path.is_file():
            return
        path.write_bytes(changed(path.read_bytes(), changes))
        said = ""
        try:
            READERS[kind.reader](path)
        except InputError as error:
            said = str(error)
        assert not said or (str(path) in said and "\n" not in said)


CHANGES = st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4), st.integers(0, 8)), min_size=1, max_size=4)


@pytest.mark.parametrize("reader", sorted({kind.reader for kind in FILES}))
@settings(quick, max_examples=20)
@given(data=st.data())
def test_changed_bytes_give_a_value_or_one_sentence(reader: str, data: st.DataObject) -> None:
    kinds = [kind for kind in FILES if kind.reader == reader and "bomb" not in kind.name]
    broken(data.draw(st.sampled_from(kinds)), data.draw(CHANGES))


@pytest.mark.parametrize("reader", sorted({kind.reader for kind in FILES}))
@settings(quick, max_examples=15)
@given(content=st.binary(max_size=200))
def test_any_bytes_give_a_value_or_one_sentence(reader: str, content: bytes) -> None:
    suffix = {"image": ".png", "mask": ".tif", "model": ".safetensors", "archive": ".zip"}.get(reader, ".x")
    broken(Kind("bytes", reader, lambda folder, stem: _written(folder / f"{stem}{suffix}", content), ""), [])


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("reader", sorted({kind.reader for kind in FILES}))
@settings(thorough)
@given(data=st.data())
def test_changed_bytes_give_a_value_or_one_sentence_again_and_again(reader: str, data: st.DataObject) -> None:
    kinds = [kind for kind in FILES if kind.reader == reader and "bomb" not in kind.name]
    broken(data.draw(st.sampled_from(kinds)), data.draw(CHANGES))
