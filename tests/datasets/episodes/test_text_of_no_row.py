"""Text behind the last row of a column is damage, though every row can be read."""

from pathlib import Path

import h5py
import pytest

from tests.datasets.toys import write_toy_file
from worldmodel.datasets.episodes.integrity import check
from worldmodel.datasets.episodes.schema import TEXTS
from worldmodel.datasets.episodes.verified_reader import VerifiedStore


@pytest.mark.parametrize("name", TEXTS)
def test_text_behind_the_last_row_is_damage(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "toy.h5"
    write_toy_file(path, (3, 2), size=4)
    assert check(path).whole
    with VerifiedStore(path) as store:
        assert all(store.text_is_closed(each) for each in TEXTS)
        rows = store._reader.num_rows
        monkeypatch.setattr(store._reader, "num_rows", lambda column: rows(column) + (column == f"{name}/bytes"))
        assert [each for each in TEXTS if not store.text_is_closed(each)] == [name]
    closed = VerifiedStore.text_is_closed
    monkeypatch.setattr(VerifiedStore, "text_is_closed", lambda self, each: each != name and closed(self, each))
    report = check(path)
    assert not report.whole and f"column {name} holds text of no row" in (report.problem or "")
    with h5py.File(path, "r") as file:
        assert f"{name}/bytes" in file
