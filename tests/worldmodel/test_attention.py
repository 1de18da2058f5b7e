"""The hybrid mask, attention's backends, rotary positions and the key/value cache."""

from typing import Any

import pytest
import torch
from einops import repeat
from torch import Tensor

from worldmodel import attention
from worldmodel.attention import Attention, AttentionMask, attend, hybrid_mask, prepare_mask
from worldmodel.kv_cache import MASKED, CachedContext, KVCache


def test_mask_is_the_picture_in_its_docstring() -> None:
    document = torch.tensor([[0, 0, 0, 0, 0, 1, -1]])
    frame = torch.tensor([[-1, 0, 0, -1, 1, -1, -1]])
    expected = [
        "1......",
        "111....",
        "111....",
        "1111...",
        "11111..",
        ".....1.",
        "......1",
    ]
    rows = ["".join("1" if allowed else "." for allowed in row) for row in hybrid_mask(document, frame)[0]]
    assert rows == expected


def packed(seed: int, b: int = 2, n: int = 24) -> tuple[Tensor, Tensor]:
    """Random documents and frames: ids that never repeat, so that equal ids are neighbours."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(b, n, generator=generator) < 0.3
    block = starts.cumsum(1)
    document = torch.div(block, 4, rounding_mode="floor")
    document[:, -3:] = -1
    is_frame = torch.rand(b, n + 1, generator=generator).gather(1, block) < 0.6
    return document, torch.where(is_frame & (document >= 0), block, -1)


def inputs(b: int, n: int, heads: int = 4, groups: int = 2, d: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(b, k, n, d, generator=generator, requires_grad=True) for k in (heads, groups, groups)]


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Attention one query at a time."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (repeat(x, "b g n d -> b (g r) n d", r=repeats) for x in (k, v))
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for i in range(q.shape[2]):
            keys = allowed[b, i].nonzero()[:, 0]
            scores = torch.einsum("kd,kmd->km", q[b, :, i], k[b][:, keys]) / q.shape[-1] ** 0.5
            out[b, :, i] = torch.einsum("km,kmd->kd", scores.softmax(-1), v[b][:, keys])
    return out


@pytest.mark.parametrize("backend", ["softmax", "sdpa"])
def test_backends_equal_attention_one_query_at_a_time(backend: attention.Backend) -> None:
    document, frame = packed(0)
    q, k, v = inputs(*document.shape)
    out = attend(q, k, v, prepare_mask(document, frame, backend))
    torch.testing.assert_close(out, reference(q, k, v, hybrid_mask(document, frame)))


def test_softmax_and_sdpa_agree_with_gradients() -> None:
    document, frame = packed(3)
    weight = torch.randn(2, 4, 24, 8)
    results = []
    for backend in ("softmax", "sdpa"):
        parts = inputs(*document.shape)
        out = attend(*parts, prepare_mask(document, frame, backend))
        results.append([out, *torch.autograd.grad((out * weight).sum(), parts)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_auto_takes_softmax_for_short_and_sdpa_for_long_sequences() -> None:
    short, long = (
        torch.zeros(1, 16, dtype=torch.long),
        torch.zeros(1, attention.SOFTMAX_LIMIT + 1, dtype=torch.long),
    )
    assert prepare_mask(short, short).backend == "softmax"
    assert prepare_mask(long, long).backend == "sdpa"


def clips(b: int, n: int) -> tuple[Tensor, Tensor]:
    """Rows of long documents with frames of 100 tokens, so that some blocks are full, some partial, some empty."""
    document, frame = torch.full((b, n), -1), torch.full((b, n), -1)
    for row in range(b):
        for start, end in ((0, n // 3 + 7 * row), (n // 3 + 7 * row, n - 9 * row)):
            document[row, start:end] = 2 * row + (start > 0)
            for i, first in enumerate(range(start + 5, end - 100, 102)):
                frame[row, first : first + 100] = 100 * row + 50 * (start > 0) + i
    return document, frame


@pytest.mark.parametrize("n", [24, 256, 700])
def test_flex_mask_is_the_block_mask_of_the_hybrid_mask(n: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    document, frame = packed(5, n=n) if n == 24 else clips(2, n)
    allowed = hybrid_mask(document, frame)
    mask = prepare_mask(document, frame, "flex").value
    assert torch.equal(create_mask(mask.mask_mod, 2, None, n, n, device="cpu")[:, 0], allowed)
    expected = create_block_mask(lambda b, h, q, k: allowed[b, q, k], 2, None, n, n, device="cpu")
    assert torch.equal(mask.to_dense(), expected.to_dense())
    names = [("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices"), ("q_num_blocks", "q_indices")]
    for count, index in [*names, ("full_q_num_blocks", "full_q_indices")]:
        assert torch.equal(getattr(mask, count), getattr(expected, count))
        used = torch.arange(getattr(mask, index).shape[-1]) < getattr(mask, count)[..., None]
        assert torch.equal(getattr(mask, index)[used], getattr(expected, index)[used])
    assert n < 700 or (mask.full_kv_num_blocks.sum() > 0 and mask.sparsity() > 20)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("scale", [None, 0.2])
def test_flex_equals_sdpa_on_a_cpu(scale: float | None) -> None:
    """Forward, with the mask's function, uncompiled: a CPU has no more of it."""
    document, frame = clips(2, 300)
    q, k, v = (x.detach() for x in inputs(2, 300, d=16))
    flex, sdpa = (attend(q, k, v, prepare_mask(document, frame, backend), scale) for backend in ("flex", "sdpa"))
    torch.testing.assert_close(flex, sdpa)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_heads_too_narrow_for_flex_are_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    flex = attention._flex_attention(False)
    widths = []

    def watched(q: Tensor, *args: Any, **kwargs: Any) -> Any:
        widths.append(q.shape[-1])
        return flex(q, *args, **kwargs)

    monkeypatch.setattr(attention, "_flex_attention", lambda on_gpu: watched)
    document, frame = clips(2, 300)
    q, k, v = (x.detach() for x in inputs(2, 300, d=8))
    flexible, sdpa = (attend(q, k, v, prepare_mask(document, frame, backend)) for backend in ("flex", "sdpa"))
    torch.testing.assert_close(flexible, sdpa)
    assert widths == [16] and flexible.shape == q.shape


