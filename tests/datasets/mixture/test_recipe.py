from pathlib import Path

import pytest

from worldmodel.datasets.mixture.kinds import KINDS
from worldmodel.datasets.mixture.recipe import SHIPPED, read_recipe, recipe_path
from worldmodel.datasets.mixture.source import Entry
from worldmodel.errors import UserError


def write(folder: Path, text: str) -> Path:
    path = folder / "mix.toml"
    path.write_text(text, "utf8")
    return path


def test_entries_are_read_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[source]]
        name = "speeches"
        kind = "text"
        weight = 0.5
        corpus = ["sotu", "own.jsonl", "hf:some/name:config"]
        chunk = 1000

        [[source]]
        kind = "action_video"
        weight = 1
        files = ["a.h5", "/else/b.h5"]
        clip_length = 5

        [[source]]
        name = "icons"
        kind = "pairs"
        weight = 0
        pairs = "iconify:noto"
        direction = "to image"
        fit = "crop"

        [[source]]
        kind = "spoken_goal"
        weight = 2
        horizon = 4
        """,
    )
    text, video, pairs, goal = read_recipe(path)
    own = str(tmp_path / "own.jsonl")
    where = f"{path}, source "
    assert text == Entry("speeches", "text", 0.5, f"{where}'speeches'", corpus=("sotu", own, "hf:some/name:config"), chunk=1000)
    files = (tmp_path / "a.h5", Path("/else/b.h5"))
    assert goal == Entry("spoken_goal", "spoken goal", 2.0, f"{where}'spoken_goal'", horizon=4)
    assert video == Entry("action_video", "action video", 1.0, f"{where}'action_video'", files=files, clip_length=5)
    assert pairs == Entry("icons", "pairs", 0.0, f"{where}'icons'", pairs=("iconify:noto",), direction="to image", fit="crop")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[source]", "mix.toml is not TOML: .*line 1"),
        ("", r"mix.toml has no \[\[source\]\] table"),
        ("source = 3", "no .* table"),
        ("[[sources]]\nkind = 'text'", r"mix.toml: unknown key 'sources' .*did you mean 'source'\?"),
        ("[[source]]\nweight = 1", "mix.toml, source 1: its `kind`"),
        ("[[source]]\nname = 'x'\nweight = 1", "source 'x' has no `kind`; kinds are text, pairs"),
        ("[[source]]\nkind = 'captoin'\nweight = 1", r"source 'captoin' has the unknown kind 'captoin' \(did you mean 'caption'\?\)"),
        ("[[source]]\nkind = 'text'", "source 'text' has no `weight`"),
        ("[[source]]\nkind = 'text'\nweight = 'much'", "source 'text' has the weight 'much'; .* number from 0 to"),
        ("[[source]]\nkind = 'text'\nweight = -1", "the weight -1"),
        ("[[source]]\nkind = 'text'\nweight = nan", "the weight nan"),
        ("[[source]]\nkind = 'text'\nweight = true", "the weight True"),
        ("[[source]]\nkind = 'text'\nweight = 1\ncorpora = 'sotu'", r"unknown key 'corpora' \(did you mean 'corpus'\?\)"),
        ("[[source]]\nkind = 'caption'\nweight = 1\nchunk = 3", "unknown key 'chunk'; .* takes name, kind, weight, files"),
        ("[[source]]\nkind = 'text'\nweight = 1\nchunk = 0", "chunk is 0"),
        ("[[source]]\nkind = 'text'\nweight = 1\ncorpus = []", r"corpus is \[\], must be a text"),
        ("[[source]]\nkind = 'text'\nweight = 1\nfield = 3", "field is 3, must be a text"),
        ("[[source]]\nkind = 'pairs'\nweight = 1\ndirection = 'to txt'", r"direction is 'to txt' \(did you mean 'to text'\?\)"),
        ("[[source]]\nkind = 'text'\nweight = 1\n" * 2, "two sources have the name 'text'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_recipe(write(tmp_path, text))


def test_shipped_recipes_are_found_by_name() -> None:
    for path in SHIPPED.glob("*.toml"):
        assert recipe_path(path.stem) == path
        assert {entry.kind for entry in read_recipe(path)} <= set(KINDS)
    with pytest.raises(UserError, match=r"there is no recipe papr: .* \(did you mean 'paper'\?\)"):
        recipe_path("papr")


def test_paper_has_the_papers_shares() -> None:
    weights = {entry.kind: entry.weight for entry in read_recipe(recipe_path("paper"))}
    assert weights == {"text": 0.5, "video": 0.25, "pairs": 0.225, "action video": 0.025}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a" + ".a" * 50_000 + " = 1", "a key of very many parts"),
        ('["a"' + " . 'b'" * 50_000 + "]", "a key of very many parts"),
        ("# " + "x" * 2**20, "larger than 1,048,576 bytes"),
        ("x = 1" + "0" * 5000, "not TOML"),
        ('[[source]]\nkind = "text"\nweight = 1\ncorpus = "a\\u0000b"', "corpus is 'a.x00b', must be a text"),
        ('[[source]]\nkind = "text"\nweight = 1e308\ncorpus = "a"', r"has the weight 1e\+308; it must be a number from 0 to 1e\+09"),
        ('[[source]]\nkind = "text"\nweight = nan\ncorpus = "a"', "has the weight nan"),
    ],
)
def test_recipes_that_are_meant_to_harm(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as refused:
        read_recipe(path)
    assert len(str(refused.value)) < 500
