"""One training loop for every stage of the codec, with checkpoints that resume bit for bit.

A stage is a module, a loss and a number of steps. All its randomness comes from one generator, whose state
is saved with the module and the optimizer in a single safetensors file that is written beside and renamed:
a crash leaves the last one.
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
from tqdm import tqdm

from worldmodel.errors import UserError
from worldmodel.serialization import write_tensors

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Generator, float], tuple[Tensor, dict[str, Tensor]]]
"""Draws its own batch with the generator; is given the share of the steps done, in [0, 1); returns the scalar and its named parts."""

EARLY = 20
"""First steps of a stage, whose largest loss the later ones are held against."""
DIVERGED = 10.0
"""A stage is lost when the running mean of its loss exceeds so many times the largest early loss, or 1, near which losses start."""


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
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    own = {key: value for key, value in module.named_parameters() if value.requires_grad}
    others = {f"discriminator.{key}": value for key, value in discriminator.named_parameters()} if discriminator is not None else {}
    groups = parameter_groups(own, config.weight_decay, 1.0)
    if others:
        groups += parameter_groups(others, config.weight_decay, discriminator_lr_factor)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
    averages = {key: value.detach().clone() for key, value in own.items()} if config.ema else {}
    stage = Stage(own | others, averages, optimizer, generator)
    if checkpoint.exists():
        load_checkpoint(checkpoint, stage)
        logger.info("%s goes on from step %d of %d", name, stage.step, steps)
    module.train()
    started = time.perf_counter() - stage.seconds
    for step in tqdm(range(stage.step, steps), desc=f"codec {name}", initial=stage.step, total=steps, mininterval=1.0, disable=None):
        for group in optimizer.param_groups:
            group["lr"] = group["lr_factor"] * learning_rate(step, steps, config)
        total, parts = loss(generator, step / steps)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norms = [nn.utils.clip_grad_norm_(each.values(), config.clip).to(device) for each in (own, others) if each]
        value, *sizes = torch.stack([total.detach(), *norms]).tolist()  # waits for the device, as drawing a batch does
        stage.recent = 0.9 * stage.recent + 0.1 * value if step else value
        if step < EARLY:
            stage.early = max(stage.early, value)
        finite = all(map(math.isfinite, (value, *sizes)))
        # A discriminator's part of the loss may be of any size: the clipping bounds what it does.
        if not finite or (discriminator is None and step >= EARLY and stage.recent > DIVERGED * max(1.0, stage.early)):
            what = "loss diverges" if finite else "gradient is not finite" if math.isfinite(value) else "loss is not finite"
            kept = f"{checkpoint} keeps step {stage.step}; " if stage.step else ""
            rival = "" if discriminator is None else " or a smaller --codec.adversarial.weight"
            raise UserError(
                f"codec {name}: at step {step + 1} of {steps} the {what} (loss {value:.4g}, at first up to {stage.early:.4g}; "
                f"gradient {sum(sizes):.4g}); {kept}start again in another folder with a lower --codec.fit.lr (now {config.lr}), "
                f"a longer --codec.fit.warmup (now {config.warmup}){rival}"
            )
        optimizer.step()
        for key, average in averages.items():
            average.lerp_(own[key].detach(), 1 - min(config.ema, (1 + step) / (10 + step)))
        if writer is not None and (step % config.log_every == 0 or step == steps - 1):
            scalars = {"loss": total.detach(), "gradient_norm": norms[0], **parts}
            for key, scalar in scalars.items():
                writer.add_scalar(f"codec/{name}/{key}", scalar.item(), step)
        if (step + 1) % config.checkpoint_every == 0 or step == steps - 1:
            stage.step, stage.seconds = step + 1, time.perf_counter() - started
            save_checkpoint(checkpoint, stage)
    with torch.no_grad():
        for key, average in averages.items():
            own[key].copy_(average)
    module.eval()
    return stage.seconds


@dataclass
class Stage:
    """Everything that the next step depends on."""

    parameters: dict[str, nn.Parameter]  # the discriminator's with a prefix
    averages: dict[str, Tensor]  # of the weights over the steps; none without `ema`
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    step: int = 0  # steps done, when it was saved
    seconds: float = 0.0  # that they took
    early: float = 0.0  # largest loss of the first `EARLY` steps
    recent: float = 0.0  # running mean of the loss


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float, lr_factor: float) -> list[dict[str, Any]]:
    """Split weights of layers, which decay, from the rest: biases, norms, pictures."""
    matrices = [value for value in parameters.values() if value.ndim in (2, 4)]
    rest = [value for value in parameters.values() if value.ndim not in (2, 4)]
    return [
        {"params": matrices, "weight_decay": weight_decay, "lr_factor": lr_factor},
        {"params": rest, "weight_decay": 0.0, "lr_factor": lr_factor},
    ]


def learning_rate(step: int, steps: int, config: FitConfig) -> float:
    """Compute a linear warm-up, then a cosine from `lr` to a tenth of it at the last step."""
    warmup = min(config.warmup, max(1, steps // 4))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * progress))


def save_checkpoint(path: Path, stage: Stage) -> None:
    """Write a stage's checkpoint atomically."""
    tensors = {"generator": stage.generator.get_state()}
    for name, parameter in stage.parameters.items():
        tensors[f"parameter.{name}"] = parameter.detach().cpu().contiguous()
        for key, value in stage.optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().contiguous()
    tensors |= {f"average.{name}": average.cpu().contiguous() for name, average in stage.averages.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path, {name: repr(getattr(stage, name)) for name in ("step", "seconds", "early", "recent")})


def load_checkpoint(path: Path, stage: Stage) -> None:
    """Restore in place what `save_checkpoint` wrote.

    Raises:
        UserError: when the file is damaged or of another module.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            stage.step = int(metadata["step"])
            stage.seconds, stage.early, stage.recent = (float(metadata[name]) for name in ("seconds", "early", "recent"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        stage.generator.set_state(tensors["generator"])
        with torch.no_grad():
            for name, average in stage.averages.items():
                average.copy_(tensors[f"average.{name}"])
            for name, parameter in stage.parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                if name.startswith("discriminator.") and f"optimizer.step.{name}" not in tensors:  # a discriminator that has not begun
                    continue
                stage.optimizer.state[parameter] = {
                    "step": tensors[f"optimizer.step.{name}"],
                    "exp_avg": tensors[f"optimizer.exp_avg.{name}"].to(parameter.device),
                    "exp_avg_sq": tensors[f"optimizer.exp_avg_sq.{name}"].to(parameter.device),
                }
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is no checkpoint of this run ({error}); remove it to start again") from None