def test_auto_on_a_gpu_takes_flex_for_whole_blocks_if_it_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(attention, "_missing_compiler", lambda device: "")
    assert attention.choose_backend(gpu, attention.BLOCK) == "flex" and attention.choose_backend(gpu, attention.BLOCK - 1) == "sdpa"
    monkeypatch.setattr(attention, "_missing_compiler", lambda device: "there is no compiler")
    assert attention.choose_backend(gpu, 4096) == "sdpa"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention is compiled for CUDA")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("n", [512, 700])
def test_flex_equals_sdpa_with_gradients_on_a_gpu(n: int) -> None:
    document, frame = (x.cuda() for x in clips(2, n))
    weight = torch.randn(2, 4, n, 64, device="cuda")
    results = []
    for backend in ("flex", "sdpa"):
        parts = [x.detach().cuda().requires_grad_() for x in inputs(2, n, d=64)]
        out = attend(*parts, prepare_mask(document, frame, backend))
        results.append([out, *torch.autograd.grad((out * weight).sum(), parts)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-2, rtol=2e-2)


def test_softmax_adds_its_mask_in_the_type_of_the_scores() -> None:
    """So that no layer has to convert it."""
    document, frame = packed(0)
    assert prepare_mask(document, frame, "softmax").value.dtype == torch.float32
    assert prepare_mask(document, frame, "softmax", torch.float64).value.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert prepare_mask(document, frame, "softmax").value.dtype == torch.bfloat16


def test_plain_positions_turn_all_pairs_by_the_place() -> None:
    cos, sin = attention.rotary_angles(torch.arange(5)[None, :, None], 16, 100.0)
    assert cos.shape == (1, 1, 5, 8)
    torch.testing.assert_close(torch.atan2(sin, cos)[0, 0, 1], 100.0 ** -(torch.arange(8) / 8))


def test_scores_shrink_with_the_head_beyond_its_base_width() -> None:
    assert Attention(64, 2, 1).scale == pytest.approx(32**-0.5) == Attention(64, 2, 1, base_head_width=32).scale
    assert Attention(64, 2, 1, base_head_width=8).scale == pytest.approx(8**0.5 / 32)


def test_rotary_scores_depend_on_differences_of_place_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 6, 16, generator=generator)
    places = torch.randint(0, 9, (1, 6, 3), generator=generator)

    def scores(shift: Tensor) -> Tensor:
        rotary = attention.rotary_angles(places + shift, 16, 100.0)
        return attention.rotate(q, *rotary) @ attention.rotate(k, *rotary).transpose(-1, -2)

    here = scores(torch.tensor([0, 0, 0]))
    for axis in range(3):
        moved = torch.zeros(3, dtype=torch.long)
        moved[axis] = 5
        torch.testing.assert_close(scores(moved), here, atol=1e-4, rtol=1e-4)
    stretched = places * torch.tensor([2, 1, 1])
    rotary = attention.rotary_angles(stretched, 16, 100.0)
    assert not torch.allclose(attention.rotate(q, *rotary) @ attention.rotate(k, *rotary).transpose(-1, -2), here)


