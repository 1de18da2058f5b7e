"""Questions about the attributes of states, with true answers that a guesser who does not look cannot foresee."""

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from worldmodel.envs.words import Attribute


def make_questions(rng: np.random.Generator, attributes: Mapping[str, Attribute], truth: Mapping[str, str]) -> list[tuple[str, str]]:
    """Make an open and a yes/no question per attribute with the true answers, in the order of the attributes.

    The phrase of a yes/no question is the true one with probability 1/2, else one of the wrong ones.
    """
    pairs: list[tuple[str, str]] = []
    for name, attribute in attributes.items():
        pairs.append((attribute.question, truth[name]))
        wrong = [value for value in attribute.phrases if value != truth[name]]
        asked = truth[name] if rng.random() < 0.5 else wrong[rng.integers(len(wrong))]
        answer = "yes" if asked == truth[name] else "no"
        pairs.append((attribute.yes_no.format(attribute.phrases[asked]), answer))
    return pairs


_OPPOSITE = {"yes": "no", "no": "yes"}


def episode_questions(
    rng: np.random.Generator,
    attributes: Mapping[str, Attribute],
    truths: Sequence[Mapping[str, str]],
    sampled: Set[str],
    others: Callable[[int], list[tuple[str, str]]],
) -> list[tuple[str, str]]:
    """Choose one (question, answer) per state of an episode; who sees the questions alone scores chance on yes and no.

    About a third are open, a third yes/no, the rest come from `others`. A yes/no question about something that
    changes in the episode is asked of two states, once for a yes and once for a no; where no second state is found an
    open question takes its place. About an attribute that stays it is asked only if a sampled factor decided it; then
    all values are equally likely and so are yes and no.

    Args:
        rng: Source of all choices.
        attributes: The attributes of the task.
        truths: Attribute -> value for each state.
        sampled: Names of the factors that were sampled.
        others: Other questions about state i.
    """
    names = list(attributes)
    kinds = rng.permutation(np.arange(len(truths)) % 3)
    drawn = [names[k] for k in rng.integers(len(names), size=len(truths)).tolist()]
    track: list[tuple[str, str] | None] = [None] * len(truths)
    for i in np.flatnonzero(kinds == 0).tolist():
        track[i] = (attributes[drawn[i]].question, truths[i][drawn[i]])
    waiting: dict[str, int] = {}  # attribute -> a state that still lacks its counterpart
    for i in rng.permutation(np.flatnonzero(kinds == 1)).tolist():
        name = drawn[i]
        attribute, truth = attributes[name], truths[i][name]
        if attribute.factor in sampled:
            wrong = [value for value in attribute.phrases if value != truth]
            yes = rng.random() < 0.5
            asked = truth if yes else wrong[int(rng.integers(len(wrong)))]
            track[i] = (attribute.yes_no.format(attribute.phrases[asked]), "yes" if yes else "no")
        elif attribute.factor is None and name not in waiting:
            waiting[name] = i
        elif attribute.factor is None and truths[waiting[name]][name] != truth:
            other = waiting.pop(name)
            yes_state, no_state = (i, other) if rng.random() < 0.5 else (other, i)
            question = attribute.yes_no.format(attribute.phrases[truths[yes_state][name]])
            track[yes_state], track[no_state] = (question, "yes"), (question, "no")
    unpaired: dict[tuple[str, str], int] = {}  # the yes/no question that would complete a pair -> the state of the other half
    for i in rng.permutation([i for i, pair in enumerate(track) if pair is None]).tolist():
        pairs = others(i)
        match = next((pair for pair in pairs if pair in unpaired), None)
        question, answer = match or pairs[int(rng.integers(len(pairs)))]
        if match is not None:
            track[unpaired.pop(match)] = (question, _OPPOSITE[answer])
            track[i] = match
        elif answer in _OPPOSITE:
            unpaired[question, _OPPOSITE[answer]] = i
        else:
            track[i] = (question, answer)
    return [pair or (attributes[drawn[i]].question, truths[i][drawn[i]]) for i, pair in enumerate(track)]
