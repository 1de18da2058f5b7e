"""Training a stage of a codec, by the loop that trains the model, with checkpoints that resume bit for bit.

A stage is a module, a loss and a number of steps. All its randomness comes from one generator, whose state is saved with the module
and the optimizer in a single safetensors file that is written beside and renamed: a crash leaves the last one.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from worldmodel.errors import UserError
from worldmodel.serialization import write_tensors
from worldmodel.training.distributed import clip_gradients
from worldmodel.training.loop import Gradient, Loop, not_finite
from worldmodel.training.optimizer import Ema, build_adamw

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Generator, float], tuple[Tensor, dict[str, Tensor]]]
"""Draws its own batch with the generator; is given the share of the steps done, in [0, 1); returns the scalar and its named parts."""

EARLY = 20
"""First steps of a stage, whose largest loss the later ones are held against."""
DIVERGED = 10.0
"""A stage is lost when the running mean of its loss exceeds so many times the largest early loss, or 1, near which losses start."""
BETAS = (0.9, 0.95)
"""AdamW's decay rates of the two moments."""
RIVAL = "discriminator."
"""Beginning of the names of a discriminator's weights in a checkpoint."""


@dataclass(frozen=True)
class FitConfig:
    """How a stage is optimized."""

    lr: float = 2e-3
    """Peak learning rate: linear warm-up, then cosine to a tenth."""
    warmup: int = 50
    """Steps of warm-up."""
    weight_decay: float = 0.05
    """Of matrices and convolutions only."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.0
    """Decay per step of a running average of the weights, which is then what a stage ends with; 0: its last weights. RAE's decoder:
    0.9978. In the beginning the average is shorter."""
    log_every: int = 20
    """Steps between two points in TensorBoard."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; at most this many are lost by a crash."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf or not 0 < self.clip:
            raise UserError(f"fit: lr {self.lr} and clip {self.clip} must be above 0")
        if self.warmup < 0 or self.weight_decay < 0 or not 0 <= self.ema < 1:
            raise UserError(
                f"fit: warmup {self.warmup} and weight_decay {self.weight_decay} must be at least 0, ema {self.ema} in [0, 1)"
            )
        if self.log_every < 1 or self.checkpoint_every < 1:
            raise UserError(f"fit: log_every {self.log_every} and checkpoint_every {self.checkpoint_every} must be at least 1")


def fit(
    name: str,
    module: nn.Module,
    loss: Loss,
    steps: int,
    seed: int,
    config: FitConfig,
    checkpoint: Path,
    writer: SummaryWriter | None = None,
    discriminator: nn.Module | None = None,
    discriminator_lr_factor: float = 1.0,
) -> float:
    """Train the parameters of `module` that require gradients; goes on from `checkpoint` if it exists.

    Args:
        name: of the stage, in the progress bar and in TensorBoard (`codec/<name>/...`).
        module: changed in place.
        loss: see `Loss`.
        steps: optimizer steps in all.
        seed: of the generator.
        config: optimization.
        checkpoint: file to resume from and to write to.
        writer: TensorBoard, if wanted.
        discriminator: trained by the same loss, with gradients clipped apart from the module's; must not share parameters with it.
        discriminator_lr_factor: learning rate of the discriminator over that of the module.

    Returns:
        Seconds of training, those before a resume included.

    Raises:
        UserError: when the checkpoint is damaged or of another module; when the loss is not finite or diverges, in which case the
            last checkpoint stays as it is.
    """
    stage = Stage(name, module, loss, steps, seed, config, checkpoint, writer, discriminator, discriminator_lr_factor)
    stage.run()
    with torch.no_grad():
        for key, average in stage.averages().items():
            stage.own[key].copy_(average)
    module.eval()
    return stage.seconds


@dataclass(frozen=True)
class StageGradient(Gradient):
    """The gradient of a step of a stage."""

    loss: float
    norms: list[float]
    """Of the module's gradient, then of the discriminator's, before clipping."""
    parts: dict[str, Tensor]
    """Of the loss."""


