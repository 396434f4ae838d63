"""Licences of what the project requires, from the packages' own metadata, as docs/licences.md.

Run as `make licences`. What is not installed is not read: the extras' requirements have to be.
"""

import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SILENT = {
    "atheris": "Apache-2.0",
    "bioimageio-core": "MIT",
    "bioimageio-spec": "MIT",
    "cuda-toolkit": "none stated (a list of packages, without files of its own)",
}
"""Packages whose metadata says nothing: read in the LICENSE file that each brings, or seen to bring nothing that could have one."""
REFUSED = re.compile(r"AGPL|Affero|SSPL|Server Side Public|Commons Clause|Business Source|BUSL|non-?commercial", re.IGNORECASE)
COPYLEFT = re.compile(r"(?<![A-Z])L?GPL|General Public|Lesser", re.IGNORECASE)


def licence(package: Distribution) -> str:
    """The licence's SPDX expression, or what stands for it in older metadata; empty where nothing does."""
    meta = package.metadata
    if "License-Expression" in meta:
        return meta["License-Expression"]
    classified = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or () if c.startswith("License ::")]
    if classified := [c for c in classified if c != "OSI Approved"]:
        return ", ".join(classified)
    text = meta["License"].strip() if "License" in meta else ""
    if text not in ("", "UNKNOWN"):
        return text.splitlines()[0]
    return SILENT.get(canonicalize_name(package.name), "")


def closure() -> tuple[dict[str, tuple[Distribution, set[str]]], set[str]]:
    """All that pyproject.toml requires, directly or through others.

    Returns:
        by package its distribution and the extras that bring it ("" for everybody); and what is not installed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, tuple[Distribution, set[str]]] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str, str]] = set()
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    waiting = [(group, Requirement(line), "") for group, lines in groups.items() for line in lines]
    while waiting:
        group, requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name == project["name"] or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        found.setdefault(name, (package, set()))[1].add(group)
        for wanted in {"", *requirement.extras}:
            if (group, name, wanted) not in seen:
                seen.add((group, name, wanted))
                waiting += [(group, Requirement(line), wanted) for line in package.requires or ()]
    return found, missing


def page(found: dict[str, tuple[Distribution, set[str]]]) -> str:
    """The Markdown page."""
    lines = [
        "# Licences of what celladapt requires",
        "",
        "Written by `make licences` from the packages' own metadata, on Linux. No package is under the AGPL or the like, which a test holds.",
        "Those under the GPL or LGPL are marked: they are used as they are, as libraries, and come with no part of celladapt.",
        "",
        "| package | version | licence | brought by |",
        "|---|---|---|---|",
    ]
    for name, (package, groups) in sorted(found.items()):
        words = licence(package)
        mark = " (copyleft)" if COPYLEFT.search(words) else ""
        by = "every installation" if "" in groups else f"extra{'s' * (len(groups) > 1)} " + ", ".join(f"`{group}`" for group in sorted(groups))
        lines.append(f"| {name} | {package.version} | {words.replace('|', '/')}{mark} | {by} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    everything, absent = closure()
    if absent:
        raise SystemExit(f"Not installed, so their licences cannot be read: {', '.join(sorted(absent))}.")
    Path(sys.argv[1]).write_text(page(everything), encoding="utf-8")
