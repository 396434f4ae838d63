"""What is to be done with one file, and the record of what has been."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

from celladapt import __version__
from celladapt.data.limits import MAX_MEGAPIXELS, as_pixels
from celladapt.data.slide import is_slide
from celladapt.errors import FileError, InputError
from celladapt.files import now, write_json
from celladapt.inputs import NOTES
from celladapt.outputs import WRITERS, Segmented, check_words, output_path, write
from celladapt.progress import say
from celladapt.records import read_json
from celladapt.units import area_in_pixels, check_pixel_size

RULES = 1
"""Raised when nuclei are told apart or measured in another way, so that outputs of an earlier version are not taken for those of this one."""


@dataclass(frozen=True)
class Settings:
    """How images are segmented and what is saved of them."""

    save: tuple[str, ...] = ("mask", "instances")
    """Words of ``outputs.WRITERS``."""
    threshold: float = 0.5
    """Probability from which a pixel is nucleus."""
    min_size: str | float = "20"
    """Smallest nucleus: px² of the image segmented, or a number with the unit um2. A text once it is here."""
    pixel_size: float | None = None
    """µm per pixel of the images at full resolution, instead of what the files say."""
    at: float | None = None
    """µm per pixel at which slides are segmented; by default that of the images that the model was trained on."""
    tissue: bool = True
    """Whether glass around the tissue of a slide is left out."""
    tile: int = 2048
    """Side in pixels of the tiles in which slides are segmented: smaller ones need less memory and more time."""

    max_megapixels: float = MAX_MEGAPIXELS
    """Of an image that is read whole; slides are read in parts, whatever their size."""

    def __post_init__(self) -> None:
        check_words(self.save)
        kinds: dict[str, Callable[[Any], Any]] = {**dict.fromkeys(("threshold", "pixel_size", "at", "max_megapixels"), float), "tile": index}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is None and name in ("pixel_size", "at"):
                continue
            try:
                if isinstance(value, (str, bool)):
                    raise TypeError
                object.__setattr__(self, name, kind(value))  # of NumPy too, which JSON does not know
            except (TypeError, ValueError):
                raise InputError(f"--{name.replace('_', '-')} is {value!r}; give a {'whole ' * (kind is index)}number.") from None
        if self.tissue not in (True, False):
            raise InputError(f"--tissue is {self.tissue!r}; give True or False.")
        object.__setattr__(self, "tissue", bool(self.tissue))
        object.__setattr__(self, "min_size", str(self.min_size))
        if not 0 < self.threshold <= 0.99:
            raise InputError(f"--threshold is {self.threshold}; it must be above 0 and at most 0.99.")
        as_pixels(self.max_megapixels)
        check_pixel_size("--pixel-size", self.pixel_size)
        check_pixel_size("--at", self.at)
        if self.tile < 128 or self.tile % 64:
            raise InputError(f"--tile is {self.tile}; it must be a multiple of 64 from 128 on.")
        area_in_pixels(self.min_size, 1.0)  # nonsense shows before any work

    @classmethod
    def of(cls, save: tuple[str, ...], **options: Any) -> "Settings":
        """Settings by name.

        Raises:
            InputError: there is no such setting, or it cannot have this value.
        """
        known = [field.name for field in fields(cls) if field.name != "save"]
        if unknown := next((name for name in options if name not in known), None):
            raise InputError(f"There is no setting '{unknown}'; did you mean {' or '.join(get_close_matches(unknown, known, n=1) or known)}?")
        return cls(save, **options)


@dataclass(frozen=True)
class Written:
    """One image's outputs on disk and what is in them."""

    image: Path
    outputs: dict[str, Path]
    nuclei: int
    foreground: float
    """Share of pixels that are nucleus, in [0, 1]; on a slide, of the pixels in tissue."""
    median_area: float
    """Of the nuclei, in px² of the image segmented; 0 without one. Far less than the eye says means fragments."""
    pixel_size: float | None = None
    """µm per pixel of the image segmented, if known."""
    tissue: float | None = None
    """Share of a slide that was segmented; None for an image."""

    @property
    def words(self) -> str:
        """One line for the person."""
        micro = f" ({self.median_area * self.pixel_size**2:.1f} µm²)" if self.pixel_size else ""
        share = f"{self.foreground:.1%} of the {'tissue' if self.tissue is not None else 'image'}"
        return f"{self.image.name}: {self.nuclei} nuclei of median {self.median_area:.0f} px²{micro}, {share}"


