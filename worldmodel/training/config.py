"""How a model is trained."""

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.compilation import Compile
from worldmodel.errors import UserError
from worldmodel.precision import DTypeName
from worldmodel.tokens import PackingConfig
from worldmodel.training.latent_cache import LatentType
from worldmodel.training.optimizer import OptimizerName

LatentCaching = Literal["none", "memory", "disk"]
Sharding = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 1000
    """Optimizer steps."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    """Shape of a batch: what one optimizer step sees, of all processes together."""
    accumulation: int = 1
    """Parts that a process cuts its rows of a batch into, one after the other, their gradients added up: as many times less memory for
    the same step."""
    processes: int | Literal["auto"] = "auto"
    """Processes on the CPUs of this machine that share each step, where torchrun did not start any. auto: as many as torch has threads
    and the packing's data_shards allow, on a GPU one. Two of them with one thread each do more than one with two."""
    sharding: Sharding = "auto"
    """Whether each of several processes keeps a part of every weight, or all of it. auto: a part on GPUs, all on CPUs, where that is
    faster."""
    compile: Compile = "auto"
    """Compile the trunk's blocks, which costs a minute at the start. auto: on a GPU."""
    optimizer: OptimizerName = "adamw"
    """adamw: for all weights; muon: for the trunk's matrices, AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up, then a cosine down to final_lr_share of it."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon, on the same schedule."""
    warmup_steps: int = 50
    """Steps of warm-up."""
    final_lr_share: float = 0.1
    """Learning rate of the last step, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay, of matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    ema_decay: float = 0.99
    """Decay of the moving average of the weights, which is what checkpoints and samples use."""
    seed: int = 0
    """Of flow times and noise; batch i draws from (seed, i, shard)."""
    dtype: DTypeName = "auto"
    """Of the forward pass. auto: bfloat16 where it is faster, else float32; a CPU is measured for half a second, once."""
    device: str = "auto"
    """auto: the first GPU, else the CPU."""
    cache_latents: LatentCaching = "memory"
    """Where frames' latents are kept, instead of encoding a frame whenever it comes. memory: of the frames seen since the last
    checkpoint, up to 2 GiB; disk: of all frames of the data as they lie there, encoded before the first step (those that a mixture's
    `shift` has moved are encoded as they come); none: nowhere."""
    cache_dtype: LatentType = "float32"
    """Of latents on the disk. float32: as encoding gives them; float16: rounded, half the size."""
    data_workers: int = 0
    """Processes that read and pack the data, 0 for a thread of the training process. The batches are the same for any number. Each
    process keeps its own copy of episode files that are small enough to lie in memory (2 GiB of frames)."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    sample_every: int = 200
    """Steps between two sets of samples; 0: none. Of several processes the main one then holds the whole averaged model."""
    validate_every: int = 0
    """Steps between two measurements of the held-out losses; 0: none."""
    validation_batches: int = 2
    """Batches that each source is measured on; fewer where its held-out part is smaller."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; one is written at the end in any case."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    spike_window: int = 100
    """Steps whose mean and standard deviation the loss and the gradient's norm are compared with; a step is judged when warm-up is
    over and so many lie behind."""
    spike_deviations: float = 8.0
    """A batch is skipped when its loss, or gradient norm, is so many standard deviations above the mean. 0: only when not finite."""
    spike_factor: float = 1.5
    """And so many times the mean, for the loss."""
    spike_gradient_factor: float = 10.0
    """And so many times the mean, for the gradient's norm, which varies more (and is clipped anyway)."""
    spike_patience: int = 3
    """Skipped batches among spike_recent that make the weights themselves suspect: training goes back to a checkpoint."""
    spike_recent: int = 20
    """The short stretch of batches that spike_patience counts in."""
    max_rollbacks: int = 3
    """Times that training goes back, each time to an older checkpoint where there is one, without coming further than before."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "accumulation",
            "validation_batches",
            "spike_window",
            "spike_patience",
            "spike_recent",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.processes != "auto" and self.processes < 1:
            raise UserError(f"processes must be auto or at least 1, got {self.processes}")
        for name in ("lr", "muon_lr", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "sample_every", "validate_every", "seed", "data_workers", "spike_deviations", "max_rollbacks"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("spike_factor", "spike_gradient_factor"):
            if not getattr(self, name) >= 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        rows = self.packing.rows
        if rows % self.accumulation:
            raise UserError(f"{rows} rows do not divide into {self.accumulation} parts; accumulation must divide them")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
