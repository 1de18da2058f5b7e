"""The unified model: embed text, latents and actions, run one transformer, read out next tokens and denoised latents.

The recipe of arXiv 2603.03276: one decoder trained from scratch, next-token prediction for text, flow matching on visual latents
through one linear layer in and one out, loss = text + 3 * flow.

Axes: b rows, n positions, f frames, p latent tokens of a frame, c latent channels, d width, j flat positions.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.attention import Backend, prepare_mask
from worldmodel.batch import PackedBatch
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig, interpolate, network_input, sample_time, velocity_from, velocity_target
from worldmodel.moe import TokenGroups
from worldmodel.tokens import IGNORE, VISION
from worldmodel.transformer import Trunk, TrunkConfig


@dataclass(frozen=True)
class ModelConfig:
    """The unified model."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    vocab_size: int = 2048
    """Size of the tokenizer's vocabulary (set from the tokenizer)."""
    frame_tokens: int = 16
    """Latent tokens of a frame (set from the codec)."""
    grid: tuple[int, int] = (4, 4)
    """Rows and columns of a frame's latent tokens (set from the codec)."""
    channels: int = 64
    """Channels of a latent token (set from the codec)."""
    action_dim: int = 2
    """Numbers in an action block; shorter actions are padded with zeros."""
    text_weight: float = 1.0
    """Weight of the text loss."""
    flow_weight: float = 3.0
    """Weight of the flow loss (arXiv 2603.03276: 3)."""
    attention: Backend = "auto"
    """Attention backend: FlexAttention on CUDA, plain softmax or SDPA elsewhere."""

    def __post_init__(self) -> None:
        if self.trunk.width < self.channels:
            raise UserError(
                f"the model's width {self.trunk.width} is below the latents' {self.channels} channels: such a model cannot even "
                f"overfit one picture (arXiv 2510.11690, section 4); set the trunk's width to {self.channels} or more"
            )
        if self.grid[0] * self.grid[1] != self.frame_tokens:
            raise UserError(f"grid {self.grid} does not hold {self.frame_tokens} tokens per frame")


