"""The unified model: embed text, latents and actions, run one transformer, read out next tokens and denoised latents.

The recipe of arXiv 2603.03276: one decoder trained from scratch, next-token prediction for text, flow matching on visual latents
through one linear layer in and one out (or a stem, `stem.py`), loss = text + 3 * flow. Beside it the model says the next actions
that lead to a goal, as their mean and spread: loss + 2 * action.

Axes: b rows, n positions, f frames, l latent tokens of a frame in c channels, p tokens of a frame in the trunk, d width, q questions
for actions, h model steps that each asks for, a numbers of an action block.
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
from worldmodel.flow_head import DDTHead, TimeEmbedding
from worldmodel.losses import HIGH_NOISE, LossCounts, NoiseSample, centered_weights, moving_average, text_loss
from worldmodel.moe import TokenGroups
from worldmodel.precision import copied
from worldmodel.stem import Beside, Stem, StemConfig, base
from worldmodel.tokens import IGNORE, VISION
from worldmodel.transformer import MODULATIONS, Modulation, Trunk, TrunkConfig

SPREAD_WEIGHT = 0.1
"""Weight of the likelihood of the predicted actions' spread, relative to their squared error."""
SPREAD_RANGE = (-2.0, 1.0)
"""Of the logarithm of their spread: 0.14 to 2.7 half ranges. What is surer than that has a gradient, where it errs, that outweighs all
others of its batch."""
TimeConditioning = Literal["add", "adaln", "none"]
Positions = Literal["axial", "sequence"]
LossBalance = Literal["fixed", "centered"]


