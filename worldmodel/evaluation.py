"""How well a trained model predicts: dreams compared with truth by horizon, and held-out text; each with its controls.

Intervals of dreams are over episodes: clips of one episode are alike, so each episode counts once, by the mean of its clips.

Axes: b clips, t context frames, h horizon, p latent tokens, c channels, a action numbers, f features of the true state, m frames.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from worldmodel.batch import collate
from worldmodel.checkpoint import Pretrained
from worldmodel.codec.codec import Codec
from worldmodel.codec.frames import decode_video
from worldmodel.codec.probe import fit_probe
from worldmodel.codec.quality import choosing_frames
from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.rollout import Rollout
from worldmodel.studies.scaling_fit import student
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import IGNORE, PackingConfig, Tokens

FARTHEST = 16
"""Steps of the longest dream that is asked for by a horizon of 0."""
LEAST_SPREAD = 1e-4
"""Standard deviation that a true variable must have to be read at all."""
READER_FRAMES = 8192
"""About how many frames the state's reader is fitted on."""
ByHorizon = list[tuple[float, float]]
"""A mean and half of its 95 % interval for each step ahead."""


@dataclass(frozen=True)
class DreamConfig:
    """Which held-out clips are dreamed."""

    clips: int = 128
    """Number of clips, drawn with replacement from the held-out episodes."""
    context: int = 2
    """Frames given."""
    horizon: int = 8
    """Frames predicted; 0: as many as half of the episodes hold, 16 at most."""
    seed: int = 0
    """Of the draw and of the noise."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 2), ("context", 1), ("horizon", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")


@dataclass(frozen=True)
class StateReader:
    """Predicts true variables from latents."""

    read: Callable[[Tensor], np.ndarray]
    """Latents (m, p, c) to variables (m, f)."""
    names: tuple[str, ...]
    """f names."""
    columns: np.ndarray
    """int (f,): which of the file's features they are."""
    scale: np.ndarray
    """(f,) their standard deviations over training frames, the unit of errors."""


@dataclass(frozen=True)
class DreamErrors:
    """Errors by horizon (index 0 = one step ahead), each with half of its 95 % interval over episodes."""

    latent: dict[str, ByHorizon]
    """Mean squared, by name: learned, shuffled_actions (the same model with another clip's actions), copy_last_frame."""
    pixel: dict[str, ByHorizon]
    """The same in pixels scaled to [0, 1]; learned frames pass through the decoder, copied ones do not."""
    truth: np.ndarray
    """uint8 (b, t + h, height, width, 3)."""
    dream: np.ndarray
    """uint8 (b, h, height, width, 3)."""
    state: dict[str, ByHorizon] = field(default_factory=dict)
    """Root mean squared error of the true variables as read off the latents, in their standard deviations, by the names above and
    true_frames, what the reader itself errs on true frames; empty without a reader."""
    by_variable: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """The same without intervals for each variable, by name and variable."""
    episodes: int = 0
    """Different episodes among the clips."""

    @property
    def shuffled_over_true(self) -> float:
        """Latent error with another clip's actions over that with the own ones, one step ahead: 1 says that actions do not matter."""
        return self.latent["shuffled_actions"][0][0] / max(self.latent["learned"][0][0], 1e-12)

    def to_json(self) -> dict[str, object]:
        """Return the numbers only."""
        return {
            "latent_mse": self.latent,
            "pixel_mse": self.pixel,
            "state_error": self.state,
            "state_error_by_variable": self.by_variable,
            "shuffled_over_true": self.shuffled_over_true,
            "clips": len(self.dream),
            "episodes": self.episodes,
        }


