"""What the verbs measure on: held-out episodes, texts and sources, with readers that have not seen them; and their numbers by hand."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.datasets.toys import make_episode
from tests.scripts.conftest import Tiny
from tests.worldmodel import toys
from worldmodel import evaluation
from worldmodel.agents import ablation_metrics, diagnosis
from worldmodel.batch import PackedBatch, unpack
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.codec.frames import psnr_of
from worldmodel.codec.kinds import load_codec
from worldmodel.codec.training_frames import codec_data
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture.documents import Frame, Text
from worldmodel.datasets.mixture.source import Source
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, open_training_data
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig, DreamErrors
from worldmodel.flow import FlowConfig, sample_time
from worldmodel.presets import Preset, tiny
from worldmodel.rollout import RolloutConfig
from worldmodel.studies.experiment_runner import ExperimentRunner
from worldmodel.studies.held_out_batches import held_out_batches
from worldmodel.studies.specialisation import SpecialisationConfig
from worldmodel.tokens import PackingConfig
from worldmodel.training import pretrain
from worldmodel.training.job import Batches
from worldmodel.unseen import trained_on

EPISODES = 12
PACKING = PackingConfig(rows=2, length=160)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Twelve toy episodes, each frame unlike every other, and a corpus."""
    folder = tmp_path_factory.mktemp("held_out")
    episodes = [make_episode(i, 4, toys.IMAGE) for i in range(EPISODES)]
    write_episodes(folder / "toy.h5", episodes, {"env_id": "toy", "seed": 0, "feature_names": ["x", "y"]})
    (folder / "speech.jsonl").write_text("\n".join(json.dumps({"text": f"speech number {i} is long"}) for i in range(30)))
    mixture = MixtureConfig(pictures=0, clip_length=1, action_block=1, held_out=0.25, corpora=(str(folder / "speech.jsonl"),))
    return open_training_data([folder / "toy.h5"], mixture)


@pytest.fixture
def preset() -> Preset:
    chosen = tiny()
    train = replace(chosen.train, packing=PACKING, cache_latents="none", device="cpu", steps=2)
    return replace(chosen, train=train)


def of_episodes(frames: Iterable[np.ndarray]) -> set[int]:
    """Which toy episodes frames are of."""
    known = {frame.tobytes(): i for i in range(EPISODES) for frame in make_episode(i, 4, toys.IMAGE).frames}
    return {known[np.ascontiguousarray(frame).tobytes()] for frame in frames}


def shown(source: Source) -> set[int]:
    """Which toy episodes the documents of a source show."""
    rng = np.random.default_rng(0)
    documents = [source.document(item, rng) for item in range(len(source))]
    return of_episodes(each.pixels for document in documents for each in document if isinstance(each, Frame))


def speeches(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in text.split() if word.isdigit()}


def pretrained_with(
    data: TrainingData, preset: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codec: Any = None
) -> dict[str, Any]:
    """What `pretrain_on_data` hands to `train`."""
    given: dict[str, Any] = {}

    def fake(parts: Pretrained, batches: Batches, *rest: Any) -> Any:
        given.update(card=parts.card, validation=batches.validation)
        return SimpleNamespace(metrics={})

    monkeypatch.setattr(pretrain, "train", fake)
    pretrain.pretrain_on_data(data, codec or toys.codec(), preset, 400, tmp_path / "run")
    return given


def ids(data: TrainingData, episodes: list[int]) -> list[str]:
    return sorted(data.stores[0].identities[i] for i in episodes)