class Stage(Loop[nn.Module, StageGradient]):
    """A stage and everything that its next step depends on; see `fit` for what it is made of."""

    final_lr_share = 0.1

    def __init__(
        self,
        name: str,
        module: nn.Module,
        loss: Loss,
        steps: int,
        seed: int,
        config: FitConfig,
        checkpoint: Path,
        writer: SummaryWriter | None,
        discriminator: nn.Module | None,
        discriminator_lr_factor: float,
    ) -> None:
        self.name, self.model, self.loss, self.steps, self.config = f"codec {name}", module, loss, steps, config
        self.warmup_steps = min(config.warmup, max(1, steps // 4))
        self.checkpoint, self.writer, self.discriminator = checkpoint, writer, discriminator
        self.device = next(module.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.own = {key: value for key, value in module.named_parameters() if value.requires_grad}
        others = {} if discriminator is None else {RIVAL + key: value for key, value in discriminator.named_parameters()}
        self.parameters = self.own | others
        groups = parameter_groups(self.own, config.weight_decay, config.lr)
        if others:
            groups += parameter_groups(others, config.weight_decay, config.lr * discriminator_lr_factor)
        self.optimizers = [build_adamw(groups, config.lr, BETAS)]
        self.average = Ema(module, config.ema) if config.ema else None
        self.step_done = 0
        self.seconds = 0.0  # spent up to the last checkpoint
        self.early = 0.0  # largest loss of the first `EARLY` steps
        self.recent = 0.0  # running mean of the loss
        if checkpoint.exists():
            load_checkpoint(checkpoint, self)
            logger.info("%s goes on from step %d of %d", name, self.step_done, steps)
        self.saved = self.step_done  # the step of the last checkpoint
        self.started = time.perf_counter() - self.seconds
        module.train()

    @property
    def done(self) -> int:
        """Optimizer steps done."""
        return self.step_done

    def averages(self) -> dict[str, Tensor]:
        """Return the averages of the weights that are trained, by name; none without `ema`."""
        if self.average is None:
            return {}
        return {key: value for key, value in self.average.model.named_parameters() if key in self.own}

    def between_steps(self, finished: bool, last: bool) -> None:
        """Save if it is time to."""
        step = self.step_done
        if step != self.saved and (finished or step % self.config.checkpoint_every == 0):
            self.saved, self.seconds = step, time.perf_counter() - self.started
            save_checkpoint(self.checkpoint, self)

    def gradient(self) -> StageGradient:
        """Compute the gradients of the module and of its discriminator, and clip them apart from each other."""
        total, parts = self.loss(self.generator, self.step_done / self.steps)
        self.optimizers[0].zero_grad(set_to_none=True)
        total.backward()
        rivals = [] if self.discriminator is None else [self.discriminator]
        norms = [clip_gradients(each, self.config.clip).to(self.device) for each in (self.model, *rivals)]
        value, *sizes = torch.stack([total.detach(), *norms]).tolist()  # waits for the device, as drawing a batch does
        return StageGradient(False, value, sizes, parts)

    def check(self, found: StageGradient) -> str | None:
        """Say what is wrong with the loss or its gradient; None if nothing is."""
        step, value = self.step_done, found.loss
        self.recent = 0.9 * self.recent + 0.1 * value if step else value
        if step < EARLY:
            self.early = max(self.early, value)
        if (name := not_finite({"loss": value, "gradient": sum(found.norms)})) is not None:
            return f"{name} is not finite"
        # A discriminator's part of the loss may be of any size: the clipping bounds what it does.
        diverges = self.discriminator is None and step >= EARLY and self.recent > DIVERGED * max(1.0, self.early)
        return "loss diverges" if diverges else None

    def reject(self, found: StageGradient, reason: str) -> None:
        """Raise: what spoils a stage is not a single batch."""
        kept = f"{self.checkpoint} keeps step {self.saved}; " if self.saved else ""
        rival = "" if self.discriminator is None else " or a smaller --codec.adversarial.weight"
        raise UserError(
            f"{self.name}: at step {self.step_done + 1} of {self.steps} the {reason} (loss {found.loss:.4g}, at first up to "
            f"{self.early:.4g}; gradient {sum(found.norms):.4g}); {kept}start again in another folder with a lower --codec.fit.lr "
            f"(now {self.config.lr}), a longer --codec.fit.warmup (now {self.config.warmup}){rival}"
        )

    def rebalance(self, found: StageGradient) -> None:
        """Adjust nothing: a stage has nothing beside its weights."""

    def accept(self, found: StageGradient, share: float) -> None:
        """Count the step, and log it if it is time to."""
        step = self.step_done
        if self.writer is not None and (step % self.config.log_every == 0 or step == self.steps - 1):
            parts = {key: value.item() for key, value in found.parts.items()}
            for key, value in {"loss": found.loss, "gradient_norm": found.norms[0], **parts}.items():
                self.writer.add_scalar(f"{self.name.replace(' ', '/')}/{key}", value, step)
        self.step_done += 1

    def newest_losses(self) -> dict[str, float]:
        """Return the running mean of the loss."""
        return {"loss": self.recent}


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float, peak: float) -> list[dict[str, Any]]:
    """Split weights of layers, which decay, from the rest: biases, norms, pictures."""
    matrices = [value for value in parameters.values() if value.ndim in (2, 4)]
    rest = [value for value in parameters.values() if value.ndim not in (2, 4)]
    return [
        {"params": matrices, "weight_decay": weight_decay, "peak": peak},
        {"params": rest, "weight_decay": 0.0, "peak": peak},
    ]


def save_checkpoint(path: Path, stage: Stage) -> None:
    """Write a stage's checkpoint atomically."""
    tensors = {"generator": stage.generator.get_state()}
    for name, parameter in stage.parameters.items():
        tensors[f"parameter.{name}"] = parameter.detach().cpu().contiguous()
        for key, value in stage.optimizers[0].state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
    tensors |= {f"average.{name}": average.cpu().contiguous() for name, average in stage.averages().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"step": stage.step_done, "seconds": stage.seconds, "early": stage.early, "recent": stage.recent}
    write_tensors(tensors, path, {name: repr(value) for name, value in numbers.items()})


def load_checkpoint(path: Path, stage: Stage) -> None:
    """Restore in place what `save_checkpoint` wrote.

    Raises:
        UserError: when the file is damaged or of another module.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            stage.step_done = int(metadata["step"])
            stage.seconds, stage.early, stage.recent = (float(metadata[name]) for name in ("seconds", "early", "recent"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        stage.generator.set_state(tensors["generator"])
        with torch.no_grad():
            for name, average in stage.averages().items():
                average.copy_(tensors[f"average.{name}"])
            for name, parameter in stage.parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                for key, value in stage.optimizers[0].state[parameter].items():
                    if not name.startswith(RIVAL) or f"optimizer.{key}.{name}" in tensors:  # older files lack what has not begun
                        value.copy_(tensors[f"optimizer.{key}.{name}"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no checkpoint of this run ({error}); remove it to start again") from None