@torch.no_grad()
def dream_errors(
    rollout: Rollout,
    codec: Codec,
    store: EpisodeStore,
    episodes: Sequence[int],
    block: int,
    config: DreamConfig,
    reader: StateReader | None = None,
) -> DreamErrors:
    """Dream held-out clips open loop with their own actions, with another clip's actions, and by copying the last frame.

    Args:
        rollout: the model.
        codec: its codec.
        store: episode file.
        episodes: held-out episodes.
        block: environment actions per model step.
        config: how many clips, how far.
        reader: of the true state, fitted on training episodes; without one the state's error is not measured.
    """
    config = within(config, store, episodes, block)
    clips = draw_clips(store, episodes, block, config)
    of_episode = np.array([clip.episode for clip in clips])
    truth = np.stack([clip.frames for clip in clips])  # (b, t + h, height, width, 3)
    actions = torch.from_numpy(np.stack([clip.actions for clip in clips]))  # (b, t - 1 + h, a)
    latents = rearrange(codec.encode_frames(rearrange(truth, "b t h w c -> (b t) h w c")), "(b t) p c -> b t p c", b=config.clips)
    past, future = latents[:, : config.context], latents[:, config.context :]
    encoded = rollout.encode(past, actions[:, : config.context - 1])
    ahead = actions[:, config.context - 1 :]
    others = ahead[torch.from_numpy(other_clips(of_episode))]
    generator = torch.Generator()
    dreamt = {}
    for name, given in (("learned", ahead), ("shuffled_actions", others)):
        dreamt[name] = rollout.rollout(encoded, given[:, None], generator.manual_seed(config.seed))[:, 0]
        if dreamt[name].shape != future.shape:
            raise UserError(f"{dreamt[name].shape[1]} frames are dreamed for {config.horizon} steps: dream without jumps")
    dreamt["copy_last_frame"] = past[:, -1:].expand_as(future)
    target = torch.from_numpy(truth[:, config.context :]).float() / 255
    latent, pixel, frames = {}, {}, {}
    for name, predicted in dreamt.items():
        latent[name] = by_horizon((predicted - future).square().mean((2, 3)), of_episode)
        if name == "copy_last_frame":
            seen = np.broadcast_to(truth[:, config.context - 1, None], truth[:, config.context :].shape)
        else:
            seen = decode_video(codec, predicted)
        frames[name] = seen
        pixel[name] = by_horizon((torch.from_numpy(seen.copy()).float() / 255 - target).square().mean((2, 3, 4)), of_episode)
    count = len(np.unique(of_episode))
    errors = DreamErrors(latent, pixel, truth, frames["learned"], episodes=count)
    if reader is None:
        return errors
    variables = state_of_clips(store, clips, block, reader.columns)[:, config.context :]  # (b, h, f)
    squared = {name: state_errors(reader, predicted, variables) for name, predicted in (dreamt | {"true_frames": future}).items()}
    state = {name: rooted(by_horizon(torch.from_numpy(each.mean(2)), of_episode)) for name, each in squared.items()}
    by_variable = {
        name: {
            variable: [error for error, _ in rooted(by_horizon(torch.from_numpy(each[:, :, i]), of_episode))]
            for i, variable in enumerate(reader.names)
        }
        for name, each in squared.items()
    }
    return replace(errors, state=state, by_variable=by_variable)


