"""Imports only go down the floors, and no public function hides behind a module of its name."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dangers
import pytest

import celladapt

ROOT = Path(celladapt.__file__).parent
FLOORS = {
    "errors": 0, "winograd": 0, "convolution": 1, "files": 1, "records": 1, "locks": 2, "cells": 0, "progress": 0, "parallel": 1, "hardware": 1, "instances": 0, "shape": 0, "half_maximum": 1, "units": 1,
    "batch": 1, "config": 2, "source_weight": 2, "losses": 2, "metrics": 2, "networks": 2, "classical": 2, "quality": 2, "ranking": 2, "selection": 3, "threshold": 3,
    "methods": 3, "data": 3,
    "onnx_network": 3, "onnx_graph": 4, "card": 3, "zoo": 9, "exporting": 10, "importing": 8,
    "strips": 3, "step": 4, "checkpoint": 4, "validate": 4, "log": 2, "model": 5, "onnx_model": 6, "loading": 7, "inputs": 4, "misfits": 6, "shell": 0, "provenance": 6, "nuclei": 2, "tissue": 1, "whole_slide": 4, "outputs": 4, "job": 5, "segmentation": 6, "prediction": 8, "cohort": 2, "plane": 8, "napari_plugin": 9, "evaluation": 9, "expectation": 9, "run": 8, "contact_sheet": 8, "worklist": 9, "reviewing": 10, "train": 9, "conclusion": 10, "preflight": 9, "preparation": 10, "suggestion": 10,
    "adaptation": 11, "worker": 12, "side_by_side": 12, "benchmarking": 13, "demonstration": 14, "exits": 1, "cli": 15, "__main__": 16,
}  # fmt: skip
REPORTING_MAY_USE = {"cells", "errors", "files"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "celladapt":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names} - {"__version__"}
    return found


def floor(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_an_installation_has_every_file_of_the_package() -> None:
    """An editable one, in which tests run, has them all, whatever is listed."""
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    listed = {path for pattern in project["tool"]["setuptools"]["package-data"]["celladapt"] for path in ROOT.glob(pattern)}
    there = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts}
    assert there - listed == set()


def test_imports_go_down() -> None:
    for file in ROOT.rglob("*.py"):
        here = floor(file)
        if here in ("__init__", "presets"):
            continue
        for other in imports(file) - {here}:
            if here == "reporting":
                assert other in REPORTING_MAY_USE, f"{file.name} reads the files of a run folder only, not {other}"
            elif other != "reporting":
                assert FLOORS[other] < FLOORS[here], f"{here} imports {other}, which is not below it"


def test_reports_need_no_torch() -> None:
    assert not any("torch" in file.read_text(encoding="utf-8").split() for file in (ROOT / "reporting").glob("*.py"))


def test_no_public_name_is_also_a_module() -> None:
    modules = {path.stem for path in ROOT.iterdir()}
    assert modules & set(celladapt.__all__) == {"methods"}, "which is public as the module"


def test_public_names_exist() -> None:
    assert all(callable(getattr(celladapt, name)) for name in celladapt.__all__ if name not in ("__version__", "methods"))


REPOSITORY = ROOT.parents[1]
OWN = ("benchmarks", "docs", "reliability", "src", "supply", "tests")
"""Its folders with Python files; others are somebody's environments and builds."""
ALLOWED = {
    ("src/celladapt/importing.py", "import pickletools"): "which reads the steps of a pickle and takes none",
    ("src/celladapt/importing.py", "torch.load"): "the one place where a pickle is opened, with weights alone",
    ("src/celladapt/methods/__init__.py", "import_module of None"): "names of files in methods/",
    ("src/celladapt/data/public/__init__.py", "import_module of None"): "names of files in data/public/",
    ("src/celladapt/errors.py", "import_module of None"): "names of libraries in our own source",
    ("src/celladapt/exporting.py", "optional of None"): "names of libraries, listed in the line above",
    ("src/celladapt/outputs.py", "optional of None"): "names of libraries, listed in LIBRARIES",
    ("src/celladapt/reporting/figures.py", "Markup of what is no constant"): "matplotlib's SVG, which escapes the words in it",
}
"""(file, danger) -> why it is none."""


def test_our_own_folders_are_all_there_is() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=REPOSITORY, check=False, capture_output=True, text=True) if shutil.which("git") else None
    if listed is None or listed.returncode:
        pytest.skip("no git, or no clone of the repository")
    assert {name.split("/")[0] for name in listed.stdout.splitlines() if "/" in name} <= set(OWN)


