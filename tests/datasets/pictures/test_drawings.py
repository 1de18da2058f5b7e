import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets.picture_sets import number_of, plain, write_folder
from worldmodel.datasets.pictures import drawings
from worldmodel.datasets.pictures.drawings import index_icons
from worldmodel.datasets.pictures.pairs import open_pairs
from worldmodel.errors import UserError


def body(colour: str, size: int = 16) -> str:
    return f'<path fill="{colour}" d="M0 0H{size}V{size}H0z"/>'


def info(name: str, licence: str | None = "MIT", palette: bool = True) -> dict[str, Any]:
    return {"name": name, "palette": palette, "license": {"spdx": licence} if licence else {}}


COLLECTIONS = {
    "flat": info("Flat color Icons"),
    "emo": info("Emo", "CC-BY-4.0"),
    "mono": info("Mono", palette=False),
    "share": info("Share", "CC-BY-SA-4.0"),
    "none": info("None", None),
}
FLAT = {
    "prefix": "flat",
    "info": {"name": "Flat color Icons", "icons": {"not": "these"}},
    "icons": {
        "red-apple": {"body": body("rgb(200,30,30)")},
        "größe": {"body": body("rgb(30,160,40)", 8), "width": 8, "height": 8},
        "old": {"body": body("blue"), "hidden": True},
        "white": {"body": body("white")},
    },
    "aliases": {"apple": {"parent": "red-apple"}},
}
EMO = {"icons": {"sun": {"body": body("rgb(220,180,20)", 32), "left": 0}}, "width": 32, "height": 32}


@pytest.fixture
def iconify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sets = {"flat": FLAT, "emo": EMO, "mono": EMO, "share": EMO, "none": EMO}
    files: dict[str, bytes | str] = {f"json/{name}.json": json.dumps(content, indent="\t") for name, content in sets.items()}
    folder = write_folder(tmp_path / "package", files | {"collections.json": json.dumps(COLLECTIONS)})
    monkeypatch.setattr(drawings, "package_folder", lambda name: folder)
    return folder


def test_colour_sets_under_permissive_licences_are_taken(iconify: Path) -> None:
    pairs = open_pairs("iconify", 16)
    captions = [
        "a flat color icon of a red apple",
        "a flat color icon of a größe",
        "a flat color icon of a white",
        "an emo icon of a sun",
    ]
    assert list(pairs.captions) == captions
    assert [number_of(pairs.image(i)) for i in range(4)] == [0, 1, 3, 3]  # nothing is seen of the white one
    assert pairs.skipped == {"flat:white": "the drawing is blank"}
    assert "CC-BY-4.0, MIT" in pairs.licence and pairs.name == "iconify"


def test_sets_can_be_chosen(iconify: Path) -> None:
    assert len(open_pairs("iconify:mono", 8)) == 1 and len(open_pairs("iconify:flat,emo", 8)) == 4
    with pytest.raises(UserError, match="no set 'other'"):
        open_pairs("iconify:other")
    with pytest.raises(UserError, match="CC-BY-SA-4.0; only permissive"):
        open_pairs("iconify:share")
    with pytest.raises(UserError, match="unnamed license"):
        open_pairs("iconify:none")


def test_damaged_sets_are_refused(iconify: Path) -> None:
    (iconify / "json" / "emo.json").write_text('{"icons": {"sun": ')
    with pytest.raises(UserError, match="emo.json: not a set of icons"):
        open_pairs("iconify:emo")
    (iconify / "collections.json").write_text("{")
    with pytest.raises(UserError, match="collections.json: cannot be read"):
        open_pairs("iconify")


def test_icons_that_change_under_us_are_skipped(iconify: Path) -> None:
    pairs = open_pairs("iconify:flat,emo", 16)
    (iconify / "json" / "flat.json").write_text("shorter")
    assert pairs.caption(0) == "an emo icon of a sun" and len(pairs.skipped) == 3
    assert all(name.startswith("flat:byte") for name in pairs.skipped)


@given(
    st.dictionaries(st.text(min_size=1), st.fixed_dictionaries({"body": st.text()}, optional={"width": st.integers()}), min_size=1),
    st.sampled_from([None, 2, "\t"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_index_finds_every_icon(
    tmp_path_factory: pytest.TempPathFactory, icons: dict[str, Any], indent: Any, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("set") / "set.json"
    content = json.dumps({"prefix": "x", "icons": icons, "width": 3}, indent=indent, ensure_ascii=ascii_only).encode(
        "utf8", "surrogatepass"
    )
    path.write_bytes(content)
    spans = index_icons(path)["icons"].tolist()
    found: dict[str, Any] = {}
    for start, size in spans:
        found |= json.loads(b"{" + content[start : start + size] + b"}")
    assert found == icons and len(spans) == len(icons)


def test_stamps_have_the_first_line_of_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect width="2" height="1" fill="red"/></svg>'
    folder = write_folder(
        tmp_path,
        {"a/goat.png": plain(2), "a/goat.svg": picture, "a/goat.txt": "A goat.\nfr.utf8=Une chèvre.\n", "a/goat_mirror.png": plain(1)}
        | {"b/flag.svg": picture, "b/flag.txt": "A flag.", "b/sound.txt": "A sound.", "a/lone.png": plain(0)},
    )
    monkeypatch.setattr(drawings, "package_folder", lambda name: folder)
    pairs = open_pairs("stamps", 8)
    assert list(pairs.captions) == ["A goat.", "A flag."] and number_of(pairs.image(0)) == 2
    assert pairs.image(1).std() > 2 and len(pairs.skipped) == 0 and "GPL" in pairs.licence


@pytest.mark.parametrize("name", ["openmoji", "stamps"])
def test_empty_packages_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "package_folder", lambda name: tmp_path)
    with pytest.raises(UserError, match=f"worldmodel datasets fetch {name}"):
        open_pairs(name)


def test_without_the_renderer_the_refusal_names_the_extra(iconify: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    for source in ("openmoji", "iconify"):
        with pytest.raises(UserError, match=r"need the package resvg-py: pip install 'worldmodel\[pictures\]'"):
            open_pairs(source)
