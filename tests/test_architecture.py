"""Imports only go down the floors, and no public function hides behind a module of its name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import celladapt

ROOT = Path(celladapt.__file__).parent
FLOORS = {
    "errors": 0, "winograd": 0, "convolution": 1, "files": 1, "progress": 1, "parallel": 1, "hardware": 1, "instances": 0, "shape": 1, "units": 1,
    "batch": 2, "config": 2, "losses": 2, "metrics": 2, "networks": 2, "classical": 2, "quality": 2, "ranking": 2, "selection": 3,
    "methods": 3, "data": 3,
    "onnx_network": 3, "onnx_graph": 4, "card": 3, "zoo": 7, "exporting": 8, "importing": 6,
    "strips": 3, "checkpoint": 4, "validate": 4, "model": 5, "nuclei": 2, "tissue": 1, "whole_slide": 4, "outputs": 4, "job": 5, "prediction": 6, "cohort": 2, "plane": 6, "napari_plugin": 7, "evaluation": 7, "expectation": 7, "run": 6, "worklist": 7, "train": 7, "conclusion": 8, "preparation": 8, "suggestion": 8,
    "adaptation": 9, "worker": 10, "side_by_side": 10, "benchmarking": 11, "demonstration": 12, "cli": 13, "__main__": 14,
}  # fmt: skip
REPORTING_MAY_USE = {"errors", "files"}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "celladapt":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names} - {"__version__"}
    return found


def floor(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


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


def test_nothing_is_unpickled() -> None:
    forbidden = re.compile(r"(import|from) pickle|torch\.load\(|yaml\.load|\beval\((?!\))|\bexec\(")
    for file in ROOT.rglob("*.py"):
        found = forbidden.search(file.read_text(encoding="utf-8"))
        assert not found, f"{file}: {found[0] if found else ''}"


def test_no_part_of_the_documentation_is_left_to_be_filled_in() -> None:
    for file in (ROOT.parents[1] / "docs").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<!-- begin (\S+) -->\s*<!-- end", text), file
        assert not re.search(r"^[A-Z]{4,}$", text, flags=re.MULTILINE), file


def test_no_compiler_is_loaded_before_it_is_needed() -> None:
    """Loading either takes a second, which a small prediction would spend for nothing."""
    script = "import sys, celladapt.model, celladapt.train; print([name for name in ('numba', 'torch._dynamo') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip() == "[]"
