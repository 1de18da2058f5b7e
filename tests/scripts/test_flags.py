"""What the words behind a verb mean: presets and planners by name, in any order, and mistakes that name the flag."""

import itertools
import math
import re
from dataclasses import asdict

import pytest

from tests.scripts.commands import COMMANDS, commands, example, read
from tests.scripts.refusals import Refused
from worldmodel.agents.cem import CEMConfig
from worldmodel.agents.mppi import MPPIConfig
from worldmodel.agents.random_shooting import RandomShootingConfig
from worldmodel.errors import UserError
from worldmodel.presets import PRESETS, small
from worldmodel.scripts.fields import all_fields, checked, in_flags, unchecked, with_value

RUN = ("--codec", "codec", "--data", "x.h5")


def test_flags_of_a_preset_may_stand_anywhere() -> None:
    parts = [("--preset", "small"), ("--train.steps", "100"), ("--model.trunk.heads", "3"), ("--vocab-size", "300")]
    found = [read("pretrain", *RUN, *itertools.chain(*order)) for order in itertools.permutations(parts)]
    assert all(each == found[0] for each in found)
    assert (found[0].preset.train.steps, found[0].preset.model.trunk.heads, found[0].vocab_size) == (100, 3, 300)
    assert found[0].preset.train.lr == small().train.lr and found[0].preset.model.trunk.width == small().model.trunk.width


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("verb", ["pretrain", "ablate", "isoflop", "quickstart"])
def test_a_preset_is_what_it_is_named(verb: str, name: str) -> None:
    needed = {"pretrain": RUN, "ablate": ("shift",), "isoflop": RUN, "quickstart": ()}[verb]
    assert read(verb, *needed, "--preset", name).preset == PRESETS[name]() == read(verb, f"--preset={name}", *needed).preset
    assert read(verb, *needed).preset == PRESETS["tiny"]()
    assert read(verb, "--preset", "paper", *needed, "--preset", name).preset == PRESETS[name](), "the last of two counts"


@pytest.mark.parametrize("verb", ["evaluate", "plan", "diagnose", "quickstart"])
def test_a_planner_is_what_it_is_named(verb: str) -> None:
    needed = () if verb == "quickstart" else ("--checkpoint", "run")
    planner = read(verb, *needed, "--planner.temperature", "0.1", "--planner", "mppi").evaluate.planner
    assert planner == MPPIConfig(temperature=0.1)
    kinds = {"cem": CEMConfig, "random_shooting": RandomShootingConfig}
    assert {name: type(read(verb, *needed, "--planner", name).evaluate.planner) for name in kinds} == kinds
    assert read(verb, *needed).evaluate.planner == CEMConfig()
    with pytest.raises(UserError, match=r"unrecognized options: --planner.temperature"):
        read(verb, *needed, "--planner", "cem", "--planner.temperature", "0.1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--preset huge", "--preset is 'huge', must be one of tiny, small, base, paper"),
        ("--preset", "--preset needs a NAME"),
        ("--preset --train.steps 3", "--preset needs a NAME"),
        ("--config", "--config needs a FILE"),
        ("--vocab-size 300 preset:tiny", "unrecognized options: preset:tiny"),
        ("--preset.train.lr 3e-4", "unrecognized options: --preset.train.lr, 3e-4"),
        ("--preset tiny --train.stepss 4", "unrecognized options: --train.stepss, 4; perhaps you meant --train.steps"),
    ],
)
def test_presets_that_cannot_be(flags: str, said: str, refused: Refused) -> None:
    assert refused("pretrain", *RUN, *flags.split()).startswith(said)


def test_a_planner_that_is_none(refused: Refused) -> None:
    said = refused("evaluate", "--checkpoint", "x", "--planner", "gradient")
    assert said == "--planner is 'gradient', must be one of cem, mppi, random_shooting"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to do; name one of info, check, "),
        (["inof"], "there is no datasets 'inof'; did you mean info?"),
        (["--file", "x"], "unrecognized options: --file; name one of info, "),
    ],
)
def test_what_datasets_does_is_named_first(words: list[str], said: str, refused: Refused) -> None:
    assert refused("datasets", *words).startswith(said)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_value_that_is_refused_is_told_by_its_flag(words: str) -> None:
    """Of each number of each configuration: -1, 0, nan and something huge."""
    config = read(words, *example(words))
    for each in all_fields(config):
        if each.is_group or isinstance(each.value, bool) or not isinstance(each.value, int | float):
            continue
        for value in (-1, 0, 10**9, *([math.nan] if isinstance(each.value, float) else [])):
            with unchecked(commands()[words]):
                wrong = with_value(config, each.place, value)
            try:
                checked(wrong)
            except UserError as error:
                assert re.search(rf"{re.escape(each.flag)}[ =]", str(error)), f"{words} {each.flag} {value}: {error}"
            except (ValueError, TypeError, ArithmeticError):
                assert isinstance(value, float), f"{words} {each.flag} {value} is no UserError"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("horizon is 0, must be at least 1", "--planner.horizon is 0, must be at least 1"),
        ("num_elites 9 is above num_samples 4", "--planner.num-elites 9 is above --planner.num-samples 4"),
        ("--horizon 3 is nothing", "--planner.horizon 3 is nothing"),
        ("planner horizon is 3", "--planner.horizon is 3"),
        ("plan.num_elites is 3", "--planner.num-elites is 3"),
        (
            "a horizon of its own, or /a/horizon is/x or 'horizon is'",
            "--planner: a horizon of its own, or /a/horizon is/x or 'horizon is'",
        ),
        ("must lie in 1..num_samples=3", "must lie in 1..--planner.num-samples=3"),
        ("rehorizon is 3", "--planner: rehorizon is 3"),
    ],
)
def test_names_of_fields_become_flags(said: str, told: str) -> None:
    flags = {name: f"--planner.{name.replace('_', '-')}" for name in asdict(CEMConfig())}
    assert in_flags(said, flags, "planner") == told
