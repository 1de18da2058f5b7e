"""The numbered scripts of docs/examples run, in order, in one folder; small here by their own flags."""

import os
from pathlib import Path

from tests.forks import Forks

SMALLER = {
    "01_world.py": "--task worldmodel/TwoRoom-v0",
    "02_collect.py": "--episodes 6 --max-steps 30",
    "03_train.py": "--steps 4 --vocab-size 400",
    "04_dream.py": "--horizon 2",
    "05_plan.py": "--problems 2 --goal-offset 6 --budget 6 --min-distance 0.1",
}
WRITES = {"01_world.py": "world.png", "02_collect.py": "rooms.h5", "03_train.py": "run/checkpoints", "04_dream.py": "dream.gif"}


def test_the_examples_run_in_order(root: Path, tmp_path: Path, forked: Forks) -> None:
    scripts = sorted((root / "docs" / "examples").glob("*.py"))
    assert [script.name for script in scripts] == list(SMALLER)
    printed = {}
    for script in scripts:
        assert len(script.read_text().splitlines()) <= 55, f"{script.name} is no short example any more"
        result = forked.python(str(script), *SMALLER[script.name].split(), folder=tmp_path, env=os.environ)
        assert result.returncode == 0, f"{script.name}\n{result.stderr}"
        assert script.name not in WRITES or (tmp_path / WRITES[script.name]).exists()
        printed[script.name] = result.stdout
    assert "caption: " in printed["01_world.py"] and "batch 2: frames (8, 5, 64, 64, 3) uint8" in printed["02_collect.py"]
    assert "5 episodes to train on, 1 held out" in printed["03_train.py"] and "after 4 steps" in printed["03_train.py"]
    assert [line.partition(":")[0] for line in printed["05_plan.py"].splitlines()[-4:]] == ["random", "policy", "guided", "oracle"]
