"""Every registered task, for the laws of the suite."""

from collections.abc import Iterator

import pytest

from worldmodel.envs import make_task, task_ids
from worldmodel.envs.mujoco_task import MujocoTask


@pytest.fixture(scope="module", params=task_ids())
def env_id(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def task(env_id: str) -> Iterator[MujocoTask]:
    task = make_task(env_id)
    yield task
    task.close()
