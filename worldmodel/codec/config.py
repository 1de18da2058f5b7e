"""Everything that decides what codec comes out, given the data."""

from dataclasses import dataclass, field
from typing import Literal

from worldmodel.codec.adversarial import AdversarialConfig
from worldmodel.codec.kinds import KINDS, CodecKind
from worldmodel.codec.pixels import PatchConfig
from worldmodel.codec.ssl import JointConfig, MaskedConfig
from worldmodel.codec.training_loop import FitConfig
from worldmodel.codec.vae import ConvConfig
from worldmodel.codec.vit import DecoderConfig, EncoderConfig
from worldmodel.errors import UserError

SSLObjective = Literal["mae", "vicreg"]


@dataclass(frozen=True)
class CodecConfig:
    """The kind of codec, its sizes and its training."""

    kind: CodecKind = "rae"
    """rae: a frozen representation with a trained decoder; vae: a variational autoencoder; pixels: patches, nothing is trained."""
    encoder_name: str = ""
    """Of kind rae: a pretrained encoder instead of self-supervision: efficientnet-lite0, efficientnet-lite0-pyramid, the name on the
    hub or the folder of a DINOv2, SigLIP or SigLIP 2 model. It takes frames of any size."""
    encoder_input_size: int | None = None
    """Pixels that frames are resized to for a pretrained encoder; None: its own."""
    encoder_layer: int = -1
    """Hidden state of a pretrained encoder that becomes the latents: 0 the embedding, -1 the last one."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Of kind rae: shape of our own encoder and of the latents."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Of kind rae: shape of the decoder."""
    vae: ConvConfig = field(default_factory=ConvConfig)
    """Of kind vae: shape of encoder, latents and decoder."""
    pixels: PatchConfig = field(default_factory=PatchConfig)
    """Of kind pixels: how frames are cut."""
    objectives: tuple[SSLObjective, ...] = ("mae", "vicreg")
    """Self-supervised objectives to try, the preferred one first."""
    margin: float = 0.1
    """A later objective is chosen only if its probe error is smaller by this share: ties go to the first."""
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    """Of the objective mae."""
    joint: JointConfig = field(default_factory=JointConfig)
    """Of the objective vicreg."""
    decoder_steps: int = 700
    """Training steps of the decoder."""
    vae_steps: int = 400
    """Training steps of a vae; with the default sizes one takes about half a second on one CPU core."""
    kl_weight: float = 1e-3
    """Of kind vae: weight of the KL divergence in nats per latent number."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual distance in the loss of a decoder or vae; 1: as much as L1 and as L2, each
    relative to predicting the mean picture. RAE weighs plain L1 and LPIPS alike."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """The adversarial term in the loss of a decoder or vae, off by default."""
    batch_size: int = 64
    """Frames in a batch."""
    extra_share: float = 0.1
    """Share of extra pictures, when there are any, in batches and in the latent statistics."""
    noise: float = 0.8
    """tau of the decoder's noise augmentation (rae)."""
    goal_features: int = 6
    """Number of goal features."""
    goal_ridge: float = 0.1
    """Noise that goal features must stand, as a share of the latents' variance within episodes."""
    probe_frames: int = 6144
    """Largest number of frames that statistics, goal features and the probe are computed on; fewer where latents are large."""
    decoder_frames: int = 32768
    """Largest number of frames, and of extra pictures, that a decoder is trained on."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Optimization of every stage."""
    seed: int = 0
    """Of weights, batches, noise and masks."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"codec kind is {self.kind!r}, but it must be {' or '.join(map(repr, KINDS))}")
        if self.encoder_name and self.kind != "rae":
            raise UserError(f"encoder_name {self.encoder_name} is for a codec of kind rae, not {self.kind}; leave one of the two out")
        unknown = [name for name in self.objectives if name not in ("mae", "vicreg")]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives are {self.objectives}, but they must be one or both of 'mae', 'vicreg'")
        if self.decoder_steps < 1 or self.vae_steps < 1 or self.batch_size < 2:
            raise UserError(
                f"decoder_steps {self.decoder_steps} and vae_steps {self.vae_steps} must be at least 1, "
                f"batch_size {self.batch_size} at least 2"
            )
        if self.seed < 0:
            raise UserError(f"seed {self.seed} must be at least 0")
        if not 0 <= self.extra_share < 1 or not 0 <= self.margin < 1:
            raise UserError(f"extra_share {self.extra_share} and margin {self.margin} must lie in [0, 1)")
        if self.kl_weight < 0 or self.perceptual_weight < 0:
            raise UserError(f"kl_weight {self.kl_weight} and perceptual_weight {self.perceptual_weight} must be at least 0")

    @property
    def image_size(self) -> int | None:
        """Height and width in pixels of the frames it is for; None: any, a pretrained encoder resizes them."""
        return KINDS[self.kind].frame_size(self)
