"""Questions are asked of both answers, so that nobody can guess them."""

import numpy as np

from worldmodel.envs.questions import episode_questions, make_questions
from worldmodel.envs.words import Attribute

ATTRIBUTES = {
    "color": Attribute({"red": "red", "orange": "orange"}, "what color?", "is it {}?", "disc.color"),
    "place": Attribute({"left": "on the left", "right": "on the right"}, "where?", "is it {}?"),
}


def test_make_questions() -> None:
    rng, asked = np.random.default_rng(0), set()
    for _ in range(50):
        pairs = make_questions(rng, ATTRIBUTES, {"color": "red", "place": "right"})
        assert pairs[0] == ("what color?", "red") and pairs[2] == ("where?", "right")
        asked |= {pairs[1], pairs[3]}
    assert asked == {
        ("is it red?", "yes"),
        ("is it orange?", "no"),
        ("is it on the right?", "yes"),
        ("is it on the left?", "no"),
    }


def test_question_track_asks_every_yes_no_question_both_ways() -> None:
    truths = [{"color": "red", "place": place} for place in ("left", "left", "right", "left", "right", "left")] * 10
    counts: dict[str, list[str]] = {}
    for pair in episode_questions(np.random.default_rng(0), ATTRIBUTES, truths, set(), lambda i: [("other?", str(i))]):
        counts.setdefault(pair[0], []).append(pair[1])
    assert counts["is it on the left?"].count("yes") == counts["is it on the left?"].count("no") > 0
    assert "is it red?" not in counts, "the colour stays, and was not sampled: yes would be the safe guess"
    assert set(counts["what color?"]) == {"red"}
    assert sum(map(len, counts.values())) == len(truths)


def test_question_track_asks_about_a_sampled_factor() -> None:
    answers: dict[str, list[str]] = {}
    rng = np.random.default_rng(0)
    for episode in range(300):
        truths = [{"color": ("red", "orange")[episode % 2], "place": "left"}] * 6
        for question, answer in episode_questions(rng, ATTRIBUTES, truths, {"disc.color"}, lambda i: [("other?", "0")]):
            answers.setdefault(question, []).append(answer)
    for question in ("is it red?", "is it orange?"):
        assert 0.4 < np.mean([answer == "yes" for answer in answers[question]]) < 0.6
    assert "is it on the left?" not in answers


def test_other_yes_no_questions_are_paired_too() -> None:
    truths = [{"color": "red", "place": "left"}] * 90

    def others(i: int) -> list[tuple[str, str]]:
        return [("is it near?", "no" if i % 6 else "yes"), ("is it round?", "yes")]

    answers: dict[str, list[str]] = {}
    for question, answer in episode_questions(np.random.default_rng(0), ATTRIBUTES, truths, set(), others):
        answers.setdefault(question, []).append(answer)
    assert answers["is it near?"].count("yes") == answers["is it near?"].count("no") > 0
    assert "is it round?" not in answers, "there is no state for a no"
    assert sum(map(len, answers.values())) == len(truths)
