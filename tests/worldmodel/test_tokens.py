"""Documents as positions: what is left out for classifier-free guidance, and frames that need no room."""

import numpy as np
import pytest

from tests.worldmodel import toys
from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.mixture.documents import (
    Document,
    Frame,
    NextActions,
    Text,
    caption_document,
    change_document,
    goal_document,
    instruction_document,
    transition_document,
)
from worldmodel.errors import UserError
from worldmodel.tokens import ACTION, TEXT, VISION, PackingConfig, Tokens, tokenise

FRAME = 4 + 2
"""Positions of a frame with its marks."""


def videos(config: PackingConfig, count: int = 200) -> list[Tokens]:
    return [
        tokenise(toys.action_video(np.random.default_rng(i)), toys.tokenizer(), toys.GRID, config, np.random.default_rng([i, 1]))
        for i in range(count)
    ]


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_a_share_of_the_action_videos_loses_its_actions(text_share: float) -> None:
    full = {len(tokens) for tokens in videos(PackingConfig(text_action_share=text_share))}
    plain = 3 * (4 + 2)  # three frames with their marks and nothing between them
    lengths = [len(tokens) for tokens in videos(PackingConfig(text_action_share=text_share, action_dropout=0.3))]
    assert plain not in full
    assert set(lengths) <= full | {plain}
    assert 0.2 < lengths.count(plain) / len(lengths) < 0.4


def test_without_its_actions_it_is_a_plain_video() -> None:
    """So the unconditional branch of a guided rollout is something that the model has been trained on."""
    rng, config = np.random.default_rng(0), PackingConfig(action_dropout=1.0)
    video = toys.action_video(rng)
    plain = tuple(segment for segment in video if isinstance(segment, Frame))
    dropped, expected = (tokenise(d, toys.tokenizer(), toys.GRID, config, np.random.default_rng(1)) for d in (video, plain))
    for name in ("token_id", "modality", "frame", "action", "position", "predicted", "clean"):
        assert getattr(dropped, name) == getattr(expected, name)


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"action_dropout is 1\.5"):
        PackingConfig(action_dropout=1.5)


def tokens_of(document: Document, references: int, **shares: float) -> Tokens:
    config = PackingConfig(references=references, **{"text_action_share": 0.0, "caption_dropout": 0.0} | shares)
    return tokenise(document, toys.tokenizer(), toys.GRID, config, np.random.default_rng(1))


def pictures(count: int) -> list[np.ndarray]:
    return [toys.picture(np.random.default_rng(i)) for i in range(count)]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_goal_takes_the_room_of_one_frame_where_frames_are_seen_beside_others() -> None:
    now, goal = pictures(2)
    document = goal_document(now, goal, 5, NextActions(np.ones((3, 2), np.float32), 4))
    apart, folded = (tokens_of(document, references) for references in (0, 2))
    assert (len(apart), len(folded)) == (2 * FRAME + 2, FRAME + 2)
    assert same(apart.frames, [now, goal]) and apart.given == [] and apart.references == [()] * 2
    assert same(folded.frames, [goal]) and folded.clean == [True]
    assert same(folded.given, [now]) and folded.references == [(0,)]


def test_a_frame_is_seen_beside_the_newest_first() -> None:
    before, now, after = pictures(3)
    folded = tokens_of(transition_document([before, now], [toys.action(np.random.default_rng(0))], after), 2)
    assert same([folded.given[i] for i in folded.references[0]], [now, before]) and len(folded.given) == 2


def test_one_reference_is_the_newest_frame() -> None:
    before, now, after = pictures(3)
    tokens = tokens_of(transition_document([before, now], [toys.action(np.random.default_rng(0))] * 2, after), 1)
    assert tokens.modality == [ACTION] * 2 + [TEXT] + [VISION] * 4 + [TEXT]
    assert same(tokens.given, [now]) and tokens.references == [(0,)] and tokens.clean == [False]
    assert tokens.token_id[2] == toys.tokenizer().boi_id and len(tokens) == 2 + FRAME
    alone = tokens_of(transition_document([now], [toys.action(np.random.default_rng(0))], after), 2)
    assert same(alone.given, [now]) and alone.references == [(0,)]


