"""Held out is what a model and its codec have not been trained on, in whichever file it lies."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.combine import merge, split
from worldmodel.datasets.episodes.identity import chosen_share
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError
from worldmodel.unseen import held_out_episodes, trained_on, warn_of_seen

META = {"env_id": "toy", "seed": 0}


def toy_file(path: Path, numbers: range | list[int], **changes: Any) -> EpisodeStore:
    write_episodes(path, [make_episode(number, 3, **changes) for number in numbers], META)
    return EpisodeStore(path)


def pretrained(seen: list[str] | None, by_codec: list[str] = [], **mixture: Any) -> Any:  # noqa: B006  only read
    card = {"mixture": mixture} | ({} if seen is None else {"trained_on": seen})
    return SimpleNamespace(card=card, codec=SimpleNamespace(trained_on=tuple(by_codec)))


def seeds(store: EpisodeStore, episodes: list[int]) -> set[int]:
    return {int(store.column("seed")[i]) for i in episodes}


def test_held_out_episodes_are_those_that_training_left_out(tmp_path: Path) -> None:
    store = toy_file(tmp_path / "a.h5", range(10))
    train, held_out = store.split(0, 0.3)
    assert held_out_episodes(pretrained(trained_on([store], [train])), store) == held_out and len(held_out) == 3


def test_what_was_trained_on_stays_so_in_merged_and_split_files(tmp_path: Path) -> None:
    first = toy_file(tmp_path / "a.h5", range(10))
    train, held_out = first.split(0, 0.3)
    trained = pretrained(trained_on([first], [train]))
    toy_file(tmp_path / "b.h5", range(20, 26))
    merge([tmp_path / "b.h5", tmp_path / "a.h5"], tmp_path / "both.h5")
    both = EpisodeStore(tmp_path / "both.h5")
    unseen = held_out_episodes(trained, both)
    assert seeds(both, unseen) == seeds(first, held_out) | {1000 + number for number in range(20, 26)}
    for part in split(tmp_path / "both.h5", (0.5, 0.25, 0.25), tmp_path / "parts"):
        store = EpisodeStore(part)
        assert seeds(store, held_out_episodes(trained, store)).isdisjoint(seeds(first, train))


def test_a_file_of_training_episodes_alone_is_refused(tmp_path: Path) -> None:
    store = toy_file(tmp_path / "a.h5", range(4))
    everything = trained_on([store], [[0, 1, 2, 3]])
    with pytest.raises(UserError, match="trained on all 4 episodes of .*a.h5, it: give a file with others"):
        held_out_episodes(pretrained(everything), store)
    with pytest.raises(UserError, match="its codec or itself"):
        held_out_episodes(pretrained(everything[:2], everything[2:]), store)


def test_what_the_codec_was_trained_on_is_not_held_out_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = toy_file(tmp_path / "a.h5", range(5))
    codec = trained_on([store], [[0, 2]])
    assert held_out_episodes(pretrained(trained_on([store], [[0, 1]]), codec), store) == [3, 4]
    assert "trained on 1 of the 3 episodes" in caplog.text
    caplog.clear()
    seen = SimpleNamespace(trained_on=tuple(codec))
    assert warn_of_seen(seen, [store], [[1, 2]]) == 1 and "on 1 of the 2 episodes that are held out" in caplog.text  # type: ignore[arg-type]
    caplog.clear()
    assert warn_of_seen(seen, [store], [[1, 3]]) == 0 and not caplog.text  # type: ignore[arg-type]


def test_a_card_that_does_not_say_what_was_trained_on_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = toy_file(tmp_path / "a.h5", range(8))
    with caplog.at_level(logging.WARNING):
        assert held_out_episodes(pretrained(None, held_out=0.5, split_seed=3), store) == store.split(3, 0.5)[1]
    assert "does not say which episodes" in caplog.text


def test_the_split_does_not_depend_on_the_order_in_the_file(tmp_path: Path) -> None:
    one, other = toy_file(tmp_path / "a.h5", range(12)), toy_file(tmp_path / "b.h5", list(reversed(range(12))))
    for seed in range(5):
        assert seeds(one, one.split(seed, 0.25)[1]) == seeds(other, other.split(seed, 0.25)[1])


def test_equal_episodes_are_on_one_side(tmp_path: Path) -> None:
    numbers = [0, 1, 2, 3, 4, 5] * 2
    store = toy_file(tmp_path / "a.h5", numbers)
    for seed in range(10):
        train, held_out = store.split(seed, 0.34)
        assert seeds(store, train).isdisjoint(seeds(store, held_out)) and len(held_out) == 4
    alike = toy_file(tmp_path / "b.h5", [0, 0, 0])
    with pytest.raises(UserError, match="has 3 episodes, all alike; two different ones are needed"):
        alike.split(0)


def test_an_episode_is_told_by_actions_and_states_and_else_by_its_last_frame(tmp_path: Path) -> None:
    [plain] = toy_file(tmp_path / "a.h5", [0]).identities
    assert toy_file(tmp_path / "b.h5", [0], captions=[""] * 4, policy="x", seed=7).identities == [plain]
    other = make_episode(0, 3).frames.copy()
    other[-1, 0, 0, 0] ^= 1
    assert toy_file(tmp_path / "c.h5", [0], frames=other).identities == [plain], "pictures drawn anew are of the same episode"
    for number, changes in enumerate(({"actions": np.ones((3, 2), np.float32)}, {"state": make_episode(1, 3).state})):
        assert toy_file(tmp_path / f"d{number}.h5", [0], **changes).identities != [plain]
    for name, none in (("e", np.zeros((4, 0))), ("f", np.zeros((4, 7)))):
        first, second = (toy_file(tmp_path / f"{name}{k}.h5", [0], state=none, **({"frames": other} if k else {})) for k in (0, 1))
        assert first.identities != second.identities


def test_a_choice_is_by_name_seeded_and_never_all_or_nothing() -> None:
    names = [f"{i:016x}" for i in range(40)]
    assert chosen_share(names, 0.25, 1) == chosen_share([*reversed(names), *names], 0.25, 1)
    assert len(chosen_share(names, 0.25, 1)) == 10 and chosen_share(names, 0.25, 1) != chosen_share(names, 0.25, 2)
    assert [len(chosen_share(names, share, 0)) for share in (0.001, 0.999)] == [1, 39]


def test_the_cards_list_is_of_the_training_episodes(tmp_path: Path) -> None:
    write_toy_file(tmp_path / "a.h5")
    store = EpisodeStore(tmp_path / "a.h5")
    assert trained_on([store, store], [[1], [1, 3]]) == sorted({store.identities[1], store.identities[3]})
