import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scripts.conftest import Tiny
from tests.scripts.refusals import sentence
from worldmodel.codec.comparison_table import ROWS, sheet
from worldmodel.scripts.cli import run as run_cli
from worldmodel.scripts.codecs import main
from worldmodel.scripts.console import run_verb

NO_MIXTURE = "--mixture.text 0 --mixture.pictures 0 --mixture.held-out 0.4".split()
FLAGS = {
    "pixels": "--codec.kind pixels",
    "vae": "--codec.kind vae --codec.vae-steps 2 --codec.vae.width 8 --codec.batch-size 4",
}


def run(args: list[str]) -> int:
    return run_verb("codecs", lambda: main, args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """Two codecs of one file."""
    folder = tmp_path_factory.mktemp("codecs")
    for name, flags in FLAGS.items():
        given = ["--data", str(tiny.data), "--out", str(folder / name), *NO_MIXTURE, *flags.split()]
        assert run_cli(["codec", *given]) == 0
    return folder


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def check(*flags: object) -> str:
        capfd.readouterr()
        status = run(list(map(str, flags)))
        return sentence("codecs", status, *capfd.readouterr())

    return check


def test_one_table_one_file_one_picture(folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "table.json"
    codecs = [str(folder / name) for name in FLAGS]
    capsys.readouterr()
    assert run([*codecs, "--data", str(tiny.data), "--held-out", "0.4", "--out", str(out)]) == 0
    header, *lines, mean_frame, _ = capsys.readouterr().out.splitlines()
    assert "lpips-hed" in header and "probe R^2" in header
    assert [line.split()[1] for line in lines] == list(FLAGS) and mean_frame.startswith("mean frame")
    facts = json.loads(out.read_text())
    assert facts["command"].startswith("worldmodel codecs") and facts["data"]["held_out_frames"] > 0
    report = json.loads((folder / "pixels" / "report.json").read_text())
    for row, name in zip(facts["codecs"], FLAGS, strict=True):
        assert (row["folder"], row["kind"]) == (str(folder / name), name) and row["encode_frames_per_second"] > 0
        assert np.isfinite([row["probe"]["r2"], row["probe"]["error"], row["step_ratio"], row["reconstruction"]["ssim"]]).all()
    pixels = facts["codecs"][0]
    assert pixels["reconstruction"]["psnr"] == pytest.approx(report["reconstruction"]["psnr"], abs=1e-4)  # the same held-out frames
    assert pixels["probe"]["error"] == pytest.approx(report["objectives"]["pixels"]["probe"]["error"], rel=1e-3)
    assert (pixels["num_tokens"], pixels["channels"], pixels["parameters"]) == (256, 16, 0)
    assert facts["mean_frame"]["reconstruction"]["psnr"] == pixels["reconstruction"]["psnr_mean_frame"]
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 4 * 128 and picture.height > ROWS * 128
    assert sorted(path.name for path in out.parent.iterdir()) == ["table.json", "table.png"]


def test_the_sheet_has_the_columns_in_order_and_labels_that_fit() -> None:
    columns = [np.full((2, 8, 8, 3), level, np.uint8) for level in (10, 200)]
    picture = np.asarray(sheet(["truth", "a codec with a very long name"], columns))
    found = np.unique(picture[-6, :, 0][picture[-6, :, 0] != 255], return_index=True)
    assert found[0].tolist() == [10, 200] and found[1][0] < found[1][1]


def test_mistakes_are_told_in_one_sentence(folder: Path, tiny: Tiny, tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused(folder / "pixels", "--data", tiny.small_frames)
    assert "frames of 64 pixels, but the data's have 48" in said and "pixels" in said
    assert "holds no codec" in refused(tmp_path, "--data", tiny.data)
    assert "must end in .json" in refused(folder / "pixels", "--data", tiny.data, "--out", tmp_path / "table.txt")
    assert "at least one codec" in refused("--data", tiny.data)
    assert list(tmp_path.iterdir()) == []
