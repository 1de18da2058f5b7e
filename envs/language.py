"""`Language`: what a task says about its states; every sentence is computed from the true state."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from worldmodel.envs.action_text import coarse_actions
from worldmodel.envs.questions import episode_questions, make_questions
from worldmodel.envs.words import Attribute, read_attributes

if TYPE_CHECKING:
    from worldmodel.envs.task import Task

WHAT_IF_STEPS = 2
"""Steps for which the action of a "what happens if" question is held."""
SHARE_OF_RELATIONS = 0.9
"""Of the questions of an episode that are not about an attribute; the others ask "what happens if", for which is simulated."""


class Language:
    """Captions, goals, changes, questions and answers about the states of one task.

    A language of your own gives `attributes` and the methods under "For a language to define".
    """

    attributes: Mapping[str, Attribute]

    def __init__(self, task: "Task") -> None:
        """Speak of a task, as its factors of variation are in the present episode."""
        self.task: Any = task

    # ---------------------------------------------------------------- For a language to define

    def facts(self, state: np.ndarray) -> Any:
        """Return what of a state (n,) is spoken of; the methods below are given it. By default the configuration."""
        return self.task.position_of(state)

    def attributes_of(self, facts: Any) -> dict[str, str]:
        """Return the true value of every attribute."""
        raise NotImplementedError

    def captions_of(self, phrases: dict[str, str], facts: Any) -> list[str]:
        """Write at least three phrasings of a caption, from the phrase of every attribute and the facts."""
        raise NotImplementedError

    def goals_of(self, phrases: dict[str, str], facts: Any) -> list[str]:
        """Write at least three phrasings of the instruction to reach a state."""
        raise NotImplementedError

    def change_of(self, before: Any, after: Any) -> str:
        """Describe what changed between two states, as a sentence, e.g. "the disc moved left"."""
        raise NotImplementedError

    def relation_questions(self, rng: np.random.Generator, facts: Any) -> list[tuple[str, str]]:
        """Ask questions beyond the attributes: counts, relations. By construction, as many answers are yes as no."""
        return []

    # ---------------------------------------------------------------- Sentences

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> every value it can take."""
        return {name: tuple(attribute.phrases) for name, attribute in self.attributes.items()}

    def _phrases(self, facts: Any) -> dict[str, str]:
        return {name: self.attributes[name].phrases[value] for name, value in self.attributes_of(facts).items()}

    def captions(self, state: np.ndarray | None = None) -> list[str]:
        """Write several phrasings of what is true of a state (of the current one by default); the first is `caption`."""
        facts = self.facts(self.task.get_state() if state is None else state)
        return self.captions_of(self._phrases(facts), facts)

    def caption(self, state: np.ndarray | None = None) -> str:
        """Write a sentence that is true of a state (of the current one by default)."""
        return self.captions(state)[0]

    def read(self, text: str) -> dict[str, str]:
        """Read attribute -> value from a caption; what it does not mention is absent."""
        return read_attributes(text, self.attributes)

    def goals(self, goal_state: np.ndarray | None = None) -> list[str]:
        """Write several phrasings of the instruction to reach a goal (the current one by default)."""
        facts = self.facts(self.task.goal_state if goal_state is None else goal_state)
        return self.goals_of(self._phrases(facts), facts)

    def change(self, before: np.ndarray, after: np.ndarray) -> str:
        """Describe what changed from one state (n,) to another, as a sentence."""
        return self.change_of(self.facts(before), self.facts(after))

    # ---------------------------------------------------------------- Questions

    def questions(self, rng: np.random.Generator, state: np.ndarray | None = None) -> list[tuple[str, str]]:
        """Make (question, answer) pairs about a state: attributes, relations and, where states can be restored, "what if"."""
        state = self.task.get_state() if state is None else state
        facts = self.facts(state)
        pairs = make_questions(rng, self.attributes, self.attributes_of(facts)) + self.relation_questions(rng, facts)
        return [*pairs, self.what_if(rng, state)] if self.task.restorable else pairs

    def episode_questions(self, rng: np.random.Generator, states: np.ndarray) -> list[tuple[str, str]]:
        """Choose one (question, answer) per state of an episode (T+1, n), so that a blind guess scores chance.

        A yes/no question is asked of two states, of which one answers yes and the other no.
        """
        facts = [self.facts(state) for state in states]
        truths = [self.attributes_of(each) for each in facts]

        def others(i: int) -> list[tuple[str, str]]:
            if not self.task.restorable:
                return self.relation_questions(rng, facts[i]) or [open_question(i)]
            relations = self.relation_questions(rng, facts[i]) if rng.random() < SHARE_OF_RELATIONS else []
            return relations or [self.what_if(rng, states[i])]

        def open_question(i: int) -> tuple[str, str]:
            name = list(self.attributes)[int(rng.integers(len(self.attributes)))]
            return self.attributes[name].question, truths[i][name]

        return episode_questions(rng, self.attributes, truths, self.task.sampled, others)

    def what_if(self, rng: np.random.Generator, state: np.ndarray) -> tuple[str, str]:
        """Ask what a coarse action, held for two steps, would change, and answer by simulating it.

        Raises:
            UserError: the task cannot be set to a state.
        """
        axes = self.task.action_axes
        text, action = coarse_actions(axes)[int(rng.integers(1 + 2 * len(axes)))]
        return f"what happens if you {text}?", self.change(state, self.task.look_ahead(state, action, WHAT_IF_STEPS))
