"""Actions as text: exact numbers, coarse words, keys."""

import numpy as np
import pytest

from worldmodel.envs.action_text import ActionAxis, coarse_actions, describe_action, parse_action
from worldmodel.errors import UserError

AXES = (
    ActionAxis("dx", ("move", "left"), ("move", "right"), ("a", "d")),
    ActionAxis("turn", ("turn", "left"), ("turn", "right"), ("q", "e")),
)


@pytest.mark.parametrize(
    ("action", "exact", "words", "keys"),
    [
        ((0.3, -0.12), "action: dx=+0.300, turn=-0.120", "move a little right", "keys: d"),
        ((-0.0001, 1.0), "action: dx=+0.000, turn=+1.000", "turn right", "keys: e"),
        ((-0.7, -0.4), "action: dx=-0.700, turn=-0.400", "move left and turn a little left", "keys: a q"),
        ((0.0, 0.1), "action: dx=+0.000, turn=+0.100", "stay still", "keys: none"),
    ],
)
def test_describe_action(action: tuple[float, float], exact: str, words: str, keys: str) -> None:
    described = [describe_action(np.array(action), AXES, form) for form in ("exact", "words", "keys")]
    assert described == [exact, words, keys]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UserError, match="unknown form 'poem'.*exact, words or keys"):
        describe_action(np.zeros(2), AXES, "poem")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("action: dx=+0.300, turn=-0.120", (0.3, -0.12)),
        ("action:dx=.3,turn=-.12", (0.3, -0.12)),
        ("  action: dx = 0.3 , turn = -0.12\n", (0.3, -0.12)),
        ("move left", (-0.8, 0)),
        ("Move a little right and turn left", (0.3, -0.8)),
        ("turn a little left, move right", (0.8, -0.3)),
        ("stay still", (0, 0)),
        ("keys: a", (-0.8, 0)),
        ("keys: D E", (0.8, 0.8)),
        ("keys: a d", (0, 0)),
        ("keys: none", (0, 0)),
    ],
)
def test_parse_action(text: str, action: tuple[float, float]) -> None:
    parsed = parse_action(text, AXES)
    assert parsed.dtype == np.float32
    assert parsed.tolist() == np.array(action, np.float32).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dx=+0.300, turn=-0.120",
        "action: dx=+0.300",
        "action: turn=+0.300, dx=-0.120",
        "action: dx=+0.300, turn=-0.120, dz=0.0",
        "action: dx=nan, turn=0.0",
        "action: dx=+0.3.0, turn=0.0",
        "action: dx=1e9, turn=0.0",
        "move somewhere",
        "move left and jump",
    ],
)
def test_malformed_action_text(text: str) -> None:
    with pytest.raises(UserError, match=r"cannot read the action text .*'action: dx=\+0.300, turn=\+0.300' or 'move a little right"):
        parse_action(text, AXES)


def test_action_text_out_of_bounds() -> None:
    with pytest.raises(UserError, match=r"'action: dx=\+1.001, turn=\+0.000' is out of bounds"):
        parse_action("action: dx=+1.001, turn=+0.000", AXES)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(UserError, match="unknown key 'x' in 'keys: a x': the keys of this task are a, d, q, e"):
        parse_action("keys: a x", AXES)


def test_coarse_actions_say_what_they_do() -> None:
    actions = coarse_actions(AXES)
    assert [text for text, _ in actions] == ["stay still", "move left", "move right", "turn left", "turn right"]
    for text, action in actions:
        assert np.allclose(parse_action(text, AXES), action)
