"""Every kind of broken or odd file has its stated outcome: read rightly, or one sentence; never a traceback, a wait without end, or much memory."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reliability.corpus import KINDS, LISTED, MASKS, READERS, RGB, Kind, forbidden, model, pillow

from celladapt.cli import main
from celladapt.data.images import read_image, read_mask, write_image
from celladapt.errors import InputError
from celladapt.nuclei import Nuclei
from celladapt.records import read_json, read_json_lines

pytestmark = pytest.mark.usefixtures("one_thread")

MEGABYTES = 128
"""More than a broken or odd file may cost, whatever it claims: none of the corpus has more than 0.1 million pixels."""
SECONDS = 60
"""More than any of them may take, on a busy machine."""


@pytest.fixture(autouse=True)
def _no_wait_without_end() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every reader has read, so that what importing its libraries takes is not laid at the door of a file; slides have several libraries."""
    for reader in READERS:
        kinds = sorted((kind for kind in KINDS if kind.reader == reader), key=lambda kind: kind.refused)
        for kind in kinds if reader == "slide" else kinds[:1]:
            with suppress(InputError):
                READERS[reader](kind.make(tmp_path_factory.mktemp(reader), kind.stem))


def memory(what: str) -> float:
    """Megabytes of this process: now (VmRSS), or at its peak since ``forget_peak`` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def forget_peak() -> float | None:
    """Begin to look for the peak anew; megabytes now, None where the system does not tell a process its peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return memory("VmRSS")
    except OSError:
        return None


def one_sentence(words: str) -> bool:
    """Whether what was said is one line that ends, and no traceback."""
    return words.rstrip("\n").count("\n") == 0 and "Traceback" not in words and words.rstrip().endswith((".", "?"))


def test_the_corpus_is_what_it_says() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 200
    assert {kind.reader for kind in KINDS} == READERS.keys()
    assert len({kind.stem for kind in LISTED}) == len(LISTED)
    for reader in READERS:
        assert any(kind.refused for kind in KINDS if kind.reader == reader), reader


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.reader}: {kind.name}")
def test_every_kind_has_its_outcome(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path, kind.stem)
    before = forget_peak()
    if isinstance(kind.outcome, str):
        with pytest.raises(InputError) as caught:
            READERS[kind.reader](path)
        assert kind.outcome in str(caught.value)
        assert str(path) in str(caught.value)
        assert one_sentence(str(caught.value))
    else:
        found = READERS[kind.reader](path)
        if isinstance(kind.outcome, np.ndarray):
            assert found.dtype == kind.outcome.dtype
            np.testing.assert_array_equal(found, kind.outcome)
        else:
            assert kind.outcome(found)
    if before is not None:
        assert memory("VmHWM") - before < MEGABYTES


@pytest.mark.parametrize("reader", ["image", "mask", "config", "split", "slide"])
def test_no_permission_to_read(reader: str, tmp_path: Path) -> None:
    path = tmp_path / {"config": "a.toml", "split": "a.json"}.get(reader, "a.tif")
    path.write_bytes(pillow(RGB))
    with forbidden(path), pytest.raises(InputError, match=r"a\.\w+ cannot be (opened|read) \(Permission denied\); .*\.$"):
        READERS[reader](path)


def test_check_names_every_bad_file_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "domain"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    bad = []
    for kind, folder in [*((kind, root / "images") for kind in LISTED), *((kind, root / "masks") for kind in MASKS)]:
        path = kind.make(folder, kind.stem)
        bad += [(kind, path)] if kind.refused else []
        if kind.reader == "mask":
            shape = (8, 8) if kind.refused else read_mask(path).shape
            write_image(root / "images" / f"{path.stem}.png", np.random.default_rng(len(kind.name)).integers(0, 256, shape, dtype=np.uint8))
    assert main(["data", "check", str(root)]) == 2
    out, err = capsys.readouterr()
    assert one_sentence(err)
    told = " ".join(out.split())
    for kind, path in bad:
        assert path.name in told, kind.name
        assert str(kind.outcome) in told, kind.name
    for kind in LISTED:
        if not kind.refused and kind.name != "all pixels equal, 16 bits":
            assert f"{kind.stem}.png is damaged" not in told
    assert "same pixels" in told, "most of the good ones are one picture"