def within(config: DreamConfig, store: EpisodeStore, episodes: Sequence[int], block: int) -> DreamConfig:
    """Replace a horizon of 0 by as many steps as half of the episodes hold, `FARTHEST` at most."""
    if config.horizon:
        return config
    steps = np.sort(store.lengths[list(episodes)])[::-1] * store.action_block // block
    longest = int(steps[(len(steps) - 1) // 2]) - config.context + 1
    return replace(config, horizon=max(1, min(FARTHEST, longest)))


def draw_clips(store: EpisodeStore, episodes: Sequence[int], block: int, config: DreamConfig) -> list[Clip]:
    """Draw the clips that are dreamed, a function of the configuration's seed."""
    rng = np.random.default_rng(config.seed)
    sampler = ClipSampler(store, episodes, config.context - 1 + config.horizon, block)
    return [sampler.draw(rng) for _ in range(config.clips)]


def state_of_clips(store: EpisodeStore, clips: Sequence[Clip], block: int, columns: np.ndarray) -> np.ndarray:
    """Read the true variables (b, t + h, f) of the clips' frames."""
    every, features = block // store.action_block, store.column("features")
    first = np.array([store.offsets[clip.episode] + clip.start // store.action_block for clip in clips])
    rows = first[:, None] + every * np.arange(len(clips[0].frames))
    return features[rows][..., columns].astype(np.float64)


def other_clips(of_episode: np.ndarray) -> np.ndarray:
    """Pair each clip (b,) with another one, each once, of another episode unless more than half of the clips are of one."""
    order = np.argsort(of_episode, kind="stable")
    most = min(int(np.unique(of_episode, return_counts=True)[1].max()), len(order) - 1)
    others = np.empty_like(order)
    others[order] = np.roll(order, most)
    return others


def linear_reader(
    codec: Codec, store: EpisodeStore, episodes: Sequence[int], names: Sequence[str] | None = None, most: int = READER_FRAMES
) -> StateReader:
    """Fit a ridge regression of true variables on latents of training episodes.

    Args:
        codec: that makes the latents.
        store: episode file with true variables.
        episodes: training episodes; evenly spread ones are used.
        names: of the variables to read; by default all that vary.
        most: about how many frames are used.

    Raises:
        UserError: the file has no such variables.
    """
    columns, names, scale = varying_features(store, episodes, names)
    kept = some_episodes(store, episodes, most)
    rows = store.frame_rows(kept)
    latents = codec.encode_frames(store.frames(rows))
    features = store.column("features")[rows][:, columns].astype(np.float64)
    choosing = choosing_frames(np.repeat(kept, store.lengths[kept] + 1))
    probe = fit_probe(latents[~choosing], features[~choosing] / scale, latents[choosing], features[choosing] / scale)
    return StateReader(lambda given: probe.predict(given) * scale, names, columns, scale)


def varying_features(
    store: EpisodeStore, episodes: Sequence[int], names: Sequence[str] | None = None
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Select true variables, of the named ones or all, that vary over some episodes: columns (f,), names, standard deviations (f,).

    Raises:
        UserError: none does.
    """
    features = store.column("features")[store.frame_rows(episodes)].astype(np.float64)
    known = list(store.meta.get("feature_names") or [f"feature_{i}" for i in range(features.shape[1])])
    spread = features.std(axis=0) if len(features) else np.zeros(len(known))
    columns = np.array([i for i, name in enumerate(known) if spread[i] > LEAST_SPREAD and (names is None or name in names)], np.int64)
    if not len(columns):
        raise UserError(f"{store.path} has no true variables that vary; collect it with worldmodel collect")
    return columns, tuple(known[i] for i in columns), spread[columns]


def some_episodes(store: EpisodeStore, episodes: Sequence[int], most: int) -> np.ndarray:
    """Choose evenly spread episodes of about `most` frames, at least two if there are two."""
    frames = int((store.lengths[list(episodes)] + 1).sum())
    count = max(min(2, len(episodes)), min(len(episodes), round(len(episodes) * most / max(1, frames))))
    return np.asarray(episodes)[np.linspace(0, len(episodes) - 1, count).round().astype(int)]


def state_errors(reader: StateReader, latents: Tensor, variables: np.ndarray) -> np.ndarray:
    """Compute squared errors (b, h, f) of the variables predicted from latents (b, h, p, c), in squared standard deviations."""
    found = reader.read(rearrange(latents, "b h p c -> (b h) p c")).reshape(variables.shape)
    return np.square((found - variables) / reader.scale)


def rooted(errors: ByHorizon) -> ByHorizon:
    """Convert mean squared errors to root mean squared ones, intervals by the delta method."""
    roots = [math.sqrt(mean) for mean, _ in errors]
    return [(root, half / max(2 * root, 1e-12)) for root, (_, half) in zip(roots, errors, strict=True)]


def by_horizon(error: Tensor, of_episode: np.ndarray) -> ByHorizon:
    """Average errors (b, h) of clips of episodes (b,) over episodes; also return half of the mean's 95 % interval.

    The interval is Student's, as wide to both sides as errors with a long upper tail need it above (Hall 1992, "On the removal of
    skewness by transformation"). A single episode has no other to be compared with: its clips are taken for independent.
    """
    names, index = np.unique(of_episode, return_inverse=True)
    values = error.double().cpu().numpy()
    if len(names) > 1:
        values = np.stack([values[index == i].mean(axis=0) for i in range(len(names))])
    if len(values) == 1:  # says nothing of how far another would be
        return [(mean, math.inf) for mean in values[0].tolist()]
    spread, count = values.std(axis=0, ddof=1), len(values)
    skewness = (((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-100)) ** 3).mean(axis=0)
    tail = skewness.clip(min=0) * (1 + 2 * 1.96**2) / (6 * math.sqrt(count))
    half = (student(count - 1) + tail) * spread / math.sqrt(count)
    return list(zip(values.mean(axis=0).tolist(), half.tolist(), strict=True))


@dataclass(frozen=True)
class TextScore:
    """Held-out text in bits per byte; lower is better."""

    model: float
    unigram: float
    """Control: every token predicted by its frequency in the same held-out text, an optimistic context-free model."""
    tokens: int
    """Tokens scored."""


@torch.no_grad()
def score_text(model: WorldModel, tokenizer: Tokenizer, texts: Sequence[str], length: int = 256) -> TextScore:
    """Compute bits per byte of texts, each cut to `length` tokens; the first token of a text is given."""
    device = model.device
    packing = PackingConfig(length=length)
    nats, counted, size = 0.0, 0, 0
    counts = np.zeros(tokenizer.vocab_size)
    nothing = model.see(
        torch.zeros(0, model.config.latent_tokens, model.config.channels, device=device), torch.zeros(0, device=device)
    )
    for start in range(0, len(texts), 16):
        rows = []
        for text in texts[start : start + 16]:
            ids = tokenizer.encode(text)[:length]
            if len(ids) < 2:
                continue
            tokens = Tokens()
            tokens.add_text(ids, predict=True)
            rows.append([tokens])
            size += len(tokenizer.decode(ids[1:]).encode())
            np.add.at(counts, ids[1:], 1)
        if not rows:
            continue
        batch = collate(rows, packing.length, tokenizer.pad_id, model.config.action_dim).to(device)
        hidden, _ = model(batch, nothing, torch.zeros(0, device=device))
        targets = batch.text_target.flatten()
        at = (targets != IGNORE).nonzero()[:, 0]
        nats += model.text_loss(rearrange(hidden, "b n d -> (b n) d")[at], targets[at]).item()
        counted += len(at)
    if not counted:
        raise UserError("no text of at least two tokens was given to score")
    share = counts[counts > 0] / counts.sum()
    unigram = -float((counts[counts > 0] * np.log(share)).sum())
    return TextScore(nats / math.log(2) / size, unigram / math.log(2) / size, counted)


def reader_of(trained: Pretrained, store: EpisodeStore, held_out: Sequence[int]) -> StateReader | None:
    """Fit a linear reader of the true state on episodes that are not held out; None without such, or without true variables."""
    training = sorted(set(range(len(store))) - set(held_out))
    if not training:  # a file of which the model has seen nothing
        return None
    features = store.column("features")[store.frame_rows(training)]
    return linear_reader(trained.codec, store, training) if (features.std(axis=0) > LEAST_SPREAD).any() else None
