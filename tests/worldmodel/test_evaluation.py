"""Dream errors with a toy model that moves a point by its actions: which actions it is told, what is copied, how sure a mean is."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.datasets.toys import make_episode
from tests.worldmodel import toys
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.documents import Text
from worldmodel.errors import UserError
from worldmodel.evaluation import (
    DreamConfig,
    StateReader,
    by_horizon,
    draw_clips,
    dream_errors,
    linear_reader,
    other_clips,
    score_text,
    some_episodes,
    state_of_clips,
    varying_features,
    within,
)

SIZE, STEP = 2, 8  # frames of 2 x 2 pixels; a unit of action changes red and green by 8


def write(path: Path, lengths: tuple[int, ...], seed: int = 0) -> EpisodeStore:
    """Points that start anywhere and move by whole units; features: place, and a third that never varies."""
    episodes = []
    for i, length in enumerate(lengths):
        rng = np.random.default_rng([seed, i])
        actions = rng.integers(-1, 2, (length, 2)).astype(np.float32)
        places = 120 + STEP * np.concatenate([rng.integers(-4, 5, (1, 2)), actions]).cumsum(axis=0)
        frames = np.zeros((length + 1, SIZE, SIZE, 3), np.uint8)
        frames[..., :2] = places[:, None, None].clip(0, 255)
        features = np.concatenate([places / 100, np.ones((length + 1, 1))], 1).astype(np.float32)
        episodes.append(make_episode(i, length, SIZE, frames=frames, features=features, actions=actions))
    write_episodes(path, episodes, {"env_id": "toy", "seed": 0, "feature_names": ["x", "y", "one"]})
    return EpisodeStore(path, in_memory=True)


class Codec:
    """Latents are the point's place: one token, two channels."""

    def encode_frames(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(frames[:, :1, 0, :2].astype(np.float32))

    def decode(self, latents: Tensor) -> Tensor:
        colour = torch.nn.functional.pad(latents[:, 0] / 255, (0, 1))
        return colour[:, :, None, None].expand(-1, -1, SIZE, SIZE)


def half_of(values: np.ndarray, quantile: float) -> float:
    """Half of an interval by hand: Student's, longer by Hall's term for a long upper tail."""
    away = values - values.mean()
    skewness = max(0.0, np.mean(away**3) / np.mean(away**2) ** 1.5)
    return float((quantile + skewness * (1 + 2 * 1.96**2) / (6 * len(values) ** 0.5)) * values.std(ddof=1) / len(values) ** 0.5)


class Moves:
    """Adds what an action block says; `trust` 0 stands still. Records what it is asked."""

    def __init__(self, trust: float = 1.0) -> None:
        self.trust, self.context, self.given = trust, (torch.empty(0), torch.empty(0)), []

    def encode(self, latents: Tensor, actions: Tensor) -> Tensor:
        self.context = latents, actions
        return latents[:, -1]

    def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
        self.given.append(candidates)
        moves = candidates.unflatten(-1, (-1, 2)).sum(dim=-2) * STEP * self.trust  # (b, 1, h, 2)
        return state[:, None, None] + moves.cumsum(dim=2)[..., None, :]


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return write(tmp_path / "toy.h5", (12, 12, 12, 12, 12, 12))


def dreamt(store: EpisodeStore, model: Any = None, reader: StateReader | None = None, block: int = 2, **config: Any) -> Any:
    settings = DreamConfig(**{"clips": 40, "context": 2, "horizon": 4} | config)
    return dream_errors(model or Moves(), Codec(), store, [0, 2, 3, 5], block, settings, reader)  # type: ignore[arg-type]


def test_the_model_that_knows_errs_by_nothing_and_the_controls_err(store: EpisodeStore) -> None:
    errors = dreamt(store)
    for measure in (errors.latent, errors.pixel):
        assert set(measure) == {"learned", "shuffled_actions", "copy_last_frame"}
        assert max(mean for mean, _ in measure["learned"]) < 1e-6
        assert all(mean > 1e-4 and half > 0 for name in ("shuffled_actions", "copy_last_frame") for mean, half in measure[name])
    assert errors.shuffled_over_true > 100 and errors.episodes == 4
    assert errors.to_json()["shuffled_over_true"] == errors.shuffled_over_true
    still = dreamt(store, Moves(trust=0.0))
    assert still.shuffled_over_true == 1
    assert still.latent["learned"] == still.latent["copy_last_frame"]


def test_copying_repeats_the_last_frame_of_the_context(store: EpisodeStore) -> None:
    errors = dreamt(store, context=3, horizon=2)
    clips = draw_clips(store, [0, 2, 3, 5], 2, DreamConfig(40, 3, 2))
    places = np.stack([clip.frames[:, 0, 0, :2] for clip in clips]).astype(float)  # (b, 5, 2)
    squared = np.square(places[:, 3:] - places[:, 2:3]).mean(axis=2)
    of_episode = np.array([clip.episode for clip in clips])
    means = [np.mean([squared[of_episode == e, h].mean() for e in np.unique(of_episode)]) for h in range(2)]
    assert [mean for mean, _ in errors.latent["copy_last_frame"]] == pytest.approx(means)
    assert [mean for mean, _ in errors.pixel["copy_last_frame"]] == pytest.approx([mean * 2 / 3 / 255**2 for mean in means])


@pytest.mark.parametrize("context", [1, 2, 4])
def test_actions_stand_between_the_frames_they_lead_from_and_to(store: EpisodeStore, context: int) -> None:
    model = Moves()
    dreamt(store, model, context=context, horizon=2)
    clips = draw_clips(store, [0, 2, 3, 5], 2, DreamConfig(40, context, 2))
    frames, actions = model.context
    assert frames.shape == (40, context, 1, 2) and actions.shape == (40, context - 1, 4)
    assert np.array_equal(actions, np.stack([clip.actions[: context - 1] for clip in clips]))
    assert np.array_equal(model.given[0][:, 0], np.stack([clip.actions[context - 1 :] for clip in clips]))
    moved = frames[:, :-1, 0] + actions.unflatten(-1, (2, 2)).sum(dim=-2) * STEP
    assert torch.equal(moved, frames[:, 1:, 0]), "each action between two context frames is the one that was carried out there"


def test_shuffled_is_told_the_actions_of_another_episodes_clip(store: EpisodeStore) -> None:
    model = Moves()
    dreamt(store, model)
    clips = draw_clips(store, [0, 2, 3, 5], 2, DreamConfig(40, 2, 4))
    own, told = model.given[0][:, 0], model.given[1][:, 0]
    others = other_clips(np.array([clip.episode for clip in clips]))
    assert torch.equal(told, own[torch.from_numpy(others)])
    assert all(clips[i].episode != clips[j].episode for i, j in enumerate(others))


@pytest.mark.parametrize("of_episode", [[0, 1], [3, 3, 3, 1, 1, 2], [5, 5, 2, 2], [7, 7, 7], [0, 0, 0, 1]])
def test_every_clip_lends_its_actions_once_and_never_to_itself(of_episode: list[int]) -> None:
    others = other_clips(np.array(of_episode))
    assert sorted(others) == list(range(len(of_episode))) and all(others != np.arange(len(of_episode)))
    if max(np.bincount(of_episode)) * 2 <= len(of_episode):
        assert all(of_episode[i] != of_episode[j] for i, j in enumerate(others))


def test_the_error_of_the_state_is_in_standard_deviations_of_each_variable(store: EpisodeStore) -> None:
    scale = np.array([0.5, 2.0])
    reader = StateReader(lambda latents: latents[:, 0].double().numpy() / 100, ("x", "y"), np.array([0, 1]), scale)
    errors = dreamt(store, Moves(trust=0.0), reader)
    assert set(errors.state) == {"learned", "shuffled_actions", "copy_last_frame", "true_frames"}
    assert max(mean for mean, _ in errors.state["true_frames"]) < 1e-6
    clips = draw_clips(store, [0, 2, 3, 5], 2, DreamConfig(40, 2, 4))
    variables = state_of_clips(store, clips, 2, np.array([0, 1]))  # (b, 6, 2)
    of_episode = np.array([clip.episode for clip in clips])
    squared = np.square((variables[:, 2:] - variables[:, 1:2]) / scale)
    for h in range(4):
        means = np.stack([squared[of_episode == e, h].mean(axis=0) for e in np.unique(of_episode)])  # (episodes, 2)
        assert errors.state["learned"][h][0] == pytest.approx(np.sqrt(means.mean()))
        assert [errors.by_variable["learned"][name][h] for name in ("x", "y")] == pytest.approx(np.sqrt(means.mean(axis=0)))
        half = half_of(means.mean(axis=1), 3.18244631) / (2 * np.sqrt(means.mean()))  # t of 3 degrees; delta method
        assert errors.state["learned"][h][1] == pytest.approx(half)
    assert dreamt(store).state == {}


def test_variables_of_clips_are_those_of_their_frames(store: EpisodeStore) -> None:
    clips = draw_clips(store, [0, 2, 3, 5], 3, DreamConfig(20, 1, 2))
    variables = state_of_clips(store, clips, 3, np.array([1, 0]))
    frames = np.stack([clip.frames[:, 0, 0] for clip in clips])
    np.testing.assert_allclose(variables * 100, frames[..., [1, 0]], atol=1e-4)


def test_the_linear_reader_reads_what_varies_and_knows_nothing_of_held_out_episodes(store: EpisodeStore) -> None:
    reader = linear_reader(Codec(), store, [1, 4])  # type: ignore[arg-type]
    assert reader.names == ("x", "y") and reader.columns.tolist() == [0, 1]
    training = store.column("features")[store.frame_rows([1, 4])].astype(float)
    np.testing.assert_allclose(reader.scale, training.std(axis=0)[:2])
    held_out = store.frame_rows([0, 3])
    found = reader.read(Codec().encode_frames(store.frames(held_out)))
    np.testing.assert_allclose(found, store.column("features")[held_out][:, :2], atol=0.02)
    assert linear_reader(Codec(), store, [1, 4], names=["y"]).names == ("y",)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no true variables that vary"):
        varying_features(store, [1, 4], names=["one"])


def test_the_linear_reader_looks_at_training_episodes_only() -> None:
    seen: list[int] = []

    class Watched:
        lengths, action_block, path = np.array([3, 3, 3, 3]), 1, "toy"
        meta = {"feature_names": ["x"]}

        def frame_rows(self, episodes: Any) -> np.ndarray:
            seen.extend(int(e) for e in episodes)
            return np.concatenate([np.arange(4 * e, 4 * e + 4) for e in episodes])

        def frames(self, rows: np.ndarray) -> np.ndarray:
            return np.repeat(rows, SIZE * SIZE * 3).reshape(-1, SIZE, SIZE, 3).astype(np.uint8)

        def column(self, name: str) -> np.ndarray:
            return np.arange(16, dtype=np.float32)[:, None]

    linear_reader(Codec(), Watched(), [0, 2, 3])  # type: ignore[arg-type]
    assert set(seen) == {0, 2, 3}


def test_horizon_0_goes_as_far_as_half_of_the_episodes_and_at_most_16(tmp_path: Path) -> None:
    store = write(tmp_path / "uneven.h5", (6, 10, 20, 21, 60))
    config = DreamConfig(clips=4, context=2, horizon=0)
    assert within(config, store, [0, 1, 2, 3, 4], 2).horizon == 9  # three of five hold 10 model steps; one is between the frames given
    assert within(config, store, [0, 1], 1).horizon == 9
    assert within(config, store, [4], 1).horizon == 16
    assert within(DreamConfig(horizon=5), store, [4], 1).horizon == 5
    errors = dream_errors(Moves(), Codec(), store, [0, 1, 2, 3, 4], 2, config)  # type: ignore[arg-type]
    assert len(errors.latent["learned"]) == 9


def test_some_episodes_are_spread_and_at_least_two() -> None:
    store = SimpleNamespace(lengths=np.full(20, 9))
    assert some_episodes(store, range(20), 50).tolist() == [0, 5, 10, 14, 19]  # type: ignore[arg-type]
    assert some_episodes(store, [3, 7, 9], 1).tolist() == [3, 9]  # type: ignore[arg-type]
    assert some_episodes(store, [3], 1000).tolist() == [3]  # type: ignore[arg-type]


def test_each_episode_counts_once() -> None:
    error = torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    [(mean, half)] = by_horizon(error, np.array([4, 4, 4, 9]))
    assert mean == pytest.approx((14 / 3 + 20) / 2)
    assert half == pytest.approx(12.7062047 * np.std([14 / 3, 20], ddof=1) / np.sqrt(2))
    [(mean, half)] = by_horizon(error, np.array([4, 4, 4, 4]))
    assert mean == pytest.approx(8.5) and half == pytest.approx(half_of(error.numpy()[:, 0], 3.18244631))


def test_half_of_an_interval_is_students_and_longer_for_a_long_upper_tail() -> None:
    even, upper, lower = torch.tensor([[1.0, 2, 3, 4, 5]]).T, torch.tensor([[1.0, 1, 1, 1, 6]]).T, torch.tensor([[6.0, 6, 6, 6, 1]]).T
    places = np.arange(5)
    for values, expected in ((even, 2.77644511), (lower, 2.77644511), (upper, 2.77644511 + 1.5 * (1 + 2 * 1.96**2) / (6 * 5**0.5))):
        [(_, half)] = by_horizon(values, places)
        assert half == pytest.approx(expected * values.std().item() / 5**0.5, rel=1e-6)


@pytest.mark.parametrize("sizes", [[8] * 12, [1, 1, 2, 3, 5, 8, 13, 2, 4, 1, 1, 6, 9, 2, 2]])
def test_intervals_cover_the_truth_when_clips_of_an_episode_are_alike(sizes: list[int]) -> None:
    rng, of_episode = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    covered, naive = [], []
    for _ in range(500):
        values = 1 + rng.normal(0, 1, len(sizes))[of_episode] + rng.normal(0, 0.5, len(of_episode))
        [(mean, half)] = by_horizon(torch.from_numpy(values)[:, None], of_episode)
        covered.append(abs(mean - 1) <= half)
        naive.append(abs(values.mean() - 1) <= 1.96 * values.std(ddof=1) / np.sqrt(len(values)))
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean(naive) < 0.8, "which is what counting clips would have done"


def test_dreams_with_jumps_are_refused(store: EpisodeStore) -> None:
    class Leaps(Moves):
        def rollout(self, *asked: Any) -> Tensor:
            return super().rollout(*asked)[:, :, 1::2]

    with pytest.raises(UserError, match="2 frames are dreamed for 4 steps: dream without jumps"):
        dreamt(store, Leaps())


@pytest.mark.parametrize(("name", "value"), [("clips", 1), ("context", 0), ("horizon", -1), ("seed", -1)])
def test_impossible_settings_are_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name} is {value}"):
        DreamConfig(**{name: value})


