"""What experts specialise in: who is counted, the planted cases that the statistics must find, and the picture for the log."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch
from worldmodel.datasets.mixture.documents import Action, Document, Frame, Text
from worldmodel.errors import UserError
from worldmodel.model import WorldModel
from worldmodel.moe import MixtureOfExperts
from worldmodel.studies.selections import KINDS, Selections, record, token_kinds
from worldmodel.studies.specialisation import SpecialisationConfig, analyse, load_picture, pearson, time_variation, to_json
from worldmodel.tokens import PackingConfig

MARKS = (toys.tokenizer().boi_id, toys.tokenizer().eoi_id)
CONFIG = SpecialisationConfig(batches=2, resamples=50)
PLAIN = PackingConfig(text_action_share=0, context_noise=0, caption_dropout=0)


def documents() -> dict[str, Document]:
    rng = np.random.default_rng(0)
    first, second = (Frame(toys.picture(rng), predict=True) for _ in range(2))
    return {
        "caption": (Frame(toys.picture(rng), predict=False), Text("a red disc")),
        "drawing": (Text("a blue room", predict=False), Frame(toys.picture(rng), predict=True)),
        "video": (first, Action(np.zeros(2, np.float32), ""), second),
        "text": (Text("then stops"),),
    }


def batches(count: int = 2) -> Iterator[tuple[PackedBatch, Tensor]]:
    packer = toys.packer()
    for step in range(count):
        batch = packer.batch(step)
        yield batch, toys.random_latents(len(batch.frames), step)


def separated() -> WorldModel:
    """Visual tokens lie on one side of the residual stream and choose experts 0-2, all others on the other and choose 3-5."""
    model = toys.model("moe")
    side = torch.zeros(32)
    side[0] = 100.0
    with torch.no_grad():
        assert model.patch_embedding is not None
        model.patch_embedding.add_(side)
        model.token_embedding.weight -= side
        for layer in model.trunk.modules():
            if isinstance(layer, MixtureOfExperts):
                layer.router.weight.zero_()
                layer.router.weight[:3, 0], layer.router.weight[3:, 0] = 1.0, -1.0
    return model


def test_tokens_are_counted_by_what_they_are_and_what_they_serve() -> None:
    given = documents()
    batch = toys.pack([given["caption"], given["drawing"]], [given["video"], given["text"]], config=PLAIN)
    kinds = token_kinds(batch, MARKS, torch.Generator().manual_seed(0))
    assert set(kinds) == set(KINDS)
    size = {name: int(mask.sum()) for name, mask in kinds.items()}
    assert size["vision"] == 4 * 4 and size["action"] == 1
    assert size["understanding"] == 4  # the captioned frame; not the video's context, though it is given clean
    noised = torch.isin(batch.frame_id.flatten(), (~batch.clean).nonzero()[:, 0])
    assert torch.equal(kinds["generation"], noised) and size["generation"] == 8
    words = ("a red disc", "a blue room", "then stops")
    ends = 2  # of the caption and of the text
    assert size["text"] == sum(len(toys.tokenizer().encode(word)) for word in words) + ends
    assert (size["shuffled_text"], size["shuffled_vision"]) == (size["text"], size["vision"])
    either = kinds["text"] | kinds["vision"]
    assert torch.equal(kinds["shuffled_text"] ^ kinds["shuffled_vision"], either)
    assert not torch.equal(kinds["shuffled_text"], kinds["text"])


def test_what_is_recorded_is_what_the_layers_chose() -> None:
    model = toys.model("moe").train()  # so that the layers count for themselves
    own, fresh = record(model, batches(), MARKS, 0)
    layers = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    assert own.counts["vision"].shape == (2, 2, 6)
    for layer, module in enumerate(layers):
        assert own.counts["vision"].sum(0)[layer].tolist() == module.load[0].tolist()
        assert (own.counts["text"] + own.counts["action"]).sum(0)[layer].sum() < module.load[1].sum()  # the marks are missing
        assert not module._forward_pre_hooks
    tokens = {kind: counts.sum(-1) for kind, counts in own.counts.items()}
    assert all(torch.equal(tokens[kind], fresh.counts[kind].sum(-1)) for kind in KINDS)
    assert not torch.equal(own.counts["vision"], fresh.counts["vision"])
    assert own.frames.shape == (len(own.times), 2, 6) and (own.times < 1).all()
    assert torch.equal(own.frames.sum(0), own.counts["generation"].sum(0))


def test_recording_repeats_and_leaves_the_model_alone() -> None:
    model = toys.model("moe")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, other = (record(model, batches(), MARKS, 3) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a.counts[kind], b.counts[kind]) for kind in KINDS) and torch.equal(a.frames, b.frames)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.load.sum() == 0 for module in model.modules() if isinstance(module, MixtureOfExperts))


def test_experts_of_one_modality_are_found() -> None:
    own, _ = record(separated(), batches(4), MARKS, 0)
    for report in analyse(own, CONFIG):
        assert report.index == [-1, -1, -1, 1, 1, 1]
        assert (report.text, report.multimodal, report.vision, report.unused) == (3, 0, 3, 0)
        assert report.mean_index == 1 and report.shuffled_index < 0.3
        assert report.vision_rate == pytest.approx([1 / 3] * 3 + [0] * 3)
        assert report.time_variation == pytest.approx(0, abs=1e-9)
        assert report.correlation == pytest.approx(1)
        assert report.correlation_interval == pytest.approx((1, 1))


def test_a_router_of_a_fresh_model_has_no_modality() -> None:
    trained, _ = record(separated(), batches(4), MARKS, 0)
    untrained, _ = record(toys.model("moe"), batches(4), MARKS, 0)
    pairs = zip(analyse(trained, CONFIG), analyse(untrained, CONFIG), strict=True)
    assert all(after.mean_index > 1.5 * before.mean_index for after, before in pairs)


def selections(batches: int = 4, **kinds: list[float]) -> Selections:
    """One layer, the same counts in each batch; 40 frames at times 0 to 1 whose tokens choose as generation does."""
    named = {kind: torch.tensor(kinds.get(kind, kinds["vision"]), dtype=torch.float64) for kind in KINDS}
    counts = {kind: values.expand(batches, 1, -1) for kind, values in named.items()}
    return Selections(counts, named["generation"].expand(40, 1, -1), torch.linspace(0, 1, 40))


def test_classes_follow_the_threshold_and_experts_nobody_chose_are_told() -> None:
    planted = selections(text=[60, 30, 10, 0], vision=[10, 30, 60, 0])
    (report,) = analyse(planted, CONFIG)
    assert report.index == [pytest.approx(5 / 7), 0, pytest.approx(-5 / 7), None]
    assert (report.text, report.multimodal, report.vision, report.unused) == (1, 1, 1, 1)
    (strict,) = analyse(planted, replace(CONFIG, threshold=0.8))
    assert (strict.text, strict.multimodal, strict.vision, strict.unused) == (0, 3, 0, 1)
    assert report.text_rate == [0.6, 0.3, 0.1, 0] and report.mean_index == pytest.approx(10 / 21)


def test_selection_that_changes_over_flow_time_is_found() -> None:
    early = torch.tensor([[[4.0, 0.0]]]).expand(20, 1, 2)
    late = torch.tensor([[[2.0, 2.0]]]).expand(20, 1, 2)
    times = torch.linspace(0, 0.999, 40)
    variation = time_variation(torch.cat([early, late]).double(), times, 10)
    assert variation[0].tolist() == pytest.approx([0.25 / 0.75, 0.25 / 0.25])
    frames = F.pad(torch.cat([early, late]).double(), (0, 1))  # the third expert is one of text
    planted = replace(selections(text=[0, 0, 1], vision=[1, 1, 0]), frames=frames, times=times)
    (report,) = analyse(planted, CONFIG)
    assert report.time_variation == pytest.approx(2 / 3)
    assert report.shuffled_time_variation is not None and report.shuffled_time_variation < 0.4


def test_correlation_tells_same_from_opposite_experts() -> None:
    same = selections(text=[1, 1, 1], vision=[1, 1, 1], understanding=[1, 2, 3], generation=[10, 20, 30])
    opposite = selections(text=[1, 1, 1], vision=[1, 1, 1], understanding=[1, 2, 3], generation=[3, 2, 1])
    assert analyse(same, CONFIG)[0].correlation == pytest.approx(1)
    assert analyse(opposite, CONFIG)[0].correlation == pytest.approx(-1)
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert float(pearson(torch.tensor(a), torch.tensor(b))) == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_the_interval_is_as_wide_as_the_batches_differ() -> None:
    noise = torch.rand(12, 1, 8, generator=torch.Generator().manual_seed(0)).double()
    counts = {kind: 10 + 20 * torch.arange(8.0).double().expand(12, 1, 8) for kind in KINDS}
    same = Selections(counts, counts["generation"], torch.linspace(0, 1, 12))
    differ = replace(same, counts=counts | {"generation": counts["generation"] + 400 * noise})
    for given, low, high in ((same, 0, 1e-9), (differ, 0.02, 1)):
        report = analyse(given, CONFIG)[0]
        assert report.correlation_interval is not None and report.correlation is not None
        width = report.correlation_interval[1] - report.correlation_interval[0]
        assert low <= width <= high
        assert report.correlation_interval[0] - 1e-9 <= report.correlation <= report.correlation_interval[1] + 1e-9


def test_what_the_data_do_not_have_is_none() -> None:
    planted = selections(text=[3, 1], vision=[1, 3], understanding=[0, 0], action=[0, 0])
    (report,) = analyse(planted, replace(CONFIG, threshold=0.9))
    assert report.correlation is None and report.correlation_interval is None
    assert report.action_rate is None and report.time_variation is None  # no expert of vision
    (row,) = to_json([report])
    assert row["layer"] == 0 and row["correlation"] is None and row["index"] == [0.5, -0.5]


def test_models_and_data_without_what_is_compared_are_refused() -> None:
    with pytest.raises(UserError, match="the model has no experts, its feed_forward is 'modality'"):
        record(toys.model("modality"), batches(), MARKS, 0)
    given = documents()
    only_text = toys.pack([given["text"]])
    with pytest.raises(UserError, match="the held-out documents have no frames"):
        record(toys.model("moe"), [(only_text, toys.random_latents(0))], MARKS, 0)
    only_video = toys.pack([given["video"]], config=PLAIN)
    with pytest.raises(UserError, match="the held-out documents have no text"):
        record(toys.model("moe"), [(only_video, toys.random_latents(2))], MARKS, 0)
    with pytest.raises(UserError, match=r"threshold is 1.5, must lie in \(0, 1\]"):
        SpecialisationConfig(threshold=1.5)
    with pytest.raises(UserError, match="batches is 1, must be at least 2"):
        SpecialisationConfig(batches=1)


def test_the_picture_of_loads_shows_text_in_blue_and_vision_in_red() -> None:
    loads = torch.zeros(2, 2, 4)
    loads[0, 0, 1] = 12  # layer 0: all visual tokens choose expert 1
    loads[0, 1] = 5  # all others choose evenly
    picture = load_picture(loads, cell=3)
    assert picture.shape == (1, 3, 6, 12)
    cells = picture[0, :, 1::3, 1::3]  # (3, layers, experts)
    assert cells[2, 0].tolist() == [0.5] * 4
    assert cells[0, 0].tolist() == [0, 1, 0, 0]
    assert not cells[:, 1].any() and not cells[1].any()
