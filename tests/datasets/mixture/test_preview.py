import base64
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.datasets.toys import make_episode, write_toy_file
from worldmodel.datasets.mixture.documents import Action, Frame, NextActions, Steps, Text
from worldmodel.datasets.mixture.preview import MixConfig, in_words, measure_of, number_frames, show
from worldmodel.datasets.mixture.training_data import MixtureConfig
from worldmodel.errors import UserError

MIXTURE = MixtureConfig(action_video=0.1, change=0.05, text=0, pictures=0, clip_length=2, action_block=1, shift=0)
SHOWN = (Frame(np.zeros((32, 48, 3), np.uint8), False), Steps(7), NextActions(np.zeros((4, 2), np.float32), 5))
DOCUMENT = (
    Frame(np.zeros((32, 48, 3), np.uint8), True),
    Action(np.zeros(2, np.float32), "dx=0", "stay"),
    Text("two words\nmore", False),
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_toy_file(tmp_path / "toy.h5", size=16)
    return tmp_path / "toy.h5"


class Page(HTMLParser):
    """Collects pictures by their role and text by the role of the element it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[tuple[str, np.ndarray]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        role = dict(attrs).get("class", "")
        if tag == "img":
            data = base64.b64decode(dict(attrs)["src"].removeprefix("data:image/png;base64,"))
            self.pictures.append((role, np.asarray(Image.open(io.BytesIO(data)))))
        elif tag not in ("meta", "br"):
            self.open.append((tag, role))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1][1], data))


def test_page_and_words_show_each_source(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix.html"
    said = show(MixConfig((toy,), MIXTURE, documents=4, printed=2, drawn=200, out=out))
    page = Page(out.read_text())
    frames = {make_episode(i, length, 16).frames[t].tobytes() for i, length in enumerate((5, 3, 40, 7)) for t in range(length + 1)}
    others = 4 * (3 + 3 + 1 + 1 + 1 + 2)  # two videos, caption, captioned image, question, change
    assert all(picture.tobytes() in frames for _, picture in page.pictures)
    roles = [role for role, _ in page.pictures]
    assert roles[-others:] == ["learnt"] * 24 + ["given"] * 4 + ["learnt"] * 4 + ["given"] * 12
    asked = roles[:-others]  # of transitions the last frame, of goals none
    assert asked.count("learnt") == 4 and asked[-8:].count("given") == 8 and len(asked) in range(4 * (2 + 2 + 1), 4 * (3 + 3 + 2) + 1)
    assert {role for role, text in page.texts if text.startswith("a red disc, ")} == {"given", "learnt"}
    assert "http" not in out.read_text()  # nothing is loaded from elsewhere
    for name in ("transition", "goal", "spoken goal", "action video", "video", "caption", "captioned image", "question", "change"):
        assert len(re.findall(rf"^{name}:$", said, re.M)) == 1 and re.search(rf"^{name}  .*%.*%", said, re.M)
    assert len(re.findall(r"^  learned: \[picture 16x16 #\d+\] \(\d \d+ = move \d", said, re.M)) == 2
    assert "an estimate: text one per 4 bytes" in said
    assert re.search(r'given: \[picture 16x16 #\d+\] learned: "a red disc', said)
    asked_for = re.compile(r'^  given: .*(\]|"a red disc.*") learned: \[in \d+ steps\] \[the next actions: \d+ numbers\]$', re.M)
    assert [found.group(1) for found in asked_for.finditer(said)].count("]") == 2 and len(asked_for.findall(said)) == 4
    assert len(re.findall(r"next actions:(?: [+-]\d\.\d\d)+$", "\n".join(text for _, text in page.texts), re.M)) == 8
    quiet = show(MixConfig((toy,), MIXTURE, show=False, drawn=200, out=out))
    assert "picture" not in quiet and "action video" in quiet


def test_what_a_text_holds_is_shown_as_it_is(toy: Path, tmp_path: Path) -> None:
    lines = '<b>one</b> & "two" é\n'
    (tmp_path / "a.txt").write_text(lines)
    (tmp_path / "b.txt").write_text(lines)
    corpus = MixtureConfig(
        action_video=0,
        video=0,
        caption=0,
        captioned_image=0,
        question=0,
        pictures=0,
        corpora=(str(tmp_path / "[ab].txt"),),
        action_block=1,
    )
    said = show(MixConfig((toy,), corpus, drawn=10, out=tmp_path / "mix.html"))
    assert ("learnt", lines.strip()) in Page((tmp_path / "mix.html").read_text()).texts
    assert html.escape("<b>one</b>") in (tmp_path / "mix.html").read_text() and 'learned: "<b>one</b>' in said


def test_a_document_in_one_line() -> None:
    ((first, second),) = number_frames({"x": [DOCUMENT, DOCUMENT]}).values()
    assert in_words(first) == 'learned: [picture 48x32 #1] (dx=0 = stay) given: "two words / more"'
    assert "#2" in in_words(second)
    (asked,) = number_frames({"x": [SHOWN]})["x"]
    assert in_words(asked) == "given: [picture 48x32 #1] learned: [in 7 steps] [the next actions: 5 numbers]"
    block = Action(np.zeros(6, np.float32), "action: dx=1; action: dx=1; action: dx=0", "right; right; stay")
    (numbered,) = number_frames({"x": [(block, Text("one\n\ntwo"))]})["x"]
    assert in_words(numbered) == '(dx=1 ×2; dx=0 = right ×2; stay) learned: "one / two"'


def test_tokens_are_counted_and_the_unit_is_named(tmp_path: Path) -> None:
    measure, unit = measure_of(MixConfig(patch_size=16))
    assert measure(DOCUMENT) == 2 * 3 + 2 + 1 + 4 + 1 and "estimate" in unit
    assert measure(SHOWN) == 2 * 3 + 2 + 1 + 1
    words = Tokenizer(WordLevel({"two": 0, "words": 1, "more": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        measure, unit = measure_of(MixConfig(patch_size=8, tokenizer=path))
        assert measure(DOCUMENT) == 4 * 6 + 2 + 1 + 3 + 1 and "tokenizer.json" in unit and "estimate" not in unit


def test_recipes_are_printed() -> None:
    assert 'kind = "pairs"' in show(MixConfig(print_recipe="paper"))
    with pytest.raises(UserError, match="no recipe papers"):
        show(MixConfig(print_recipe="papers"))


def test_mistakes_are_named(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(UserError, match="drawn is 0"):
        MixConfig(drawn=0)
    with pytest.raises(UserError, match="no such tokenizer"):
        measure_of(MixConfig(tokenizer=tmp_path))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match="bad.json is not a tokenizer"):
        measure_of(MixConfig(tokenizer=tmp_path / "bad.json"))
    (tmp_path / "no").touch()
    with pytest.raises(UserError, match="cannot write .*no/mix.html: .*no is a file, not a folder"):
        show(MixConfig((toy,), MIXTURE, drawn=10, out=tmp_path / "no" / "mix.html"))