def test_true_and_shuffled_actions_are_dreamt_with_the_same_noise(store: EpisodeStore) -> None:
    drawn: list[Tensor] = []

    class Noisy(Moves):
        def rollout(self, state: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
            drawn.append(torch.rand(4, generator=generator))
            return super().rollout(state, candidates, generator)

    dreamt(store, Noisy())
    assert torch.equal(*drawn)


def test_text_is_scored_in_bits_per_byte() -> None:
    model, tokenizer = toys.model(), toys.tokenizer()
    texts = ["a red disc is near the top", "the blue room, where a disc über moves right", "x", "then stops."]
    nats, size, tokens = 0.0, 0, []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer.encode(text)
            if len(ids) < 2:
                continue
            batch = toys.pack([(Text(text),)])
            hidden = toys.hidden(model, batch, toys.random_latents(0), torch.zeros(0))[0]
            scores = model.logits(hidden[: len(ids) - 1]).log_softmax(-1)
            nats -= float(scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())
            size += len(tokenizer.decode(ids[1:]).encode())
            tokens += ids[1:]
    score = score_text(model, tokenizer, texts)
    assert score.tokens == len(tokens) > 10
    assert score.model == pytest.approx(nats / np.log(2) / size, rel=1e-4)
    shares = np.array(list(Counter(tokens).values())) / len(tokens)
    assert score.unigram == pytest.approx(-float(shares @ np.log2(shares)) * len(tokens) / size)
    assert score_text(model, tokenizer, texts, length=3).tokens == 2 * sum(len(tokenizer.encode(text)) >= 3 for text in texts) + sum(
        len(tokenizer.encode(text)) == 2 for text in texts
    )
    with pytest.raises(UserError, match="no text of at least two tokens"):
        score_text(model, tokenizer, ["x"])