class WorldModel(nn.Module):
    """Text, pictures and actions in one sequence; see the module's docstring."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.latent_in = nn.Linear(config.channels, width)
        self.action_in = nn.Linear(config.action_dim, width)
        self.patch_embedding = nn.Parameter(0.5 * torch.randn(config.frame_tokens, width))
        self.time_in = TimeEmbedding(width)
        self.trunk = Trunk(config.trunk)
        self.latent_out = nn.Linear(width, config.channels)
        self.text_out = nn.Linear(width, config.vocab_size, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.action_in.weight, std=1.0)
        nn.init.normal_(self.text_out.weight, std=width**-0.5)
        nn.init.normal_(self.latent_out.weight, std=width**-0.5)
        nn.init.zeros_(self.latent_out.bias)

    @property
    def flow_shift(self) -> float:
        """Strength of the noise schedule's shift for this model's latents."""
        return self.config.flow.shift_for(self.config.frame_tokens, self.config.channels)

    def embed_frames(self, z_t: Tensor, t: Tensor) -> Tensor:
        """Noised latents (f, p, c) and their flow times (f,) -> (f, p, d)."""
        seen = network_input(z_t, rearrange(t, "f -> f 1 1"), self.config.flow)
        return self.latent_in(seen) + self.patch_embedding + rearrange(self.time_in(t), "f d -> f 1 d")

    def embed(self, batch: PackedBatch, z_t: Tensor, t: Tensor) -> Tensor:
        """All positions of a batch (b, n, d), with frames' latents z_t (f, p, c) at flow times t (f,)."""
        b, n = batch.token_id.shape
        x = rearrange(self.token_embedding(batch.token_id), "b n d -> (b n) d")
        if len(t):
            seen = rearrange(self.embed_frames(z_t, t), "f p d -> (f p) d")
            where = (batch.frame_id >= 0).flatten().nonzero()[:, 0]  # frames are numbered in reading order
            x = x.index_copy(0, where, seen.to(x.dtype))
        if len(batch.actions):
            where = (batch.action_id >= 0).flatten().nonzero()[:, 0]
            x = x.index_copy(0, where, self.action_in(batch.actions).to(x.dtype))
        return rearrange(x, "(b n) d -> b n d", b=b)

    def forward(self, batch: PackedBatch, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (b, n, d) of a packed batch, and the auxiliary loss of its experts."""
        mask = prepare_mask(batch.document_id, batch.frame_id, self.config.attention)
        groups = TokenGroups.of(batch.modality == VISION)
        return self.trunk(self.embed(batch, z_t, t), batch.position, mask, groups)

    def denoise(self, hidden: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Velocity (f, p, c) of frames from their hidden states (f, p, d), noised latents and flow times (f,)."""
        out = self.latent_out(hidden).float()
        return velocity_from(out, z_t, rearrange(t, "f -> f 1 1"), self.config.flow)

    def loss(self, batch: PackedBatch, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The joint loss of a batch.

        Args:
            batch: a packed batch, on the model's device.
            latents: (f, p, c) clean latents of `batch.frames`, from the codec.
            generator: CPU generator that draws flow times and noise.

        Returns:
            The scalar to minimise, and its parts by name: `text` (nats per predicted token), `flow` (mean squared velocity
            error) and `flow_high_noise` (the same from t < 0.1, the step that planning uses), `router`; a part that this batch
            does not have is absent.

        Raises:
            UserError: the batch predicts neither a token nor a frame.
        """
        device = latents.device
        t = sample_time(len(latents), self.flow_shift, self.config.flow.logit_normal, generator).to(device)
        t = torch.where(batch.clean, torch.ones_like(t), t)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        z_t = interpolate(latents, noise, rearrange(t, "f -> f 1 1"))
        hidden, router = self.forward(batch, z_t, t)
        parts: dict[str, Tensor] = {}
        total = hidden.new_zeros(())
        targets = batch.text_target.flatten()
        predicted = (targets != IGNORE).nonzero()[:, 0]
        flat = rearrange(hidden, "b n d -> (b n) d")
        if len(predicted):
            logits = self.text_out(flat.index_select(0, predicted))
            parts["text"] = F.cross_entropy(logits.float(), targets[predicted])
            total = total + self.config.text_weight * parts["text"]
        noised = (~batch.clean).nonzero()[:, 0]
        if len(noised):
            seen = (batch.frame_id >= 0).flatten().nonzero()[:, 0]
            frames = rearrange(flat.index_select(0, seen), "(f p) d -> f p d", p=self.config.frame_tokens)
            frames = frames.index_select(0, noised)
            z, e, z_n, t_n = latents[noised], noise[noised], z_t[noised], t[noised]
            target = velocity_target(z, e, z_n, rearrange(t_n, "f -> f 1 1"), self.config.flow)
            error = (self.denoise(frames, z_n, t_n) - target).square().mean((1, 2))  # (f,)
            parts["flow"] = error.mean()
            high = t_n < 0.1
            if high.any():
                parts["flow_high_noise"] = error[high].mean().detach()
            total = total + self.config.flow_weight * parts["flow"]
        if not len(predicted) and not len(noised):
            raise UserError("a batch predicts neither a token nor a frame: every document in it is context only")
        if self.config.trunk.feed_forward == "moe":
            parts["router"] = router
            total = total + router
        return total, parts


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1] -> width, through sinusoids and a small network; added to the frame's tokens."""

    frequencies: Tensor

    def __init__(self, width: int, sinusoids: int = 64) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000.0), sinusoids // 2)), False)
        self.network = nn.Sequential(nn.Linear(sinusoids, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(f,) -> (f, d)."""
        angles = repeat(t.float(), "f -> f k", k=len(self.frequencies)) * self.frequencies
        return self.network(torch.cat([angles.cos(), angles.sin()], dim=-1))
