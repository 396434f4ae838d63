"""The order in which to look at masks: the expected IoU of each image."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import spread_model
from numpy.typing import NDArray
from PIL import Image

import celladapt
from celladapt.cli import main
from celladapt.data.images import read_image, write_image
from celladapt.errors import InputError
from celladapt.expectation import clues_on
from celladapt.model import Prediction
from celladapt.quality import calibration, expected_iou
from celladapt.reviewing import SHOWN

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class SeesBrightness:
    """A model by which what is bright is nucleus."""

    pixel_size: float | None = None

    def predict(self, image: NDArray[Any]) -> Prediction:
        return Prediction(image.mean(2).astype(np.float32) / 255)


def discs(side: int = 128, step: int = 32) -> NDArray[np.uint8]:
    """Bright discs on a dark ground."""
    y, x = np.mgrid[:side, :side]
    return np.where(np.hypot(y % step - step / 2, x % step - step / 2) < step / 3, 230, 10).astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One image that the model sees rightly, one that it takes the ground of for nuclei, one in which it sees nothing."""
    nuclei = discs()
    for name, image in {"right": nuclei, "inverted": 255 - nuclei, "nothing": nuclei // 3}.items():
        write_image(tmp_path / "images" / f"{name}.png", image)
    return tmp_path / "images"


def test_what_is_seen_badly_comes_first(images: Path, tmp_path: Path) -> None:
    done = celladapt.review(SeesBrightness(), images, tmp_path / "out")  # type: ignore[arg-type]
    assert [item.image.stem for item in done.items][-1] == "right"
    assert done.items[-1].expected.iou > 0.6 > 0.4 > done.items[1].expected.iou
    with (tmp_path / "out" / "review.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]) for row in rows] == [item.image for item in done.items]
    assert float(rows[0]["expected_iou"]) == pytest.approx(done.items[0].expected.iou, abs=1e-4)
    with Image.open(tmp_path / "out" / "lowest.png") as picture:
        assert picture.width > 2 * picture.height, "three images beside one another"
    assert "3 images" in done.words
    assert "below 0.5 in 2" in done.words


def test_an_image_is_judged_by_itself_with_the_interval_of_one(images: Path, tmp_path: Path) -> None:
    model = SeesBrightness()
    done = celladapt.review(model, images, tmp_path / "out")  # type: ignore[arg-type]
    best = done.items[-1]
    clues = clues_on(model, [read_image(best.image)])  # type: ignore[arg-type]
    assert best.expected == expected_iou(clues, alone=True)
    assert calibration()["radius_alone"] >= calibration()["radius"]
    assert best.expected.low <= expected_iou(clues).low


def test_one_image_that_cannot_be_read_does_not_cost_the_others(images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 4 images.*broken\.png"):
        celladapt.review(SeesBrightness(), images, tmp_path / "out")  # type: ignore[arg-type]
    assert len((tmp_path / "out" / "review.csv").read_text(encoding="utf-8").splitlines()) == 4
    with pytest.raises(InputError, match="broken"):
        celladapt.review(SeesBrightness(), images / "broken.png", tmp_path / "other")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_of_many_the_lowest_are_shown(tmp_path: Path) -> None:
    for number in range(SHOWN + 2):
        write_image(tmp_path / "images" / f"{number:02d}.png", discs(48, 24))
    done = celladapt.review(SeesBrightness(), tmp_path / "images", tmp_path / "out")  # type: ignore[arg-type]
    assert done.table().row_count == SHOWN
    assert [item.image.stem for item in done.items] == sorted(item.image.stem for item in done.items), "equal ones by name"


def test_the_command(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spread_model().save(tmp_path / "model.safetensors")
    assert main(["review", str(tmp_path / "model.safetensors"), str(images), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "lowest.png" in text
    assert "inverted.png" in text
    assert main(["review", str(tmp_path / "model.safetensors"), str(images), "--out", str(tmp_path / "out" / "review.csv")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main(["review", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out")]) == 2
    assert "Name at least one image" in capsys.readouterr().err