def test_a_frame_that_something_is_said_about_keeps_its_room() -> None:
    a, b = pictures(2)
    for document, frames, references in (
        (caption_document(a, "a red disc"), [a], [()]),
        (instruction_document(a, "move right", b), [a, b], [(), (0,)]),
        (change_document(Clip(np.stack([a, b]), np.zeros((1, 2), np.float32), [""], 0, 0, changes=["it moves"])), [b], [(0,)]),
        (goal_document(a, "a red disc", 5, NextActions(np.ones((3, 2), np.float32), 4)), [a], [()]),
    ):
        tokens = tokens_of(document, 2)
        assert same(tokens.frames, frames) and tokens.references == references
        assert same(tokens.given, [a] if (0,) in references else [])  # only what another frame is seen beside


def test_frames_of_a_video_are_seen_beside_the_clean_ones_before_them() -> None:
    video = toys.action_video(np.random.default_rng(0), 4)
    tokens = tokens_of(video, 2)
    assert len(tokens) == 4 * FRAME + 3 and same(tokens.frames, [s.pixels for s in video if isinstance(s, Frame)])
    assert tokens.references == [(), (0,), (1, 0), (2, 1)]
    assert same(tokens.given, tokens.frames[:3])  # the last one is not given to any


@pytest.mark.parametrize(("steps", "token"), [(0, 0), (5, 5), (63, 63), (1000, 63)])
@pytest.mark.parametrize("references", [0, 2])
def test_the_end_of_the_goal_says_how_many_steps_it_is_away_and_then_actions_are_asked(
    references: int, steps: int, token: int
) -> None:
    tokenizer = toys.tokenizer()
    config = PackingConfig(references=references)
    batch = toys.pack([toys.goal(np.random.default_rng(0), steps)], [(Text("a red disc"),)], config=config)
    length = int((batch.document_id[0] >= 0).sum())
    end, count, question = range(length - 3, length)
    assert batch.token_id[0, end] == tokenizer.eoi_id and batch.text_target[0, end] == tokenizer.steps_id + token
    assert batch.token_id[0, count] == tokenizer.steps_id + token and batch.modality[0, count] == TEXT
    assert batch.predicted_positions.tolist()[0] == end and (batch.text_target[0] >= 0).sum() == 1
    assert batch.modality[0, question] == ACTION and batch.action_id[0, question] == -1
    assert batch.question_positions.tolist() == [question] and batch.question_id[0, question] == 0
    assert batch.position[0, [end, count, question], 0].diff().tolist() == [1, 1]
    assert batch.known[0].tolist() == [[True, True], [True, True], [False, False]] and batch.known_numbers == 4


def test_a_spoken_goal_is_read_before_the_number_of_steps() -> None:
    document = goal_document(pictures(1)[0], "a red disc", 9, NextActions(np.ones((3, 2), np.float32), 6))
    tokens, words = tokens_of(document, 2), toys.tokenizer().encode("a red disc")
    assert tokens.token_id[FRAME:] == [*words, toys.tokenizer().steps_id + 9, toys.tokenizer().pad_id]
    assert tokens.predicted[FRAME:] == [False] * len(words) + [True, False]


@pytest.mark.parametrize(("length", "as_text"), [(200, True), (40, False)])
def test_actions_are_written_out_where_the_frame_after_them_has_room(length: int, as_text: bool) -> None:
    document = toys.transition(np.random.default_rng(0), 2)
    tokens = tokens_of(document, 0, text_action_share=1.0, action_words_share=0.0, length=length)
    assert bool(tokens.actions) != as_text and len(tokens.frames) == 3


def test_without_its_actions_a_transition_is_frames_alone() -> None:
    tokens = tokens_of(toys.transition(np.random.default_rng(0), 2), 2, action_dropout=1.0)
    assert len(tokens) == FRAME and tokens.references == [(1, 0)]