def test_predict_does_every_good_file_of_a_folder_and_names_every_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model().save(tmp_path / "model.safetensors")
    (tmp_path / "images").mkdir()
    paths = {kind.name: kind.make(tmp_path / "images", kind.stem) for kind in LISTED}
    assert main(["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    sentence = next(line for line in err.splitlines() if line.startswith("celladapt: "))
    for kind in LISTED:
        path = paths[kind.name]
        if kind.refused:
            assert f"{path} " in sentence, kind.name
            assert str(kind.outcome) in sentence, kind.name
            assert not (tmp_path / "out" / f"{path.stem}_mask.png").exists()
        elif kind.name == "a name as long as can be":
            assert "cannot be written (File name too long); shorten the name." in sentence
        else:
            done = read_mask(tmp_path / "out" / f"{path.stem}_mask.png")
            assert done.shape == read_image(path).shape[:2], kind.name
    assert not list((tmp_path / "out").glob(".*part*"))
    assert "na\\udcffme.png: " in out.encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("reader", ["config", "preset", "model", "run"])
def test_the_command_line_says_one_sentence(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "image.png", RGB)
    for number, kind in enumerate(kind for kind in KINDS if kind.reader == reader and kind.refused):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = kind.make(folder, kind.stem)
        commands = {
            "model": ["predict", str(path), str(tmp_path / "image.png"), "--out", str(folder / "out"), "--device", "cpu"],
            "run": ["adapt", "--resume", str(path)],
        }
        adapt = ["adapt", "--preset", str(path), "--source", str(folder), "--target", str(folder), "--out", str(folder / "out")]
        assert main(commands.get(reader, adapt)) == 2, kind.name
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if not line.endswith("is finished already; nothing was left to do.")]
        assert out == "", kind.name
        assert one_sentence("\n".join(said)), kind.name
        assert str(kind.outcome) in said[0], kind.name
        assert str(path) in said[0], kind.name
        assert not (folder / "out").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "m.safetensors", "l" * 300 + ".png", "--out", "o"], "cannot be looked at (File name too long); check its name and permissions."),
        (["data", "check", "l" * 300], "cannot be used (File name too long); check its name, its permissions and the disk."),
        (["evaluate", "l" * 300, "m"], "is not a folder; check the path."),
        (["report", "l" * 300], "cannot be used (File name too long)"),
    ],
)
def test_names_too_long(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert one_sentence(err)
    assert words in err


def test_what_the_system_refuses_without_a_name_is_our_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("a library's own")

    monkeypatch.setattr("celladapt.reporting.report", fail)
    assert main(["report", "run"]) == 1
    assert "please report it" in capsys.readouterr().err


def test_a_damaged_part_of_a_slides_work_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / "slide" / "nuclei").mkdir(parents=True)
    path = tmp_path / "slide" / "nuclei" / "0_0.npz"
    path.write_bytes(b"PK\3\4 cut")
    with pytest.raises(InputError, match=rf"0_0\.npz is damaged .*; delete the folder {tmp_path / 'slide'}, and the same command begins"):
        Nuclei.load(path)


def test_json_lines_leave_damaged_ones_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n\xff\n' + b"[" * 100_000 + b"\n[2, 3]\n{")
    assert read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}, [2, 3]]
    assert read_json_lines(tmp_path / "none.jsonl") == []
    assert read_json_lines(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_json_that_is_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged.*; mend it\.$"):
        read_json(tmp_path / "a.json", "mend it")


def test_notes_that_somebody_damaged_count_for_nothing(tmp_path: Path) -> None:
    """The image is segmented anew; what is in the way is asked about, as if nothing were known."""
    model().save(tmp_path / "model.safetensors")
    write_image(tmp_path / "a.png", RGB)
    arguments = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    (note,) = (tmp_path / "out" / ".celladapt").glob("*.json")
    whole = note.read_text()
    changes = (whole[:20], "[]", "[" * 100_000, whole.replace('"begun": [', '"begun": 3, "x": ['), whole.replace('"nuclei":', '"nucleus":'))
    for content in changes:
        note.write_text(content)
        assert main(arguments) in (0, 2)
        assert main([*arguments, "--overwrite"]) == 0


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / os.fsdecode(b"im\xffages")
    write_image(folder / "a.png", RGB)
    assert main(["data", "check", str(folder)]) == 0
    assert "im\\udcffages" in capsys.readouterr().out.replace("\n", "").replace(" ", "")
    assert main(["adapt", "--source", str(folder), "--target", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "is not UTF-8; rename it" in capsys.readouterr().err


def test_a_model_of_the_corpus_predicts() -> None:
    """Else the refused ones would prove little."""
    with nullcontext(model().predict(RGB)) as seen:
        assert seen.probability.shape == RGB.shape[:2]
        assert np.isfinite(seen.probability).all()
