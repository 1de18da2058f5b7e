"""Packed batches: where things lie, moving them, and splitting them into micro-batches."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch, unpack
from worldmodel.errors import UserError
from worldmodel.tokens import IGNORE


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    return replace(toys.packer().batch(0), documents=tuple(range(100, 100 + int(toys.packer().batch(0).document_id.max()) + 1)))


def test_places_are_those_of_what_lies_there(batch: PackedBatch) -> None:
    flat = {name: getattr(batch, name).flatten() for name in ("frame_id", "action_id", "text_target", "document_id")}
    frames = flat["frame_id"][batch.frame_positions]
    assert frames.tolist() == [frame for frame in range(len(batch.frames)) for _ in range(4)]
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
    for name in ("token_id", "frames", "clean", "actions", "text_target", "position"):
        assert torch.equal(torch.cat([getattr(part, name) for part in split]), getattr(batch, name))
    whole, again = unpack(batch, toys.tokenizer()), [d for part in split for d in unpack(part, toys.tokenizer())]
    assert [repr(document) for document in again] == [repr(document) for document in whole]
    for part in split:
        for ids, count in (
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