def test_nothing_is_unpickled_evaluated_or_left_unescaped() -> None:
    """Outside of the tests themselves; each exception has its reason."""
    files = [*REPOSITORY.glob("*.py"), *(path for top in OWN for path in (REPOSITORY / top).rglob("*.py"))]
    files = [path for path in files if not (path.parent.name == "tests" and path.name.startswith("test_"))]
    assert {ROOT / "cli.py", REPOSITORY / "benchmarks" / "results.py", REPOSITORY / "tests" / "helpers.py"} <= set(files)
    found = [(path, *danger) for path in files for danger in dangers.in_source(path.read_text(encoding="utf-8"))]
    templates = [path for path in ROOT.rglob("*.j2") if ".html" in path.name]
    assert len(templates) >= 4
    found += [(path, *danger) for path in templates for danger in dangers.in_template(path.read_text(encoding="utf-8"))]
    places = [(path.relative_to(REPOSITORY).as_posix(), what) for path, _, what in found]
    told = [f"{path}:{line}: {what}" for path, line, what in found if (path.relative_to(REPOSITORY).as_posix(), what) not in ALLOWED]
    assert not told, "\n".join(told)
    assert set(places) == set(ALLOWED), "an exception that is no longer needed"
    assert places.count(("src/celladapt/importing.py", "torch.load")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "def f():\n    import cPickle", "import dill", "import cloudpickle",
        "import marshal", "import shelve", "import joblib", "from six.moves import cPickle", "import_module('pickle')", "optional('joblib', 'a', 'b')",
        "from importlib import import_module\nimport_module(name)",
        "import torch\ntorch.load(f)", "import torch\ntorch.load(f, weights_only=False)", "import torch as t\nt.load(f, weights_only=flag)",
        "from torch import load\nload(f)", "import torch\ntorch.save(a, f)", "import torch\ntorch.jit.load(f)", "import torch\ntorch.hub.load(a)",
        "import numpy as np\nnp.load(f)", "import numpy\nnumpy.load(f, allow_pickle=True)", "from numpy import load as l\nl(f, mmap_mode='r')",
        "import yaml\nyaml.load(f)", "import yaml\nyaml.unsafe_load(f)", "import yaml\nyaml.full_load(f)", "from yaml import load", "y.full_load(f)",
        "import yaml as y\ny.load_all(f, Loader=y.SafeLoader)",
        "eval(text)", "exec(text)", "compile(text, 'a', 'exec')", "__import__(name)", "import builtins\nbuiltins.eval(text)", "table.eval('a + b')",
        "import os\nos.system('ls')", "from os import system", "import os\nos.popen('ls')", "import os\nos.execvp(a, b)", "import os as o\no.spawnl(a)",
        "import subprocess\nsubprocess.run(a, shell=True)", "import subprocess as s\ns.Popen(a, shell=flag)", "from subprocess import run\nrun(a, shell=1)",
        "import subprocess\nsubprocess.getoutput(a)",
        "tar.extractall(folder)", "tar.extract(member)", "archive.extractall(path=folder)", "import shutil\nshutil.unpack_archive(a)",
        "import tempfile\ntempfile.mktemp()", "import pandas as pd\npd.read_pickle(f)", "table.to_pickle(f)",
        "import jinja2\njinja2.Environment(loader=l)", "from jinja2 import Environment\nEnvironment(autoescape=False)", "import jinja2\njinja2.Template(t)",
        "e = eval\ne(text)", "map(eval, lines)", "from builtins import eval as e\ne(text)", "import torch\nl = torch.load\nl(f)",
        "import torch\n[torch.load][0](f)", "import torch\ngetattr(torch, 'load')(f)", "import os\ngetattr(os, 'system')(a)", "from torch import *\nload(f)",
        "from yaml import *", "import functools, torch\nfunctools.partial(torch.load, weights_only=False)(f)", "load(f, weights_only=False)",
        "from torch import serialization\nserialization.load(f)", "import numpy as np\nnp.lib.npyio.NpzFile(f, allow_pickle=True)",
        "import numpy as np\nnp.lib.npyio.load(f)", "reader(f, allow_pickle=True)", "import subprocess\nsubprocess.run(a, **{'shell': True})",
        "import subprocess\nr = subprocess.run", "tar.extractall(p, filter='fully_trusted')", "tar.extractall(p, filter=chosen)", "unpack = tar.extractall",
        "import logging.config\nlogging.config.fileConfig(p)", "from logging import config\nconfig.fileConfig(p)",
        "from multiprocessing.reduction import ForkingPickler", "import multiprocessing.reduction as r\nr.ForkingPickler.loads(b)",
        "import importlib as i\ni.import_module(n)", "import os\nos.startfile(p)", "import yaml\nclass A(yaml.YAMLObject): pass",
        "from markupsafe import Markup\nMarkup(text)", "import markupsafe\nmarkupsafe.Markup(f'<b>{name}</b>')",
    ],
)  # fmt: skip
def test_dangers_are_found(source: str) -> None:
    assert list(dangers.in_source(source))


@pytest.mark.parametrize(
    "source", ["{{ name|safe }}", "{{ name | safe }}", "{% autoescape false %}", "<script>", '<img onerror="x">', '<a href="javascript:x">']
)
def test_dangers_in_templates_are_found(source: str) -> None:
    assert list(dangers.in_template(source))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')", "network.eval()", "import numpy as np\nnp.load(f, mmap_mode='r', allow_pickle=False)", "import json\njson.load(f)",
        "import subprocess\nsubprocess.run([a])", "import torch\ntorch.compile(network)", "from re import compile\ncompile('a')",
        "import functools, numpy as np\nfunctools.partial(read, allow_pickle=False)", "import subprocess\nsubprocess.run([a], env=e, shell=False)", "tar.extractall(folder, filter='data')", "tar.extractfile(member)",
        "import jinja2\njinja2.Environment(autoescape=True)", "from markupsafe import Markup\nMarkup('<b>{}</b>').format(name)",
        "from importlib import import_module\nimport_module('numpy')", "import yaml\nyaml.safe_load(f)", "load(f)",
    ],
)  # fmt: skip
def test_what_is_no_danger(source: str) -> None:
    assert not list(dangers.in_source(source))


def test_no_part_of_the_documentation_is_left_to_be_filled_in() -> None:
    for file in (ROOT.parents[1] / "docs").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<!-- begin (\S+) -->\s*<!-- end", text), file
        assert not re.search(r"^[A-Z]{4,}$", text, flags=re.MULTILINE), file


def test_no_compiler_is_loaded_before_it_is_needed() -> None:
    """Loading either takes a second, which a small prediction would spend for nothing."""
    script = "import sys, celladapt.loading, celladapt.train; print([name for name in ('numba', 'torch._dynamo') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == "[]"