def test_head_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="width 32 must divide by heads 5"):
        Attention(32, 5, 1)
    with pytest.raises(ValueError, match="multiple of 8"):
        Attention(36, 3, 3)


def test_cached_attention_equals_one_pass() -> None:
    """A prefix shared by three samples each, then two pieces, the second written twice as denoising does."""
    torch.manual_seed(0)
    layer = Attention(32, 4, 2)
    b, s, prefix, first, second = 2, 3, 5, 2, 4
    n = prefix + first + second
    x = torch.randn(b, s, n, 32)
    x[:, :, :prefix] = x[:, :1, :prefix]
    frame = torch.full((1, n), -1)
    frame[:, -second:] = 0
    document = torch.zeros(b * s, n, dtype=torch.long)
    padded = torch.zeros(b * s, n, dtype=torch.bool)
    padded[:, 3] = torch.tensor([0, 0, 0, 1, 1, 1])  # one position of the second problem's prefix is padding
    rotary = attention.rotary_angles(torch.arange(n)[None, :, None] * torch.tensor([1, 0, 0]), 8, 100.0)
    allowed = hybrid_mask(document, frame.expand(b * s, n)) & ~padded[:, None]
    bias = torch.zeros(b * s, 1, n, n).masked_fill(~allowed[:, None], MASKED)
    expected = layer(x.flatten(0, 1), rotary, AttentionMask("softmax", bias))

    def part(tokens: Tensor, begin: int, end: int, cache: KVCache) -> Tensor:
        mask = hybrid_mask(document[:1, begin:end], frame[:, begin:end])[0]
        return layer(tokens[:, begin:end], tuple(r[:, :, begin:end] for r in rotary), CachedContext(cache, mask))

    history = KVCache(depth=1, capacity=prefix)
    clean = ~padded[::s, :prefix]
    mask = hybrid_mask(document[:b, :prefix], frame[:, :prefix].expand(b, prefix)) & clean[:, None]
    layer(x[:, 0, :prefix], tuple(r[:, :, :prefix] for r in rotary), CachedContext(history, mask))
    history.commit(clean)
    branch = history.share(s, first + second, slice(0, b))
    outputs = [part(x.flatten(0, 1), prefix, prefix + first, branch)]
    branch.commit(torch.ones(b * s, first, dtype=torch.bool))
    part(torch.randn(b * s, n, 32), prefix + first, n, branch)
    outputs.append(part(x.flatten(0, 1), prefix + first, n, branch))
    torch.testing.assert_close(torch.cat(outputs, 1), expected[:, prefix:])


def test_a_full_cache_says_so() -> None:
    cache = KVCache(depth=1, capacity=3)
    with pytest.raises(ValueError, match="holds 3 tokens per sequence, 4 are needed"):
        cache.write(0, torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8))
