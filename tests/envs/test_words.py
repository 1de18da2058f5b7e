"""Words: captions read back, articles, directions, colors."""

import pytest

from worldmodel.envs.words import Attribute, color_attribute, direction_words, read_attributes, with_article

ATTRIBUTES = {
    "color": Attribute({"red": "red", "orange": "orange"}, "what color?", "is it {}?", "disc.color"),
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


def test_articles() -> None:
    assert (with_article("orange"), with_article("red")) == ("an orange", "a red")


@pytest.mark.parametrize(
    ("right", "up", "words"),
    [(1, 0, "right"), (-1, 0.05, "left"), (0, 1, "up"), (-1, -1, "down and left"), (0.05, -0.05, "")],
)
def test_direction_words(right: float, up: float, words: str) -> None:
    assert direction_words(right, up, threshold=0.1) == words


def test_a_color_is_asked_for_by_the_name_of_the_thing() -> None:
    color = color_attribute("disc", {"red": (1.0, 0.0, 0.0)}, "disc.color")
    assert color == Attribute({"red": "red"}, "what color is the disc?", "is the disc {}?", "disc.color")
