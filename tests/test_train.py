"""Whole runs on tiny images: resuming, leaks, selection, the run folder."""

import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from children import Child
from helpers import make_batch, make_method, step
from torch._dynamo.utils import counters

import celladapt
from celladapt import adaptation, checkpoint, preflight, preparation, train
from celladapt.checkpoint import load
from celladapt.cli import main
from celladapt.config import Config, preset_options, with_options
from celladapt.data import folder
from celladapt.data.folder import Folder
from celladapt.data.images import read_image, read_mask, write_image
from celladapt.errors import InputError
from celladapt.files import write_json
from celladapt.loading import load_model
from celladapt.log import Log
from celladapt.preparation import set_up
from celladapt.run import Run
from celladapt.train import follow
from celladapt.validate import Validator

pytestmark = pytest.mark.usefixtures("one_thread", "no_charts")
TINY: dict[str, Any] = {
    "preset": "fast", "steps": 12, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 4, "checkpoint_every": 3, "baseline": False,
}  # fmt: skip


def command(source: Path, target: Path, out: Path, *more: str, method: str = "cellseguda") -> list[str]:
    options = [f"--method={method}", *(f"--{key.replace('_', '-')}={value}" for key, value in TINY.items() if key != "baseline")]
    return ["adapt", f"--source={source}", f"--target={target}", f"--out={out}", "--no-baseline", *options, *more]


def adapt_and_die(doomed: int, arguments: list[str]) -> int:
    """The command line in a process that kills itself as it begins its step ``doomed``."""
    step, begun = train.take_step, [0]

    def fatal(*given: Any) -> dict[str, float]:
        begun[0] += 1
        if begun[0] == doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*given)

    train.take_step = fatal  # type: ignore[assignment]
    return main(arguments)


def adapt_without_opening(masks: str, arguments: list[str]) -> int:
    """The command line in a process that may open no path with ``masks`` in it before the final evaluation."""
    training, conclude = [True], adaptation._conclude

    def hook(event: str, about: tuple[Any, ...]) -> None:
        if event == "open" and training[0] and masks in str(about[0]):
            raise RuntimeError(f"opened {about[0]}")

    def after(*given: Any) -> None:
        training[0] = False
        conclude(*given)

    adaptation._conclude = after  # type: ignore[assignment]
    sys.addaudithook(hook)
    return main(arguments)


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits: training state, model, log, scores."""
    for name in sorted(file.name for file in one.glob("*.safetensors")):
        (a, about_a), (b, about_b) = load(one / name), load(other / name)
        about_a.pop("seconds", None), about_b.pop("seconds", None)
        if about_a != about_b or a.keys() != b.keys() or any(not a[key].equal(b[key]) for key in a):
            return False
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in ("log.jsonl", "validation.jsonl", "metrics.json"))


@pytest.mark.parametrize(
    ("method", "more"),
    [
        pytest.param("cellseguda", (), id="eager"),
        pytest.param("weakssda", (), id="taught"),
        pytest.param("cellseguda", ("--compile",), id="compiled", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_a_random_step_ends_with_the_same_bits(
    tiny_domains: tuple[Path, Path], tmp_path: Path, method: str, more: tuple[str, ...]
) -> None:
    if more and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler to compile with")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    # The process kills itself, unasked and unprepared, as it begins a step that is drawn anew in every test run.
    doomed = random.randint(3, 11)
    killed = Child(tmp_path, adapt_and_die, doomed, command(*tiny_domains, cut, *more, method=method)).ended()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (cut / "metrics.json").exists()
    assert main(command(*tiny_domains, whole, *more, method=method)) == 0
    assert main(["adapt", "--resume", str(cut)]) == 0
    assert same(whole, cut), f"killed at step {doomed}"
    assert Run.open(cut).finished


def test_statistics_are_of_target_images_for_training_and_validation_and_of_no_other(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = celladapt.adapt(*tiny_domains, "source_only", out=tmp_path / "run", **{**TINY, "steps": 2, "crop": 64})
    trainer, _ = set_up(run)
    target, (_, split) = Folder.open(tiny_domains[1]), run.splits
    looks = {stem: trainer.normalisation(target.image(stem)) for stem in target.images}  # crops of 64 px are whole
    seen = {stem for batch in trainer.statistics() for image in batch for stem, look in looks.items() if torch.equal(image.contiguous(), look)}
    assert seen == {*split.train, *split.val}
    assert split.val
    assert split.test


@pytest.mark.slow
def test_compiled_networks_train_as_plain_ones_do(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's last stage, which takes minutes of C++, left out."""
    compiler, options = torch.compile, {**TINY, "steps": 6, "method": "cellseguda", "precision": "bf16", "batch_norm": "shared"}
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    logs = []
    for name in ("compiled", "plain"):
        run = celladapt.adapt(*tiny_domains, out=tmp_path / name, compile=name == "compiled", **options)
        logs.append([json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()])
    # The addition that check_compiler tries; S, R, and D once for each turn. Neither validation nor prediction compiles anything.
    assert counters["stats"]["unique_graphs"] == 5
    assert not counters["graph_break"]
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-2)


