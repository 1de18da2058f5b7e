"""Muon: updates are near orthogonal, however the work is cut, and their size does not depend on the width."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from worldmodel.training import muon
from worldmodel.training.muon import Muon, newton_schulz, orthogonalise, orthogonalise_all, rational, update_scale


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_values(values: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix with these singular values."""
    left, right = (torch.linalg.qr(random(size, len(values), seed=size).double()).Q for size in (rows, columns))
    return left @ values.double().diag() @ right.T


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (20, 16), (3, 8, 24), (3, 48, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_end_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.linalg.svdvals(orthogonalise(0.01 * random(*shape).to(dtype)).float())
    assert 0.65 < values.min() and values.max() < 1.33


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (48, 192)])
@pytest.mark.parametrize("way", [newton_schulz, rational])
def test_a_gradient_like_matrix_is_taken_there(shape: tuple[int, ...], way: Callable[[Tensor], Tensor]) -> None:
    values = torch.linalg.svdvals(way(random(1, *shape)))
    assert values.max() < 1.32
    assert values.median() > 0.68


def test_the_small_side_gives_what_the_whole_gives() -> None:
    matrices = random(4, 16, 80)
    matrices[0] = random(16, 2) @ random(2, 80) + 1e-4 * matrices[0]  # almost of rank 2
    exact = newton_schulz(matrices.double())  # iterates on the whole
    torch.testing.assert_close(newton_schulz(matrices), exact.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(16, 80), (80, 16), (16, 16)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_all_but_the_smallest_singular_values_come_within_31_percent(shape: tuple[int, int], size: float) -> None:
    values = torch.logspace(0, -5, 16)
    matrix = size * with_values(values, *shape)
    norm = values.pow(4).sum().pow(0.25)
    left, kept, right = torch.linalg.svd(matrix, full_matrices=False)
    found = (left.T @ rational(matrix[None])[0] @ right.T).diagonal()
    share = kept / (size * norm)
    inner = share > 0.005
    assert 5 < inner.sum() < 16
    assert ((found[inner] - 1).abs() < 0.3105).all()
    assert (found[~inner] < 0.7).all() and (found[~inner] <= 149.5 * share[~inner]).all() and (found > 0).all()


@pytest.mark.parametrize("shape", [(3, 64, 160), (3, 160, 64)])
def test_float32_is_enough_for_the_inverse(shape: tuple[int, ...]) -> None:
    matrices = random(*shape)
    matrices[0] = random(shape[1], 2) @ random(2, shape[2])  # of rank 2: G has no inverse
    matrices[1] *= 1e-6
    torch.testing.assert_close(orthogonalise(matrices), orthogonalise(matrices.double()).float(), atol=2e-3, rtol=0)


def test_a_cpu_keeps_to_float32() -> None:
    def moved(dtype: torch.dtype) -> Tensor:
        weight = nn.Parameter(torch.zeros(8, 24))
        weight.grad = random(8, 24)
        Muon([weight], iteration_dtype=dtype).step()
        return weight.detach()

    assert torch.equal(moved(torch.bfloat16), moved(torch.float32))


def test_a_stack_is_its_slices() -> None:
    for stack in (random(5, 8, 8), random(5, 8, 32), random(5, 32, 8)):
        for slice_, update in zip(stack, orthogonalise(stack), strict=True):
            torch.testing.assert_close(update, orthogonalise(slice_))


@pytest.mark.parametrize("numbers", [2**27, 200])
def test_many_weights_are_as_one_by_one(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(muon, "BATCH_NUMBERS", numbers)
    shapes = [(8, 16), (4, 8, 16), (16, 8), (8, 16), (2, 16, 8), (6, 6)]
    tensors = [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for tensor, update in zip(tensors, orthogonalise_all(tensors, tensors, dtype), strict=True):
            torch.testing.assert_close(update, orthogonalise(tensor.to(dtype)).float(), rtol=tolerance, atol=tolerance)


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


def test_it_looks_ahead_where_the_gradient_changes() -> None:
    weight = nn.Parameter(random(12, 4))
    before, velocity = weight.detach().clone(), torch.zeros(12, 4)
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.0)
    for seed in range(3):
        gradient = random(12, 4, seed=seed)
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * gradient
        before = before - 0.1 * 3**0.5 * orthogonalise(0.1 * gradient + 0.9 * velocity)
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
