"""Scores of controllers as a table for a terminal and as sections of a report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldmodel.agents.controllers import SEARCHES
from worldmodel.agents.plan_film import plan_film
from worldmodel.agents.report import Curves, Intervals, Section, SectionRow, Table, Video, video_bytes
from worldmodel.agents.score import Score
from worldmodel.datasets.outputs import aligned

HEADERS = ("controller", "touched", "95 % interval", "held", "95 % interval", "final distance", "s per plan", "s per action")


def rows(scores: Sequence[Score]) -> list[list[str]]:
    """Format one row of cells for each controller."""
    return [
        [
            score.name,
            f"{score.success_rate:.1%}",
            f"{score.interval[0]:.1%} - {score.interval[1]:.1%}",
            f"{score.held_rate:.1%}",
            f"{score.held_interval[0]:.1%} - {score.held_interval[1]:.1%}",
            f"{np.mean(score.final_distance):.3f}",
            f"{score.seconds_per_plan:.3g}",
            f"{score.seconds_per_action:.3g}",
        ]
        for score in scores
    ]


def as_text(scores: Sequence[Score]) -> str:
    """Format the table for a terminal."""
    tried = f", each tried {len(scores[0].streams)} times" if len(scores[0].streams) > 1 else ""
    return "\n".join([f"success over {len(scores[0].success)} held-out problems{tried}", aligned([HEADERS, *rows(scores)])])


NOTE = (
    "Touched: the goal was met at some env step of the budget. Held: it was met at the end of the whole budget, the controller "
    "acting on. Intervals are over episodes: problems of one episode are alike. Seconds are those of choosing actions, many problems "
    "at once."
)


def sections(scores: Sequence[Score], goals: np.ndarray, block: int, remark: str = "") -> list[Section]:
    """Lay out the report: table (with a remark below), intervals, and films of the first problems with their goals.

    Args:
        scores: of the controllers.
        goals: frames uint8 (problems, h, w, 3).
        block: env steps of a model step.
        remark: stands below the table.
    """
    touched = {s.name: (s.interval[0], s.success_rate, s.interval[1]) for s in scores}
    held = {s.name: (s.held_interval[0], s.held_rate, s.held_interval[1]) for s in scores}
    parts: list[Section] = [
        Table("Planning success", HEADERS, rows(scores), f"{NOTE} {remark}".strip()),
        Intervals("Goals touched, with 95 % Wilson intervals", touched, "share of problems"),
        Intervals("Goals held at the end of the budget, with 95 % Wilson intervals", held, "share of problems"),
    ]
    if curves := success_against_seconds(scores):
        parts.append(Curves("Success against seconds", curves, "seconds per plan", "share of goals touched"))
    for score_ in scores:
        if score_.frames and score_.name in SHOWN:
            films = [Video("", video_bytes(plan_film(score_, goals, [i], block))) for i in sorted(score_.frames)[:3]]
            parts.append(SectionRow(f"Plans carried out: {score_.name}", films))
    return parts


def by_task(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Lay out touched / held in % of the records of several tasks (`scores_to_json`), a row each; the first row has the names."""
    names = list(dict.fromkeys(each["name"] for record in found.values() for each in record["controllers"]))
    cells = [("task", *names)]
    for task, record in found.items():
        rates = {each["name"]: f"{100 * each['success_rate']:.0f} / {100 * each['held_rate']:.0f}" for each in record["controllers"]}
        cells.append((task, *(rates.get(name, "") for name in names)))
    return cells


def success_against_seconds(scores: Sequence[Score]) -> dict[str, tuple[list[float], list[float]]]:
    """Collect seconds per plan and share of goals touched of searches with several numbers of candidates, the fastest first.

    Guided search with no candidate at all is the policy.
    """
    curves = {}
    for name in ("guided", *SEARCHES):
        own = [score for score in scores if score.name == name or score.name.startswith(f"{name}, ")]
        if len(own) > 1:
            own += [score for score in scores if name == "guided" and score.name == "policy"]
            points = sorted((score.seconds_per_plan, score.success_rate) for score in own)
            curves[name] = ([seconds for seconds, _ in points], [success for _, success in points])
    return curves


SHOWN = ("policy", "guided", "cem", "mppi", "random_shooting", "oracle", "random")
"""Controllers whose films stand in the report."""
