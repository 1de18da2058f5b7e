"""How a model is trained."""

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.errors import UserError
from worldmodel.latent_cache import LatentType
from worldmodel.optimizer import OptimizerName
from worldmodel.precision import DTypeName
from worldmodel.tokens import PackingConfig

LatentCaching = Literal["none", "memory", "disk"]


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    steps: int = 1000
    """Optimizer steps."""
    packing: PackingConfig = field(default_factory=PackingConfig)
    """Shape of a batch."""
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
    """Of flow times and noise; step i draws from (seed, i)."""
    dtype: DTypeName = "auto"
    """Of the forward pass. auto: bfloat16 where the hardware multiplies it fast, else float32."""
    device: str = "auto"
    """auto: the first GPU, else the CPU."""
    cache_latents: LatentCaching = "memory"
    """Where frames' latents are kept, instead of encoding a frame whenever it comes. memory: of the frames seen since the last
    checkpoint, up to 2 GiB; disk: of all frames of the data, encoded before the first step; none: nowhere."""
    cache_dtype: LatentType = "float32"
    """Of latents on the disk. float32: the bits that encoding gives; float16: rounded, half the size."""
    data_workers: int = 0
    """Processes that read and pack the data, 0 for a thread of the training process. The batches are the same for any number. Each
    process keeps its own copy of episode files that are small enough to lie in memory (2 GiB of frames)."""
    log_every: int = 10
    """Steps between two rows of metrics."""
    sample_every: int = 200
    """Steps between two sets of samples; 0: none."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; one is written at the end in any case."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_steps", "sample_every", "seed", "data_workers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
