"""Futures of a history: with the cache and without it the same ones come out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from tests.worldmodel.uncached import C, P, document, generator, velocity_of_last
from worldmodel.datasets.episodes.action_units import ActionUnits
from worldmodel.datasets.mixture.documents import Action, transition_document
from worldmodel.errors import UserError
from worldmodel.flow import FlowConfig, sample
from worldmodel.model import WorldModel
from worldmodel.moe import FeedForwardKind
from worldmodel.rollout import CPU_SEQUENCES, Rollout, RolloutConfig
from worldmodel.tokens import Tokens


def problems(b: int, t: int, s: int, h: int, grid: tuple[int, int] = toys.GRID) -> tuple[Tensor, Tensor, Tensor]:
    """Histories of latents and actions, and candidates, printed exactly by `toys.describe`."""
    g = generator(7)
    actions = [torch.randint(-999, 1000, shape, generator=g) / 1000 for shape in ((b, t - 1, 2), (b, s, h, 2))]
    return torch.randn(b, t, grid[0] * grid[1], C, generator=g), actions[0], actions[1]


@torch.no_grad()
def futures_from_scratch(model: WorldModel, history: Tensor, actions: Tensor, candidates: Tensor, num_steps: int, form: str) -> Tensor:
    """What `Rollout` should return: every flow step is a whole forward pass over the document so far."""
    b, s, h, _ = candidates.shape
    noise = torch.randn(1, h, P, C, generator=generator(3)).expand(b, -1, -1, -1)
    futures = torch.zeros(b, s, h, P, C)
    for i in range(b):
        for j in range(s):
            frames, taken = list(history[i]), [*actions[i], *candidates[i, j]]
            for step in range(h):
                forms = [toys.describe(a) if form == "text" else a for a in taken[: len(frames)]]
                tokens = document(None, *(segment for action in forms for segment in (action, None)))
                clean = list(frames)
                frames.append(
                    sample(
                        lambda z, t, tokens=tokens, clean=clean: velocity_of_last(model, tokens, clean, z, t),
                        noise[i, step],
                        num_steps,
                        model.flow_shift,
                    )
                )
            futures[i, j] = torch.stack(frames[-h:])
    return futures


@pytest.mark.parametrize("form", ["vector", "text"])
@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize(("history", "horizon", "kind"), [(1, 3, "modality"), (3, 1, "shared"), (2, 2, "moe")])
def test_cached_rollout_equals_uncached(form: str, num_steps: int, history: int, horizon: int, kind: FeedForwardKind) -> None:
    model = toys.model(kind)
    latents, actions, candidates = problems(2, history, 3, horizon)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps, form), toys.describe)
    futures = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    expected = futures_from_scratch(model, latents, actions, candidates, num_steps, form)
    assert futures.shape == (2, 3, horizon, P, C)
    torch.testing.assert_close(futures, expected, atol=1e-4, rtol=1e-4)


def test_cached_rollout_equals_uncached_with_velocity_prediction() -> None:
    model = toys.model(flow=FlowConfig(prediction="v"))
    latents, actions, candidates = problems(1, 2, 2, 2)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps=2))
    futures = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    expected = futures_from_scratch(model, latents, actions, candidates, 2, "vector")
    torch.testing.assert_close(futures, expected, atol=1e-4, rtol=1e-4)


SWITCHES: list[dict[str, Any]] = [
    {"time": "adaln"},
    {"time": "none"},
    {"positions": "sequence"},
    {"time": "adaln", "positions": "sequence", "wide_head": 16, "patch_embedding": False, "base_width": 16},
]


@pytest.mark.parametrize("fields", SWITCHES)
def test_cached_rollout_equals_uncached_with_every_switch(fields: dict[str, Any]) -> None:
    model = toys.model(**fields)
    latents, actions, candidates = problems(2, 2, 2, 2)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(2, "text"), toys.describe)
    futures = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    expected = futures_from_scratch(model, latents, actions, candidates, 2, "text")
    torch.testing.assert_close(futures, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["vector", "text"])
def test_guidance_goes_from_the_plain_video_through_the_guided_one(form: str) -> None:
    """0 is the same history without actions, 1 the condition alone, between and beyond lie on their line (one frame, one step)."""
    model, (latents, actions, candidates) = toys.model(), problems(2, 2, 3, 1)
    found = {}
    for guidance in (0.0, 1.0, 2.5):
        rollout = Rollout(model, toys.tokenizer(), RolloutConfig(1, form, guidance=guidance), toys.describe)
        found[guidance] = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    plain = Rollout(model, toys.tokenizer(), RolloutConfig(1, form), toys.describe)
    assert torch.equal(found[1.0], plain.rollout(plain.encode(latents, actions), candidates, generator(3)))
    torch.testing.assert_close(found[2.5], found[0.0] + 2.5 * (found[1.0] - found[0.0]), atol=1e-4, rtol=1e-4)
    noise = torch.randn(1, 1, P, C, generator=generator(3))[:, 0].expand(2, -1, -1)
    for i in range(2):
        video = document(None, None, None)
        velocity = velocity_of_last(model, video, list(latents[i]), noise[i], 0.0)
        for sample_index in range(3):  # no action has been seen: all candidates have the same future
            torch.testing.assert_close(found[0.0][i, sample_index, 0], noise[i] + velocity, atol=1e-4, rtol=1e-4)
    assert (found[1.0] - found[0.0]).abs().amax() > 1e-3


def test_guided_futures_equal_uncached_over_several_frames() -> None:
    """Each branch reads the guided frames; in the unconditional one there is no action between them."""
    model, guidance = toys.model(), 2.0
    latents, actions, candidates = problems(1, 2, 1, 2)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps=2, guidance=guidance))
    found = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))[0, 0]
    noise = torch.randn(1, 2, P, C, generator=generator(3))[0]
    taken, frames = [*actions[0], *candidates[0, 0]], list(latents[0])
    for step in range(2):
        known = list(frames)
        told = document(None, *(x for action in taken[: len(known)] for x in (action, None)))
        untold = document(*[None] * (len(known) + 1))

        def velocity(z: Tensor, t: float, told: Tokens = told, untold: Tokens = untold, known: list[Tensor] = known) -> Tensor:
            free = velocity_of_last(model, untold, known, z, t)
            return free + guidance * (velocity_of_last(model, told, known, z, t) - free)

        frames.append(sample(velocity, noise[step], 2, model.flow_shift))
    torch.testing.assert_close(found, torch.stack(frames[2:]), atol=1e-4, rtol=1e-4)


def test_rollouts_do_not_change_the_history_and_differ_by_their_actions() -> None:
    latents, actions, candidates = problems(2, 2, 3, 2)
    candidates[:, 2] = candidates[:, 0]
    rollout = Rollout(toys.model(), toys.tokenizer(), RolloutConfig())
    state = rollout.encode(latents, actions)
    first, again = (rollout.rollout(state, candidates, generator()) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first[:, 2], first[:, 0])  # same actions, same noise
    assert (first[:, 1] - first[:, 0]).abs().amax() > 1e-3


@pytest.mark.parametrize("make", [toys.model, toys.stem_model])
def test_a_future_does_not_depend_on_the_problems_beside_it(make: Callable[[], WorldModel]) -> None:
    model = make()
    latents, actions, candidates = problems(3, 2, 2, 2, model.config.latent_grid)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps=2))
    together = rollout.rollout(rollout.encode(latents, actions), candidates, generator())
    alone = rollout.rollout(rollout.encode(latents[2:], actions[2:]), candidates[2:], generator())
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 3, 4])
def test_chunks_of_problems_do_not_matter(most: int) -> None:
    latents, actions, candidates = problems(3, 1, 2, 2)
    model, results = toys.model(), []
    for limit in (512, most):
        rollout = Rollout(model, toys.tokenizer(), RolloutConfig(max_sequences=limit))
        results.append(rollout.rollout(rollout.encode(latents, actions), candidates, generator()))
    torch.testing.assert_close(*results)


def test_short_actions_are_padded_with_zeros() -> None:
    latents, _, candidates = problems(1, 1, 2, 2)
    candidates[..., 1] = 0
    rollout = Rollout(toys.model(), toys.tokenizer(), RolloutConfig())
    state = rollout.encode(latents, torch.zeros(1, 0, 2))
    full, short = (rollout.rollout(state, c, generator()) for c in (candidates, candidates[..., :1]))
    torch.testing.assert_close(full, short)


def alone(model: WorldModel, known: Sequence[Tensor], actions: Sequence[Tensor], z: Tensor, t: float, form: str) -> Tensor:
    """Velocity (l, c) of the frame that follows `known` (the newest first) and actions, of the packed document of a transition."""
    count = len(known)
    frames = [toys.picture(np.random.default_rng(i)) for i in range(count + 1)]
    taken = [Action(action.numpy(), toys.describe(action)) for action in actions]
    config = replace(toys.PACKING, references=2, text_action_share=float(form == "text"), action_words_share=0.0)
    batch = toys.pack([transition_document(frames[:count], taken, frames[count])], config=config, grid=model.config.grid)
    assert len(batch.actions) == (0 if form == "text" else len(actions))
    times = torch.tensor([t])
    seen = model.see(z[None], times, model.beside(batch, z[None], torch.stack(list(reversed(known)))))
    hidden = model(batch, seen, times)[0][batch.frame_id >= 0]
    return model.denoise(hidden[None], z[None], times, seen)[0]


@torch.no_grad()
@pytest.mark.parametrize("form", ["vector", "text"])
@pytest.mark.parametrize(
    ("history", "horizon", "jump", "num_steps"), [(1, 1, 1, 1), (3, 3, 1, 2), (2, 2, 2, 1), (2, 5, 2, 1), (3, 3, 8, 2)]
)
def test_frames_beside_others_are_those_of_the_packed_transitions(
    form: str, history: int, horizon: int, jump: int, num_steps: int
) -> None:
    """Frame by frame from the newest two; after a jump from the newest one: the one before is further away than in training."""
    model = toys.stem_model(seed=2)
    latents, actions, candidates = problems(2, history, 2, horizon, toys.MAP)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps, form, jump), toys.describe)
    futures = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    frames = -(-horizon // jump)
    assert futures.shape == (2, 2, frames, 64, C)
    noise = torch.randn(1, frames, 64, C, generator=generator(3)).expand(2, -1, -1, -1)
    for i in range(2):
        for j in range(2):
            known = list(reversed(latents[i, -2:]))
            for k in range(frames):
                taken = list(candidates[i, j, k * jump : (k + 1) * jump])
                flow = partial(alone, model, list(known), taken, form=form)
                found = sample(flow, noise[i, k], num_steps, model.flow_shift)
                torch.testing.assert_close(futures[i, j, k], found, atol=1e-4, rtol=1e-4)
                known = [found, *known[:1]] if jump == 1 else [found]
    assert (futures[:, 0] - futures[:, 1]).abs().amax() > 1e-3


@torch.no_grad()
def test_guidance_beside_others_starts_from_the_frame_that_follows_without_actions() -> None:
    model, guidance = toys.stem_model(seed=2), 2.5
    latents, actions, candidates = problems(2, 2, 2, 2, toys.MAP)
    rollout = Rollout(model, toys.tokenizer(), RolloutConfig(guidance=guidance))
    futures = rollout.rollout(rollout.encode(latents, actions), candidates, generator(3))
    noise = torch.randn(1, 2, 64, C, generator=generator(3)).expand(2, -1, -1, -1)
    for i in range(2):
        for j in range(2):
            known = list(reversed(latents[i]))
            for k in range(2):
                told, untold = (alone(model, known, taken, noise[i, k], 0.0, "vector") for taken in ([candidates[i, j, k]], []))
                found = noise[i, k] + untold + guidance * (told - untold)
                torch.testing.assert_close(futures[i, j, k], found, atol=1e-4, rtol=1e-4)
                known = [found, known[0]]


@pytest.mark.parametrize("most", [1, 3, 4])
def test_chunks_of_problems_do_not_matter_beside_others(most: int) -> None:
    latents, actions, candidates = problems(3, 2, 2, 3, toys.MAP)
    model, results = toys.stem_model(), []
    for limit in (512, most):
        rollout = Rollout(model, toys.tokenizer(), RolloutConfig(max_sequences=limit, jump=2))
        results.append(rollout.rollout(rollout.encode(latents, actions), candidates, generator()))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("make", [toys.model, toys.stem_model])
@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_no_more_are_computed_together_than_is_allowed(
    make: Callable[[], WorldModel], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of problems nor of the candidates of one, and on a CPU of what suits its caches."""
    model = make()
    latents, actions, candidates = problems(3, 2, 3, 2, model.config.latent_grid)
    original, sizes = Rollout._some, list[int]()

    def counted(self: Rollout, state: Any, some: Tensor, *rest: Any) -> Tensor:
        sizes.append(some.shape[0] * some.shape[1])
        return original(self, state, some, *rest)

    whole = Rollout(model, toys.tokenizer(), RolloutConfig())
    expected = whole.rollout(whole.encode(latents, actions), candidates, generator())
    monkeypatch.setattr(Rollout, "_some", counted)
    for config, allowed in ((RolloutConfig(max_sequences=most), CPU_SEQUENCES), (RolloutConfig(), most)):
        monkeypatch.setattr("worldmodel.rollout.CPU_SEQUENCES", allowed)
        rollout = Rollout(model, toys.tokenizer(), config)
        torch.testing.assert_close(rollout.rollout(rollout.encode(latents, actions), candidates, generator()), expected)
    assert max(sizes) <= most and sum(sizes) == 2 * 9