@dataclass(frozen=True)
class Job:
    """One file to segment."""

    image: Path
    out: Path
    settings: Settings
    model: str
    """The model's fingerprint."""

    def __str__(self) -> str:
        return str(self.image)

    @cached_property
    def slide(self) -> bool:
        """Whether it is read in parts."""
        return is_slide(self.image)

    @property
    def outputs(self) -> dict[str, Path]:
        """Word -> file."""
        return {word: output_path(self.out, self.image.stem, word, self.slide) for word in self.settings.save}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the outputs depend on, as it was before the work began."""
        status = self.image.stat()
        without = ("save", "max_megapixels", *(() if self.slide else ("at", "tissue", "tile")))
        settings = {name: value for name, value in asdict(self.settings).items() if name not in without}
        return {
            "file": [os.path.realpath(self.image), status.st_size, status.st_mtime_ns],
            "model": self.model,
            "settings": settings,
            "segmentation": RULES,
        }

    @property
    def note(self) -> Path:
        """The record of what is done."""
        return note_of(self.out, self.image.stem)

    @property
    def work(self) -> Path:
        """The folder in which a slide is worked on."""
        return self.out / NOTES / self.image.stem

    @property
    def _noted(self) -> dict[str, Any]:
        """The record of an earlier call that would make the same again; empty without one."""
        note = noted(self.out, self.image.stem)
        with suppress(OSError):  # the image has gone
            return note if isinstance(note.get("found"), dict) and note.get("identity") == self.identity else {}
        return {}

    @property
    def of_others(self) -> dict[str, Path]:
        """Word -> output that an earlier call has made with another model, other settings or of another state of the image, and that this job does not replace: it would no longer go with the rest."""
        words = noted(self.out, self.image.stem).get("begun", ())
        if self._noted:
            return {}
        paths = {
            word: output_path(self.out, self.image.stem, word, self.slide) for word in WRITERS if word in words and word not in self.settings.save
        }
        return {word: path for word, path in paths.items() if os.path.exists(path)}

    @property
    def in_the_way(self) -> list[Path]:
        """Outputs that exist and are not what this job has made, or was making when it was stopped."""
        own = self._noted.get("begun", ())
        return [path for word, path in self.outputs.items() if word not in own and os.path.exists(path)]  # a name too long for a file is none

    def renounce(self) -> None:
        """Outputs that are there are to be made anew; after a kill they are known as what this job was making. What it has of a slide so far stays, to go on with, and so do its other outputs."""
        note = self._noted
        own = {word for word, path in self.outputs.items() if os.path.exists(path)}
        begun, saved = sorted({*own, *note.get("begun", ())}), [word for word in note.get("saved", ()) if word not in self.outputs]
        if not begun:
            self.note.unlink(missing_ok=True)
            return
        with suppress(OSError):  # an image that has gone fails by itself, later
            write_json(self.note, {"identity": self.identity, "found": {}, "saved": saved, "begun": begun})

    def written(self) -> Written | None:
        """What an earlier call has made of it, if that is all there and would be made again."""
        note = self._noted
        if all(word in note.get("saved", ()) and path.exists() for word, path in self.outputs.items()):
            with suppress(TypeError):  # a note that somebody has changed
                return Written(self.image, self.outputs, **note["found"])
        return None

    def finish(self, segmented: Segmented, nuclei: int, foreground: float, median_area: float, tissue: float | None = None) -> Written:
        """Write the outputs and the record; what this job has saved already is left alone, as somebody may have mended it.

        Raises:
            InputError: they cannot be written, or another process has made the same outputs otherwise meanwhile.
        """
        note = self._noted
        noted_at = self.note.stat().st_mtime_ns if note else 0
        begun = sorted({*note.get("begun", ()), *self.outputs})
        # So that after a kill they are known as its own.
        write_json(self.note, {"identity": self.identity, "found": {}, "saved": [], **note, "begun": begun})
        for word, path in self.outputs.items():
            if not (word in note.get("saved", ()) and path.exists()):
                write(word, path, segmented)
            elif path.stat().st_mtime_ns > noted_at:
                say(f"{path} was changed after it was written and stays; what is written now of {self.image.name} is of the model's own masks.")
        if not self._noted:
            raise FileError(
                self.image,
                f"was segmented into {self.out} by another process with another model or other settings at the same time, so its outputs are mixed",
                "give each an --out of its own, and the command again with --overwrite",
            )
        size = segmented.pixel_size
        found: dict[str, Any] = {
            "nuclei": nuclei,
            "foreground": foreground,
            "median_area": median_area,
            "pixel_size": None if size is None else size * segmented.downsample,
            "tissue": tissue,
        }
        saved = sorted({*note.get("saved", ()), *self.outputs})
        by = {"celladapt": __version__, "finished": now()}
        write_json(self.note, {"identity": self.identity, "found": found, "saved": saved, "begun": begun, **by})
        return Written(self.image, self.outputs, **found)


def note_of(out: Path, stem: str) -> Path:
    """The record of what is done of the image ``stem`` in the folder ``out``."""
    return out / NOTES / f"{stem}.json"


def noted(out: Path, stem: str) -> dict[str, Any]:
    """What that record says, with lists of words as ``begun`` and ``saved``; empty where there is none that can be read."""
    note: dict[str, Any] = {}
    with suppress(InputError, OSError):
        note = read_json(note_of(out, stem))
    return note if all(isinstance(note.get(name, []), list) for name in ("begun", "saved")) else {}
