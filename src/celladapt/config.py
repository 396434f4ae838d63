"""The options of a run: frozen, validated, to and from one TOML file. Field docstrings are the command line's help."""

import difflib
import re
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from celladapt.errors import InputError
from celladapt.records import read_text

Criterion = Literal["expected", "infomax", "snd", "entropy", "consistency", "zoom", "agreement", "contrast", "solidity", "last", "labelled"]
_POSITIVE = ("steps", "width", "batch_size", "validate_every", "checkpoint_every", "validation_images", "max_megapixels", "lr_s", "lr_d", "lr_r")


@dataclass(frozen=True)
class MethodSpec:
    """A method as people write it: ``name[@labels][:option=value]...``, for example ``cellsegssda@10%`` or ``cellseguda:lambda_rec=0``."""

    name: str
    labels: str | None = None
    """Share ("10%") or number ("5") of target training masks to use; None = all that exist."""
    options: dict[str, str] = field(default_factory=dict)
    """Option name -> value as text; the method's own ``Options`` gives the types."""

    @classmethod
    def parse(cls, text: str) -> "MethodSpec":
        """Read ``text``.

        Raises:
            InputError: it is not of that form.
        """
        found = re.fullmatch(r"(?P<name>\w+)(?:@(?P<labels>[\d.]+%?))?(?P<options>(?::\w+=[^:=@]+)*)", text.strip())
        if not found:
            raise InputError(f"'{text}' is not a method; write NAME, NAME@10%, NAME:option=value or NAME@10%:option=value.")
        pairs = [item.split("=") for item in found["options"].split(":")[1:]]
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"'{text}' sets an option twice; set it once.")
        return cls(found["name"], found["labels"], dict(pairs))

    @property
    def text(self) -> str:
        """As people write it."""
        return self.name + (f"@{self.labels}" if self.labels else "") + "".join(f":{key}={value}" for key, value in self.options.items())


