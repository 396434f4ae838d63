"""Files spread over processes: one that is killed loses nothing, and its slide is done once."""

import os
import signal
import subprocess
import sys
from concurrent.futures import CancelledError
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers import picture, spread_model
from slides import write_pyramid

from celladapt import cohort, prediction
from celladapt.data.images import write_image
from celladapt.errors import InputError
from celladapt.locks import LOCK
from celladapt.model import Model
from celladapt.prediction import Job, SomeFailed, Written, predict

dask = pytest.importorskip("dask", reason="spreading files needs dask: the extra celladapt[cohort]")
pytest.importorskip("zarr", reason="slides need zarr: the extra celladapt[slides]")
SETTINGS: dict[str, Any] = {"tissue": False, "tile": 128}
in_worker = prediction._in_worker


def killed_once(model: Path, how: tuple[str, str], job: Job) -> Written:
    """In a worker: at the third tile of the slide the process kills itself, unless one before it has."""
    mark, seen, real = job.out / "killed", [0], Model.probability

    def probability_or_die(self: Model, image: Any) -> Any:
        seen[0] += 1
        if job.slide:
            with open(job.out / "seen", "a") as log:
                log.write(f"{os.getpid()}\n")
        if job.slide and seen[0] == 3 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, image)

    Model.probability = probability_or_die  # type: ignore[method-assign]
    try:
        return in_worker(model, how, job)
    finally:
        Model.probability = real  # type: ignore[method-assign]


def killed_always(model: Path, how: tuple[str, str], job: Job) -> Written:
    """In a worker: the end of each process that tries the slide."""
    if job.slide:
        os.kill(os.getpid(), signal.SIGKILL)
    return in_worker(model, how, job)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    write_pyramid(tmp_path / "in" / "slide.tif", picture(5, 300, 360), 0.5)
    write_image(tmp_path / "in" / "b.png", picture(6, 60, 60))
    (tmp_path / "in" / "text.svs").write_text("no slide")
    spread_model(pixel_size=0.5).save(tmp_path / "model.safetensors")
    return tmp_path


def test_a_worker_that_is_killed_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SomeFailed):
        predict(folder / "model.safetensors", folder / "in", folder / "alone", **SETTINGS)
    monkeypatch.setattr(prediction, "_in_worker", killed_once)
    (folder / "out").mkdir()
    write_image(folder / "in" / "large.png", picture(7, 70, 60))
    for name in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SomeFailed, match=r"2 of 4 images failed.*text\.svs is not a slide") as caught:
        predict(folder / "model.safetensors", folder / "in", folder / "out", workers=2, max_megapixels=0.004, **SETTINGS)
    assert "large.png has 1 megapixels, more than the 0.004" in str(caught.value), "the workers hear the option"
    assert not {"MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"} & os.environ.keys(), "of what is computed here afterwards nothing is decided"
    assert int((folder / "out" / "killed").read_text()) != os.getpid()
    by = (folder / "out" / "seen").read_text().split()
    assert len(by) == 9 + 1, "nine tiles, and the one at which the first worker was killed"
    assert len(set(by)) == 2
    assert [written.image.name for written in caught.value.done] == ["b.png", "slide.tif"]
    for name in ("b_instances.tif", "b_mask.png", "slide_instances.tif", "slide_mask.tif"):
        one, other = ((folder / place / name) for place in ("alone", "out"))
        if name.endswith(".tif"):
            np.testing.assert_array_equal(tifffile.imread(one), tifffile.imread(other))
        else:
            assert one.read_bytes() == other.read_bytes()
    assert sorted(item.name for item in (folder / "out" / ".celladapt").iterdir() if item.name != LOCK) == ["b.json", "slide.json"]


def test_a_running_scheduler_is_used_and_a_file_that_ends_its_workers_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    (folder / "in" / "text.svs").unlink()
    monkeypatch.setattr(prediction, "_in_worker", killed_always)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        more = {"scheduler": cluster.scheduler_address, **SETTINGS}
        # In a call before, since who is with a worker that dies counts as its murderer where no failure is allowed.
        assert [written.image.name for written in predict(folder / "model.safetensors", folder / "in" / "b.png", folder / "out", **more)] == ["b.png"]
        with pytest.raises(SomeFailed, match=r"slide\.tif ended each process that tried it") as caught:
            predict(folder / "model.safetensors", folder / "in", folder / "out", **more)
    assert [written.image.name for written in caught.value.done] == ["b.png"]


def test_a_scheduler_that_does_not_answer_and_a_model_in_memory_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "PATIENCE", 0.5)
    with pytest.raises(InputError, match=r"The scheduler tcp://127\.0\.0\.1:9 does not answer"):
        predict(folder / "model.safetensors", folder / "in", folder / "out", scheduler="tcp://127.0.0.1:9", **SETTINGS)
    with pytest.raises(InputError, match="give its run folder or file"):
        predict(spread_model(), folder / "in", folder / "out", workers=2)


def test_a_scheduler_that_goes_is_told_of_each_file_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def result(self) -> None:
            raise CancelledError

    monkeypatch.setattr("distributed.as_completed", list)
    client = SimpleNamespace(submit=lambda *_, **__: Gone())
    monkeypatch.setattr(cohort, "_client", lambda *_: nullcontext(client))
    ((item, error),) = cohort.spread(str, {"a": "a.png"}, 1, "tcp://there:1")
    assert item == "a.png"
    assert str(error) == "The scheduler tcp://there:1 has gone; see that it runs, and give the command again, which goes on."


def test_an_interrupt_waits_until_the_processes_are_there() -> None:
    done = []

    def begin() -> None:
        with cohort._uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        begin()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [True, True]


FOR_EVER = """
import signal
import threading
from celladapt import cohort

def task(number):
    return number or threading.Event().wait()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the tests may have been told to ignore
    try:
        for item, _ in cohort.spread(task, {"a": 1, "b": 0, "c": 0}, 2, None):
            print(item, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a group of processes are of POSIX")
def test_ctrl_c_reaches_every_process_and_prints_nothing_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FOR_EVER)
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "1\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate() == ("interrupted\n", "")


def test_processes_of_one_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "usable_gpus", lambda: [0, 2])
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setenv("LOCAL_RANK", "none")
    taken = []
    for name in (0, 1, 2):
        monkeypatch.setattr("distributed.get_worker", lambda name=name: SimpleNamespace(name=name))
        cohort._with_a_share(lambda item: taken.append(os.environ["LOCAL_RANK"]), 1, "x.png")
    assert taken == ["0", "1", "0"]
    monkeypatch.setenv("LOCAL_RANK", "own")
    cohort._with_a_share(lambda item: taken.append(os.environ["LOCAL_RANK"]), None, "x.png")
    assert taken[-1] == "own", "workers of other people's have theirs"
