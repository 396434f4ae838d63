"""The locks are whole, hashed and within the bounds; no requirement's licence binds the users of the project more than they may expect."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from supply import licences, lock

PROJECT = tomllib.loads((licences.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = sorted(lock.HERE.glob("*.lock"))


@cache
def locked(path: Path) -> dict[str, list[Requirement]]:
    """What a lock names; each entry has one version and hashes."""
    found: dict[str, list[Requirement]] = {}
    for entry in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry.startswith("#"):
            continue
        line, *hashes = entry.split(" --hash=")
        requirement = Requirement(line)
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), entry
        assert hashes, f"{line} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", word) for word in hashes), entry
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_locks_have_versions_and_hashes_and_no_address(path: Path) -> None:
    assert locked(path)
    assert not re.search(r"://|^-", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_locks_agree() -> None:
    versions: dict[str, set[str]] = {}
    for path in LOCKS:
        for name, entries in locked(path).items():
            versions.setdefault(name, set()).update(map(version, entries))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("extra", ["test", *lock.ON_TOP])
def test_what_pyproject_asks_for_is_locked_within_its_bounds(extra: str) -> None:
    there = locked(lock.TEST) | (locked(lock.HERE / f"{extra}.lock"))
    asked = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"], *EXTRAS[extra]]
    if extra == "test":
        asked += [line for name in ("cohort", "cpu", "export", "slides") for line in EXTRAS[name]]
    for line in asked:
        requirement = Requirement(line)
        if requirement.name != "celladapt":
            name = canonicalize_name(requirement.name)
            assert name in there, f"{line} is not locked: make lock"
            assert all(requirement.specifier.contains(version(entry)) for entry in there[name]), f"{line} has another version locked: make lock"


def test_the_cpu_build_of_torch_is_in_the_lock_and_cuda_is_not() -> None:
    text = lock.TEST.read_text(encoding="utf-8")
    for line in (lock.HERE / "torch-cpu.sha256").read_text(encoding="utf-8").splitlines():
        digest, name = line.split()
        assert digest in text, name
    cuda = (lock.HERE / "cuda.txt").read_text(encoding="utf-8").split()
    assert not {*cuda} & {*locked(lock.TEST)}
    assert {*cuda} <= {*locked(lock.HERE / "cuda.lock")}


def test_licences_are_known_and_none_is_refused() -> None:
    found, _ = licences.closure()
    assert {"torch", "numpy", "tensorboard"} <= {name for name, (_, extras) in found.items() if "" in extras}
    words = {name: licences.licence(package) for name, (package, _) in found.items()}
    assert {name: word for name, word in words.items() if not word or licences.REFUSED.search(word)} == {}
    copyleft = {name for name, word in words.items() if licences.COPYLEFT.search(word)}
    assert copyleft <= {"fastremap", "openslide-bin", "openslide-python", "pyside6-essentials", "shiboken6"}, (
        "reviewed: libraries of extras, used as they are"
    )
    assert not any("" in found[name][1] for name in copyleft), "nobody is made to install one"


@pytest.mark.parametrize("word", ["AGPL-3.0-or-later", "GNU Affero General Public License v3", "SSPL-1.0", "Free for non-commercial use"])
def test_licences_that_bind_users_are_refused(word: str) -> None:
    assert licences.REFUSED.search(word)


def test_the_page_of_licences_names_what_everybody_installs() -> None:
    page = (licences.ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        name = canonicalize_name(Requirement(line).name)
        assert name == "celladapt" or f"\n| {name} | " in page, f"{name} is not in docs/licences.md: make licences"
