"""The ladder from pixels to success: five rungs, each measured with a control, and the lowest one that does not hold.

    codec      can what the goal is measured in be read off the tokens, as well as off the frames?
    dynamics   is the true state in the dream, and does the dream follow the actions?
    ranking    does the cost put candidate actions in the true order, with true and with dreamt futures?
    search     does this planner with this budget get there in the true simulator, with the true distance and with the cost?
    result     does the model?

A rung that fails spoils those above it. So the lowest that is broken is named; if none is, the lowest that is weak. `CHECKS` says what
broken and weak mean, and what usually mends it. How the rungs are measured: `rungs.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Rung = Literal["codec", "dynamics", "ranking", "search", "result"]
OF_GOAL, NOT_OF_GOAL = "R^2, small network, goal's ", "R^2, small network, other "
LINEAR = "R^2, linear, "
STEP_AHEAD, SHUFFLED = "state error, steps ahead: ", "shuffled / true actions, 1 step ahead"
TRUE_FRAMES = "state error, true frames"
TRUE_FUTURES, DREAMT_FUTURES = "rank correlation, true futures", "rank correlation, dreamt futures"
TRUE_DISTANCE, MODEL_COST = "touched, true simulator, true distance", "touched, true simulator, the model's cost"
TOUCHED, HELD = "touched, ", "held, "
"""Names of rows, or how they begin."""
LEAST_CONTROL = 0.1
"""What a control must reach for a share of it to say anything."""
LEAST_SEEN = 0.5
"""R^2 that a variable must have on the frames for the tokens to be blamed: frames from within a house hardly say where one stands."""
OF_THE_MODEL = ("policy", "guided", "cem", "mppi", "random_shooting")
"""Controllers that are the model's."""


@dataclass(frozen=True)
class LadderRow:
    """One number of the ladder."""

    task: str
    seed: int
    rung: Rung
    name: str
    value: float
    control: float | None
    """Value of the control; None where there is none."""


@dataclass(frozen=True)
class Check:
    """One thing that a rung must do."""

    rung: Rung
    what: str
    """Name of the number that is checked."""
    number: Callable[[Sequence[LadderRow]], float | None]
    """From all rows; higher is better, None where it was not measured."""
    broken: float
    """Below this the rung is broken."""
    weak: float
    """Below this it is weak."""
    mend: str
    """What usually helps."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a ladder."""

    rung: Rung | None
    """The weakest rung; None if all hold."""
    sentence: str
    """What is wrong with it, and what usually mends it."""


def worst_share(rows: Sequence[LadderRow], rung: Rung, beginning: str, least: float = LEAST_CONTROL) -> float | None:
    """Return the smallest value as a share of its control over rows with this name prefix, but for controls of at most `least`."""
    there = [row for row in rows if row.rung == rung and row.name.startswith(beginning)]
    return min((max(row.value, 0.0) / row.control for row in there if row.control and row.control > least), default=None)


def row_of(rows: Sequence[LadderRow], rung: Rung, name: str) -> LadderRow | None:
    """Return the row of this rung and name; None if it is missing."""
    return next((row for row in rows if (row.rung, row.name) == (rung, name)), None)


def value_of(rows: Sequence[LadderRow], rung: Rung, name: str) -> float | None:
    """Return the value of the row of this rung and name; None if it is missing."""
    row = row_of(rows, rung, name)
    return None if row is None else row.value


def below_copying(rows: Sequence[LadderRow]) -> float | None:
    """Return how many times smaller the dream's error of the state is than that of copying the last frame, one step ahead.

    What the reader errs on true frames is taken off both, as squares. None where copying errs no more than that: then nothing moves
    that can be read.
    """
    row, floor = row_of(rows, "dynamics", f"{STEP_AHEAD}1"), value_of(rows, "dynamics", TRUE_FRAMES) or 0.0
    if row is None or row.control is None or row.control <= floor:
        return None
    return float(((row.control**2 - floor**2) / max(row.value**2 - floor**2, 1e-18)) ** 0.5)


def best_of_model(rows: Sequence[LadderRow]) -> tuple[str, float]:
    """Return the model's controller that touches and holds most goals, and what it touches; an empty name and 0 if there is none."""
    own = [(name, row.value) for name in OF_THE_MODEL if (row := row_of(rows, "result", f"{TOUCHED}{name}"))]
    return max(own, key=lambda each: each[1] + (value_of(rows, "result", f"{HELD}{each[0]}") or 0.0), default=("", 0.0))


