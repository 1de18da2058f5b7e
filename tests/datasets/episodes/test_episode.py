import numpy as np
import pytest

from tests.datasets.toys import make_episode
from worldmodel.datasets.episodes.episode import same_episode


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": np.zeros((5, 16, 16, 3), np.uint8)}, "frames has 5 rows, expected 6"),
        ({"frames": np.zeros((6, 16, 16, 3), np.float32)}, "frames is float32"),
        ({"frames": np.zeros((6, 16, 16, 1), np.uint8)}, "16, 16, 1"),
        ({"captions": ["one"]}, "captions has 1 rows"),
        ({"action_texts": []}, "action_texts has 0 rows, expected 5"),
        ({"state": np.zeros((6, 7), np.float32)}, "state is float32"),
        ({"actions": np.zeros((0, 2), np.float32)}, "at least one action"),
    ],
)
def test_refuses_fields_that_do_not_fit_together(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_episode(**changes)


def test_length_is_the_number_of_actions() -> None:
    assert len(make_episode(num_actions=4)) == 4


@pytest.mark.parametrize("field", ["frames", "state", "captions", "variation", "seed", "goal_state"])
def test_one_different_field_makes_episodes_differ(field: str) -> None:
    assert same_episode(make_episode(0), make_episode(0))
    assert not same_episode(make_episode(0), make_episode(0, **{field: getattr(make_episode(1), field)}))
