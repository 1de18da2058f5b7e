"""Words: reading captions, asking questions, actions as text."""

import numpy as np
import pytest

from worldmodel.envs.language import (
    Attribute,
    format_action,
    make_questions,
    parse_action,
    read_attributes,
    with_article,
)
from worldmodel.errors import UserError

ATTRIBUTES = {
    "color": Attribute({"red": "red", "orange": "orange"}, "what color?", "is it {}?"),
    "place": Attribute({"left": "on the left", "right": "on the right"}, "where?", "is it {}?"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red disc on the left", {"color": "red", "place": "left"}),
        ("An ORANGE disc", {"color": "orange"}),
        ("on the right, on the left", {"place": "right"}),
        ("a bored disc, lefty", {}),
        ("", {}),
    ],
)
def test_read_attributes(text: str, expected: dict[str, str]) -> None:
    assert read_attributes(text, ATTRIBUTES) == expected


def test_make_questions() -> None:
    rng, asked = np.random.default_rng(0), set()
    for _ in range(50):
        pairs = make_questions(rng, ATTRIBUTES, {"color": "red", "place": "right"})
        assert pairs[0] == ("what color?", "red") and pairs[2] == ("where?", "right")
        asked |= {pairs[1], pairs[3]}
    assert asked == {
        ("is it red?", "yes"),
        ("is it orange?", "no"),
        ("is it on the right?", "yes"),
        ("is it on the left?", "no"),
    }


def test_articles() -> None:
    assert (with_article("orange"), with_article("red")) == ("an orange", "a red")


def test_format_action() -> None:
    assert format_action(np.array([0.3, -0.12]), ("dx", "dy")) == "action: dx=+0.300, dy=-0.120"
    assert format_action(np.array([-0.0001, 1.0]), ("dx", "dy")) == "action: dx=+0.000, dy=+1.000"


@pytest.mark.parametrize("text", ["action: dx=+0.300, dy=-0.120", "action:dx=.3,dy=-.12", "  action: dx = 0.3 , dy = -0.12\n"])
def test_parse_action(text: str) -> None:
    parsed = parse_action(text, ("dx", "dy"))
    assert parsed.dtype == np.float32
    assert parsed.tolist() == np.array([0.3, -0.12], np.float32).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dx=+0.300, dy=-0.120",
        "action: dx=+0.300",
        "action: dy=+0.300, dx=-0.120",
        "action: dx=+0.300, dy=-0.120, dz=0.0",
        "action: dx=nan, dy=0.0",
        "action: dx=+0.3.0, dy=0.0",
        "action: dx=1e9, dy=0.0",
    ],
)
def test_malformed_action_text(text: str) -> None:
    with pytest.raises(UserError, match=r"cannot read the action text .*'action: dx=\+0.000, dy=\+0.000'"):
        parse_action(text, ("dx", "dy"))


def test_action_text_out_of_bounds() -> None:
    with pytest.raises(UserError, match=r"'action: dx=\+1.001, dy=\+0.000' is out of bounds"):
        parse_action("action: dx=+1.001, dy=+0.000", ("dx", "dy"))
