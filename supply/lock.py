"""Writes the locks: what each extra needs, on any platform, at one version and with the hashes of all its files.

`make lock` keeps the versions that are there; `make lock UPGRADE=--upgrade` takes the newest ones within the bounds of pyproject.toml.
test.lock is whole; each other lock has what is to be installed on top of it.
"""

import argparse
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
TEST = HERE / "test.lock"
ON_TOP = ("napari", "bench", "fuzz", "supply")  # extras
HEAD = "# Written by `make lock`, installed with pip install --require-hashes --no-deps.\n"


def compile_lock(lock: Path, source: str, *options: str) -> None:
    """Resolve ``source`` for every platform into ``lock``; versions that are there stay unless they are to be upgraded."""
    from uv import find_uv_bin

    always: tuple[str, ...] = (
        "--quiet",
        "--universal",
        "--python-version=3.11",
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--no-emit-package=celladapt",
    )
    if lock != TEST:
        everywhere = re.findall(r"^([\w.-]+)==[^ ;]+ \\$", TEST.read_text(), re.MULTILINE)
        always += (f"--constraints={TEST}", *(f"--no-emit-package={name}" for name in everywhere))
    subprocess.run(
        [find_uv_bin(), "pip", "compile", *always, *options, f"--output-file={lock}", source], input="torch", text=True, check=True, cwd=HERE.parent
    )
    lock.write_text(HEAD + lock.read_text())


def add_cpu_builds() -> None:
    """PyTorch's own index has CPU builds, which PyPI has not; where pip is offered one it takes it, and finds its hash in the lock.

    Of the hashes in torch-cpu.sha256 that for Python 3.11 on x86-64 was computed here; the others are as published, and pip refuses what does not fit.

    Raises:
        SystemExit: no hash of a CPU build of the locked version is known.
    """
    text = TEST.read_text()
    pin, version = re.findall(r"^(torch==(\S+) \\\n)", text, re.MULTILINE)[0]
    listed = [line.split() for line in (HERE / "torch-cpu.sha256").read_text().splitlines()]
    hashes = [digest for digest, name in listed if name.startswith(f"torch-{version}+cpu-")]
    if not hashes:
        raise SystemExit(f"supply/torch-cpu.sha256 has no CPU build of torch {version}: add the lines of its wheels (sha256sum).")
    # Of its own as well: pip prefers files whose hash it is told beforehand, and of a folder of wheels it is not.
    (HERE / "cpu.lock").write_text(HEAD + f"torch=={version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes) + "\n")
    TEST.write_text(text.replace(pin, pin + "".join(f"    --hash=sha256:{digest} \\\n" for digest in hashes if digest not in text)))


def main() -> None:
    """Every extra's lock, and cuda.lock: what torch needs besides on Linux where pip is offered no CPU build (cuda.txt has the names)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="the newest versions within the bounds")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    for extra in ("test", *ON_TOP):
        compile_lock(HERE / f"{extra}.lock", "pyproject.toml", f"--extra={extra}", f"--excludes={HERE / 'cuda.txt'}", *upgrade)
    compile_lock(HERE / "cuda.lock", "-", *upgrade)
    add_cpu_builds()


if __name__ == "__main__":
    main()
