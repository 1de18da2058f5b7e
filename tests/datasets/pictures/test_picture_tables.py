import io
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.picture_sets import number_of, plain
from worldmodel.datasets.pictures import picture_tables
from worldmodel.datasets.pictures.pairs import Pairs, open_pairs
from worldmodel.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, columns: dict[str, Any], rows: int = 3) -> Path:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def images(count: int) -> list[dict[str, Any]]:
    return [{"bytes": plain(i), "path": f"{i}.png"} for i in range(count)]


def captions(count: int) -> list[str]:
    return [f"picture {i}" for i in range(count)]


def shown(pairs: Pairs) -> list[tuple[int, str]]:
    return [(number_of(image), caption) for image, caption in map(pairs.pair, range(len(pairs)))]


@pytest.mark.parametrize(
    "columns",
    [
        {"image": images(5), "text": captions(5)},
        {"jpg": [plain(i) for i in range(5)], "caption": captions(5), "url": ["x"] * 5},
        {"content": [plain(i) for i in range(5)], "label": captions(5)},
        {"image": images(5), "captions": [[caption, "other"] for caption in captions(5)], "id": list(range(5))},
    ],
)
def test_columns_are_found(tmp_path: Path, columns: dict[str, Any]) -> None:
    pairs = open_pairs(write(tmp_path / "a.parquet", columns), 8)
    assert shown(pairs) == [(i, f"picture {i}") for i in range(5)]


def test_caption_key_names_the_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": images(2), "text": ["x", "y"], "long": ["a", "b"]})
    assert list(open_pairs(path, 8, caption_key="long").captions) == ["a", "b"]
    with pytest.raises(UserError, match="no column of captions called title.*image, text, long"):
        open_pairs(path, 8, caption_key="title")


@pytest.mark.parametrize(
    ("columns", "missing"), [({"text": ["x"]}, "pictures"), ({"image": images(1), "a": ["x"], "b": ["y"]}, "captions")]
)
def test_missing_columns_are_named(tmp_path: Path, columns: dict[str, Any], missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        open_pairs(write(tmp_path / "a.parquet", columns))


def test_several_files_and_labels(tmp_path: Path) -> None:
    bad = [None, {"bytes": None, "path": "x.png"}, {"bytes": b"damaged", "path": None}, *images(4)[3:]]
    write(tmp_path / "0.parquet", {"image": images(4), "text": captions(4)})
    write(tmp_path / "1.parquet", {"image": bad, "text": ["a", "b", "c", "picture 3"]})
    write(tmp_path / "2.parquet", {"image": images(2), "text": [None, "picture 1"]})
    pairs = open_pairs(tmp_path, 8)
    assert [number for number, _ in shown(pairs)] == [0, 1, 2, 3, 3, 3, 3, 3, 1, 1]
    assert pairs.skipped.keys() == {f"{tmp_path}/1.parquet, row {row}" for row in range(3)} | {f"{tmp_path}/2.parquet, row 0"}


def test_few_row_groups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": images(12), "text": captions(12)}, rows=2)
    monkeypatch.setattr(picture_tables, "KEPT_BYTES", 0)
    tables = picture_tables.PictureTables([path])
    for i in (11, 0, 5, 6, 1):
        assert tables.caption(i) == f"picture {i}"
        assert len(tables._recent) == 1
    assert pickle.loads(pickle.dumps(tables)).caption(9) == "picture 9"


def test_damaged_files_are_refused_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": images(4), "text": captions(4)}, rows=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="a.parquet: not a Parquet file"):
        open_pairs(path)
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    pairs = open_pairs(path, 8)
    assert pairs.image(3).shape == (8, 8, 3)
    assert pairs.image(0).shape == (8, 8, 3) and len(pairs.skipped) >= 1


def test_files_of_one_set_have_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", {"image": images(1), "text": ["x"]})
    write(tmp_path / "1.parquet", {"image": images(1), "caption": ["x"]})
    with pytest.raises(UserError, match="1.parquet: its columns differ"):
        open_pairs(tmp_path)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    schema = pyarrow.schema([("image", pyarrow.binary()), ("text", pyarrow.string())])
    content = io.BytesIO()
    parquet.write_table(schema.empty_table(), content)
    (tmp_path / "a.parquet").write_bytes(content.getvalue())
    with pytest.raises(UserError, match="holds no picture with a caption"):
        open_pairs(tmp_path)


def test_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": images(1), "text": ["x"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'worldmodel\[data\]'"):
        open_pairs(path)
