"""Finds in source what could run code from a file, write outside a folder, or turn text into markup."""

import ast
import re
from collections.abc import Iterator
from typing import Any

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle", "pickletools"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
NEVER = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "tempfile.mktemp",
    "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "runpy.run_path", "runpy.run_module",
    "pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "shutil.unpack_archive", "jinja2.Template", "numpy.fromregex", "importlib.util.spec_from_file_location", "code.interact",
    "logging.config.fileConfig", "logging.config.dictConfig", "logging.config.listen", "multiprocessing.reduction.ForkingPickler", "os.startfile",
    "yaml.YAMLObject", "pandas.HDFStore", "numpy.lib.npyio.NpzFile", "numpy.lib.npyio.load",
}  # fmt: skip
"""What is not even to be mentioned, as under another name it could be called unseen."""
GUARDED = {
    "torch.load", "torch.serialization.load", "numpy.load", "np.load", "numpy.lib.format.read_array", "importlib.import_module",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
}  # fmt: skip
"""What is only to be called, so that its options are seen."""
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load"}
UNPACKING = {"extract", "extractall"}
TEMPLATES = re.compile(r"\|\s*safe\b|autoescape\s+false|\bMarkup\b|<script|\bon\w+\s*=\s*[\"']|javascript:")


def in_source(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of each danger in Python source, in order of line."""
    tree = ast.parse(source)
    names = _imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in sorted(ast.walk(tree), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))):
        for what in _in_node(node, names, id(node) in called):
            yield getattr(node, "lineno", 0), what


def in_template(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of each place in a template where text is not escaped or a script begins."""
    for number, line in enumerate(source.splitlines(), 1):
        yield from ((number, found[0]) for found in TEMPLATES.finditer(line))


def _imported(tree: ast.AST) -> dict[str, str]:
    """Name in the file -> what was imported under it."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _in_node(node: ast.AST, names: dict[str, str], called: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom):
        if (node.module or "").split(".")[0] in MODULES:
            yield f"import {node.module}"
        dangerous = {a.name for a in node.names if f"{node.module}.{a.name}" in NEVER or a.name in MODULES or a.name == "*"}
        yield from (f"from {node.module} import {name}" for name in sorted(dangerous))
    elif isinstance(node, ast.Call):
        yield from _in_call(node, _dotted(node.func, names), names)
    elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield from _in_mention(_dotted(node, names), called)


def _in_mention(name: str, called: bool) -> Iterator[str]:
    method = name.rpartition(".")[2]
    runs = name.removeprefix("builtins.") in BUILTINS or re.match(r"os\.(exec|spawn|posix_spawn)", name)
    if runs or name in NEVER or ("." in name and method in METHODS):
        yield name
    if not called and (name in GUARDED or ("." in name and method in UNPACKING)):
        yield f"{name} without a call"


def _in_call(node: ast.Call, name: str, names: dict[str, str]) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    method = name.rpartition(".")[2]
    if "." in name and method == "eval" and node.args:  # of a table or the like; a network's takes nothing
        yield name
    if name == "getattr" and len(node.args) > 1 and isinstance(_constant(node.args[1]), str):
        yield from _in_mention(f"{_dotted(node.args[0], names)}.{_constant(node.args[1])}", called=False)
    if name in ("importlib.import_module", "import_module", "optional", "celladapt.errors.optional") and node.args:
        module = _constant(node.args[0])
        if module is None or str(module).split(".")[0] in MODULES:
            yield f"{method} of {module}"
    if name in ("torch.load", "torch.serialization.load"):
        yield "torch.load" if _constant(given.get("weights_only")) is True else "torch.load without weights_only=True"
    if name in ("numpy.load", "np.load", "numpy.lib.format.read_array") and _constant(given.get("allow_pickle")) is not False:
        yield "numpy.load without allow_pickle=False"
    if "allow_pickle" in given and _constant(given["allow_pickle"]) is not False:
        yield f"{name} with allow_pickle"
    if "weights_only" in given and _constant(given["weights_only"]) is not True:
        yield f"{name} without weights_only"
    if "shell" in given and _constant(given["shell"]) is not False:
        yield f"{name} with a shell"
    if (name.startswith("subprocess.") or method == "Popen") and None in given:
        yield f"{name} with options that are not seen"
    if method in UNPACKING and _constant(given.get("filter")) != "data":
        yield f"{method} without filter='data'"
    if name in ("jinja2.Environment", "jinja2.environment.Environment") and _constant(given.get("autoescape")) is not True:
        yield "jinja2.Environment without autoescape"
    if method == "Markup" and not (node.args and isinstance(_constant(node.args[0]), str)):
        yield "Markup of what is no constant"


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """``a.b.c`` with ``a`` as it was imported; "?" for what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _constant(node: ast.AST | None) -> Any:
    return node.value if isinstance(node, ast.Constant) else None
