"""The one loop: steps, validation, selection, checkpoints. ``step`` holds what one step does."""

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from celladapt import checkpoint, parallel
from celladapt.config import Config
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import Pairs
from celladapt.errors import InputError
from celladapt.hardware import check_compiler, kept_memory, tried_convolutions
from celladapt.log import Log
from celladapt.methods import Method
from celladapt.model import Model
from celladapt.networks import Segmenter, with_statistics_of
from celladapt.progress import Bar, say
from celladapt.selection import CERTAINTY
from celladapt.step import Arithmetic, Optimizers, take_step
from celladapt.validate import Validator

ASKED = "before cutting"
"""Of what network ``selection.CERTAINTY`` is asked: once it was of that which is cut where its masks fit."""
LAST = "last.safetensors"
"""The newest training state in a run folder."""


def make_optimizers(method: Method, config: Config) -> dict[str, torch.optim.Optimizer]:
    """Adam with default betas for each network, at the learning rate of its role (the first letter of its name)."""
    rates = {"S": config.lr_s, "D": config.lr_d, "R": config.lr_r}
    return {name: torch.optim.Adam(network.parameters(), lr=rates[name[0]], fused=True) for name, network in method.networks.items()}


def set_rates(optimizers: Optimizers, config: Config, step: int) -> None:
    """Learning rates of step ``step`` (from 0): a function of the step alone, so that resuming needs no scheduler state."""
    factor = 0.5 * (1 + math.cos(math.pi * step / config.steps)) if config.schedule == "cosine" else 1.0
    rates = {"S": config.lr_s, "D": config.lr_d, "R": config.lr_r}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name[0]] * factor


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, θ_avg <- d·θ_avg + (1 - d)·θ (Tarvainen and Valpola 2017); d grows to ``decay`` over the first steps.

    Args:
        average: moved.
        network: of the same shape; its running statistics are taken as they are.
        decay: in [0, 1); 0 copies.
        step: how many came before.
    """
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    torch._foreach_copy_(list(average.buffers()), list(network.buffers()))


@dataclass
class Picked:
    """The checkpoint to keep, so far."""

    step: int = 0
    criterion: str = ""
    score: float | None = None
    uses_target_labels: bool = False


@dataclass
class Trainer:
    """Trains ``method`` in the folder ``path``, from the beginning or from its last checkpoint."""

    path: Path
    config: Config
    method: Method
    pairs: Pairs
    validator: Validator
    normalisation: Normalisation
    """Of the target: what the finished model applies to images."""
    statistics: Callable[[], Iterator[Tensor]]
    """Target batches from which batch-normalisation statistics are re-estimated."""
    device: torch.device
    arithmetic: Arithmetic
    about: dict[str, Any]
    """Goes into the model file: method, domains."""
    label: str = "training"
    picked: Picked = field(default_factory=Picked)
    step: int = 0
    seconds: float = 0.0

    def train(self) -> None:
        """Run to the last step; a finished run returns at once.

        Raises:
            InputError: a loss term is not finite, or the checkpoint is damaged or of another run.
            KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after saving a checkpoint.
        """
        self.method.networks.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = make_optimizers(self.method, self.config)
        self.average: Segmenter = copy.deepcopy(self.method.networks["S"]).requires_grad_(False)  # type: ignore[assignment]
        self._restore()
        if self.step == self.config.steps:
            return
        if self.config.compile:
            self._compile()
        main = parallel.rank() == 0
        with ExitStack() as stack:
            if self.device.type == "cpu":
                stack.enter_context(kept_memory())
            if self.config.crop != "whole":  # whole images may come in many sizes
                stack.enter_context(tried_convolutions(self.device))
            log = stack.enter_context(Log(self.path, self.step, self.config.steps)) if main else None
            bar = stack.enter_context(Bar(self.label, self.config.steps, self.step, shown=main))
            stopped = stack.enter_context(stop_signals())
            began = time.monotonic()
            for batch in self.pairs.on(self.device, self.step, self.config.steps):
                set_rates(self.optimizers, self.config, self.step)
                batch = replace(batch, progress=self.step / self.config.steps)
                values = take_step(self.method, batch, self.optimizers, self.arithmetic, self.average, self.config.lambda_bce)
                follow(self.average, self.method.networks["S"], self.config.ema, self.step)
                self.step += 1
                last, stop = self.step == self.config.steps, parallel.any_process(stopped())
                validate = last or self.step % self.config.validate_every == 0
                if log:
                    log.terms(self.step, values)
                    if validate:
                        self._validate(log)
                now = time.monotonic()
                self.seconds, began = self.seconds + now - began, now
                # After a validation too, so that the model that was kept and the record of it belong together.
                if log and (validate or stop or self.step % self.config.checkpoint_every == 0):
                    log.flush()
                    self._save()
                if stop:
                    raise KeyboardInterrupt
                bar.step("  ".join(f"{name} {value:.3g}" for name, value in values.items()))
        parallel.wait()

    def _compile(self) -> None:
        try:
            check_compiler(self.device)
        except InputError as error:  # a run that was begun elsewhere need not end for it
            say(f"{error} Training goes on without.")
            return
        for network in self.method.networks.values():
            network.compile()

    def _validate(self, log: Log) -> None:
        """Score this step's segmenter, and keep it if it is the best so far by the chosen criterion."""
        # A copy in either case, as the average stays in training mode.
        if self.config.batch_norm == "target":
            with self.arithmetic():
                network = with_statistics_of(self.average, self.statistics())
        else:
            network = copy.deepcopy(self.average)
        network.eval()
        threshold = self.validator.cut(network) if self.config.fit_threshold else 0.5
        scores = self.validator(network, threshold)
        log.scores(self.step, scores)
        criterion = self.config.select
        score = float(self.step) if criterion == "last" else scores[criterion]
        if self._beats(score):
            self.picked = Picked(self.step, criterion, score, criterion == "labelled")
            self._write_model(network, "model.safetensors")
            if "R" in self.method.networks:
                checkpoint.save(self.path / "reconstructor.safetensors", self.method.networks["R"].state_dict(), {"step": self.step})
        if self.config.keep_checkpoints:
            self._write_model(network, f"checkpoints/step_{self.step:06d}.safetensors")

    def _beats(self, score: float) -> bool:
        """Whether ``score`` is not below that of the checkpoint kept so far. The first one is, a score that is not a number is not, and any other is above one of the warm-up. Of equals the later one is kept: it has learned more."""
        before = self.picked
        if before.score is None:
            return True
        if not math.isfinite(score):
            return False
        return not math.isfinite(before.score) or self.method.warming_up(before.step, self.config.steps) or score >= before.score

    def _write_model(self, network: Segmenter, name: str) -> None:
        Model(network, self.normalisation, {**self.about, "step": self.step}).save(self.path / name)

    def _save(self) -> None:
        memory = {name: value.tolist() for name, value in self.method.memory.items()}
        about = {"step": self.step, "seconds": self.seconds, "picked": asdict(self.picked), "memory": memory, "asked": ASKED}
        checkpoint.save_training(self.path / LAST, self._networks, self.optimizers, about)

    @property
    def _networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({**self.method.networks, **({"average": self.average} if self.config.ema else {})})  # without averaging it is S

    def _restore(self) -> None:
        """Go back to the newest checkpoint that is whole, if there is any."""
        last = self.path / LAST
        before = checkpoint.previous(last)
        if not (last.exists() or before.exists()):
            return
        try:
            # A kill between the two renames of saving leaves only the one before.
            about = self._take_up(last if last.exists() else before)
        except checkpoint.Damaged as error:
            if not (last.exists() and before.exists()):
                raise InputError(f"{error} Without one, delete it: the same command then trains from the beginning.") from None
            try:
                about = self._take_up(before)
            except checkpoint.Damaged:
                raise InputError(
                    f"{last} and {before} are both damaged; put copies in their place, or delete both: the same command then trains from the beginning."
                ) from None
            parallel.wait()  # no other process is looking for it any more
            if parallel.rank() == 0:
                last.unlink(missing_ok=True)  # or the next save would put it in the place of the one that is whole
                say(f"WARNING: {last} is damaged; training goes on from the checkpoint before it.")
        if not self.config.ema:
            follow(self.average, self.method.networks["S"], 0.0, 0)
        self.step, self.seconds, self.picked = about
        if self.step < self.config.steps and self._model_step() > self.picked.step:
            # The model there won after this checkpoint, and may not win again by rounding: the next one is kept, whichever it is.
            self.picked.score = None
        if self.step < self.config.steps and parallel.rank() == 0:
            say(f"Continuing {self.path} at step {self.step} of {self.config.steps}.")

    def _take_up(self, path: Path) -> tuple[int, float, Picked]:
        about = checkpoint.load_training(path, self._networks, self.optimizers)
        try:
            self.method.memory = {**self.method.memory, **{name: torch.tensor(value) for name, value in about.get("memory", {}).items()}}
            picked = Picked(**about["picked"])
            if about.get("asked") != ASKED and picked.criterion in CERTAINTY:  # a score of another kind: the next one is kept, whichever it is
                picked.score = None
            return int(about["step"]), float(about["seconds"]), picked
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.Damaged(f"{path} is damaged or no training state ({error}); use another copy of it.") from None

    def _model_step(self) -> int:
        """When the model that was kept was made; 0 where there is none that can be read."""
        try:
            return int(checkpoint.load(self.path / "model.safetensors")[1]["step"])
        except (InputError, KeyError, TypeError, ValueError):
            return 0


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM came, so that the step in hand ends first. A second Ctrl-C stops at once."""
    came: list[float] = []
    before: dict[signal.Signals, Any] = {}

    def receive(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if came and now - came[0] > 2:  # a terminal and a launcher may each send the same Ctrl-C
            raise KeyboardInterrupt
        came.append(now)

    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            before[name] = signal.signal(name, receive)
    except ValueError:  # not the main thread, which alone may set handlers: the caller's handlers stay
        pass
    try:
        yield lambda: bool(came)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
