"""Muon: updates are near orthogonal, however the work is cut, and their size does not depend on the width."""

import pytest
import torch
from torch import Tensor, nn

from worldmodel.training import muon
from worldmodel.training.muon import Muon, orthogonalise, orthogonalise_all, update_scale


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (20, 16), (3, 8, 24), (3, 48, 8)])
def test_singular_values_end_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalise(0.01 * random(*shape), steps=8))
    assert 0.65 < values.min() and values.max() < 1.3


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (192, 48)])
def test_five_steps_take_a_gradient_like_matrix_there(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalise(random(*shape)))
    assert values.max() < 1.3
    assert values.median() > 0.7


@pytest.mark.parametrize("shape", [(4, 16, 80), (4, 80, 16)])
def test_the_small_side_gives_what_the_whole_gives(shape: tuple[int, ...]) -> None:
    matrices = random(*shape)
    matrices[0] = random(shape[1], 2) @ random(2, shape[2]) + 1e-4 * matrices[0]  # almost of rank 2
    exact = orthogonalise(matrices.double())  # iterates on the whole
    torch.testing.assert_close(orthogonalise(matrices), exact.float(), atol=1e-4, rtol=0)


def test_a_stack_is_its_slices() -> None:
    for stack in (random(5, 8, 8), random(5, 8, 32), random(5, 32, 8)):
        for slice_, update in zip(stack, orthogonalise(stack), strict=True):
            torch.testing.assert_close(update, orthogonalise(slice_))


@pytest.mark.parametrize("numbers", [2**27, 200])
def test_many_weights_are_as_one_by_one(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(muon, "BATCH_NUMBERS", numbers)
    shapes = [(8, 16), (4, 8, 16), (16, 8), (8, 16), (2, 16, 8), (6, 6)]
    tensors = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for tensor, update in zip(tensors, orthogonalise_all(tensors, tensors), strict=True):
        torch.testing.assert_close(update, orthogonalise(tensor))


def test_zero_stays_zero() -> None:
    assert (orthogonalise(torch.zeros(2, 4, 8)) == 0).all()


def test_a_step_by_hand() -> None:
    weight = nn.Parameter(random(12, 4))
    before, gradient = weight.detach().clone(), random(12, 4, seed=1)
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    velocity = torch.zeros(12, 4)
    for _ in range(3):
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * gradient
        update = orthogonalise(0.1 * gradient + 0.9 * velocity)
        before = before * (1 - 0.1 * 0.5) - 0.1 * 3**0.5 * update
    torch.testing.assert_close(weight.detach(), before)


def test_the_change_of_the_output_does_not_depend_on_the_width() -> None:
    def change(width: int, stacked: bool) -> float:
        """Root mean square of what an update adds to the output, over the input's: a layer that triples the width."""
        gradient = random(width, 1) @ random(1, 3 * width, seed=1)  # as of one token
        weight = gradient[None] if stacked else gradient.T
        update = update_scale(weight) * orthogonalise(weight)
        out = (update[0].T if stacked else update) @ gradient[:, :1]
        return float(out.square().mean().sqrt() / gradient[:, 0].square().mean().sqrt())

    for stacked in (False, True):
        assert change(256, stacked) == pytest.approx(change(32, stacked), rel=0.05)
    assert change(64, stacked=True) == pytest.approx(change(64, stacked=False), rel=1e-3)


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
