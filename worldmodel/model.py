"""The unified model: embed text, latents and actions, run one transformer, read out next tokens and denoised latents.

The recipe of arXiv 2603.03276: one decoder trained from scratch, next-token prediction for text, flow matching on visual latents
through one linear layer in and one out, loss = text + 3 * flow.

Axes: b rows, n positions, f frames, p latent tokens of a frame, c latent channels, d width, j flat positions.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from worldmodel.attention import Backend, prepare_mask
from worldmodel.batch import PackedBatch
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig, interpolate, network_input, sample_time, velocity_from, velocity_target
from worldmodel.heads import TimeEmbedding, WideHead
from worldmodel.losses import HIGH_NOISE, FlowDraw, LossCounts, centered_weights, moving_average, text_loss
from worldmodel.moe import TokenGroups
from worldmodel.precision import copied
from worldmodel.tokens import VISION
from worldmodel.transformer import MODULATIONS, Modulation, Trunk, TrunkConfig

TimeConditioning = Literal["add", "adaln", "none"]
Positions = Literal["axial", "sequence"]
LossBalance = Literal["fixed", "centered"]


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
    time: TimeConditioning = "add"
    """How a frame's flow time enters (open in the paper). add: an embedding added to the frame's tokens; adaln: it shifts, scales and
    gates visual tokens in every block (adaLN-single of PixArt-alpha); none: only by the noise that is seen."""
    positions: Positions = "axial"
    """Rotary positions (open in the paper). axial: the tokens of a frame share one step of time and have rows and columns; sequence:
    plain 1-D, every token one step."""
    patch_embedding: bool = True
    """Add a learned embedding of its place in the frame to every latent token."""
    wide_head: int = 0
    """Width of the two-layer transformer head of visual tokens (DDT head, arXiv 2510.11690, section 4), a multiple of 64; 0: one
    linear layer, as in the paper. It helps small models (arXiv 2601.16208: up to about 0.5 billion parameters)."""
    loss_balance: LossBalance = "fixed"
    """fixed: text_weight and flow_weight; centered: weights that follow the losses, so that both count the same (arXiv 2603.03276,
    appendix D.2; better pictures, slightly worse text there)."""
    balance_alpha: float = 0.5
    """Centered: share of the flow loss in the size that both losses are brought to (not known from the paper; 0.5 is ours)."""
    balance_decay: float = 0.99
    """Centered: decay per step of the losses' moving averages (not known from the paper; 0.99 is ours)."""
    base_width: int | None = None
    """muP (arXiv 2203.03466, table 8): the width at which the learning rates were tuned; at another width logits and the linear visual
    head are scaled by base_width / width, and the optimizer scales the rates of hidden matrices. None: plain widths."""

    def __post_init__(self) -> None:
        if self.base_width is not None and self.base_width < 1:
            raise UserError(f"base_width is {self.base_width}, must be at least 1")
        if not 0 <= self.balance_alpha <= 1 or not 0 <= self.balance_decay < 1:
            raise UserError(
                f"balance_alpha is {self.balance_alpha}, must lie in 0..1; balance_decay is {self.balance_decay}, must lie in [0, 1)"
            )
        if min(self.text_weight, self.flow_weight) < 0 or not self.text_weight + self.flow_weight > 0:
            raise UserError(
                f"text_weight is {self.text_weight} and flow_weight {self.flow_weight}: neither may be negative, nor both 0"
            )
        if self.wide_head < 0:
            raise UserError(f"wide_head is {self.wide_head}, must be a width, or 0 for a linear head")
        if self.trunk.width < self.channels:
            raise UserError(
                f"the model's width {self.trunk.width} is below the latents' {self.channels} channels: noise in all of them does not "
                f"pass through it, and where that is predicted it cannot even overfit one picture (arXiv 2510.11690, section 4); set "
                f"the trunk's width to {self.channels} or more"
            )
        if self.grid[0] * self.grid[1] != self.frame_tokens:
            raise UserError(f"grid {self.grid} does not hold {self.frame_tokens} tokens per frame")


