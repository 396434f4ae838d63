"""Coverage-guided fuzzing of everything that reads a file: ``python -m reliability.fuzz --seconds 60 [--reader image]``.

Inputs grow from the corpus. Each reader gets a process of its own, as libFuzzer ends the one that it runs in. An exception other than ``InputError``, an input that takes
more than ``SLOWEST`` seconds or a process of more than ``MEGABYTES`` is a finding: its input is kept, one line tells of it, and the exit code is 1. Needs the
extra ``fuzz``, which is for Linux.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEGABYTES = 3000
"""Resident memory of a fuzzing process; torch and the instrumentation take a third of it."""
SLOWEST = 20
"""Seconds for one input."""
LONGEST = 2**16
"""Bytes of an input."""
SUFFIXES = {
    "image": (".png", ".tif", ".jpg", ".bmp"), "mask": (".png", ".tif"), "slide": (".tif", ".svs"), "config": (".toml",), "preset": (".toml",),
    "model": (".safetensors",), "split": (".json",), "archive": (".zip", ".tar.gz"), "annotation": (".xml",), "matlab": (".mat",), "array": (".npy",),
}  # fmt: skip
READ_BY = [f"celladapt.{name}" for name in ("checkpoint", "config", "data", "evaluation", "files", "loading", "model", "reporting", "run")]
"""Our modules whose branches guide it."""
RUN_FILES = ("run.json", "split.json", "metrics.json", "config.toml", "log.jsonl", "validation.jsonl")
"""Of a run folder, one of which is the input; its first byte says which."""


def main() -> int:
    """Fuzz the readers asked for, one after another, and sum up."""
    parser = argparse.ArgumentParser(prog="python -m reliability.fuzz", description="Coverage-guided fuzzing of everything that reads a file.")
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--reader", action="append", choices=[*SUFFIXES, "run"], help="only this one; may be given more than once")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for the inputs that broke something")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        chosen.out.mkdir(parents=True, exist_ok=True)
        fuzz(chosen.child, chosen.seconds, chosen.seed, chosen.out)
    readers, inputs, findings = chosen.reader or [*SUFFIXES, "run"], 0, 0
    for reader in readers:
        count, found = one_reader(reader, chosen.seconds, chosen.seed, chosen.out)
        inputs, findings = inputs + count, findings + len(found)
        print(f"{reader}: {count} inputs, {len(found)} findings", *found, sep="\n  ", flush=True)
    print(f"fuzz: {inputs} inputs, {len(readers)} readers, {findings} findings")
    return 1 if findings else 0


def one_reader(reader: str, seconds: int, seed: int, out: Path) -> tuple[int, list[str]]:
    """Fuzz one reader in a process of its own, begun again after each finding that ended it; inputs tried, and a line for each finding."""
    count, found = 0, []
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.iterdir())
    command = [sys.executable, "-m", "reliability.fuzz", "--child", reader, "--seconds", str(seconds), "--seed", str(seed), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    numbers = re.findall(r"^#(\d+)\s|stat::number_of_executed_units:\s*(\d+)", done.stdout, flags=re.MULTILINE)
    count += max((int(a or b) for a, b in numbers), default=0)
    for path in sorted(set(out.iterdir()) - before):
        reason = re.search(
            r"^finding: (.*)$|^ *=== Uncaught Python exception: ===\n(.*)$|^SUMMARY: (.*)$|^==\d+== ERROR: (.*)$", done.stdout, re.MULTILINE
        )
        found.append(f"{path}: {next((part for part in reason.groups() if part), '') if reason else 'see the input'}")
    if done.returncode and not found:
        found.append(f"the process ended with {done.returncode}: {done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ''}")
    return count, found


def fuzz(reader: str, seconds: int, seed: int, out: Path) -> None:
    """Fuzz in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=[*READ_BY, "tifffile", "tomllib", "PIL", "zipfile", "tarfile"], enable_loader_override=False):
        import celladapt.data.slide
        import celladapt.evaluation
        import celladapt.run  # noqa: F401

    from celladapt.errors import InputError
    from reliability import corpus

    folder = Path(tempfile.mkdtemp(prefix="celladapt-fuzz-"))
    seeds = folder / "seeds"
    seeds.mkdir()
    for number, content in enumerate(seeds_of(reader, corpus, folder)):
        (seeds / f"{number:03}").write_bytes(content[:LONGEST])
    place, read = placed(reader, corpus, folder), {**corpus.READERS, "run": corpus.read_record}[reader]

    def try_one(content: bytes) -> None:
        if not content:
            return
        try:
            read(place(content))
        except InputError as error:
            if str(folder) not in str(error):
                raise AssertionError(f"the file is not named: {error}") from error

    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))  # what an archive unpacks to
    arguments = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}", f"-seed={seed}"]
    atheris.Setup([sys.argv[0], *arguments, f"-artifact_prefix={out}/{reader}-", "-print_final_stats=1", "-verbosity=1", str(seeds)], try_one)
    atheris.Fuzz()


def seeds_of(reader: str, corpus: Any, folder: Path) -> list[bytes]:
    """What the corpus has for a reader, as inputs."""
    found = []
    for number, kind in enumerate(kind for kind in corpus.KINDS if kind.reader == reader):
        at = folder / f"seed{number}"
        at.mkdir()
        path = kind.make(at, kind.stem[:100])
        if reader == "run":
            found += [bytes([k]) + (path / name).read_bytes() for k, name in enumerate(RUN_FILES) if (path / name).is_file()]
        elif os.path.isfile(path):
            which = next((k for k, suffix in enumerate(SUFFIXES[reader]) if path.name.endswith(suffix)), 0)
            found.append(bytes([which]) + path.read_bytes())
    return sorted({content for content in found if len(content) <= LONGEST})


def placed(reader: str, corpus: Any, folder: Path) -> Callable[[bytes], Path]:
    """Input -> the file or folder to read: its first byte chooses the suffix, or the file of a run folder."""
    if reader == "run":
        home: Path = corpus.run_folder(folder, "run")
        whole = {name: (home / name).read_bytes() for name in RUN_FILES}

        def in_run(content: bytes) -> Path:
            for name, before in whole.items():
                (home / name).write_bytes(content[1:] if RUN_FILES[content[0] % len(RUN_FILES)] == name else before)
            return home

        return in_run

    def as_file(content: bytes) -> Path:
        path: Path = folder / f"input{SUFFIXES[reader][content[0] % len(SUFFIXES[reader])]}"
        path.write_bytes(content[1:])
        return path

    return as_file


if __name__ == "__main__":
    sys.exit(main())
