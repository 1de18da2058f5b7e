"""What the environment says of other processes: read, or refused in one sentence by whoever would wait for them."""

import pytest

from worldmodel.errors import UserError
from worldmodel.training.distributed import processes
from worldmodel.training.torchrun import Surroundings, surroundings

WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


def test_what_torchrun_says_is_read() -> None:
    assert surroundings(WHOLE) == Surroundings(3, 4, 1, "host:29500")
    assert surroundings({name: value for name, value in WHOLE.items() if name != "LOCAL_RANK"}).local_rank == 3
    assert surroundings({}) == surroundings(WHOLE | {"WORLD_SIZE": "1"}) == Surroundings(0, 1, 0, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": ""}, "WORLD_SIZE is 4, but RANK is not set; unset it, or start the processes with torchrun, which sets all of them"),
        ({"RANK": "", "MASTER_ADDR": ""}, "WORLD_SIZE is 4, but RANK and MASTER_ADDR are not set"),
        ({"MASTER_PORT": ""}, "WORLD_SIZE is 4, but MASTER_PORT is not set"),
        ({"RANK": "4"}, "RANK is '4', it must be a number below 4; start the processes with torchrun, which sets it"),
        ({"RANK": "-1"}, "RANK is '-1', it must be a number below 4"),
        ({"LOCAL_RANK": "first"}, "LOCAL_RANK is 'first', it must be a number below 4"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', it must be a number below 65536"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', it must be the number of processes"),
    ],
)
def test_what_is_missing_or_cannot_be_is_one_sentence(changes: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (WHOLE | changes).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"^{words}"), processes("cpu"):
        pass
