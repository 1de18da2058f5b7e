import importlib.util
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodel.datasets.collection import ray_workers
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.errors import UserError

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra `ray` is not installed")


def small(out: Path) -> CollectConfig:
    return CollectConfig(out=out, episodes=7, image_size=32, max_steps=6, workers=2, variation=("all",))


def test_without_ray_the_refusal_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'worldmodel\[ray\]'"):
        collect(replace(small(tmp_path / "a.h5"), ray=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:{port}", "refused"), ("ray://127.0.0.1:{port}", "refused"), ("nobody", "expected host:port"), ("a:b", "[Pp]ort")],
)
def test_a_cluster_that_is_not_there(address: str, words: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # it does not listen
        with pytest.raises(UserError, match=f"cannot reach the Ray cluster at --ray-address .*{words}"):
            ray_workers.check_reachable(address.format(port=free.getsockname()[1]))


@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_makes_the_same_bytes(tmp_path: Path) -> None:
    collect(small(tmp_path / "processes.h5"))
    result = collect(replace(small(tmp_path / "ray.h5"), ray=True))
    assert (result.episodes, result.new_episodes) == (7, 7)
    assert (tmp_path / "ray.h5").read_bytes() == (tmp_path / "processes.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["processes.h5", "ray.h5"]


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_refusals_come_through_ray_as_one_sentence(tmp_path: Path) -> None:
    for changes, words in (({"variation": ("disc.colour",)}, "disc.colour"), ({"cameras": ("back",)}, "unknown camera 'back'")):
        with pytest.raises(UserError, match=words):
            collect(replace(small(tmp_path / "a.h5"), ray=True, **changes))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