def share_of_oracle(rows: Sequence[LadderRow]) -> float | None:
    """Return the goals touched by the best of the model's controllers, as a share of those that the oracle touches."""
    (name, touched), oracle = best_of_model(rows), value_of(rows, "result", f"{TOUCHED}oracle")
    return touched / oracle if name and oracle else None


def share_held(rows: Sequence[LadderRow]) -> float | None:
    """Return the goals held by the best of the model's controllers, as a share of those that it touches."""
    name, touched = best_of_model(rows)
    held = value_of(rows, "result", f"{HELD}{name}")
    return held / touched if touched and held is not None else None


CHECKS = (
    Check(
        "codec",
        "of the R^2 that a small network reaches on the frames, what it keeps on the tokens, for the goal's worst variable",
        lambda rows: worst_share(rows, "codec", OF_GOAL, LEAST_SEEN),
        0.8,
        0.95,
        "a codec taught what moves (inverse dynamics, actions, contrast over time), finer tokens, longer training of the codec",
    ),
    Check(
        "dynamics",
        "times smaller than copying's the dream's error of the state, 1 step ahead, beyond the reader's own",
        below_copying,
        1.0,
        1.5,
        "more weight on what changes between frames, jumps among the documents, longer training",
    ),
    Check(
        "dynamics",
        "shuffled over true actions, 1 step ahead",
        lambda rows: value_of(rows, "dynamics", SHUFFLED),
        1.1,
        1.5,
        "more weight on what changes between frames, more episodes in which actions differ, longer training",
    ),
    Check(
        "ranking",
        "rank correlation of the cost of true futures with the true distance",
        lambda rows: value_of(rows, "ranking", TRUE_FUTURES),
        0.3,
        0.6,
        "another cost: --evaluate.objective.space steps_to_go, or goal features of a codec trained longer",
    ),
    Check(
        "ranking",
        "of that, what is left with dreamt futures",
        lambda rows: worst_share(rows, "ranking", DREAMT_FUTURES),
        0.5,
        0.8,
        "dynamics over the planner's whole horizon: longer clips, jumps, or a shorter horizon",
    ),
    Check(
        "search",
        "touched in the true simulator with the true distance",
        lambda rows: value_of(rows, "search", TRUE_DISTANCE),
        0.6,
        0.9,
        "more samples and iterations, another horizon, replanning more often",
    ),
    Check(
        "search",
        "of that, what is left with the model's cost",
        lambda rows: worst_share(rows, "search", MODEL_COST),
        0.5,
        0.8,
        "another cost: --evaluate.objective.space steps_to_go",
    ),
    Check(
        "result",
        "of what the oracle touches, what the best of the model's controllers touches",
        share_of_oracle,
        0.5,
        0.8,
        "more episodes for the action law, a larger search around it, executed actions in the context",
    ),
    Check(
        "result",
        "of what the best of the model's controllers touches, what it holds",
        share_held,
        0.5,
        0.8,
        "replanning at every model step, episodes that stay at their goals",
    ),
)
"""From the lowest rung up."""


def weakest(rows: Sequence[LadderRow], checks: Sequence[Check] = CHECKS) -> Verdict:
    """Find the lowest rung that is broken, else the lowest that is weak."""
    measured = [(check, number) for check in checks if (number := check.number(rows)) is not None]
    for word, limit in (("broken", "broken"), ("weak", "weak")):
        for check, number in measured:
            wanted = getattr(check, limit)
            if number < wanted:
                sentence = (
                    f"{check.rung} is {word}: {check.what} is {number:.2f}, below {wanted:g}. What usually mends it: {check.mend}."
                )
                return Verdict(check.rung, sentence)
    return Verdict(None, "every rung that was measured holds")


def rows_to_json(rows: Sequence[LadderRow]) -> list[dict[str, Any]]:
    """Return JSON-able records with `task, seed, rung, name, value, control`."""
    return [asdict(row) for row in rows]


HEADERS = ("rung", "what", "value", "beside")


def cells(rows: Sequence[LadderRow]) -> list[list[str]]:
    """Format each number as one row of cells."""
    return [[row.rung, row.name, f"{row.value:.3f}", "" if row.control is None else f"{row.control:.3f}"] for row in rows]
