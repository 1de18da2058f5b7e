"""Finding and building the environments of other packages: by their gymnasium id, installed as extras.

HalfCheetah-v5            gymnasium's own
FetchReach-v4             gymnasium-robotics
dm_control/walker-walk-v0 dm_control, through shimmy
Meta-World/reach-v3       metaworld, one task by its name
cube-single-v0            ogbench
swm/PushT-v1              stable-worldmodel
package.module:Name-v0    anything that registers itself when `package.module`, installed or in the working folder, is imported

Importing a module runs it. One that a user names is imported; one that a file of data names only when it is among those that
`WORLDMODEL_MODULES` lists, that a user has named before, or that are loaded already.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from typing import Any

import gymnasium

from worldmodel.errors import UserError

logger = logging.getLogger(__name__)

NAMESPACES = {"dm_control": "shimmy", "Meta-World": "metaworld", "swm": "stable_worldmodel"}
"""Namespace of an id -> the module that registers it."""
PLAIN = ("gymnasium_robotics", "ogbench")
"""Modules that register ids without a namespace."""
INSTALL = "pip install 'worldmodel[external]' adds gymnasium-robotics, dm_control, metaworld and ogbench"
TRUSTED = "WORLDMODEL_MODULES"
"""Environment variable: modules, with commas between, that data may name; child processes have it too."""
_METAWORLD = "Meta-World/"
METAWORLD_STEPS = 500


def knows(env_id: str) -> bool:
    """Test whether an environment of another package has this id; imports the packages that may register it.

    Raises:
        UserError: if the package that the id belongs to is not installed, cannot be imported, or does not register it.
    """
    if env_id in gymnasium.registry:
        return True
    module, colon, name = env_id.rpartition(":")
    namespace, slash, _ = env_id.partition("/")
    if colon:
        _import_own(module, env_id)
        if name not in gymnasium.registry:
            raise UserError(f"{env_id}: the module {module} registers no environment {name}; let it call gymnasium.register")
        return True
    if slash and namespace in NAMESPACES:
        _import(NAMESPACES[namespace], env_id)
        return namespace == "Meta-World" or env_id in gymnasium.registry
    for package in PLAIN:
        if not slash and importlib.util.find_spec(package) is not None:
            _import(package, env_id)
            if env_id in gymnasium.registry:
                return True
    return False


def refuse_module_of_data(env_id: str) -> None:
    """Refuse an id that stands in a file of data and would have a module imported that nobody has named but the file.

    Raises:
        UserError: with the way to allow it.
    """
    module = env_id.rpartition(":")[0]
    if module and module not in sys.modules and module not in _trusted():
        raise UserError(
            f"the data name the environment {env_id!r}: making it would run the module {module!r}; if you know what that is, "
            f"set {TRUSTED}={module}"
        )


def _trusted() -> list[str]:
    return [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]


def _import_own(name: str, env_id: str) -> None:
    """Import a module that a user names, also from the working folder; data may name it from then on."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{env_id}: {name!r} is no name of a module; write package.module:Name-v0")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        _load(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{env_id}: {error}, neither installed nor in the working folder {os.getcwd()}") from error
    except Exception as error:  # whatever its author's code raises
        raise UserError(f"{env_id}: the module {name} cannot be imported: {type(error).__name__}: {error}") from error
    os.environ[TRUSTED] = ",".join(dict.fromkeys([*_trusted(), name]))


def _import(name: str, env_id: str) -> None:
    try:
        _load(name)
    except ImportError as error:
        raise UserError(f"{env_id} needs the package {name}, which cannot be imported ({error}): {INSTALL}") from error


def _load(name: str) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some advertise and warn when they are imported
        gymnasium.register_envs(importlib.import_module(name))


def time_limit(env_id: str) -> int | None:
    """Return the steps of an episode that the id is registered with, if any."""
    if env_id.startswith(_METAWORLD):
        return METAWORLD_STEPS
    return gymnasium.spec(env_id.rpartition(":")[2]).max_episode_steps  # of `package.module:Name-v0` the name is registered


def make_env(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Build the environment itself, without time limit and checks.

    Args:
        env_id: An id that `knows` knows.
        **kwargs: For its constructor.

    Raises:
        UserError: if it cannot be built with these.
    """
    try:
        with warnings.catch_warnings():  # of gymnasium, about how the environment is written
            warnings.simplefilter("ignore")
            return _make(env_id, **kwargs)
    except UserError:
        raise
    except Exception as error:  # every package raises types of its own
        raise UserError(f"cannot make {env_id}: {type(error).__name__}: {error}") from error


def _make(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    if env_id.startswith(_METAWORLD):
        return _make_metaworld(kwargs.pop("env_name", env_id.removeprefix(_METAWORLD)), **kwargs)
    options: dict[str, Any] = {"render_mode": "rgb_array", "disable_env_checker": True, "max_episode_steps": -1} | kwargs
    return gymnasium.make(env_id, **options)


class _Metaworld(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A Meta-World task whose reset obeys its seed: where the objects lie, and the goal."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        env: Any = self.unwrapped
        if seed is not None:
            env.seed(seed)
        env.seeded_rand_vec, env._freeze_rand_vec = True, False
        return env.reset()


def _make_metaworld(name: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as TASKS

    if f"{name}-goal-observable" not in TASKS:
        names = ", ".join(key.removesuffix("-goal-observable") for key in TASKS)
        raise UserError(f"unknown Meta-World task {name!r}: expected one of {names}")
    return _Metaworld(TASKS[f"{name}-goal-observable"](**{"render_mode": "rgb_array", "seed": 0} | kwargs))