@dataclass(frozen=True)
class Config:
    """Every option of a training run. The defaults are the preset ``default``, meant for a GPU; ``fast`` is for two CPU cores.

    Raises:
        InputError: a value is out of range, naming the option and the cure.
    """

    source: Path | None = None
    """Folder of the annotated domain: images/ and masks/ with the same file names."""
    target: Path | None = None
    """Folder of the domain to adapt to: images/, and masks/ for those images that have one."""
    method: str = "weakuda"
    """Method to train with, as listed by `celladapt methods`; NAME:option=value sets a method's own option."""
    steps: int = 5000
    """Training steps."""
    width: int = 64
    """Channels of the first U-Net block; 64 as published, 16 for small machines."""
    crop: int | Literal["whole"] = 256
    """Side of the random training crops in pixels; 'whole' trains on whole images."""
    batch_size: int = 8
    """Images of each domain in a step (and in each process, where there are several)."""
    seed: int = 0
    """Seed of the initial weights, the crops, the augmentation and the choice of labels to hide."""
    split_seed: int = 0
    """Seed of the split; its own, so that runs with several seeds are compared on the same test images."""
    target_labels: str = "100%"
    """Share (10%) or number (5) of the target training masks that a method which reads them may use; the rest is hidden."""
    labelled_share: float = 0.5
    """Share of the target images in a batch that have a mask, where few have one and the method reads it; in WeakSSDA half of it where it can learn from the others, and all where it cannot. 0 draws all alike."""
    select: Criterion = "entropy"
    """Which checkpoint to keep: a criterion without target labels, the last one, or 'labelled' (target masks; only to reproduce the paper). No checkpoint of the first tenth of WeakUDA's training is kept."""
    batch_norm: Literal["shared", "target"] = "target"
    """Batch normalisation at prediction: statistics shared by both domains as in the paper, or re-estimated on target training and validation images (AdaBN)."""
    fit_threshold: bool = True
    """Cut masks at the probability at which they overlap best with the masks that the network learned from, and call that 1/2."""
    pixel_size: float | None = None
    """µm per pixel of the target's images, kept in the model so that slides are seen at the same; read from TIFFs that state it."""
    max_megapixels: float = 537.0
    """Largest image that is read whole, in millions of pixels: a guard against files that would fill the memory."""
    match: bool = True
    """Show source images in the target's look: grey or inverted if it is, and with nuclei of its size, as far as that can be told without masks."""
    augment: Literal["none", "flip", "colour"] = "colour"
    """Augmentation of both domains: none, flips and quarter turns, or those with brightness and contrast changes per channel."""
    ema: float = 0.99
    """Validate and predict with the average of S over the steps, of this decay (0.99: about the last hundred); 0 takes S as it is."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the convolutions: bf16 where the hardware has it, or as named."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    compile: bool = False
    """Compile the networks with torch.compile before the first step: minutes of waiting for faster steps, meant for long runs on a GPU."""
    lr_s: float = 0.0005
    """Learning rate of the segmentation network S (Adam)."""
    lr_d: float = 0.001
    """Learning rate of the discriminator D (Adam)."""
    lr_r: float = 0.001
    """Learning rate of the reconstruction network R (Adam)."""
    lambda_bce: float = 1.0
    """Weight of the cross-entropy against target masks, or what stands for them, beside the losses of the methods that have some; 0, as in the paper, leaves soft Dice alone."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rates over the steps: constant as in the paper, or falling to zero along a half cosine."""
    validate_every: int = 500
    """Steps between validations, at which the checkpoint to keep is chosen."""
    checkpoint_every: int = 500
    """Steps between checkpoints to resume from."""
    validation_images: int = 16
    """At most this many validation images of each domain are looked at to pick a checkpoint and its threshold."""
    val_fraction: float = 0.15
    """Share of each domain's images held out for validation."""
    test_fraction: float = 0.25
    """Share of the annotated target images held out for the final evaluation; 0 uses all for training."""
    group: str | None = None
    """Regular expression on file names; images that match alike (one patient, one slide) stay in one part of the split."""
    split: Path | None = None
    """split.json of an earlier run, to use the same split; --val-fraction, --test-fraction, --split-seed and --group have no say then, and images that are not in it are not used."""
    keep_checkpoints: bool = False
    """Keep the segmenter of every validation, to study the selection afterwards."""
    baseline: bool = True
    """Train source-only with the same budget too, so that the report shows what adapting changed."""
    fallback: bool = True
    """Keep the source-only model where, without labels, it looks clearly better than the adapted one; needs --baseline, and is not asked where masks of the target had a part."""

    def __post_init__(self) -> None:
        for name in ("source", "target", "split"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, Path(getattr(self, name)))
        for option in fields(self):
            _check_value(option.name, getattr(self, option.name))
        if self.val_fraction + self.test_fraction >= 1:
            raise InputError("--val-fraction and --test-fraction must each be at least 0 and together below 1.")
        if self.spec.labels is not None and self.target_labels != "100%" and self.spec.labels != self.target_labels:
            raise InputError(f"--method {self.method} and --target-labels {self.target_labels} disagree; give the labels once.")

    @property
    def spec(self) -> MethodSpec:
        """The method, taken apart."""
        return MethodSpec.parse(self.method)

    @property
    def labels(self) -> str:
        """Share or number of target training masks to use, wherever it was given."""
        return self.spec.labels or self.target_labels

    def to_toml(self) -> str:
        """As text; an option that is None is left out."""
        import tomli_w

        return tomli_w.dumps({key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_toml(cls, path: Path) -> "Config":
        """Read what ``to_toml`` wrote, or a person.

        Raises:
            InputError: missing file, bad TOML, an unknown option (the right names are given) or a value of the wrong type.
        """
        options = read_options(path)
        try:
            return cls(**options)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def presets() -> list[str]:
    """Names of the presets."""
    return sorted(item.name.removesuffix(".toml") for item in resources.files("celladapt.presets").iterdir() if item.name.endswith(".toml"))


def preset_options(name: str) -> dict[str, Any]:
    """The options that preset ``name`` changes (a name, or the path of a TOML file of one's own, which may begin with ``preset = "paper"``).

    Raises:
        InputError: no such preset, or what ``Config.from_toml`` raises.
    """
    if name in presets():
        values = _read_toml(Path(str(resources.files("celladapt.presets") / f"{name}.toml")))
    elif name.endswith(".toml"):
        values = _read_toml(Path(name))
    else:
        raise InputError(f"There is no preset '{name}'; choose one of {', '.join(presets())}, or give a .toml file.")
    base = values.pop("preset", None)
    if base is not None and base not in presets():
        raise InputError(f"{name} begins with preset = {base!r}; it must be one of {', '.join(presets())}.")
    _check_names(values, name)
    options = {**(preset_options(base) if base else {}), **values}
    try:
        for key, value in options.items():  # one by one: what they must be together depends on the options that are given beside them
            _check_value(key, Path(value) if key in ("source", "target", "split") and isinstance(value, str) else value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return options


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file, each checked by name."""
    values = _read_toml(path)
    _check_names(values, path)
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, "give an existing TOML file"))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError, brackets without end are the other
        raise InputError(f"{path} is not a valid TOML file ({error}); correct it.") from None


def _check_names(values: dict[str, Any], where: str | Path) -> None:
    for key in values:
        _check_name(key, f"{where} has an unknown option")


def with_options(config: Config, options: dict[str, Any]) -> Config:
    """``config`` with ``options`` put in place; an unknown name raises InputError naming the right ones."""
    for key in options:
        _check_name(key, "There is no option")
    return replace(config, **options)


def _check_name(key: str, complaint: str) -> None:
    known = [f.name for f in fields(Config)]
    if key not in known:
        raise InputError(f"{complaint} '{key}'; did you mean {' or '.join(difflib.get_close_matches(key, known, n=3) or known)}?")


def _check_value(name: str, value: Any) -> None:
    """Raise InputError where an option, whatever the others are, cannot have this value."""
    option, hint = f"--{name.replace('_', '-')}", get_type_hints(Config)[name]
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{option} has too many digits; give a smaller number.")
    if isinstance(value, str | Path) and not _is_utf8(str(value)):
        raise InputError(f"{option} {value}: the name is not UTF-8; rename it.")
    if not _fits(value, hint):
        raise InputError(f"{option} is {value!r}; it must be {_in_words(hint)}.")
    if name in _POSITIVE and not 0 < value < float("inf"):
        raise InputError(f"{option} is {value}; it must be above 0 and finite.")
    if name == "pixel_size" and value is not None and not 0 < value < float("inf"):
        raise InputError(f"{option} is {value}; give µm per pixel, for example 0.25.")
    if name == "labelled_share" and not 0 <= value <= 1:
        raise InputError(f"{option} is {value}; it must be from 0 to 1.")
    if name == "lambda_bce" and not 0 <= value < float("inf"):
        raise InputError(f"{option} is {value}; it must be at least 0 and finite.")
    if name == "ema" and not 0 <= value < 1:
        raise InputError(f"{option} is {value}; it must be at least 0 and below 1.")
    if name == "crop" and value != "whole" and value < 32:
        raise InputError(f"{option} is {value}; it must be at least 32 pixels, or 'whole'.")
    if name in ("val_fraction", "test_fraction") and not 0 <= value < 1:
        raise InputError("--val-fraction and --test-fraction must each be at least 0 and together below 1.")
    if name in ("seed", "split_seed") and value < 0:
        raise InputError(f"{option} is {value}; it must be 0 or above.")
    if name == "group" and value is not None:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"{option} '{value}' is not a regular expression ({error}).") from None
    if name == "method":
        MethodSpec.parse(value)


def _is_utf8(text: str) -> bool:
    """Whether it can be written to a file of options; names from disk need not be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint`` (the few kinds that Config uses); an int is a float, a bool is not an int."""
    if get_origin(hint) is Literal:
        return value in get_args(hint) and not isinstance(value, bool)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_fits(value, option) for option in get_args(hint))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    """A type as a person would say it."""
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in get_args(hint))
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(_in_words(option) for option in get_args(hint) if option is not type(None))
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}[hint]
