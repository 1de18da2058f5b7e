from pathlib import Path

import pytest

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.episodes.card import write_card
from worldmodel.datasets.episodes.writer import write_episodes
from worldmodel.errors import UserError


def test_the_card_says_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "toy.h5"
    meta = {"env_id": "worldmodel/Toy-v0", "recipe": {"episodes": 2, "ray_address": None}, "feature_names": ["disc.x", "disc|y"]}
    write_episodes(path, [make_episode(0, 3), make_episode(1, 5)], meta)
    card = write_card(path)
    assert card == tmp_path / "toy.md"
    page = card.read_text()
    assert page.startswith("# toy.h5\n\n2 episodes of `worldmodel/Toy-v0`: 10 frames of 16 x 16 px")
    for words in (
        "| disc.color | always red |",
        "| door.width | 0.5 to 1.5 |",
        "`episodes=2`",
        "who acted: random 100%",
        "- caption: a red disc, episode 0 frame 0",
        "- goal: goal 0",
        "| features: disc\\|y |",
        "whose licence (MIT)",
    ):
        assert words in page, words
    assert "ray_address" not in page and str(tmp_path) not in page
    widths = [line.replace("\\|", "").count("|") for line in page.split("## Columns")[1].split("\n\n")[2].splitlines()]
    assert len(set(widths)) == 1, "every row of a table has as many cells"


def test_a_licence_in_the_file_is_the_licence_on_the_card(tmp_path: Path) -> None:
    write_episodes(tmp_path / "toy.h5", [make_episode(variation={})], {"licence": "CC BY 4.0"})
    page = write_card(tmp_path / "toy.h5").read_text()
    assert "## Licence\n\nCC BY 4.0.\n" in page and "None was recorded." in page


def test_writing_it_again_gives_the_same_card(tmp_path: Path) -> None:
    write_toy_file(tmp_path / "toy.h5")
    first = write_card(tmp_path / "toy.h5").read_bytes()
    assert write_card(tmp_path / "toy.h5").read_bytes() == first
    with pytest.raises(UserError, match="no such file"):
        write_card(tmp_path / "nowhere.h5")


def test_a_page_that_is_no_card_is_not_overwritten(tmp_path: Path) -> None:
    path, page = tmp_path / "README.h5", tmp_path / "README.md"
    write_episodes(path, [make_episode(0)], {"env_id": "toy"})
    page.write_text("# My project\n")
    with pytest.raises(UserError, match="not the data card"):
        write_card(path)
    assert page.read_text() == "# My project\n"
    page.unlink()
    assert write_card(path) == write_card(path) == page