def test_a_model_that_sees_frames_one_by_one_does_not_jump() -> None:
    (latents, actions, candidates), futures = problems(2, 2, 2, 3), []
    for jump in (1, 2):
        rollout = Rollout(toys.model(), toys.tokenizer(), RolloutConfig(jump=jump))
        futures.append(rollout.rollout(rollout.encode(latents, actions), candidates, generator()))
    assert torch.equal(*futures) and futures[1].shape[2] == 3


def test_bad_arguments_are_refused() -> None:
    for name in ("jump", "num_steps", "max_sequences"):
        with pytest.raises(UserError, match=f"{name} is 0, must be at least 1"):
            RolloutConfig(**{name: 0})
    rollout = Rollout(toys.model(), toys.tokenizer(), RolloutConfig())
    with pytest.raises(ValueError, match="2 frames need 1 actions between them, got 2"):
        rollout.encode(torch.zeros(1, 2, P, C), torch.zeros(1, 2, 2))
    guided = Rollout(toys.model(), toys.tokenizer(), RolloutConfig(guidance=2.0))
    with pytest.raises(ValueError, match="encoded with guidance"):
        guided.rollout(rollout.encode(torch.zeros(1, 1, P, C), torch.zeros(1, 0, 2)), torch.zeros(1, 1, 1, 2), generator())
    with pytest.raises(UserError, match=r"guidance is -1\.0"):
        RolloutConfig(guidance=-1.0)
    with pytest.raises(ValueError, match="needs `describe`"):
        Rollout(toys.model(), toys.tokenizer(), RolloutConfig(action_form="text"))


@pytest.mark.parametrize("make", [toys.model, toys.stem_model])
def test_actions_are_read_in_the_units_of_the_training(make: Callable[..., WorldModel]) -> None:
    model, units = make(seed=1), ActionUnits((256.0,), (128.0,))
    latents = torch.randn(1, 3, model.config.latent_tokens, model.config.channels, generator=generator(1))
    given = torch.tensor([[[128.0, 384.0], [256.0, 320.0]]])
    ahead = torch.tensor([[[[300.0, 200.0]] * 2, [[100.0, 500.0]] * 2]])
    plain = Rollout(model, toys.tokenizer(), RolloutConfig())
    expected = plain.rollout(plain.encode(latents, (given - 256) / 128), (ahead - 256) / 128, generator())
    scaled = Rollout(model, toys.tokenizer(), RolloutConfig(num_steps=7), units=units).with_config(RolloutConfig())
    torch.testing.assert_close(scaled.rollout(scaled.encode(latents, given), ahead, generator()), expected)
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 1e-3