@dataclass(frozen=True)
class ModelConfig:
    """The unified model."""

    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    """Width, depth, heads and feed-forward of the transformer."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    """What is predicted of a noisy frame, and how noisy it is."""
    vocab_size: int = 2048
    """Size of the tokenizer's vocabulary (set from the tokenizer)."""
    stem: StemConfig = field(default_factory=StemConfig)
    """How latents become tokens of the trunk: one linear layer, or a convolutional stem."""
    latent_grid: tuple[int, int] = (4, 4)
    """Rows and columns of a frame's latent tokens (set from the codec)."""
    channels: int = 64
    """Channels of a latent token (set from the codec)."""
    action_dim: int = 2
    """Numbers in an action block; shorter actions are padded with zeros."""
    action_horizon: int = 8
    """Model steps whose actions are said at once."""
    text_weight: float = 1.0
    """Weight of the text loss."""
    flow_weight: float = 3.0
    """Weight of the flow loss (arXiv 2603.03276: 3)."""
    action_weight: float = 2.0
    """Weight of the loss of said actions: their squared error, and a tenth of the likelihood of their spread."""
    steps_weight: float = 1.0
    """How many words a said number of steps to a goal counts as in the text loss: it is what plans are judged by."""
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
    level_frames: bool = False
    """Divide the flow loss of a frame by the mean square of its latents where that is above 1: pictures that are unlike the frames a
    codec is scaled for do not outweigh them then (on TwoRoom their loss was 40 times as large)."""
    loss_balance: LossBalance = "fixed"
    """fixed: text_weight and flow_weight; centered: weights that follow the losses, so that both count the same (arXiv 2603.03276,
    appendix D.2; better pictures, slightly worse text there)."""
    balance_alpha: float = 0.5
    """Centered: share of the flow loss in the size that both losses are brought to (not known from the paper; 0.5 is chosen here)."""
    balance_decay: float = 0.99
    """Centered: decay per step of the losses' moving averages (not known from the paper; 0.99 is chosen here)."""
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
        if self.action_horizon < 1 or self.action_weight < 0:
            raise UserError(
                f"action_horizon is {self.action_horizon}, must be at least 1; "
                f"action_weight is {self.action_weight}, must not be negative"
            )
        if not self.steps_weight >= 0:
            raise UserError(f"steps_weight is {self.steps_weight}, must not be negative")
        if self.stem.tokens and self.wide_head:
            raise UserError(f"wide_head is {self.wide_head}, but the stem paints the frames: set it to 0, or the stem's tokens to 0")
        if min(self.text_weight, self.flow_weight) < 0 or not self.text_weight + self.flow_weight > 0:
            raise UserError(
                f"text_weight is {self.text_weight} and flow_weight {self.flow_weight}: neither may be negative, nor both 0"
            )
        if self.wide_head < 0:
            raise UserError(f"wide_head is {self.wide_head}, must be a width, or 0 for a linear head")
        if self.trunk.width < self.channels and not self.stem.tokens:
            raise UserError(
                f"the model's width {self.trunk.width} is below the latents' {self.channels} channels: noise in all of them does not "
                f"pass through it, and where that is predicted it cannot even overfit one picture (arXiv 2510.11690, section 4); set "
                f"the trunk's width to {self.channels} or more"
            )

    @property
    def latent_tokens(self) -> int:
        """Latent tokens l of a frame."""
        return self.latent_grid[0] * self.latent_grid[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens in the trunk; those of a stem have no place and stand in one row."""
        return (1, self.stem.tokens) if self.stem.tokens else self.latent_grid

    @property
    def frame_tokens(self) -> int:
        """Tokens p of a frame in the trunk."""
        return self.grid[0] * self.grid[1]

    @property
    def references(self) -> int:
        """Frames before it that a frame is seen beside."""
        return self.stem.references if self.stem.tokens else 0


@dataclass(frozen=True)
class Seen:
    """Frames on their way into the trunk."""

    tokens: Tensor
    """(f, p, d)."""
    maps: list[Tensor] = field(default_factory=list)
    """What the stem paints with again, (f, w, y, x) each; none without a stem."""
    base: Tensor | None = None
    """(f, l, c): the latents from which the stem predicts the change."""

    def index_select(self, rows: Tensor) -> "Seen":
        """Select some of the frames."""
        chosen = [each.index_select(0, rows) for each in self.maps]
        return Seen(self.tokens.index_select(0, rows), chosen, None if self.base is None else self.base.index_select(0, rows))


class WorldModel(nn.Module):
    """Text, pictures and actions in one sequence; see the module's docstring."""

    loss_average: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.trunk.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.stem = Stem(config.stem, config.latent_grid, config.channels, width) if config.stem.tokens else None
        self.latent_in = None if config.stem.tokens else nn.Linear(config.channels, width)
        self.action_in = nn.Linear(config.action_dim, width)
        self.patch_embedding = nn.Parameter(0.5 * torch.randn(config.frame_tokens, width)) if config.patch_embedding else None
        self.time_in = TimeEmbedding(width) if config.time != "none" else None
        self.modulate = nn.Linear(width, MODULATIONS * width) if config.time == "adaln" else None
        self.trunk = Trunk(config.trunk, modulated=config.time == "adaln")
        self.visual_head = DDTHead(width, config.channels, config.grid, config.wide_head) if config.wide_head else None
        self.latent_out = None if config.stem.tokens else nn.Linear(config.wide_head or width, config.channels)
        self.action_out = nn.Linear(width, 2 * config.action_horizon * config.action_dim)
        self.action_question = nn.Parameter(0.5 * torch.randn(width))
        self.text_out = nn.Linear(width, config.vocab_size, bias=False)
        self.readout_scale = config.base_width / width if config.base_width else 1.0
        if config.loss_balance == "centered":  # moving averages of the text and flow losses, 0 before the first step
            self.register_buffer("loss_average", torch.zeros(2))
        nn.init.normal_(self.token_embedding.weight, std=0.5)
        nn.init.normal_(self.action_in.weight, std=1.0)
        nn.init.normal_(self.text_out.weight, std=(config.base_width or width) ** -0.5)
        nn.init.zeros_(self.action_out.weight)  # else the first thing learned is to look away: guesses cost more than saying the mean
        nn.init.zeros_(self.action_out.bias)
        if self.latent_out is not None:
            nn.init.normal_(self.latent_out.weight, std=(config.wide_head or config.base_width or width) ** -0.5)
            nn.init.zeros_(self.latent_out.bias)
        if self.modulate is not None:
            nn.init.normal_(self.modulate.weight, std=0.5 * width**-0.5)
            nn.init.zeros_(self.modulate.bias)

    @property
    def flow_shift(self) -> float:
        """Strength of the noise schedule's shift for this model's latents."""
        return self.config.flow.shift_for(self.config.latent_tokens, self.config.channels)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.token_embedding.weight.device

    def see(self, z_t: Tensor, t: Tensor, beside: Beside | None = None) -> Seen:
        """Embed noised latents (f, l, c), their flow times (f,), and the frames that they are seen beside (None: nothing)."""
        shown = network_input(z_t, rearrange(t, "f -> f 1 1"), self.config.flow)
        if self.stem is None:
            assert self.latent_in is not None
            return Seen(self._placed(self.latent_in(shown), t))
        beside = beside or Beside.none(z_t, self.config.references)
        tokens, maps = self.stem(shown, beside)
        changes = self.config.references and self.config.flow.prediction == "x"
        return Seen(self._placed(tokens, t), maps, base(beside) if changes else None)

    def _placed(self, x: Tensor, t: Tensor) -> Tensor:
        """Add position and flow time (f,) to tokens (f, p, d)."""
        if self.patch_embedding is not None:
            x = x + self.patch_embedding
        if self.time_in is not None and self.modulate is None:
            x = x + rearrange(self.time_in(t), "f d -> f 1 d")
        return x

    def embed(self, batch: PackedBatch, seen: Seen) -> Tensor:
        """Embed all positions of a batch (b, n, d)."""
        b = len(batch.token_id)
        x = rearrange(self.token_embedding(batch.token_id), "b n d -> (b n) d")
        of_frames = rearrange(seen.tokens, "f p d -> (f p) d")
        x = x.index_copy(0, batch.frame_positions, of_frames.to(x.dtype))  # frames are numbered in reading order
        x = x.index_copy(0, batch.action_positions, self.action_in(batch.actions).to(x.dtype))
        questions = repeat(self.action_question, "d -> q d", q=len(batch.answers))
        x = x.index_copy(0, batch.question_positions, questions.to(x.dtype))
        return rearrange(x, "(b n) d -> b n d", b=b)

    def modulation(self, batch: PackedBatch, t: Tensor) -> Modulation | None:
        """Compute how the flow times t (f,) modulate the visual tokens of a batch; None where they enter otherwise."""
        if self.modulate is None:
            return None
        b, n = batch.token_id.shape
        return Modulation.of(self.frame_modulation(t), batch.frame_id, b * n // self.config.frame_tokens)

    def frame_modulation(self, t: Tensor) -> Tensor:
        """Map flow times (f,) to the modulation (f, 6, d) of the tokens of their frames in every block."""
        assert self.time_in is not None and self.modulate is not None, "only a model with time 'adaln' is modulated"
        return rearrange(self.modulate(F.silu(self.time_in(t))), "f (s d) -> f s d", s=MODULATIONS)

    def forward(self, batch: PackedBatch, seen: Seen, t: Tensor) -> tuple[Tensor, Tensor]:
        """Run the trunk over a packed batch.

        Args:
            batch: on the model's device.
            seen: its frames, from `see`.
            t: (f,) their flow times.

        Returns:
            Hidden states (b, n, d), and the auxiliary loss of the experts, a sum over the batch's tokens.
        """
        mask = prepare_mask(batch.document_id, batch.frame_id, self.config.attention)
        groups = TokenGroups.of(batch.modality == VISION, batch.document_id >= 0)
        positions = batch.position
        if self.config.positions == "sequence":  # a row's places: attention stays inside documents, and only differences matter
            b, n = batch.token_id.shape
            positions = repeat(torch.arange(n, device=positions.device), "n -> b n 1", b=b)
        return self.trunk(self.embed(batch, seen), positions, mask, groups, self.modulation(batch, t))

    def denoise(self, hidden: Tensor, z_t: Tensor, t: Tensor, seen: Seen) -> Tensor:
        """Predict velocity (f, l, c) from frames' hidden states (f, p, d), noised latents, flow times (f,) and how they were seen."""
        times = rearrange(t, "f -> f 1 1")
        if self.stem is not None:
            out = self.stem.paint(hidden, seen.maps).float()
            out = out if seen.base is None else out + seen.base
        elif self.visual_head is not None:
            assert self.latent_out is not None
            out = self.latent_out(self.visual_head(hidden, network_input(z_t, times, self.config.flow), t)).float()
        else:
            assert self.latent_out is not None
            out = self.latent_out(self._scaled(hidden)).float()
        return velocity_from(out, z_t, times, self.config.flow)

    def next_actions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Predict mean and log spread of the next actions, (q, h, a) each, from hidden states (q, d) where they are asked for."""
        out = self.action_out(hidden).float()
        mean, spread = rearrange(out, "q (s h a) -> s q h a", s=2, h=self.config.action_horizon)
        return mean, spread.clamp(*SPREAD_RANGE)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., d) to float32 logits of the next token (..., v)."""
        return self.text_out(self._scaled(hidden)).float()

    def text_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Sum the cross-entropies of tokens (k,) predicted from hidden states (k, d), without having all `logits` at a time."""
        return text_loss(self._scaled(hidden), self.text_out.weight, targets)

    def _scaled(self, hidden: Tensor) -> Tensor:
        return hidden if self.readout_scale == 1 else hidden * self.readout_scale

    @torch.no_grad()
    def sample_noise(self, clean: Tensor, generator: torch.Generator) -> NoiseSample:
        """Draw flow times and noise for frames, clean (f,) bool, on the device of `clean`.

        The times come from the CPU generator on every device. So does the noise on a CPU; on a GPU, where that would take longer
        than the step, it comes from the GPU's own generator, seeded from this one: the same for a seed on any GPU.
        """
        device, f = clean.device, len(clean)
        flow = self.config.flow
        t = sample_time(f, self.flow_shift, flow.logit_normal, generator, flow.noise_share)
        shape = (f, self.config.latent_tokens, self.config.channels)
        if device.type == "cpu":
            noise = torch.randn(shape, generator=generator)
        else:
            t = copied(t, device)
            seed = int(torch.randint(2**62, (), generator=generator))
            noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
        return NoiseSample(torch.where(clean, torch.ones_like(t), t), noise)

    def loss(
        self, batch: PackedBatch, latents: Tensor, noise_sample: NoiseSample, counts: LossCounts | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the joint loss of a batch, or of a part of a step.

        Args:
            batch: a packed batch, on the model's device.
            latents: (f + g, l, c) clean latents of `batch.pictures`, from the codec.
            noise_sample: flow times and noise of the frames.
            counts: of the whole step, where this batch is a part of it: the sums over this batch are divided by the counts of the
                step, so that losses and gradients of its parts add up to those of the whole. None: this batch is the step.

        Returns:
            The scalar to minimize, and its parts by name, detached: `text` (nats per predicted token), `flow` (mean squared
            velocity error), `action` (mean squared error of said actions), `router`; `flow_high_noise` and `high_noise`, the share of
            the flow loss that frames below t = 0.1 (the step that planning uses) make up, and the share of such frames: see
            `readable`. A part that the step does not have is absent.

        Raises:
            UserError: the whole step predicts neither a token nor a frame nor an action.
        """
        counts = LossCounts.of(batch) if counts is None else counts
        if not counts.text and not counts.frames and not counts.actions:
            raise UserError(
                f"a batch of {batch.named_sources} predicts neither a token nor a frame nor an action, every document in it is "
                "context only: mark a text or a frame of these documents as predicted, or mix in a source that has some"
            )
        latents, given = latents.split([len(batch.frames), len(batch.given)])
        z_t = interpolate(latents, noise_sample.noise, rearrange(noise_sample.t, "f -> f 1 1"))
        seen = self.see(z_t, noise_sample.t, self.beside(batch, latents, given))
        hidden, router = self(batch, seen, noise_sample.t)
        flat = rearrange(hidden, "b n d -> (b n) d")
        text_weight, flow_weight = self.loss_weights()
        parts: dict[str, Tensor] = {}
        total = flat.new_zeros((), dtype=torch.float32)
        if counts.text:
            targets = batch.text_target.flatten().index_select(0, batch.predicted_positions)
            text = self.text_loss(flat.index_select(0, batch.predicted_positions), targets) / counts.text
            parts["text"] = text.detach()
            total = total + text_weight * text
            if counts.actions and self.config.steps_weight != 1:
                more = (self.config.steps_weight - 1) * self.steps_loss(batch, flat) / counts.text
                total = total + text_weight * more
        if counts.frames:
            error = self.flow_error(batch, flat, latents, noise_sample, z_t, seen)  # (k,)
            high = (noise_sample.t.index_select(0, batch.noised_frames) < HIGH_NOISE).to(error.dtype)
            flow = error.sum() / counts.frames
            parts["flow"] = flow.detach()
            parts["flow_high_noise"] = (error.detach() * high).sum() / counts.frames
            parts["high_noise"] = high.sum() / counts.frames
            total = total + flow_weight * flow
        if counts.actions:
            error, surprise = self.action_error(batch, flat)
            parts["action"] = error.detach() / counts.actions
            total = total + self.config.action_weight * (error + SPREAD_WEIGHT * surprise) / counts.actions
        if self.config.trunk.feed_forward == "moe":
            router = router / counts.tokens
            parts["router"] = router.detach()
            total = total + router
        return total, parts

    def beside(self, batch: PackedBatch, latents: Tensor, given: Tensor) -> Beside | None:
        """Collect the frames that a batch's frames are seen beside, from the latents of the pictures (g, l, c) they refer to."""
        if not self.config.references:
            return None
        absent = self.config.references - batch.reference.shape[1]
        reference = F.pad(batch.reference, (0, absent), value=-1)
        if not len(given):
            return Beside.none(latents, self.config.references)
        rows = reference.clamp_min(0).flatten()
        return Beside(rearrange(given.index_select(0, rows), "(f r) l c -> f r l c", r=self.config.references), reference >= 0)

    def flow_error(
        self, batch: PackedBatch, flat: Tensor, latents: Tensor, noise_sample: NoiseSample, z_t: Tensor, seen: Seen
    ) -> Tensor:
        """Compute the mean squared velocity error (k,) of the noised frames, from all hidden states (b n, d)."""
        noised = batch.noised_frames
        where = rearrange(batch.frame_positions, "(f p) -> f p", p=self.config.frame_tokens).index_select(0, noised)
        hidden = rearrange(flat.index_select(0, where.flatten()), "(k p) d -> k p d", p=self.config.frame_tokens)
        z, noise, z_n, t = (x.index_select(0, noised) for x in (latents, noise_sample.noise, z_t, noise_sample.t))
        target = velocity_target(z, noise, z_n, rearrange(t, "k -> k 1 1"), self.config.flow)
        error = (self.denoise(hidden, z_n, t, seen.index_select(noised)) - target).square().mean((1, 2))
        return error / z.square().mean((1, 2)).clamp_min(1) if self.config.level_frames else error

    def action_error(self, batch: PackedBatch, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the known numbers of the asked actions: squared errors, and negative log-likelihoods of the spread.

        The mean is held fixed in the latter, which are in nats.
        """
        mean, spread = self.next_actions(flat.index_select(0, batch.question_positions))
        steps = min(mean.shape[1], batch.answers.shape[1])
        mean, spread, known = mean[:, :steps], spread[:, :steps], batch.known[:, :steps]
        square = (mean - batch.answers[:, :steps]).square() * known
        surprise = 0.5 * square.detach() * torch.exp(-2 * spread) + spread * known
        return square.sum(), surprise.sum()

    def steps_loss(self, batch: PackedBatch, flat: Tensor) -> Tensor:
        """Sum the cross-entropies of the numbers of steps, predicted right before actions are asked for, from hidden (b n, d)."""
        # what is said at a position is the next token, and the number stands right before the question
        where = batch.question_positions - 2
        targets = batch.text_target.flatten().index_select(0, where)
        return F.cross_entropy(self.logits(flat.index_select(0, where)), targets, ignore_index=IGNORE, reduction="sum")

    def loss_weights(self) -> tuple[float | Tensor, float | Tensor]:
        """Return the weights of the text and flow losses; in loss centering the fixed ones until both losses have been seen."""
        fixed = (self.config.text_weight, self.config.flow_weight)
        if self.config.loss_balance == "fixed":
            return fixed
        seen = (self.loss_average > 0).all()
        text, flow = centered_weights(self.loss_average, self.config.balance_alpha).unbind()
        return torch.where(seen, text, fixed[0]), torch.where(seen, flow, fixed[1])

    @torch.no_grad()
    def update_loss_balance(self, text: float | Tensor | None, flow: float | Tensor | None) -> None:
        """Average the losses of a whole step, of all processes together; for loss centering, once per optimizer step.

        The weights of a step come from the averages up to the step before, so that all parts of a step have the same.

        Args:
            text: the step's text loss, None if it has none.
            flow: its flow loss, None if it has none.
        """
        if self.config.loss_balance == "centered":
            self.loss_average.copy_(moving_average(self.loss_average, (text, flow), self.config.balance_decay))
