"""A step: the same however it is cut, every weight moves, and memory that runs out is told in one sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worldmodel import toys
from tests.worldmodel.runs import CONFIG, losses, run
from worldmodel.datasets.mixture.documents import Text
from worldmodel.errors import UserError
from worldmodel.losses import LossCounts
from worldmodel.model import WorldModel
from worldmodel.training.distributed import clip_gradients
from worldmodel.training.step import gradient, sample_noise_by_shard


@pytest.mark.parametrize("stem", [False, True])
def test_a_step_in_parts_is_the_same_step(stem: bool, tmp_path: Path) -> None:
    """With a stem the parts have pictures that other frames are seen beside, and goals."""
    packing = replace(toys.PACKING, rows=4, data_shards=2, references=2 if stem else 0)
    for accumulation in (1, 2, 4):
        extra: dict[str, Any] = {}
        if stem:
            model = toys.model("moe", stem=toys.STEM)
            packer = toys.packer(config=packing, grid=model.config.grid, extra=[(toys.Hindsight(), 3.0)])
            assert len(packer.batch(0).given) and packer.batch(0).known_numbers
            extra = {"model": model, "packer": packer}
        config = replace(CONFIG, packing=packing, accumulation=accumulation, sample_every=3)
        assert ("loss/action" in run(tmp_path / str(accumulation), config, **extra).metrics) == stem
    whole = losses(tmp_path / "1")
    for name in ("2", "4"):
        for row, other in zip(whole, losses(tmp_path / name), strict=True):
            assert row == pytest.approx(other, rel=2e-3), "rounding grows over the steps, no more"
        assert losses(tmp_path / name)[0] == pytest.approx(whole[0], rel=1e-5)
    assert losses(tmp_path / "2") != whole, "the parts were computed apart"


def test_parts_have_to_divide_the_rows() -> None:
    with pytest.raises(UserError, match="4 rows do not divide into 3 parts"):
        replace(CONFIG, packing=replace(toys.PACKING, rows=4), accumulation=3)


def test_a_weight_that_a_step_says_nothing_of_has_a_gradient_of_zero() -> None:
    """As on several processes, where an optimizer would else decay what it passes over on one."""
    model, batch = toys.model().train(), toys.pack([(Text("a red disc"),)])
    noise_sample = model.sample_noise(batch.clean, torch.Generator().manual_seed(0))
    gradient(model, [batch], toys.random_latents(0), noise_sample, LossCounts.of(batch), torch.float32)
    assert model.latent_out.weight.grad is not None and not model.latent_out.weight.grad.any()
    assert model.text_out.weight.grad is not None and model.text_out.weight.grad.any()


def test_pictures_beside_others_go_with_the_part_that_shows_them() -> None:
    model = toys.stem_model().train()
    batch = toys.everything(model)
    latents = toys.random_latents(len(batch.pictures), grid=toys.MAP)
    noise_sample, found = model.sample_noise(batch.clean, torch.Generator().manual_seed(0)), []
    for parts in ([batch], batch.split(3)):
        assert sum(len(part.given) for part in parts) == len(batch.given) > 0
        _, sums = gradient(model, parts, latents, noise_sample, LossCounts.of(batch), torch.float32)
        found.append([sums, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for whole, added in zip(*found, strict=True):
        torch.testing.assert_close(added, whole, atol=1e-5, rtol=1e-4)


def test_noise_belongs_to_the_lane() -> None:
    packing = replace(toys.PACKING, rows=4, data_shards=4)
    model, device = toys.model(), torch.device("cpu")
    whole = toys.packer(config=packing)
    drawn = sample_noise_by_shard(model, whole.batch(3), 7, 3, whole.data_shards, device)
    shares = [whole.share(rank, 2) for rank in range(2)]
    apart = [sample_noise_by_shard(model, share.batch(3), 7, 3, share.data_shards, device) for share in shares]
    assert torch.equal(drawn.noise, torch.cat([noise_sample.noise for noise_sample in apart]))
    assert torch.equal(drawn.t, torch.cat([noise_sample.t for noise_sample in apart]))
    assert not torch.equal(drawn.noise, sample_noise_by_shard(model, whole.batch(3), 7, 4, whole.data_shards, device).noise)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce] not enough memory: you tried")]
)
def test_memory_that_runs_out_is_one_sentence_with_numbers(tmp_path: Path, error: Exception) -> None:
    model, original = toys.model("moe"), WorldModel.loss
    steps: list[int] = []

    def loss(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            raise error
        return original(model, *arguments)

    model.loss = loss  # type: ignore[method-assign]
    config = replace(CONFIG, packing=replace(toys.PACKING, rows=4))
    with pytest.raises(UserError) as told:
        run(tmp_path, config, model=model)
    said = str(told.value)
    assert "4 rows x 96 positions in float32" in said and "accumulation 2 makes that 2 x 96" in said and "GiB" in said
    assert "6 experts of 16" in said and "width 32" in said and "\n" not in said
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000003"]
    assert run(tmp_path, replace(config, accumulation=2)).finished


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    model = toys.model("moe")
    model.loss = lambda *arguments: (_ for _ in ()).throw(RuntimeError("shapes differ"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="^shapes differ$"):
        run(tmp_path, model=model)


def test_a_long_gradient_is_cut_and_a_short_one_is_not() -> None:
    model = torch.nn.Linear(3, 1, bias=False)
    for limit, factor in ((1.0, 0.2), (10.0, 1.0)):
        model.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
        assert clip_gradients(model, limit) == pytest.approx(5.0)
        torch.testing.assert_close(model.weight.grad, factor * torch.tensor([[3.0, 0.0, 4.0]]))