def test_every_validation_s_segmenter_is_kept_on_request_and_every_network_compiled(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a method whose discriminator sees features, and the statistics that training left."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    for module in (adaptation, train):
        monkeypatch.setattr(module, "check_compiler", lambda *_: None)
    options = {**TINY, "steps": 4, "validate_every": 2, "method": "nuseguda", "batch_norm": "shared", "keep_checkpoints": True, "compile": True}
    run = celladapt.adapt(*tiny_domains, out=tmp_path / "run", **options)
    assert len(compiled) == len({id(network) for network in compiled}) == len(make_method("nuseguda").networks)
    kept = sorted((run.path / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step_000002.safetensors", "step_000004.safetensors"]
    weights = [load(path)[0] for path in kept]
    assert any(not weights[0][key].equal(weights[1][key]) for key in weights[0])
    chosen, model = weights[run.record["selected"]["step"] // 2 - 1], load(run.path / "model.safetensors")[0]
    assert all(chosen[key].equal(model[key]) for key in model)


def test_a_term_that_is_not_finite_is_named_and_moves_nothing() -> None:
    method, batch = make_method("source_only"), make_batch()
    before = [weight.clone() for weight in method.networks["S"].parameters()]
    with pytest.raises(InputError, match=r"loss term '\w+' became nan; lower the learning rates"):
        step(method, replace(batch, image_s=batch.image_s * float("inf")))
    assert all(weight.equal(earlier) for weight, earlier in zip(method.networks["S"].parameters(), before, strict=True))


def test_the_average_follows_as_it_should() -> None:
    """Two parameters, by hand: early on the decay is (1 + n) / (10 + n), later it is the one asked for, and 0 copies."""
    average, network = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        average.weight.fill_(1.0), network.weight.fill_(3.0), network.running_mean.fill_(7.0)
    follow(average, network, 0.9, step=2)
    assert float(average.weight.detach()) == pytest.approx(1 + 2 * (1 - 3 / 12))
    assert float(average.running_mean) == 7
    with torch.no_grad():
        average.weight.fill_(1.0)
    follow(average, network, 0.9, step=1000)
    assert float(average.weight.detach()) == pytest.approx(1.2)
    follow(average, network, 0.0, step=1000)
    assert float(average.weight.detach()) == 3


def test_what_is_kept_is_the_average_of_s(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    runs = {ema: celladapt.adapt(*tiny_domains, "weakuda", out=tmp_path / str(ema), ema=ema, select="last", **TINY) for ema in (0.0, 0.5)}
    for ema, run in runs.items():
        state, model = load(run.path / "last.safetensors")[0], load(run.path / "model.safetensors")[0]
        kept = "average" if ema else "S"  # without averaging the two are one, and S alone is saved
        assert model["head.weight"].equal(state[f"network.{kept}.head.weight"])
        assert model["head.weight"].equal(state["network.S.head.weight"]) == (ema == 0)


def test_a_taught_method_hears_the_average_and_how_far_training_is(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, heard = train.take_step, []

    def listening(method: Any, batch: Any, optimizers: Any, arithmetic: Any, teacher: Any, lambda_bce: float) -> dict[str, float]:
        assert teacher is not method.networks["S"]
        assert lambda_bce == 0.5
        values: dict[str, float] = real(method, batch, optimizers, arithmetic, teacher, lambda_bce)
        heard.append((batch.progress, values["bce"], teacher(batch.image_t).shape == batch.classical_t.shape))
        return values

    monkeypatch.setattr(train, "take_step", listening)
    celladapt.adapt(*tiny_domains, "weakuda", out=tmp_path / "run", lambda_bce=0.5, **TINY)
    assert [progress for progress, *_ in heard] == [step / 12 for step in range(12)]
    assert {progress < 0.1 for progress, bce, _ in heard if bce == 0} == {True}, "the source teaches first, then what stands for masks"
    assert all(fits for *_, fits in heard)


def test_a_run_of_the_first_version_goes_on_as_it_began(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    """Its config.toml and its checkpoint know nothing of what came later."""
    later = ("match", "ema", "labelled_share", "lambda_bce", "fallback")
    options = {**TINY, "match": False, "ema": 0.0, "labelled_share": 0.0, "lambda_bce": 0.0, "fallback": False}
    run = celladapt.adapt(*tiny_domains, "cellseguda", out=tmp_path / "run", **options)
    assert not any("average" in name for name in load(run.path / "last.safetensors")[0])
    config = run.path / "config.toml"
    config.write_text("".join(line for line in config.read_text().splitlines(keepends=True) if line.split(" =")[0] not in later))
    opened = Run.open(run.path)
    assert opened.config == run.config
    (run.path / "run.json").write_text((run.path / "run.json").read_text().replace('"finished": "', '"finished": null, "was": "'))
    before = run.metrics
    assert adaptation.resume(run.path).metrics == before


def test_an_unfinished_mask_is_said(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    masks = sorted((target / "masks").iterdir())
    for mask in masks[1:]:
        mask.unlink()
    write_image(masks[0], np.zeros((64, 64), np.uint16))
    run = celladapt.adapt(source, target, "weakssda", out=tmp_path / "run", test_fraction=0, val_fraction=0, **TINY)
    assert any(f"The mask of {masks[0].stem}" in note for note in run.record["notes"])


@pytest.mark.slow
def test_compiled_code_computes_what_plain_code_does() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler to compile with")
    compiled, plain = make_method("cellseguda"), make_method("cellseguda")
    for network in compiled.networks.values():
        network.compile()
    batches = [make_batch(size=2, seed=seed) for seed in range(3)]
    for one, other in zip(step(compiled, *batches), step(plain, *batches), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_without_a_compiler_the_cure_is_named_before_anything_is_written(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    environment = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = Child(tmp_path, main, command(*tiny_domains, tmp_path / "run", "--compile", "--device=cpu"), **environment).ended()
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"celladapt: --compile does not work on this machine \(.*compiler.*\); install .* or leave --compile out\.\n", done.stderr)
    assert not (tmp_path / "run").exists()


def interrupt_at(patch: pytest.MonkeyPatch, number: int, by: signal.Signals) -> None:
    """Send this process ``by`` as it begins its step ``number``."""
    step, calls = train.take_step, []

    def interrupted(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), by)
        return step(*arguments)

    patch.setattr(train, "take_step", interrupted)


def test_ctrl_c_saves_and_says_how_to_go_on(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 5, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stop:
        celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY)
    assert stop.value.args == (tmp_path / "run",), "the folder to resume, for the person"
    assert load(tmp_path / "run" / "last.safetensors")[1]["step"] == 5
    assert celladapt.resume(tmp_path / "run").finished


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _full(*arguments: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.usefixtures("one_thread")
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = celladapt.adapt(*tiny_domains, out=tmp_path / "whole", **TINY).path, tmp_path / "cut"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            celladapt.adapt(*tiny_domains, out=cut, **TINY)
    assert [load(cut / f"{name}.safetensors")[1]["step"] for name in ("previous", "last")] == [6, 7]

    for damage in (_truncate, _flip, Path.unlink):
        run = Path(shutil.copytree(cut, tmp_path / damage.__name__))
        damage(run / "last.safetensors")
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", _full)
            with pytest.raises(InputError, match="No space left"):
                celladapt.resume(run)
        assert load(run / "previous.safetensors")[1]["step"] == 6, "the one that is whole"
        celladapt.resume(run)
        said = capsys.readouterr().err
        assert ("WARNING" in said and "last.safetensors is damaged" in said) == (damage is not Path.unlink)
        assert "at step 6 of 12" in said
        assert same(whole, run), damage.__name__

    for name in ("previous", "last"):
        _flip(cut / f"{name}.safetensors")
    before = {file: file.read_bytes() for file in cut.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=r"last\.safetensors and .*previous\.safetensors are both damaged"):
        celladapt.resume(cut)
    assert before == {file: file.read_bytes() for file in before}
    (cut / "previous.safetensors").unlink()
    with pytest.raises(InputError, match=r"last\.safetensors is damaged .* delete it"):
        celladapt.resume(cut)
    (cut / "last.safetensors").unlink()
    celladapt.resume(cut)
    assert same(whole, cut)


def test_a_run_that_was_begun_before_methods_remembered_goes_on(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TINY, "method": "weakssda"}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            celladapt.adapt(*tiny_domains, out=tmp_path / "run", **options)
    file = tmp_path / "run" / "last.safetensors"
    tensors, about = load(file)
    assert about.pop("memory")["steps"] == pytest.approx(10 * (1 - 0.9**7)), "each step has shown a nucleus"
    checkpoint.save(file, tensors, about)
    assert celladapt.resume(tmp_path / "run").finished
    assert load(file)[1]["memory"]["steps"] == pytest.approx(10 * (1 - 0.9**5)), "it begins to remember"


def test_of_a_long_run_each_nth_step_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run that was killed after a checkpoint leaves the same log, and the same curve in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # TensorBoard reads a run's files in the order of their names, which begin with the second: no two parts of a run are begun in one.
    seconds = itertools.count(1_800_000_000)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time", SimpleNamespace(time=lambda: next(seconds)))

    def write(path: Path, *parts: range) -> None:
        path.mkdir()
        for steps in parts:
            with Log(path, steps.start - 1, 20) as log:
                for step in steps:
                    log.terms(step, {"seg": step / 10})

    monkeypatch.setattr("celladapt.log.MOST_LOGGED", 7)
    write(tmp_path / "whole", range(1, 21))
    write(tmp_path / "cut", range(1, 12), range(8, 15), range(10, 21))
    for name in ("whole", "cut"):
        assert [json.loads(line)["step"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] == [1, 3, 6, 9, 12, 15, 18, 20]
        events = EventAccumulator(str(tmp_path / name / "events")).Reload().Scalars("train/seg")
        assert [event.step for event in events] == [1, 3, 6, 9, 12, 15, 18, 20]


def test_masks_that_the_run_may_not_read_are_not_read(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tiny_domains
    read: list[Path] = []
    real = folder.read_mask
    monkeypatch.setattr(folder, "read_mask", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(adaptation, "_conclude", lambda *a: None)  # the final evaluation, which may
    run = celladapt.adapt(source, target, "cellseguda", out=tmp_path / "uda", **TINY)
    assert read
    assert not [path for path in read if target in path.parents]
    read.clear()
    run = celladapt.adapt(source, target, "cellsegssda@2", out=tmp_path / "ssda", **TINY)
    seen = {path.stem for path in read if target in path.parents}
    assert seen == set(run.record["target_labelled"])
    assert len(seen) == 2
    assert seen <= set(run.splits[1].train)


def test_an_image_in_two_places_is_refused(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    with pytest.raises(InputError, match="is given as --source and as --target; name two folders"):
        celladapt.adapt(source, source, out=tmp_path / "run", **TINY)
    for part in ("images", "masks"):
        shutil.copy(target / part / "target3.png", source / part / "copy.png")
    with pytest.raises(InputError, match=r"copy\.png and .*target3\.png are the same image"):
        celladapt.adapt(source, target, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
    celladapt.adapt(source, target, "supervised", out=tmp_path / "run", **TINY)  # which does not read the source
    _, split = adaptation.make_splits(Config(source=source, target=target), folder.Folder.open(source), folder.Folder.open(target))
    copy, original = target / "images" / f"{split.train[0]}.png", target / "images" / f"{split.test[0]}.png"
    shutil.copy(original, copy)
    with pytest.raises(InputError, match="are the same image"):
        celladapt.adapt(source, target, "supervised", out=tmp_path / "other", **TINY)


def test_masks_that_mark_most_of_their_images_are_told(tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a domain by itself, however many good masks the other has."""
    celladapt.adapt(*tiny_domains, out=tmp_path / "right", **TINY)
    assert "marks most of its image" not in capsys.readouterr().err
    for path in sorted((tiny_domains[0] / "masks").iterdir())[:5]:
        write_image(path, 255 * (read_mask(path) == 0).astype(np.uint8))
    celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY)
    assert "(5 such) marks most of its image as nuclei" in " ".join(capsys.readouterr().err.split())


def test_that_no_target_mask_is_given_is_told_before_anything_is_trained(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tiny_domains[1] / "masks")

    def stopping(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "set_up", stopping)
    with pytest.raises(KeyboardInterrupt):
        celladapt.adapt(*tiny_domains, "weakssda", "fast", tmp_path / "run")
    told = " ".join(capsys.readouterr().err.split())
    assert "target has no mask to train with: without one, weakssda is the method without target labels. First of two models" in told


def test_files_that_hold_more_than_is_read_are_told(tiny_domains: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        path = tiny_domains[0] / "images" / f"source{number}.png"
        image = read_image(path)
        path.unlink()
        with tifffile.TiffWriter(path.with_suffix(".tif")) as file:
            for part in (image, image[:32]):
                file.write(part, photometric="rgb")
    (tiny_domains[1] / "images" / "target0.png").unlink()
    four = np.random.default_rng(0).integers(0, 255, (64, 64, 4), np.uint8)
    tifffile.imwrite(tiny_domains[1] / "images" / "target0.tif", four, photometric="minisblack", planarconfig="contig")
    preflight.check_readable(folder.Folder.open(domain) for domain in tiny_domains)
    told = " ".join(capsys.readouterr().err.split())
    assert "source0.tif (3 such) holds several planes or images, of which the first alone is read." in told
    assert "target0.tif (1 such) has more than 3 channels: the first 3 are seen" in told


def test_blank_images_are_not_one_image(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    for domain in tiny_domains:
        write_image(domain / "images" / "blank.png", np.full((64, 64, 3), 255, np.uint8))
    assert celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY).finished


def test_patients_of_both_domains_are_told_of(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    for domain in tiny_domains:
        for part in ("images", "masks"):
            for path in sorted((domain / part).iterdir()):
                path.rename(path.with_name(f"case{path.stem[-1]}.png"))
    run = celladapt.adapt(*tiny_domains, group="^case[0-9]", out=tmp_path / "run", **TINY)
    assert any("share" in note and "group names" in note for note in run.record["notes"])
    assert run.record["group"] == "^case[0-9]"


def test_a_group_pattern_may_fit_one_domain_only(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    folders = [folder.Folder.open(path) for path in tiny_domains]
    config = Config(source=tiny_domains[0], target=tiny_domains[1], group="^sourc")
    source, _ = adaptation.make_splits(config, *folders)  # of the target every image is for itself
    assert not source.val, "one group cannot be parted"
    with pytest.raises(InputError, match="matches no image name"):
        adaptation.make_splits(replace(config, group="^nobody"), *folders)


def test_scores_on_training_images_carry_a_caution(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    run = celladapt.adapt(source, target, out=tmp_path / "run", **TINY)
    (tmp_path / "new").mkdir()
    for stem in run.splits[1].test:
        shutil.copy(target / "images" / f"{stem}.png", tmp_path / "new")
    celladapt.predict(run.path, tmp_path / "new", tmp_path / "of_new")
    assert json.loads((tmp_path / "of_new" / "predictions.json").read_text())["seen_in_training"] == []
    celladapt.predict(run.path, target, tmp_path / "of_all")
    result = celladapt.evaluate(tmp_path / "of_all", target)
    assert set(result.seen_in_training) == {*run.splits[1].train, *run.splits[1].val}
    assert "no test score" in result.caution
    assert result.to_json()["seen_in_training"] == list(result.seen_in_training)
    shutil.copytree(source / "images", tmp_path / "renamed")  # the bytes count, not the place
    celladapt.predict(run.path, tmp_path / "renamed", tmp_path / "of_source")
    assert set(celladapt.evaluate(tmp_path / "of_source", source).seen_in_training) == {*run.splits[0].train, *run.splits[0].val}


def test_an_unfinished_run_says_how_to_go_on(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    values = {**preset_options("fast"), **TINY, "source": tiny_domains[0], "target": tiny_domains[1]}
    values.pop("preset")
    run = adaptation.prepare(with_options(Config(), values), tmp_path / "run")
    with pytest.raises(InputError, match=r"no model yet.*--resume"):
        celladapt.predict(run.path, tiny_domains[1], tmp_path / "masks")


def test_no_file_among_the_target_masks_is_even_opened(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    for method, code in (
        ("cellseguda", 0),
        ("weakuda", 0),
        ("cellsegssda@2", 1),
    ):  # the last shows that the guard bites
        done = Child(tmp_path, adapt_without_opening, str(target / "masks"), command(source, target, tmp_path / method, method=method)).ended()
        assert done.returncode == code, done.stderr
        assert ("opened" in done.stderr) == bool(code)


def test_images_of_one_patient_stay_together_as_the_data_set_says(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    for number in range(8):
        for part in ("images", "masks"):
            (target / part / f"target{number}.png").rename(target / part / f"p{number % 4}_{number}.png")
    (target / "dataset.toml").write_text('group = "^p[0-9]"', encoding="utf-8")
    folders = folder.Folder.open(source), folder.Folder.open(target)
    _, split = adaptation.make_splits(Config(source=source, target=target), *folders)
    assert split.test
    for stems in (split.train, split.val, split.test):
        assert sorted(stems) == sorted(stem for stem in folders[1].images if stem[:2] in {name[:2] for name in stems})
    _, named = adaptation.make_splits(Config(source=source, target=target, group="[0-9]$"), *folders)
    assert named != split, "the option goes before the file"
    (target / "dataset.toml").write_text("group = 3", encoding="utf-8")
    with pytest.raises(InputError, match="no text"):
        adaptation.make_splits(Config(source=source, target=target), *folders)


def test_test_images_are_not_seen_before_the_end(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = folder.read_image
    monkeypatch.setattr(folder, "read_image", lambda path: read.append(path.stem) or real(path))
    monkeypatch.setattr(adaptation, "_conclude", lambda *a: None)
    run = celladapt.adapt(*tiny_domains, "supervised", select="labelled", out=tmp_path / "run", **TINY)
    assert run.splits[1].test
    assert not set(read) & set(run.splits[1].test)


@pytest.mark.parametrize(
    ("method", "steps", "nan", "kept"),
    [
        ("source_only", 20, (), 1),
        ("weakuda", 20, (), 3),
        ("weakuda", 20, (3, 5), 4),
        ("weakuda", 20, (1, 2), 3),
        ("weakuda", 5, (), 2),
        ("weakuda", 1, (), 1),
    ],
)
def test_no_checkpoint_of_a_warm_up_wins(
    method: str, steps: int, nan: tuple[int, ...], kept: int, tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By scores that fall from the first step on; the first tenth of WeakUDA is the source's alone."""
    real, steps_validated = Validator.__call__, itertools.count(1)
    score = {step: math.nan if step in nan else -float(step) for step in range(1, 21)}
    monkeypatch.setattr(Validator, "__call__", lambda self, *cut: {**real(self, *cut), "entropy": score[next(steps_validated)]})
    options = {**TINY, "steps": steps, "validate_every": 1, "validation_images": 1, "baseline": False, "fallback": False}
    run = celladapt.adapt(*tiny_domains, method, out=tmp_path / "run", **options)
    assert run.record["selected"]["step"] == load(run.path / "model.safetensors")[1]["step"] == kept


def test_the_run_folder_tells_the_whole_story(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = celladapt.adapt(*tiny_domains, "cellseguda", out=tmp_path / "run", **{**TINY, "baseline": True, "fallback": False})
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 13))
    scores = [json.loads(line) for line in (run.path / "validation.jsonl").read_text().splitlines()]
    best = max(scores, key=lambda line: line["entropy"])
    assert run.record["selected"]["step"] == best["step"]
    assert run.record["selected"]["uses_target_labels"] is False
    assert "labelled" not in best
    assert run.baseline.config == replace(run.config, method="source_only", baseline=False)
    assert run.baseline.splits == run.splits
    assert 0 <= run.metrics["iou"] <= 1
    example = run.path / "examples" / run.splits[1].test[0]
    assert {file.name for file in example.iterdir()} == {"image.png", "probability.png", "prediction.png", "truth.png", "reconstruction.png"}
    assert run.report.stat().st_size > 10_000
    assert list((run.path / "events").iterdir())
    image = folder.read_image(run.path / "examples" / run.splits[1].test[0] / "image.png")
    assert np.array_equal(run.model.predict(image).mask, folder.read_mask(example / "prediction.png") > 0)


def test_a_target_without_masks_uses_every_image_and_claims_no_number(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    run = celladapt.adapt(source, target / "images", out=tmp_path / "run", **TINY)
    split = run.splits[1]
    assert not split.test
    assert len(split.train) + len(split.val) == 8
    assert run.metrics == {}
    assert any("cannot state its own quality" in note for note in run.record["notes"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "supervised", "target": "images"}, "no mask to train on"),
        ({"select": "labelled", "target": "images"}, "needs masks"),
        ({"select": "labelled", "val_fraction": 0.0}, "needs masks for target validation images"),  # not those of training, of which it may hide some
        ({"split": {"train": [], "val": [], "test": ["target0"]}}, "leaves no image of .*target to train on"),
        ({"empty": 0}, "No mask of .*source to train on holds a nucleus"),
        ({"empty": 1, "method": "supervised"}, "No mask of .*target to train on holds a nucleus"),
        ({"crop": "whole", "batch_size": 1, "odd": 0, "side": 16}, "odd.png is too small to train on alone and whole"),
        ({"crop": "whole", "odd": 0}, "different sizes"),
        ({"crop": "whole", "odd": 1, "method": "cellseguda", "batch_norm": "shared"}, "different sizes"),
        ({"crop": "whole", "odd": 1, "method": "source_only"}, "different sizes"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"target_labels": "lots"}, "lots"),
        ({"lr_x": 1.0}, "lr_"),
        ({"method": "cellseguda@10%"}, "reads no target masks"),
        ({"method": "cellseguda:lambda_rec=nan"}, "finite"),
    ],
)
def test_what_cannot_work_says_so(tiny_domains: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    source, target = tiny_domains
    changes = dict(changes)
    odd, side = changes.pop("odd", None), changes.pop("side", None)
    if odd is not None:
        shape = (side, side) if side else (40, 48)
        write_image(tiny_domains[odd] / "images" / "odd.png", np.zeros(shape, np.uint8))
        write_image(tiny_domains[odd] / "masks" / "odd.png", np.ones(shape, np.uint8))
        changes |= {"val_fraction": 0.0, "test_fraction": 0.0}
    if (empty := changes.pop("empty", None)) is not None:
        for mask in (tiny_domains[empty] / "masks").iterdir():
            write_image(mask, np.zeros((64, 64), np.uint8))
    if "split" in changes:
        rest = {"train": ["source0", "source1"], "val": [], "test": []}
        (tmp_path / "split.json").write_text(json.dumps({"source": rest, "target": changes["split"]}))
        changes["split"] = tmp_path / "split.json"
    if changes.get("target") == "images":
        target = target / changes.pop("target")
    with pytest.raises(InputError, match=words):
        celladapt.adapt(source, target, out=tmp_path / "run", **{**TINY, "method": "cellsegssda", **changes})
    assert not (tmp_path / "run").exists(), "a fault that shows at once leaves no folder in the way"


def test_of_checkpoints_that_score_alike_the_later_one_is_kept(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = itertools.cycle([0.0, 0.0, math.nan])
    real = Validator.__call__
    monkeypatch.setattr(Validator, "__call__", lambda *a: {**real(*a), "agreement": next(scores)})
    options = {**TINY, "steps": 3, "validate_every": 1, "select": "agreement", "baseline": False}
    run = celladapt.adapt(*tiny_domains, "cellseguda", out=tmp_path / "run", **options)
    assert run.record["selected"]["step"] == 2, "the last one is no number"


def test_another_arithmetic_is_told_however_often_a_run_goes_on(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = adaptation.prepare(with_options(Config(*tiny_domains), {**preset_options("fast"), **SHORT, "method": "source_only"}), tmp_path / "run")
    for bf16, told in ((False, ""), (True, "float32 and bf16"), (True, "float32 and bf16"), (False, "float32 and bf16")):
        monkeypatch.setattr(preparation, "uses_bf16", lambda precision, device, bf16=bf16: bf16)
        set_up(run)
        notes = [note for note in run.record["notes"] if note.startswith("Computed in")]
        assert (told in " ".join(notes)) if told else not notes


def test_a_run_is_not_written_over(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_changed_data_do_not_go_on_with_an_old_run(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "_conclude", lambda *a: None)
    run = celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY)
    write_image(tiny_domains[0] / "images" / "new.png", np.zeros((64, 64), np.uint8))
    celladapt.resume(run.path)  # an image that is no part of it is not in its way
    (mask,) = (tiny_domains[1] / "masks").glob(f"{run.splits[1].train[0]}.*")
    kept = mask.read_bytes()
    supervised = celladapt.adapt(*tiny_domains, "supervised", out=tmp_path / "supervised", **TINY)
    write_image(mask, np.ones((64, 64), np.uint8))
    with pytest.raises(InputError, match=r"The masks in .*target have changed since"):
        celladapt.resume(supervised.path)
    mask.write_bytes(kept)
    write_image(tiny_domains[0] / "images" / "source0.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(InputError, match=r"The files in .*source have changed"):
        celladapt.resume(run.path)
    tiny_domains[0].rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"source, which is not there; where that has moved, write its new place into .*run/config\.toml"):
        celladapt.resume(run.path)


def test_data_that_change_between_the_baseline_and_the_run_are_not_taken_for_the_same(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = adaptation.set_up

    def stopping(run: Any) -> Any:
        if run.path.name == "run":
            raise KeyboardInterrupt
        return real(run)

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "set_up", stopping)
        with pytest.raises(KeyboardInterrupt):
            celladapt.adapt(*tiny_domains, "cellseguda", "fast", tmp_path / "run", **{**SHORT, "baseline": True})
    write_image(tiny_domains[0] / "masks" / "source0.png", np.ones((64, 64), np.uint8))
    with pytest.raises(InputError, match=r"The files in .*source have changed since"):
        celladapt.resume(tmp_path / "run")


def test_empty_and_binary_masks_are_counted(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = adaptation.prepare(with_options(Config(*tiny_domains), {**preset_options("fast"), **SHORT, "method": "cellseguda"}), tmp_path / "run")
    source, target = run.splits
    write_image(tiny_domains[0] / "masks" / f"{source.train[1]}.png", np.zeros((64, 64), np.uint8))
    write_image(tiny_domains[1] / "masks" / f"{target.test[0]}.png", np.zeros((64, 64), np.uint8))
    write_image(tiny_domains[1] / "masks" / f"{target.test[1]}.png", np.where(np.arange(64) % 16 > 8, 255, np.zeros((64, 1))).astype(np.uint8))
    notes = " ".join(celladapt.resume(run.path).record["notes"])
    assert f"The source mask of {source.train[1]} (1 such) holds no nucleus" in notes
    assert f"1 of {len(target.test)} masks holds no nucleus" in notes
    assert f"1 of {len(target.test)} masks is binary or of classes" in notes


def test_a_run_scores_itself_as_predicting_and_evaluating_does(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    """Of 12 bits in 16, too: an image is stretched once."""
    for path in (tiny_domains[1] / "images").iterdir():
        tifffile.imwrite(path.with_suffix(".tif"), read_image(path).astype(np.uint16) * 16, photometric="rgb")
        path.unlink()
    run = celladapt.adapt(*tiny_domains, "source_only", "fast", tmp_path / "run", **SHORT)
    test = [tiny_domains[1] / "images" / f"{stem}.tif" for stem in run.splits[1].test]
    celladapt.predict(run.path, test, tmp_path / "out")
    for path in (tiny_domains[1] / "masks").iterdir():
        path.unlink() if path.stem not in run.splits[1].test else None
    assert celladapt.evaluate(tmp_path / "out", tiny_domains[1]).mean == pytest.approx(run.metrics)


SHORT: dict[str, Any] = {"steps": 2, "width": 2, "crop": 32, "batch_size": 1, "validate_every": 2, "checkpoint_every": 2, "baseline": False}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()])
@pytest.mark.parametrize("baseline", [False, True])
def test_too_little_memory_is_told_and_the_run_goes_on_where_it_was_saved(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, baseline: bool
) -> None:
    real = train.take_step
    calls: list[int] = []

    def failing(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise error
        return real(*arguments)

    monkeypatch.setattr(train, "take_step", failing)
    with pytest.raises(InputError, match=r"run needs more memory than there is; free some .*--resume, or .*--batch-size"):
        celladapt.adapt(*tiny_domains, "cellseguda", "fast", tmp_path / "run", **{**SHORT, "steps": 4, "baseline": baseline})
    assert load((tmp_path / "run" / "baseline" if baseline else tmp_path / "run") / train.LAST)[1]["step"] == 2
    assert celladapt.resume(tmp_path / "run").finished
    assert len(calls) == (10 if baseline else 6), "two steps of the first model are taken again, and the one that failed"


@pytest.mark.parametrize("method", ["cellseguda", "supervised"])
@pytest.mark.parametrize("part", ["train", "val", "source", "source without a mask"])
def test_a_damaged_image_is_told_before_anything_is_written(tiny_domains: tuple[Path, Path], tmp_path: Path, part: str, method: str) -> None:
    run = adaptation.prepare(with_options(Config(*tiny_domains), {**preset_options("fast"), **SHORT, "method": method}), tmp_path / "whole")
    source, target = run.splits
    stem = getattr(target, part)[0] if part in ("train", "val") else source.train[0]
    (path,) = (tiny_domains[part in ("train", "val")] / "images").glob(f"{stem}.*")
    if "without" in part:
        (tiny_domains[0] / "masks" / path.name).unlink()
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(InputError, match=rf"{stem}\.png is damaged"):
        celladapt.adapt(*tiny_domains, method, "fast", tmp_path / "run", split=run.path / "split.json", **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_source_mask_that_does_not_fit_is_told_before_anything_is_written(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    write_image(tiny_domains[0] / "masks" / "source0.png", np.ones((32, 64), np.uint8))
    with pytest.raises(InputError, match=r"source0\.png"):
        celladapt.adapt(*tiny_domains, "cellseguda", "fast", tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_test_image_may_be_mended_after_the_training(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = adaptation.prepare(with_options(Config(*tiny_domains), {**preset_options("fast"), **SHORT, "method": "cellseguda"}), tmp_path / "run")
    (path,) = (tiny_domains[1] / "images").glob(f"{run.splits[1].test[0]}.*")
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(InputError, match=f"{path.name} is damaged"):
        celladapt.resume(run.path)
    path.write_bytes(kept)
    with monkeypatch.context() as patch:
        patch.setattr(train, "take_step", None)
        assert celladapt.resume(run.path).finished, "without another step"
    before = json.loads((run.path / "run.json").read_text())
    assert before["fingerprint"].pop("target_training")
    write_json(run.path / "run.json", {**before, "finished": None})
    assert celladapt.resume(run.path).finished, "as runs of before knew the target"
    (path,) = (tiny_domains[1] / "images").glob(f"{run.splits[1].train[0]}.*")
    write_image(path, read_image(path)[::-1])
    write_json(run.path / "run.json", {**before, "finished": None})
    with pytest.raises(InputError, match=r"target have changed since"):
        celladapt.resume(run.path)


def test_scores_of_another_kind_win_over_no_other(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    """Before, how sure a network is was asked of the one that is cut, which is surer."""
    run = celladapt.adapt(*tiny_domains, "source_only", "fast", tmp_path / "run", **SHORT)
    file = run.path / train.LAST
    tensors, about = load(file)
    picked = {"step": 2, "criterion": "entropy", "score": -0.01, "uses_target_labels": False}
    for change, kept in (({}, -0.01), ({"asked": None}, None), ({"asked": None, "picked": {**picked, "criterion": "labelled"}}, -0.01)):
        checkpoint.save(file, tensors, {**about, "picked": picked, **change})
        trainer, _ = set_up(run)
        trainer.train()
        assert trainer.picked.score == kept


def test_the_model_of_a_run_that_is_not_finished_is_said_to_be_so(
    tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = celladapt.adapt(*tiny_domains, "source_only", "fast", tmp_path / "run", **SHORT)
    assert "is not finished" not in capsys.readouterr().err
    load_model(run.path)
    assert "is not finished" not in capsys.readouterr().err
    write_json(run.path / "run.json", {**run.record, "finished": None})
    load_model(run.path)
    assert "is not finished: this is its best model so far" in " ".join(capsys.readouterr().err.split())


def test_a_second_ctrl_c_stops_at_once_but_not_the_same_one_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), train.stop_signals() as stopped:  # noqa: PT012
        assert not stopped()
        for now[0] in (1.0, 2.5):
            signal.raise_signal(signal.SIGINT)
            assert stopped()
        now[0] = 3.5
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it should have stopped")
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_the_callers_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGINT)

    def within() -> tuple[bool, bool]:
        with train.stop_signals() as stopped:
            return stopped(), signal.getsignal(signal.SIGINT) is before

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(within).result() == (False, True)


def test_a_log_is_cut_back_to_the_checkpoint_and_where_a_kill_cut_it(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\xff\n3\n{"step": "x"}\n[[[\n{"step": 2}\n{"step": 3}\n')
    (tmp_path / "validation.jsonl").write_text('{"step": 1}\n{"st')
    with Log(tmp_path, 2, 3) as log:
        log.scores(3, {"iou": 0.5})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert (tmp_path / "validation.jsonl").read_text() == '{"step": 1}\n{"step": 3, "iou": 0.5}\n'


def test_a_compiled_run_goes_on_where_there_is_no_compiler(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise InputError("--compile does not work on this machine.")

    monkeypatch.setattr(adaptation, "check_compiler", lambda *_: None)  # there was one where it began
    monkeypatch.setattr(train, "check_compiler", missing)
    assert celladapt.adapt(*tiny_domains, out=tmp_path / "run", compile=True, **{**TINY, "steps": 2}).finished
    assert "--compile does not work on this machine. Training goes on without." in capsys.readouterr().err


def test_a_disk_that_is_full_while_the_log_is_written_is_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    for name in ("log", "validation"):
        (tmp_path / f"{name}.jsonl").symlink_to("/dev/full")

    def write() -> None:
        with Log(tmp_path, 0, 3) as log:
            log._terms = open("/dev/full", "a")  # noqa: SIM115 (the log closes it)
            log.terms(1, {"seg": 0.5})
            log.flush()

    with pytest.raises(InputError, match=r"logs in .* cannot be written \(No space left on device\)"):
        write()


@pytest.mark.usefixtures("one_thread")
def test_a_model_of_a_later_step_than_the_checkpoint_is_replaced_by_the_next(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    """Else, where the repeated step does not win again, the record would tell of another model than the one that lies there."""
    run = celladapt.adapt(*tiny_domains, out=tmp_path / "run", **TINY, select="infomax")
    tensors, about = load(run.path / "model.safetensors")
    checkpoint.save(run.path / "model.safetensors", tensors, {**about, "step": 9})
    tensors, about = load(run.path / "last.safetensors")
    kept = {"step": 4, "criterion": "infomax", "score": 1e9, "uses_target_labels": False}
    checkpoint.save(run.path / "last.safetensors", tensors, {**about, "step": 8, "picked": kept})
    write_json(run.path / "run.json", {**run.record, "finished": None})
    again = celladapt.resume(run.path)
    assert again.record["selected"]["step"] == load(again.path / "model.safetensors")[1]["step"] == 12

    (run.path / "model.safetensors").unlink()  # as when the first validation was not reached
    checkpoint.save(run.path / "last.safetensors", tensors, {**about, "step": 8, "picked": {}})
    write_json(run.path / "run.json", {**again.record, "finished": None})
    assert celladapt.resume(run.path).record["selected"]["step"] == 12
    checkpoint.save(run.path / "last.safetensors", tensors, {"step": 8, "seconds": 1.0})
    write_json(run.path / "run.json", {**again.record, "finished": None})
    with pytest.raises(InputError, match=r"no training state \('picked'\).*delete it"):
        celladapt.resume(run.path)
