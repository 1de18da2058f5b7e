"""Packed batches: where things lie, moving them, and splitting them into micro-batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch, unpack
from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Segment, Steps, goal_document
from worldmodel.errors import UserError
from worldmodel.tokens import IGNORE


@pytest.fixture(scope="module", params=[toys.model, toys.stem_model], ids=["frames apart", "frames beside others"])
def batch(request: pytest.FixtureRequest) -> PackedBatch:
    batch = toys.everything(request.param())
    return replace(batch, documents=tuple(range(100, 100 + int(batch.document_id.max()) + 1)))


def test_places_are_those_of_what_lies_there(batch: PackedBatch) -> None:
    flat = {name: getattr(batch, name).flatten() for name in ("frame_id", "action_id", "question_id", "text_target", "document_id")}
    frames = flat["frame_id"][batch.frame_positions]
    assert frames.tolist() == [frame for frame in range(len(batch.frames)) for _ in range(2 if len(batch.given) else 4)]
    assert flat["question_id"][batch.question_positions].tolist() == list(range(len(batch.answers)))
    assert batch.known_numbers == batch.known.sum() > 0
    assert flat["action_id"][batch.action_positions].tolist() == list(range(len(batch.actions)))
    assert (flat["text_target"][batch.predicted_positions] != IGNORE).all()
    assert len(batch.predicted_positions) == (flat["text_target"] != IGNORE).sum() > 0
    assert (~batch.clean)[batch.noised_frames].all() and len(batch.noised_frames) == (~batch.clean).sum()
    assert batch.tokens == (flat["document_id"] >= 0).sum()
    assert batch.filled == pytest.approx(batch.tokens / len(flat["document_id"]))


def test_places_follow_a_change_but_are_not_looked_for_on_a_device(batch: PackedBatch) -> None:
    assert len(replace(batch, clean=torch.ones_like(batch.clean)).noised_frames) == 0
    moved = batch.to("meta")  # a device on which nothing can be looked up
    assert moved.noised_frames.device.type == moved.frames.device.type == "meta"
    assert moved.tokens == batch.tokens and moved.sources == batch.sources
    assert len(moved.predicted_positions) == len(batch.predicted_positions)


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_hold_what_the_whole_holds(parts: int, batch: PackedBatch) -> None:
    split = batch.split(parts)
    assert [len(part.token_id) for part in split] == [3 // parts] * parts
    assert sum((part.documents for part in split), ()) == batch.documents
    assert sum(part.tokens for part in split) == batch.tokens
    for name in ("token_id", "frames", "clean", "actions", "text_target", "position", "given", "answers", "known"):
        assert torch.equal(torch.cat([getattr(part, name) for part in split]), getattr(batch, name))
    whole, again = unpack(batch, toys.tokenizer()), [d for part in split for d in unpack(part, toys.tokenizer())]
    assert [repr(document) for document in again] == [repr(document) for document in whole]
    first = 0
    for part in split:
        assert len(part.reference) == len(part.clean)
        for own, of_whole in zip(part.reference, batch.reference[first : first + len(part.clean)], strict=True):
            assert torch.equal(own >= 0, of_whole >= 0)
            assert torch.equal(part.given[own[own >= 0]], batch.given[of_whole[of_whole >= 0]])
        first += len(part.clean)
        for ids, count in (
            (part.question_id, len(part.answers)),
            (part.document_id, len(part.documents)),
            (part.frame_id, len(part.frames)),
            (part.action_id, len(part.actions)),
        ):
            assert sorted(set(ids[ids >= 0].tolist())) == list(range(count))


def test_rows_that_do_not_divide_are_refused(batch: PackedBatch) -> None:
    with pytest.raises(UserError, match="3 rows do not divide into 2 parts"):
        batch.split(2)


def test_a_batch_is_restored_from_its_fields(batch: PackedBatch) -> None:
    again = PackedBatch.restore(dict(vars(batch)))
    assert vars(again).keys() == vars(batch).keys()
    assert all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(vars(again).values(), vars(batch).values(), strict=True)
    )


@pytest.mark.parametrize("references", [0, 2])
def test_what_was_packed_comes_back(references: int) -> None:
    """Frames that need no room come back before the first frame that is seen beside them."""
    rng = np.random.default_rng(0)
    config = replace(toys.PACKING, references=references, text_action_share=0.0)
    transition, goal, spoken = toys.transition(rng, 2), toys.goal(rng, 7, known=3), toys.goal(rng, 2, said=True)
    alone = toys.goal(rng, 1)
    batch = toys.pack([transition, goal], [spoken, alone], config=config)
    before, now, *actions, after = transition
    expected = [(*actions, before, now, after) if references else transition, goal, spoken, alone]
    found = unpack(batch, toys.tokenizer())
    assert [[plain(segment) for segment in document] for document in found] == [
        [plain(segment) for segment in document] for document in expected
    ]
    assert len(batch.frames) == (4 if references else 3 + 2 + 1 + 2)
    assert len(batch.given) == (2 + 1 + 1 if references else 0) and len(batch.pictures) == 8


def plain(segment: Segment) -> tuple:
    """What comes back of a segment, to be compared."""
    match segment:
        case Frame():
            return "frame", segment.pixels.tobytes(), segment.predict
        case Action():
            return "action", segment.vector.tolist()
        case NextActions():
            numbers = segment.vectors.flatten().tolist()
            return "next", numbers[: segment.known], segment.vectors.shape
        case Steps():
            return "steps", segment.count, segment.predict, segment.first
    return "text", segment.text, segment.predict


@pytest.mark.parametrize("references", [0, 2])
def test_how_far_a_goal_is_is_learned_from_when_it_is_first_met(references: int) -> None:
    """Read is the number of steps to the goal's frame, learned in its place is that to the first frame which meets it."""
    rng, tokenizer, answers = np.random.default_rng(0), toys.tokenizer(), NextActions(np.zeros((3, 2), np.float32), 6)
    goals = [goal_document(toys.picture(rng), toys.picture(rng), 9, answers, first) for first in (None, 0, 4, 9)]
    batch = toys.pack([goals[0], goals[1]], [goals[2], goals[3]], config=replace(toys.PACKING, references=references))
    read = [(row, at) for row in range(2) for at in (batch.token_id[row] == tokenizer.steps_id + 9).nonzero()[:, 0].tolist()]
    assert [int(batch.text_target[row, at - 1]) - tokenizer.steps_id for row, at in read] == [9, 0, 4, 9]
    assert int((batch.text_target != IGNORE).sum()) == 4
    shown = [segment for document in unpack(batch, tokenizer) for segment in document if isinstance(segment, Steps)]
    assert shown == [Steps(9), Steps(9, first=0), Steps(9, first=4), Steps(9)]
    with pytest.raises(ValueError, match="the first meeting no later, got 3 and 4"):
        Steps(3, first=4)


def test_next_actions_of_several_lengths_and_widths_are_padded_and_too_wide_ones_refused() -> None:
    def goal(h: int, d: int, known: int) -> Document:
        picture = toys.picture(np.random.default_rng(0))
        return goal_document(picture, picture, 3, NextActions(np.full((h, d), 7, np.float32), known))

    batch = toys.pack([goal(1, 2, 2), goal(3, 1, 2)])
    assert batch.answers.tolist() == [[[7, 7], [0, 0], [0, 0]], [[7, 0], [7, 0], [7, 0]]]
    assert batch.known.int().tolist() == [[[1, 1], [0, 0], [0, 0]], [[1, 0], [1, 0], [0, 0]]]
    with pytest.raises(UserError, match="an action has 3 numbers, the model takes 2"):
        toys.pack([goal(1, 3, 3)])
