"""The protocol's records, the controls, and the learned simulator's contract."""

import numpy as np
import pytest
import torch

from tests.agents.toys import BOUNDS, PointCodec, PointMass, problem, to_frames
from worldmodel.agents.learned_simulator import LearnedSimulator
from worldmodel.agents.simulator import CopyLastFrame, History, ShuffledActions
from worldmodel.codec.frames import decode_video, encode_frames


def random_frames(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 4, 6, 3), dtype=np.uint8)


class Flatten:
    """One token per pixel row; records the largest batch it saw."""

    largest = 0

    def encode(self, frames):
        self.largest = max(self.largest, len(frames))
        return frames.permute(0, 2, 3, 1).flatten(2)

    def decode(self, latents):
        return latents.unflatten(-1, (-1, 3)).permute(0, 3, 1, 2)


def test_frames_survive_encode_and_decode_in_chunks():
    frames, codec = random_frames(2, 3), Flatten()
    latents = encode_frames(codec, frames, batch_size=4)
    assert latents.shape == (2, 3, 4, 18) and latents.min() >= 0 and latents.max() <= 1
    assert codec.largest == 4
    assert np.array_equal(decode_video(codec, latents, batch_size=4), frames)


def test_copy_last_frame_repeats_the_newest_frame():
    frames = random_frames(2, 3)
    simulator = CopyLastFrame(Flatten())
    state = simulator.encode(History(frames, np.zeros((2, 2, 4), np.float32)))
    future = simulator.rollout(state, torch.zeros(2, 5, 3, 4))
    assert future.shape == (2, 5, 3, 4, 18)
    assert np.array_equal(simulator.decode(future), np.broadcast_to(frames[:, -1][:, None, None], (2, 5, 3, 4, 6, 3)))


def test_shuffled_actions_pairs_each_candidate_with_anothers_future():
    history, _ = problem([[0.0, 0.0]], [[0.0, 0.0]])
    simulator = PointMass()
    state = simulator.encode(history)
    candidates = torch.linspace(-1, 1, 3)[None, :, None, None].expand(1, 3, 2, BOUNDS.dim)
    straight = simulator.rollout(state, candidates)
    shuffled = ShuffledActions(simulator).rollout(state, candidates)
    assert torch.equal(shuffled, straight[:, [1, 2, 0]])


def test_history_keeps_frames_and_actions_aligned():
    frames, actions = random_frames(3, 4), np.arange(3 * 3 * 2, dtype=np.float32).reshape(3, 3, 2)
    states = np.arange(3.0)[:, None]
    history = History(frames, actions, states, [{"n": i} for i in range(3)])
    part = history.select(np.array([2, 0]), context=2)
    assert np.array_equal(part.frames, frames[[2, 0], 2:])
    assert np.array_equal(part.actions, actions[[2, 0], 2:])
    assert part.states.tolist() == [[2], [0]] and part.variations == [{"n": 2}, {"n": 0}]
    whole = history.select(slice(1, 3))
    assert len(whole) == 2 and whole.frames.shape[1] == 4


def test_history_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="4 frames need 3 actions"):
        History(random_frames(2, 4), np.zeros((2, 4, 2), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        History(random_frames(2, 4).astype(np.float32), np.zeros((2, 3, 2), np.float32))


class NoisyDynamics:
    """Last latents plus the mean action plus noise; what a sampled model looks like from outside."""

    def encode(self, history, actions):
        assert history.shape[1] == actions.shape[1] + 1
        return history[:, -1]

    def rollout(self, cache, candidates, generator):
        noise = torch.randn(*candidates.shape[:3], 1, 1, generator=generator)
        return cache[:, None, None] + candidates.mean(-1)[..., None, None] + noise


def test_learned_simulator_is_a_function_of_its_arguments():
    simulator = LearnedSimulator(NoisyDynamics(), PointCodec(), seed=3)
    frames = to_frames(np.array([[[0.1, 0.2], [0.3, -0.4]]]))
    state = simulator.encode(History(frames, np.zeros((1, 1, 4), np.float32)))
    candidates = torch.rand(1, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    first, second = simulator.rollout(state, candidates), simulator.rollout(state, candidates)
    assert first.shape == (1, 6, 3, 1, 2) and torch.equal(first, second)
    other = LearnedSimulator(NoisyDynamics(), PointCodec(), seed=4).rollout(state, candidates)
    assert not torch.equal(first, other)
    torch.testing.assert_close(simulator.encode_goal(frames[:, -1])[0, 0], torch.tensor([0.3, -0.4]), atol=1e-5, rtol=0)
    assert np.array_equal(simulator.decode(simulator.encode_goal(frames[:, -1])), frames[:, -1])