def test_card_and_codec_say_which_episodes_were_trained_on(
    data: TrainingData, preset: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained = ids(data, data.train_episodes[0])
    assert len(trained) == 9
    assert pretrained_with(data, preset, monkeypatch, tmp_path)["card"]["trained_on"] == trained
    assert list(codec_data(data).trained_on) == trained
    some = codec_data(data, max_frames=30)
    assert len(some.trained_on) == 4 and set(some.trained_on) < set(trained)
    codec = toys.codec()
    codec.trained_on = tuple(trained)
    codec.save_pretrained(tmp_path / "codec")
    assert load_codec(tmp_path / "codec").trained_on == tuple(trained)


def test_a_trained_codec_and_the_checkpoints_made_with_it_remember_its_episodes(tiny: Tiny) -> None:
    with EpisodeStore(tiny.data) as store:
        train, held_out = store.split(0, 0.4)
        assert load_codec(tiny.codec).trained_on == tuple(trained_on([store], [train]))
        trained = read_checkpoint(tiny.run)
        assert trained.codec.trained_on == tuple(trained.card["trained_on"]) == tuple(trained_on([store], [train]))
        assert not {store.identities[i] for i in held_out} & set(trained.codec.trained_on)


def test_a_codec_that_saw_held_out_episodes_is_told_of_before_training(
    data: TrainingData, preset: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codec = toys.codec()
    codec.trained_on = tuple(data.stores[0].identities)
    pretrained_with(data, preset, monkeypatch, tmp_path, codec)
    assert "the codec was trained on 3 of the 3 episodes that are held out here" in caplog.text
    caplog.clear()
    ExperimentRunner(data, codec, 400, toys.tokenizer())
    assert "the codec was trained on 3 of the 3 episodes" in caplog.text


def test_validation_is_made_of_held_out_sources(
    data: TrainingData, preset: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    validation = pretrained_with(data, preset, monkeypatch, tmp_path)["validation"]
    held_out = set(data.held_out_episodes[0])
    found = {source.name: shown(source) for source in validation.sources if source.name != "text"}
    assert len(found) >= 6 and all(episodes <= held_out for episodes in found.values())
    assert set.union(*found.values()) == held_out


def batches_of(batches: Iterable[PackedBatch]) -> tuple[set[int], set[str]]:
    """Which episodes packed batches show, and which speeches they read."""
    frames: list[np.ndarray] = []
    texts: list[str] = []
    for batch in batches:
        frames += [*batch.frames.numpy(), *batch.given.numpy()]
        texts += [each.text for document in unpack(batch, toys.tokenizer()) for each in document if isinstance(each, Text)]
    return of_episodes(frames), speeches(text for text in texts if "speech" in text)


def test_trials_measure_on_held_out_sources(data: TrainingData, preset: Preset) -> None:
    data = replace(data, parts=data.parts)
    held_out = ExperimentRunner(data, toys.codec(), 400, toys.tokenizer()).held_out(preset, 1)
    seen, _ = batches_of(held_out["vision"])
    assert seen and seen <= set(data.held_out_episodes[0])
    _, read = batches_of(held_out["language"])
    assert read and read <= speeches(data.held_out_texts)


def experts_batches(data: TrainingData, seen: list[str]) -> list[PackedBatch]:
    card = {"mixture": asdict(data.config), "train": {"packing": asdict(PACKING)}, "trained_on": seen}
    trained: Any = SimpleNamespace(card=card, codec=toys.codec(), tokenizer=toys.tokenizer(), model=toys.model())
    config = SpecialisationConfig(batches=2, rows=2)
    found = held_out_batches(trained, [data.stores[0].path], config, torch.device("cpu"))
    return [batch for batch, _ in found]


def test_experts_are_measured_on_held_out_sources(data: TrainingData) -> None:
    seen, read = batches_of(experts_batches(data, ids(data, data.train_episodes[0])))
    assert seen and seen <= set(data.held_out_episodes[0]) and read <= speeches(data.held_out_texts)


def test_experts_refuse_files_whose_held_out_episodes_were_trained_on(data: TrainingData) -> None:
    with pytest.raises(UserError, match="trained on 3 of the 3 episodes that would be held out of .*toy.h5"):
        experts_batches(data, ids(data, list(range(EPISODES))))


def test_the_yardstick_dreams_held_out_episodes_and_its_judge_is_fitted_on_training_ones(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[np.ndarray] = []

    class Watched:
        def __init__(self, frames: np.ndarray, features: np.ndarray, episode: np.ndarray) -> None:
            fitted.append(frames)

        def error(self, frames: np.ndarray, features: np.ndarray) -> float:
            return 0.0

    monkeypatch.setattr(ablation_metrics, "StateProbe", Watched)
    made = ablation_metrics.make_ablation_metrics(data, DreamConfig(clips=8, context=1, horizon=2), RolloutConfig(), 0)
    assert made.held_out == data.held_out_episodes[0]
    assert of_episodes(fitted[0]) == set(data.train_episodes[0])


def test_the_state_reader_is_fitted_on_training_episodes(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[int]] = []
    monkeypatch.setattr(evaluation, "linear_reader", lambda codec, store, episodes: given.append(list(episodes)))
    trained: Any = SimpleNamespace(codec=None)
    evaluation.reader_of(trained, data.stores[0], data.held_out_episodes[0])
    assert given == [data.train_episodes[0]]
    assert evaluation.reader_of(trained, data.stores[0], list(range(EPISODES))) is None, "a new file has no training episodes"


def test_the_ladders_readers_are_trained_on_training_episodes(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    class Enough(Exception):
        pass

    given: list[tuple[list[int], list[int]]] = []

    def watched(marked: Any, codec: Any, store: Any, training: list[int], held_out: list[int], config: Any) -> None:
        given.append((list(training), list(held_out)))
        raise Enough

    monkeypatch.setattr(diagnosis.rungs, "codec_rung", watched)
    trained: Any = SimpleNamespace(codec=None)
    manifest: Any = SimpleNamespace(env_id="toy")
    for held_out in (data.held_out_episodes[0], list(range(EPISODES))):
        with pytest.raises(Enough):
            diagnosis.climb(trained, data.stores[0], held_out, manifest, 1, diagnosis.LadderConfig())
    assert given[0] == (data.train_episodes[0], data.held_out_episodes[0])
    assert given[1] == (list(range(0, EPISODES, 2)), list(range(1, EPISODES, 2))), "of a new file, half"


def test_flow_losses_are_compared_at_the_same_noise_levels(data: TrainingData) -> None:
    runner = ExperimentRunner(data, toys.codec(), 400, toys.tokenizer())
    batch = toys.pack([toys.action_video(np.random.default_rng(0))], [(Text("one two three"),)])
    times: list[torch.Tensor] = []

    def model(shift: float) -> Any:
        made = toys.model(flow=FlowConfig(shift=shift))

        def loss(batch: PackedBatch, latents: Any, noise_sample: Any, counts: Any) -> Any:
            times.append(noise_sample.t)
            return torch.zeros(()), {"text": torch.ones(()), "flow": torch.ones(())}

        made.loss = loss  # type: ignore[method-assign]
        return made

    batches = {"language": [batch], "vision": [batch]}
    for shift in (1.0, 9.0):
        runner.losses(model(shift), batches, flow=FlowConfig(shift=4.0))
    runner.losses(model(9.0), batches)
    assert torch.equal(times[1], times[3]) and not torch.equal(times[3], times[5])
    expected = sample_time(len(batch.frames), 4.0, True, torch.Generator().manual_seed(0))
    assert torch.equal(times[1][~batch.clean], expected[~batch.clean]) and (times[1][batch.clean] == 1).all()
    runner.losses(model(1.0), batches, flow=FlowConfig(shift=4.0, noise_share=1.0))
    assert (times[7][~batch.clean] == 0).all() and (times[7][batch.clean] == 1).all(), "frames that are noise alone, by their share"


def test_the_yardsticks_numbers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = {
        "learned": [(0.01, 0.0), (0.02, 0.0), (0.04, 0.0)],
        "shuffled_actions": [(0.03, 0.0), (0.07, 0.0), (0.1, 0.0)],
        "copy_last_frame": [(0.05, 0.0), (0.06, 0.0), (0.08, 0.0)],
    }
    frames = np.arange(3, dtype=np.uint8)[None, :, None, None, None] * np.ones((2, 1, 1, 1, 3), np.uint8)
    monkeypatch.setattr(ablation_metrics, "dream_errors", lambda *given: DreamErrors(pixel, pixel, frames, frames))
    future = 100.0 * np.arange(3)[None, :, None] * np.ones((2, 1, 1))
    state_probe: Any = SimpleNamespace(error=lambda frames, features: float(frames.mean() + features.mean()))
    asked: list[tuple[Any, Any]] = []

    def losses(model: Any, batches: Any, flow: Any = None) -> dict[str, float]:
        asked.append((batches, flow))
        return {"vision": 0.7, "language": 5.0}

    flow = FlowConfig(shift=3.0)
    runner: Any = SimpleNamespace(data=SimpleNamespace(held_out_texts=[]), losses=losses)
    store: Any = SimpleNamespace(meta={"env_id": "toy"}, action_size=1)
    made = ablation_metrics.AblationMetrics(store, [], state_probe, future, {}, None, 1, DreamConfig(), RolloutConfig())
    trained: Any = SimpleNamespace(model=toys.model(), tokenizer=toys.tokenizer(), codec=None, card={})
    values = made.measure(trained, runner, {"vision": []}, flow, 0)
    assert values["psnr_1"] == psnr_of(0.01) and values["psnr_last"] == psnr_of(0.04)
    assert values["action_sensitivity"] == pytest.approx(2.5)
    assert values["state_error_1"] == 0 and values["state_error_last"] == 2 + 200
    assert values["flow_loss"] == 0.7 and asked == [({"vision": []}, flow)]
    assert made.controls == {"psnr_1 of copying": psnr_of(0.05), "psnr_last of copying": psnr_of(0.08)}