class WorldModel(nn.Module):
    """Text, pictures and actions in one sequence; see the module's docstring."""

    loss_average: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.latent_in = nn.Linear(config.channels, width)
        self.action_in = nn.Linear(config.action_dim, width)
        self.patch_embedding = nn.Parameter(0.5 * torch.randn(config.frame_tokens, width)) if config.patch_embedding else None
        self.time_in = TimeEmbedding(width) if config.time != "none" else None
        self.modulate = nn.Linear(width, MODULATIONS * width) if config.time == "adaln" else None
        self.trunk = Trunk(config.trunk, modulated=config.time == "adaln")
        self.visual_head = WideHead(width, config.channels, config.grid, config.wide_head) if config.wide_head else None
        self.latent_out = nn.Linear(config.wide_head or width, config.channels)
        self.text_out = nn.Linear(width, config.vocab_size, bias=False)
        self.readout_scale = config.base_width / width if config.base_width else 1.0
        if config.loss_balance == "centered":  # moving averages of the text and flow losses, 0 before the first step
            self.register_buffer("loss_average", torch.zeros(2))
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.action_in.weight, std=1.0)
        nn.init.normal_(self.text_out.weight, std=(config.base_width or width) ** -0.5)
        nn.init.normal_(self.latent_out.weight, std=(config.wide_head or config.base_width or width) ** -0.5)
        nn.init.zeros_(self.latent_out.bias)
        if self.modulate is not None:
            nn.init.normal_(self.modulate.weight, std=0.5 * width**-0.5)
            nn.init.zeros_(self.modulate.bias)

    @property
    def flow_shift(self) -> float:
        """Strength of the noise schedule's shift for this model's latents."""
        return self.config.flow.shift_for(self.config.frame_tokens, self.config.channels)

    def embed_frames(self, z_t: Tensor, t: Tensor) -> Tensor:
        """Noised latents (f, p, c) and their flow times (f,) -> (f, p, d)."""
        x = self.latent_in(network_input(z_t, rearrange(t, "f -> f 1 1"), self.config.flow))
        if self.patch_embedding is not None:
            x = x + self.patch_embedding
        if self.time_in is not None and self.modulate is None:
            x = x + rearrange(self.time_in(t), "f d -> f 1 d")
        return x

    def embed(self, batch: PackedBatch, z_t: Tensor, t: Tensor) -> Tensor:
        """All positions of a batch (b, n, d), with frames' latents z_t (f, p, c) at flow times t (f,)."""
        b = len(batch.token_id)
        x = rearrange(self.token_embedding(batch.token_id), "b n d -> (b n) d")
        seen = rearrange(self.embed_frames(z_t, t), "f p d -> (f p) d")
        x = x.index_copy(0, batch.frame_positions, seen.to(x.dtype))  # frames are numbered in reading order
        x = x.index_copy(0, batch.action_positions, self.action_in(batch.actions).to(x.dtype))
        return rearrange(x, "(b n) d -> b n d", b=b)

    def modulation(self, batch: PackedBatch, t: Tensor) -> Modulation | None:
        """What the flow times t (f,) do to the visual tokens of a batch; None where they enter otherwise."""
        if self.modulate is None:
            return None
        b, n = batch.token_id.shape
        return Modulation.of(self.frame_modulation(t), batch.frame_id, b * n // self.config.frame_tokens)

    def frame_modulation(self, t: Tensor) -> Tensor:
        """Flow times (f,) -> what they do to the tokens of their frames in every block (f, 6, d)."""
        assert self.time_in is not None and self.modulate is not None, "only a model with time 'adaln' is modulated"
        return rearrange(self.modulate(F.silu(self.time_in(t))), "f (s d) -> f s d", s=MODULATIONS)

    def forward(self, batch: PackedBatch, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (b, n, d) of a packed batch, and the auxiliary loss of its experts, a sum over its tokens."""
        mask = prepare_mask(batch.document_id, batch.frame_id, self.config.attention)
        groups = TokenGroups.of(batch.modality == VISION, batch.document_id >= 0)
        positions = batch.position
        if self.config.positions == "sequence":  # a row's places: attention stays inside documents, and only differences matter
            b, n = batch.token_id.shape
            positions = repeat(torch.arange(n, device=positions.device), "n -> b n 1", b=b)
        return self.trunk(self.embed(batch, z_t, t), positions, mask, groups, modulation=self.modulation(batch, t))

    def denoise(self, hidden: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Velocity (f, p, c) of frames from their hidden states (f, p, d), noised latents and flow times (f,)."""
        times = rearrange(t, "f -> f 1 1")
        if self.visual_head is not None:
            out = self.latent_out(self.visual_head(hidden, network_input(z_t, times, self.config.flow), t)).float()
        else:
            out = self.latent_out(self._scaled(hidden)).float()
        return velocity_from(out, z_t, times, self.config.flow)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) -> float32 logits of the next token (..., v)."""
        return self.text_out(self._scaled(hidden)).float()

    def text_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropies of tokens (k,) that hidden states (k, d) predict, added up, without having all `logits` at a time."""
        return text_loss(self._scaled(hidden), self.text_out.weight, targets)

    def _scaled(self, hidden: Tensor) -> Tensor:
        return hidden if self.readout_scale == 1 else hidden * self.readout_scale

    @torch.no_grad()
    def draw(self, clean: Tensor, generator: torch.Generator) -> FlowDraw:
        """Draw flow times and noise for frames, clean (f,) bool, on the device of `clean`.

        The times come from the CPU generator on every device. So does the noise on a CPU; on a GPU, where that would take longer
        than the step, it comes from the GPU's own generator, seeded from this one: the same for a seed on any GPU.
        """
        device, f = clean.device, len(clean)
        t = sample_time(f, self.flow_shift, self.config.flow.logit_normal, generator)
        shape = (f, self.config.frame_tokens, self.config.channels)
        if device.type == "cpu":
            noise = torch.randn(shape, generator=generator)
        else:
            t = copied(t, device)
            seed = int(torch.randint(2**62, (), generator=generator))
            noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
        return FlowDraw(torch.where(clean, torch.ones_like(t), t), noise)

    def loss(
        self, batch: PackedBatch, latents: Tensor, draw: FlowDraw, counts: LossCounts | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The joint loss of a batch, or of a part of a step.

        Args:
            batch: a packed batch, on the model's device.
            latents: (f, p, c) clean latents of `batch.frames`, from the codec.
            draw: flow times and noise of the frames.
            counts: of the whole step, where this batch is a part of it: the sums over this batch are divided by the counts of the
                step, so that losses and gradients of its parts add up to those of the whole. None: this batch is the step.

        Returns:
            The scalar to minimise, and its parts by name, detached: `text` (nats per predicted token), `flow` (mean squared
            velocity error), `router`; `flow_high_noise` and `high_noise`, the share of the flow loss that frames below t = 0.1
            (the step that planning uses) make up, and the share of such frames: see `readable`. A part that the step does not have
            is absent.

        Raises:
            UserError: the whole step predicts neither a token nor a frame.
        """
        counts = LossCounts.of(batch) if counts is None else counts
        if not counts.text and not counts.frames:
            raise UserError(
                f"a batch of {batch.named_sources} predicts neither a token nor a frame, every document in it is context only: "
                "mark a text or a frame of these documents as predicted, or mix in a source that has some"
            )
        z_t = interpolate(latents, draw.noise, rearrange(draw.t, "f -> f 1 1"))
        hidden, router = self(batch, z_t, draw.t)
        flat = rearrange(hidden, "b n d -> (b n) d")
        text_weight, flow_weight = self.loss_weights()
        parts: dict[str, Tensor] = {}
        total = flat.new_zeros((), dtype=torch.float32)
        if counts.text:
            targets = batch.text_target.flatten().index_select(0, batch.predicted_positions)
            text = self.text_loss(flat.index_select(0, batch.predicted_positions), targets) / counts.text
            parts["text"] = text.detach()
            total = total + text_weight * text
        if counts.frames:
            error = self.flow_error(batch, flat, latents, draw, z_t)  # (g,)
            high = (draw.t.index_select(0, batch.noised_frames) < HIGH_NOISE).to(error.dtype)
            flow = error.sum() / counts.frames
            parts["flow"] = flow.detach()
            parts["flow_high_noise"] = (error.detach() * high).sum() / counts.frames
            parts["high_noise"] = high.sum() / counts.frames
            total = total + flow_weight * flow
        if self.config.trunk.feed_forward == "moe":
            router = router / counts.tokens
            parts["router"] = router.detach()
            total = total + router
        return total, parts

    def flow_error(self, batch: PackedBatch, flat: Tensor, latents: Tensor, draw: FlowDraw, z_t: Tensor) -> Tensor:
        """Mean squared velocity error (g,) of the noised frames, from all hidden states (b n, d)."""
        noised = batch.noised_frames
        where = rearrange(batch.frame_positions, "(f p) -> f p", p=self.config.frame_tokens).index_select(0, noised)
        hidden = rearrange(flat.index_select(0, where.flatten()), "(g p) d -> g p d", p=self.config.frame_tokens)
        z, noise, z_n, t = (x.index_select(0, noised) for x in (latents, draw.noise, z_t, draw.t))
        target = velocity_target(z, noise, z_n, rearrange(t, "g -> g 1 1"), self.config.flow)
        return (self.denoise(hidden, z_n, t) - target).square().mean((1, 2))

    def loss_weights(self) -> tuple[float | Tensor, float | Tensor]:
        """Weights of the text and flow losses; in loss centering the fixed ones until both losses have been seen."""
        fixed = (self.config.text_weight, self.config.flow_weight)
        if self.config.loss_balance == "fixed":
            return fixed
        seen = (self.loss_average > 0).all()
        text, flow = centered_weights(self.loss_average, self.config.balance_alpha).unbind()
        return torch.where(seen, text, fixed[0]), torch.where(seen, flow, fixed[1])

    @torch.no_grad()
    def update_loss_balance(self, text: float | Tensor | None, flow: float | Tensor | None) -> None:
        """Once per optimizer step, in loss centering: remember the losses of the whole step, of all processes together.

        The weights of a step come from the averages up to the step before, so that all parts of a step have the same.

        Args:
            text: the step's text loss, None if it has none.
            flow: its flow loss, None if it has none.
        """
        if self.config.loss_balance == "centered":
            self.loss_average.copy_(moving_average(self.loss_average, (text, flow), self.config.balance_decay))
