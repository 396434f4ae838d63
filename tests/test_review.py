"""The order in which to look at masks: the expected IoU of each image."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import spread_model
from numpy.typing import NDArray
from PIL import Image
from slides import write_pyramid

import celladapt
from celladapt import contact_sheet, quality, reviewing
from celladapt.cli import main
from celladapt.data.images import read_image, write_image
from celladapt.errors import InputError
from celladapt.expectation import clues_on
from celladapt.quality import Expectation, calibration, expected_iou
from celladapt.reviewing import SHOWN, Review, Reviewed, SomeUnread

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class SeesBrightness:
    """A model by which what is bright is nucleus."""

    pixel_size: float | None = None
    about: dict[str, Any] = field(default_factory=dict, compare=False)

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        return image.mean(2).astype(np.float32) / 255


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
    expected = {item.image.stem: item.expected.iou for item in done.items}
    assert list(expected)[-1] == "right"
    assert expected["right"] > 2 * expected["inverted"]
    assert [item.nuclei for item in done.items if item.image.stem != "inverted"] == [0, 16]
    with (tmp_path / "out" / "review.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]) for row in rows] == [item.image for item in done.items]
    assert [float(row["expected_iou"]) for row in rows] == pytest.approx(list(expected.values()), abs=1e-4)
    assert rows[-1]["nuclei"] == "16"
    with Image.open(tmp_path / "out" / "lowest.png") as picture:
        assert picture.width > 2 * picture.height, "three images beside one another"


def test_an_image_is_judged_by_itself_with_the_interval_of_one(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = {**calibration(), "radius": 0.1, "radius_alone": 0.25}
    monkeypatch.setattr(quality, "calibration", lambda: fitted)
    model = SeesBrightness()
    best = celladapt.review(model, images / "right.png", tmp_path / "out").items[0]  # type: ignore[arg-type]
    several = expected_iou(clues_on(model, [read_image(best.image)]))  # type: ignore[arg-type]
    assert best.expected.iou == several.iou
    assert best.expected.low == pytest.approx(several.low - 0.15)


def test_one_image_that_cannot_be_read_does_not_cost_the_others(images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    with pytest.raises(SomeUnread, match=r"1 of 4 images.*broken\.png") as caught:
        celladapt.review(SeesBrightness(), images, tmp_path / "out")  # type: ignore[arg-type]
    assert len(caught.value.done.items) == 3
    assert len((tmp_path / "out" / "review.csv").read_text(encoding="utf-8").splitlines()) == 4
    with pytest.raises(InputError, match="broken"):
        celladapt.review(SeesBrightness(), images / "broken.png", tmp_path / "other")  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_too_little_memory_for_one_image_costs_that_one(images: Path, tmp_path: Path) -> None:
    class Small(SeesBrightness):
        def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
            if image.mean() > 128:
                raise RuntimeError("CUDA out of memory")
            return super().probability(image)

    with pytest.raises(SomeUnread, match=r"inverted\.png needs more memory"):
        celladapt.review(Small(), images, tmp_path / "out")  # type: ignore[arg-type]


def test_a_broken_network_is_promised_nothing(images: Path, tmp_path: Path) -> None:
    class Broken(SeesBrightness):
        def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
            return np.full(image.shape[:2], np.nan, np.float32)

    done = celladapt.review(Broken(), images, tmp_path / "out")  # type: ignore[arg-type]
    assert {item.expected for item in done.items} == {Expectation(0.0, 0.0, 0.0)}


def test_an_image_of_which_nothing_can_be_told_has_no_number_that_looks_like_one(images: Path, tmp_path: Path) -> None:
    known, untold = Reviewed(images / "right.png", Expectation(0.4, 0.3, 0.5), 3), Reviewed(images / "inverted.png", Expectation(0.2, 0.0, 1.0), 4)
    both, none = Review(tmp_path, [untold, known]), Review(tmp_path, [untold])
    assert both.words.startswith("2 images, expected IoU of 1 (of the others it cannot be told without masks) 0.40 on average")
    assert "1 below 0.5" in both.words
    assert none.words.startswith("1 image: what IoU to expect cannot be told")
    assert [str(cell) for cell in both.table().columns[1].cells] == ["?", "0.40"]
    assert [row[1:] for row in csv.reader(reviewing._csv([untold, known]).splitlines())] == [
        ["expected_iou", "low", "high", "nuclei"],
        ["", "", "", "4"],
        ["0.4000", "0.3000", "0.5000", "3"],
    ]


def test_of_one_plausible_image_among_many_no_more_is_told_than_of_the_others(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed: set[int] = set()

    def clues(seen: Any, pixels: Any) -> dict[str, float]:
        (image,) = pixels
        return {"likeness": 0.5, "agreement": 0.5, "solidity": 0.9, "witnessed": float(int(image.mean()) in believed)}

    monkeypatch.setattr(reviewing, "clues_of", clues)
    means = [int(read_image(path).mean()) for path in sorted(images.iterdir())]
    for number, told in ((1, 0), (2, 2)):
        believed |= {means[number - 1]}
        done = celladapt.review(SeesBrightness(), images, tmp_path / str(number))  # type: ignore[arg-type]
        assert sum(item.expected.told for item in done.items) == told


def test_nothing_that_is_there_is_replaced_unasked(images: Path, tmp_path: Path) -> None:
    model = SeesBrightness()
    with pytest.raises(InputError, match="choose another --out"):
        celladapt.review(model, images, images)  # type: ignore[arg-type]
    celladapt.review(model, images, tmp_path / "out")  # type: ignore[arg-type]
    before = (tmp_path / "out" / "review.csv").read_bytes()
    with pytest.raises(InputError, match=r"review\.csv exists already.*--overwrite"):
        celladapt.review(model, images / "right.png", tmp_path / "out")  # type: ignore[arg-type]
    assert (tmp_path / "out" / "review.csv").read_bytes() == before
    assert len(celladapt.review(model, images / "right.png", tmp_path / "out", overwrite=True).items) == 1  # type: ignore[arg-type]


def test_of_many_the_lowest_are_shown_equal_ones_by_name(tmp_path: Path) -> None:
    for number in range(SHOWN + 2):
        write_image(tmp_path / ("b" if number % 2 else "a") / "image.png" if number < 2 else tmp_path / "b" / f"{number:02d}.png", discs(48, 24))
    done = celladapt.review(SeesBrightness(), [tmp_path / "b", tmp_path / "a"], tmp_path / "out")  # type: ignore[arg-type]
    assert done.table().row_count == SHOWN
    assert [item.image for item in done.items] == sorted(item.image for item in done.items), "whatever the order of the folders"


def test_a_line_of_pixels_and_a_name_that_is_no_text_are_drawn(tmp_path: Path) -> None:
    shown = [("a\udcff.png", np.zeros((1, 40, 3), np.uint8)), ("b", discs()[..., None].repeat(3, 2))]
    contact_sheet.draw(tmp_path / "sheet.png", 2, shown, SeesBrightness())  # type: ignore[arg-type]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 800


def test_the_command(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "model.safetensors", tmp_path / "out"
    spread_model().save(file)
    (images / "broken.png").write_bytes(b"no image")
    assert main(["review", str(file), str(images), "--out", str(out)]) == 2
    both = capsys.readouterr()
    assert "inverted.png" in both.out
    assert "lowest.png" in both.out
    assert "broken.png" in both.err
    (images / "broken.png").unlink()
    assert main(["review", str(file), str(images), "--out", str(out), "--overwrite"]) == 0
    for options, words in (
        (["--out", str(out / "review.csv")], "is a file"),
        (["--out", str(out), "--overwrite", "--at", "-1"], "--at is -1"),
        (["--out", str(out), "--overwrite", "--pixel-size", "nan"], "--pixel-size is nan"),
    ):
        assert main(["review", str(file), str(images), *options]) == 2
        assert words in capsys.readouterr().err
    assert main(["review", str(file), "--out", str(out)]) == 2
    assert "Name at least one image" in capsys.readouterr().err


def test_a_slide_is_judged_where_its_tissue_is(tmp_path: Path) -> None:
    ground = np.full((1400, 1500, 3), 245, np.uint8)
    ground[900:1300, 1000:1400] = np.array([150, 90, 160], np.uint8)
    write_pyramid(tmp_path / "slide.tif", ground)
    seen: list[tuple[int, ...]] = []

    class Watched(SeesBrightness):
        def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
            seen.append((*image.shape[:2], int((image[..., 1] < 200).sum())))
            return super().probability(image)

    celladapt.review(Watched(), tmp_path / "slide.tif", tmp_path / "out")  # type: ignore[arg-type]
    height, width, tissue = seen[0]
    assert (height, width) == (512, 512)
    assert tissue > 0.9 * 400 * 400
