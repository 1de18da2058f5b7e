import numpy as np
import pytest

from worldmodel.datasets.episodes.episode import Clip
from worldmodel.datasets.mixture.documents import (
    Action,
    Frame,
    NextActions,
    Steps,
    Text,
    action_video_document,
    caption_document,
    change_document,
    goal_document,
    image_document,
    instruction_document,
    question_document,
    text_document,
    transition_document,
    video_document,
)

FRAMES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
ACTIONS = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
CLIP = Clip(FRAMES, ACTIONS, ["first", "second"], start=0, episode=0)


def test_action_video_alternates_and_predicts_frames_alone() -> None:
    document = action_video_document(CLIP)
    assert [type(segment) for segment in document] == [Frame, Action, Frame, Action, Frame]
    for t in range(3):
        frame = document[2 * t]
        assert isinstance(frame, Frame) and frame.predict
        np.testing.assert_array_equal(frame.pixels, FRAMES[t])
    for t, text in enumerate(["first", "second"]):
        action = document[2 * t + 1]
        assert isinstance(action, Action) and action.text == text
        np.testing.assert_array_equal(action.vector, CLIP.actions[t])


def test_actions_have_words_where_they_are_known() -> None:
    known = Clip(FRAMES, ACTIONS, ["first", "second"], start=0, episode=0, action_words=["move right", "move up"])
    for clip, words in ((known, ["move right", "move up"]), (CLIP, ["", ""])):
        assert [segment.words for segment in action_video_document(clip) if isinstance(segment, Action)] == words


def test_changes_of_a_clip_are_told_without_repeating() -> None:
    changes = ["it rose; it rose; it fell", "it fell; ; it rose"]
    clip = Clip(FRAMES, ACTIONS, ["first", "second"], start=0, episode=0, changes=changes)
    before, after, text = change_document(clip)
    assert isinstance(before, Frame) and isinstance(after, Frame) and not before.predict and not after.predict
    np.testing.assert_array_equal(before.pixels, FRAMES[0])
    np.testing.assert_array_equal(after.pixels, FRAMES[2])
    assert text == Text("it rose; it fell; it rose")


def test_video_is_its_frames() -> None:
    document = video_document(CLIP)
    assert len(document) == 3
    assert all(isinstance(segment, Frame) and segment.predict for segment in document)


def test_what_is_given_is_not_predicted() -> None:
    frame = FRAMES[0]

    def outline(document: tuple) -> list:
        return [(s.text, s.predict) if isinstance(s, Text) else ("frame", s.predict) for s in document]

    assert outline(text_document("hello")) == [("hello", True)]
    assert outline(caption_document(frame, "a disc")) == [("frame", False), ("a disc", True)]
    assert outline(image_document("a disc", frame)) == [("a disc", False), ("frame", True)]
    assert outline(question_document(frame, "where?", "left")) == [
        ("frame", False),
        ("where?", False),
        ("left", True),
    ]
    assert outline(instruction_document(frame, "go left", FRAMES[1])) == [
        ("frame", False),
        ("go left", False),
        ("frame", True),
    ]


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4, 3), np.uint8)])
def test_frame_is_one_uint8_picture(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Frame(pixels, predict=True)


def test_a_transition_and_a_goal_are_one_stretch_asked_in_two_directions() -> None:
    actions = [Action(ACTIONS[0], "first"), Action(ACTIONS[1], "second")]
    *now, first, second, after = transition_document(FRAMES[:2], actions, FRAMES[2])
    assert (first, second) == tuple(actions)
    assert [frame.predict for frame in (*now, after)] == [False, False, True]
    asked = NextActions(ACTIONS, 4)
    *shown, steps, question = goal_document(FRAMES[1], FRAMES[2], 2, asked)
    assert [frame.predict for frame in shown] == [False] * 2 and steps == Steps(2, predict=True) and question is asked
    for found, pictures in (((*now, after), FRAMES), (shown, FRAMES[1:])):
        assert all(np.array_equal(frame.pixels, pixels) for frame, pixels in zip(found, pictures, strict=True))
    assert goal_document(FRAMES[0], "at the top", 2, asked)[1] == Text("at the top", predict=False)


def test_next_actions_and_steps_are_checked() -> None:
    for vectors, known in ((ACTIONS, 5), (ACTIONS, -1), (ACTIONS[0], 1)):
        with pytest.raises(ValueError, match="next actions are"):
            NextActions(vectors, known)
    with pytest.raises(ValueError, match="got -1"):
        Steps(-1)
