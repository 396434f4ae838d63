"""Weights of the paper's U-Net that another program saved with torch, made a model; the one place where such a file is opened, and nothing in it is run."""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from celladapt import __version__, checkpoint
from celladapt.data.folder import Folder
from celladapt.data.images import read_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.model import Model
from celladapt.networks import Segmenter

OLDEST_TORCH = (2, 10)
"""Before it files could run code even when only weights were asked for (CVE-2025-32434, CVE-2026-24747)."""
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where training programs keep the state dict among other things."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and the like put before every name."""
SAVE = "where it was trained, save the weights alone: torch.save(model.state_dict(), FILE)"
_PICKLES = 5
"""At the beginning of a file that torch.save did not zip: a mark, a version, the machine, what was saved, and the names of its storages."""
_NEEDED = {
    "collections.OrderedDict", "torch.Size", "torch.device", "torch.nn.parameter.Parameter", "__builtin__.set", "builtins.set",
    *(f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter", "parameter_with_state")),
}  # fmt: skip
"""Of what torch's weights-only loader would call, what checkpoints need and what reserves no memory by a number in the file, beside types of numbers."""
_COUNTERS = "num_batches_tracked", "n_averaged"  # of batches and of averaged weights, which prediction does not use and some files lack


def import_weights(
    weights: str | Path,
    out: str | Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalise_by: str | Path | None = None,
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a model of a state dict of the paper's U-Net (S) that ``torch.save`` wrote elsewhere.

    The file is opened with torch's weights-only loader and in no other way: whatever else than tensors in plain containers is in it is refused. The state dict
    may be the file itself or lie under one of ``NESTED``. Tensors are matched by name, or else, where shape and last word of the name (weight, bias,
    running_mean ...) agree one after another, by order: as declared, or as used. The network gives logits, of which the model takes the sigmoid.

    Args:
        weights: .pt or .pth file.
        out: ``.safetensors`` file to make.
        mean, std: three numbers each, red, green and blue on the scale 0 to 1, by which the network's training images were normalised.
        normalise_by: or a folder of such images, whose mean and standard deviation are taken.
        pixel_size: µm per pixel of the training images, where known.
        overwrite: whether ``out`` may be replaced.

    Returns:
        ``out``.

    Raises:
        InputError: torch is older than 2.10, the file is damaged, holds more than weights or another network, a wrong option, or ``out`` exists; then nothing
            is written.
    """
    weights, out = Path(weights), Path(out)
    if out.suffix.lower() != ".safetensors":
        raise InputError(f"{out} does not end in .safetensors; give another --out.")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already; choose another --out, or --overwrite to replace it.")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise InputError(f"--pixel-size is {pixel_size}; give µm per pixel, for example 0.25.")
    normalisation = _normalisation(mean, std, normalise_by)
    state = _matched(_tensors(_state_dict(_opened(weights), weights), weights), weights)
    network = Segmenter(len(state["down.0.0.bias"]))
    counters = {name: value for name, value in network.state_dict().items() if name.endswith(_COUNTERS)}
    checkpoint.fill(network, {**counters, **state}, weights)
    about: dict[str, Any] = {"method": "imported", "versions": {"celladapt": __version__, "torch": torch.__version__}}
    Model(network, normalisation, about | ({} if pixel_size is None else {"pixel_size": pixel_size})).save(out)
    return out


def _normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, folder: str | Path | None) -> Normalisation:
    if folder is not None:
        if mean is not None or std is not None:
            raise InputError("--normalise-by takes the mean and standard deviation of the folder's images; leave it or --mean and --std out.")
        return Normalisation.of(read_image(path) for path in Folder.open(Path(folder)).images.values())
    if mean is None or std is None:
        raise InputError(
            "A network is of use only on images normalised as in its training: give --mean R,G,B and --std R,G,B, on the scale 0 to 1, "
            "or --normalise-by with a folder of its training images."
        )
    for option, values, low in (("--mean", mean, 0.0), ("--std", std, 1e-6)):
        if len(values) != 3 or not all(isfinite(value) and low <= value <= 1 for value in values):
            raise InputError(f"{option} is {','.join(f'{value:g}' for value in values)}; give three numbers on the scale 0 to 1, as 0.7,0.5,0.6.")
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _opened(path: Path) -> object:
    """What is in the file: tensors, numbers and texts in dictionaries and lists."""
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise InputError(
            f"{path} is not opened: with torch {torch.__version__} such a file could run code (CVE-2025-32434, CVE-2026-24747); install torch 2.10 or newer."
        )
    if not path.is_file():
        raise InputError(f"{path} {'is no file' if path.exists() else 'does not exist'}; give a file of weights that torch.save wrote.")
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\3\4"  # by which torch tells it too
            file.seek(0)
            for _ in range(0 if zipped else _PICKLES):
                _only_needed(path, file)
        if zipped or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                if any(name.endswith("/constants.pkl") for name in packed.namelist()):
                    raise InputError(f"{path} is refused, as it is a TorchScript archive, which is a program; {SAVE}.")
                if any(member.file_size > member.compress_size for member in packed.infolist()):
                    raise InputError(
                        f"{path} is compressed, as torch.save never does and a decompression bomb would be; give the file as it was saved."
                    )
                for member in packed.infolist():
                    if member.filename.endswith(".pkl"):
                        with packed.open(member) as pickled:
                            _only_needed(path, pickled)
        with _nothing_allowed(), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from error
    except Exception as error:  # of the unpickler, of zip, of the system: dozens of types
        raise InputError(_why_not(path, str(error))) from None


def _only_needed(path: Path, pickled: IO[bytes]) -> None:
    """Read the steps of one pickle without taking any; raises InputError where one is to call what weights do not need."""
    for step, argument, _ in pickletools.genops(pickled):
        name = str(argument).replace(" ", ".")
        if step.name == "GLOBAL" and name not in _NEEDED and not _is_kind(name):
            raise InputError(_why_not(path, f"GLOBAL {name}"))


def _is_kind(name: str) -> bool:
    """Whether it is a kind of number, or of storage, of torch's."""
    module, _, kind = name.rpartition(".")
    return module in ("torch", "torch.cuda") and (kind.endswith("Storage") or isinstance(getattr(torch, kind, None), torch.dtype))


def _why_not(path: Path, message: str) -> str:
    if named := re.search(r"GLOBAL ([\w.]{1,100})", message):
        return f"{path} is refused, as it holds more than weights ({named[1]}) and could run code; {SAVE}."
    return f"{path} is refused, as it is damaged, cut short, or holds more than weights; use another copy of it, or {SAVE}."


@contextmanager
def _nothing_allowed() -> Iterator[None]:
    """Whatever the program around us has declared safe to unpickle is not, here."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(before)


def _state_dict(content: object, path: Path) -> Mapping[str, Tensor]:
    """The dictionary of tensors in ``content``."""
    for _ in range(3):
        if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): value for name, value in content.items()}
        content = next((content[key] for key in NESTED if key in content), None) if isinstance(content, Mapping) else None
    raise InputError(f"{path} holds no state dict, neither by itself nor under {', '.join(NESTED)}; save model.state_dict() alone.")


def _tensors(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Plain float32 tensors under the names that the network itself gives them."""
    plain = {name: value for name, value in state.items() if not name.endswith(_COUNTERS)}
    while plain and any(all(name.startswith(prefix) for name in plain) for prefix in WRAPPERS):
        plain = {name.split(".", 1)[1]: value for name, value in plain.items()}
    # One number seen as a terabyte (a stride of 0) is a legal tensor, which to copy would fill the memory.
    if sum(value.numel() * value.element_size() for value in plain.values()) > path.stat().st_size:
        raise InputError(f"{path} says that its tensors are larger than the file; use another copy of it.")
    for name, value in plain.items():
        if value.layout != torch.strided or not value.is_floating_point() or value.is_meta or not value.isfinite().all():
            raise InputError(f"{path} holds no finite real numbers in {name[:100]!r}; use another copy of it.")
    return {name: value.detach().to(torch.float32) for name, value in plain.items()}


def _matched(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the names of ``Segmenter``; raises InputError that names the first that does not fit."""
    first = state.get("down.0.0.weight", next((value for value in state.values() if value.ndim == 4), None))
    if first is None or first.shape[1:] != (3, 3, 3):
        shape = "no convolution" if first is None else f"a convolution of shape {list(first.shape)}"
        raise InputError(f"{path} is no U-Net of the paper: it begins with {shape}, not with 3x3 filters of three channels.")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in Segmenter(len(first)).state_dict().items() if not name.endswith(_COUNTERS)}
    if state.keys() == wanted.keys():
        state = {name: state[name] for name in wanted}
    orders = [list(wanted), sorted(wanted, key=_when_used)]
    reached = [_agree(state, order, wanted) for order in orders]
    best = reached.index(max(reached))
    if reached[best] == len(wanted) == len(state):
        return dict(zip(orders[best], state.values(), strict=True))
    there = [f"{name[:100]!r} of shape {list(value.shape)}" for name, value in state.items()][reached[best] :]
    needed = [f"{name} of shape {list(wanted[name])}" for name in orders[best]][reached[best] :]
    raise InputError(
        f"{path} is no U-Net of the paper of width {len(first)}: it has {there[0] if there else 'nothing more'} "
        f"where {needed[0] if needed else 'nothing more'} belongs, after {reached[best]} that fit."
    )


def _agree(state: Mapping[str, Tensor], order: Sequence[str], wanted: Mapping[str, torch.Size]) -> int:
    """How many tensors, from the first on, have the shape and the last word of the names in ``order``."""
    for number, ((name, value), own) in enumerate(zip(state.items(), order, strict=False)):
        if value.shape != wanted[own] or name.rpartition(".")[2] != own.rpartition(".")[2]:
            return number
    return min(len(state), len(order))


def _when_used(name: str) -> tuple[int, str, bool]:
    """Sorts up-convolutions before the convolutions that follow them; others stay as they are."""
    part, level, *_ = name.split(".")
    return ("down", "up", "merge", "head").index(part.replace("merge", "up")), level if part in ("up", "merge") else "", part == "merge"
