"""Where a mask is cut."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from celladapt import preparation
from celladapt.adaptation import prepare
from celladapt.classical import Witness
from celladapt.config import Config, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import Stream
from celladapt.networks import Segmenter, UNet
from celladapt.preparation import set_up
from celladapt.run import Run
from celladapt.threshold import HALF, THRESHOLDS, Teachers, best_of, cut_at_half, tally
from celladapt.validate import Held, Validator


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(images: Tensor) -> Segmenter:
    """Its logits on ``images`` have mean 0 and standard deviation 1."""
    torch.manual_seed(0)
    made = Segmenter(4).eval()
    with torch.no_grad():
        assert made.head.bias is not None
        made.head.bias -= UNet.forward(made, images).mean()
        spread = UNet.forward(made, images).std()
        made.head.bias /= spread
        made.head.weight /= spread
    return made


def seen_by(network: Segmenter) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def predict(image: Tensor) -> Tensor:
        p: Tensor = network(image[None])
        return p[0, 0]

    return predict


def test_counts_by_hand() -> None:
    p = torch.tensor([[0.05, 0.3, 0.55, 0.95]])
    mask = torch.tensor([[False, False, True, True]])
    off, on = tally(p, mask)
    assert off.sum() == on.sum() == 2
    assert off[0] == 1, "0.05 reaches no threshold"
    assert off[21] == 1, "0.3 reaches 0.10, 0.11, ... 0.30"
    assert on[81] == 1, "0.95 reaches all"
    assert best_of([tally(p, mask)]) == HALF, "of all from 0.31 to 0.55, where the IoU is 1, the nearest to 1/2"
    assert THRESHOLDS[HALF] == 0.5
    assert THRESHOLDS[best_of([tally(p, ~mask)])] == pytest.approx(0.3), "which 0.3 still reaches; 0.05 is out of reach"


def test_of_thresholds_that_are_alike_the_most_cautious_is_taken() -> None:
    p = torch.tensor([[0.95] * 200 + [0.6]])
    assert best_of([tally(p, p > 0.9)]) == HALF, "where the IoU is 200/201, and 1 from 0.61 on"
    p = torch.tensor([[0.95] * 200 + [0.6] * 3])
    assert THRESHOLDS[best_of([tally(p, p > 0.9)])] == pytest.approx(0.61), "200/203 is not as good"


def test_an_image_full_of_nuclei_does_not_decide_for_all() -> None:
    full = torch.tensor([[0.55] * 900 + [0.95] * 100]), torch.ones(1, 1000, dtype=torch.bool)
    sparse = torch.tensor([[0.6] * 30 + [0.95] * 10]), torch.tensor([[False] * 30 + [True] * 10])
    assert best_of([tally(*full)]) == HALF
    counts = [tally(*full), *[tally(*sparse)] * 6]
    assert best_of([sum(counts[1:], counts[0])]) == HALF, "which is what all pixels together say"
    assert THRESHOLDS[best_of(counts)] == pytest.approx(0.61), "as six of seven images ask for"


def test_what_was_the_best_threshold_is_at_a_half(network: Segmenter, images: Tensor) -> None:
    predict = seen_by(network)
    given = Teachers([(image, predict(image) >= 0.7) for image in images])
    assert cut_at_half(network, predict, given) == pytest.approx(0.7, abs=0.03)
    cut = [((predict(image) >= 0.5) & mask, (predict(image) >= 0.5) | mask) for image, mask in given.given]
    assert sum(int(both.sum()) for both, _ in cut) / sum(int(either.sum()) for _, either in cut) > 0.98
    assert cut_at_half(network, predict, given) == 0.5, "where it stays"


def test_a_moved_threshold_does_not_pass_for_being_sure(network: Segmenter, images: Tensor) -> None:
    """Else of two networks that say the same the one that is cut at the higher threshold, which leaves less, would be preferred."""
    witnesses = [Witness.of((seen_by(network)(image) >= 0.8).numpy()) for image in images]
    masks = [torch.from_numpy(witness.mask) for witness in witnesses]
    held = Held(list(images), masks), Held(list(images), classical=witnesses)
    validator = Validator(*held, torch.device("cpu"), nullcontext, Teachers(source=list(zip(images, masks, strict=True))))
    before = validator(network)
    threshold = validator.cut(network)
    after = validator(network, threshold)
    assert threshold == pytest.approx(0.8, abs=0.03)
    sure = ("entropy", "infomax", "snd", "consistency", "zoom")
    assert {name: after[name] for name in sure} == pytest.approx({name: before[name] for name in sure}, abs=1e-5)
    assert validator(network)["entropy"] > before["entropy"] + 0.05, "as it would be if the shift were not told"
    assert after["source_iou"] > before["source_iou"] + 0.2, "masks are judged as they are cut"


def test_masks_of_the_target_go_before_what_stands_for_them_and_that_before_the_source(network: Segmenter, images: Tensor) -> None:
    predict, bias = seen_by(network), network.head.bias
    assert bias is not None
    low, middle, high = ([(image, predict(image) >= t) for image in images] for t in (0.3, 0.45, 0.6))
    unheard = [(image, predict(image) < 0.3) for image in images]
    empty = [(images[0], torch.zeros(32, 32, dtype=torch.bool))]
    for teachers, best in (
        (Teachers(low, middle, source=high), 0.3),
        (Teachers((), middle, source=high), 0.45),
        (Teachers(empty, middle, source=high), 0.45),
        (Teachers((), unheard, source=high), 0.6),
        (Teachers(source=high), 0.6),
        (Teachers(empty, empty, empty), 0.5),
        (Teachers(), 0.5),
    ):
        kept = bias.detach().clone()
        assert cut_at_half(network, predict, teachers) == pytest.approx(best, abs=0.03)
        assert torch.equal(bias, kept) == (best == 0.5)
        with torch.no_grad():
            bias.copy_(kept)


@pytest.mark.parametrize(
    ("method", "held"),
    [("source_only", "source"), ("cellseguda", "source"), ("supervised", "given"), ("weakssda@50%", "given"), ("weakuda", "source")],
)
def test_nothing_teaches_that_the_method_does_not_learn_from(tiny_domains: tuple[Path, Path], tmp_path: Path, method: str, held: str) -> None:
    config = Config(*map(Path, tiny_domains), method=method, steps=1, width=4, crop=32, batch_size=2, baseline=False)
    run = prepare(config, tmp_path / "run")
    trainer, _ = set_up(run)
    teachers = trainer.validator.teachers
    assert {name for name in ("given", "source") if getattr(teachers, name)} == {held}
    if held == "given":
        target = Folder.open(tiny_domains[1])
        assert len(teachers.given) == len(run.record["target_labelled"])
        assert sum(int(mask.sum()) for _, mask in teachers.given) == sum(int((target.mask(stem) > 0).sum()) for stem in run.record["target_labelled"])
    assert not teachers.standing or method == "weakuda"


def test_a_source_that_is_annotated_in_part_is_asked_where_it_is(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = map(Path, tiny_domains)
    for path in sorted((source / "masks").iterdir())[2:]:
        path.unlink()
    config = Config(source, target, method="source_only", steps=1, width=4, crop=32, batch_size=2, baseline=False, validation_images=2)
    trainer, _ = set_up(prepare(config, tmp_path / "run"))
    assert len(trainer.validator.teachers.source) == 2
    masked = Folder.open(source)
    assert set(trainer.about["trained_on"]) >= set(masked.subset(masked.labelled).digests()), "those of validation images cut the masks"


def test_what_a_method_does_not_read_it_has_not_seen(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    config = Config(*map(Path, tiny_domains), method="supervised", steps=1, width=4, crop=32, batch_size=2, baseline=False)
    trainer, _ = set_up(prepare(config, tmp_path / "run"))
    assert not set(trainer.about["trained_on"]) & set(Folder.open(tiny_domains[0]).digests())


def test_of_many_images_few_are_asked_before_the_first_step(tiny_domains: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    folder = Folder.open(tiny_domains[1]).without_masks()
    stream = Stream(folder, Normalisation.of(folder.image(stem) for stem in folder.images), 32, "none", (0, 1), classical=True)
    monkeypatch.setattr(Stream, "stands", lambda self, stem: asked.append(stem) or True)
    monkeypatch.setattr(preparation, "MOST_ASKED", 2)
    found = preparation._witnesses(stream, 1, 32)
    assert len(asked) == 2
    assert [mask.shape == image.shape[1:] and mask.dtype == torch.bool for image, mask in found] == [True]


def test_the_paper_and_runs_of_before_cut_at_a_half(tmp_path: Path) -> None:
    assert not with_options(Config(), preset_options("paper")).fit_threshold
    assert with_options(Config(), preset_options("best")).fit_threshold
    text = Config().to_toml()
    (tmp_path / "config.toml").write_text(text)
    assert Run.open(tmp_path).config.fit_threshold
    (tmp_path / "config.toml").write_text(text.replace("fit_threshold = true\n", ""))
    assert not Run.open(tmp_path).config.fit_threshold
