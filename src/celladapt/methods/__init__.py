"""A method is its networks, its options and its turns; ``celladapt.step`` and the loop around it do the rest.

A method file holds only the paper: no detaching, no freezing, no devices, no logging. The loop runs S once per image and step. In a turn
in which S does not move the terms see S's predictions and features cut from the graph; every network that a turn does not move is frozen in it.

A method's name is its file's name in this folder, so a new file is a new method.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.config import MethodSpec
from celladapt.errors import InputError
from celladapt.losses import Domain


@dataclass(frozen=True)
class Term:
    """One weighted summand of a turn's loss."""

    weight: float
    value: Tensor
    """Scalar."""


Terms = dict[str, Term]
"""Log name -> term, in the order of the equation."""


@dataclass(frozen=True)
class Turn:
    """The networks ``moves`` (names in ``Method.networks``) step down the sum of ``terms(batch, p_s, p_t)``."""

    moves: tuple[str, ...]
    terms: Callable[[Batch, Tensor, Tensor], Terms]


@dataclass(frozen=True)
class NoOptions:
    """For a method without options of its own."""


class Method(ABC):
    """Base of every method. ``networks["S"]`` is the segmenter that prediction uses.

    A network's optimiser follows its name's first letter: S, D or R (``lr_s``, ``lr_d``, ``lr_r``).
    """

    Options: ClassVar[type] = NoOptions
    """Frozen dataclass of the method's own options, each with a default and a docstring."""
    reads: ClassVar[frozenset[Domain]] = frozenset({Domain.SOURCE, Domain.TARGET})
    """Whose images a step needs. S is not run on the other domain."""
    target_masks: ClassVar[bool] = False
    """Whether the method is given target masks at all."""
    taught: ClassVar[bool] = False
    """Whether a teacher, the average of S over the steps (``--ema``), predicts ``image_t`` for it in every step."""
    classical: ClassVar[bool] = False
    """Whether a step needs the classical segmentation of the target images; it may then stand for masks, which have cross-entropy."""
    warm_up: ClassVar[float] = 0.0
    """Share of the training before all of the method may act. A checkpoint from there is kept only until there is a later one, whatever a criterion says of it."""
    features: ClassVar[bool] = False
    """Whether the terms see ``features_s`` and ``features_t``, what the bottom of S sees of either domain."""
    paper: ClassVar[str] = ""
    """What to cite for it, beside the paper that all of this rests on."""
    equations: ClassVar[Mapping[str, str]]
    """Log name of every term -> what it is, in one line."""

    networks: nn.ModuleDict
    memory: Mapping[str, Tensor] = {}
    """What else a method carries from step to step; kept in the checkpoint. On whatever device."""

    @abstractmethod
    def __init__(self, width: int, options: Any) -> None:
        """Build the networks at base ``width`` with ``options``, an instance of ``Options``."""

    @classmethod
    def warming_up(cls, step: int, steps: int) -> bool:
        """Whether the last of ``step`` steps out of ``steps`` was one of the warm-up, by ``Batch.progress`` in it."""
        return (step - 1) / steps < cls.warm_up

    def taken(self, b: Batch) -> Batch:
        """The batch as the method takes it; asked once a step, when the teacher has spoken."""
        return b

    def source_weight(self, b: Batch, p_s: Tensor) -> Tensor:
        """What the source counts in this step, scalar in [0, 1]: its masks, and whatever else of it the target is held to. Asked once a step."""
        return p_s.new_ones(())

    def remarks(self) -> list[str]:
        """What people should know of how training went, a sentence each; in the report."""
        return []

    @property
    @abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """One training step, in order."""


def names() -> list[str]:
    """Every method's name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> type[Method]:
    """The method class in the file ``name``.

    Raises:
        InputError: there is no such method.
    """
    if name not in names():
        raise InputError(f"There is no method '{name}'; choose one of {', '.join(names())}.")
    module = import_module(f"{__name__}.{name}")
    (method,) = (x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Method) and x.__module__ == module.__name__)
    return method


def build(spec: MethodSpec, width: int) -> Method:
    """The method that ``spec`` names, with its options, freshly initialised from torch's global random state.

    Raises:
        InputError: unknown method or option, or a value that is no number from 0 on.
    """
    method = find(spec.name)
    known = [f.name for f in fields(method.Options)]
    values: dict[str, Any] = {}
    for key, text in spec.options.items():
        if key not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise InputError(f"Method '{spec.name}' has no option '{key}'; {has}.")
        try:
            values[key] = float(text)
        except ValueError:
            raise InputError(f"Method '{spec.name}': {key}={text} is not a number.") from None
        if not 0 <= values[key] < float("inf"):
            raise InputError(f"Method '{spec.name}': {key}={text} must be a finite number, 0 or above.")
    return method(width, method.Options(**values))


def describe(name: str) -> str:
    """A method in words: what it is, its terms, its options with defaults."""
    method = find(name)
    module = import_module(method.__module__)
    lines = [f"{name}: {(module.__doc__ or '').strip().splitlines()[0]}", f"    {(method.__doc__ or '').strip()}"]
    lines += [f"    {term:<11} {equation}" for term, equation in method.equations.items()]
    lines += [f"    option {f.name}={f.default}" for f in fields(method.Options)]
    return "\n".join(lines) + "\n"
