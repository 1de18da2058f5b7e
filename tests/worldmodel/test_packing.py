"""Packing: what goes in can be read out again, targets stay inside their document, and a packer resumes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.worldmodel import toys
from worldmodel.datasets.documents import Action, Document, Frame, Text
from worldmodel.datasets.mixture import Mixture
from worldmodel.errors import UserError
from worldmodel.packing import (
    ACTION,
    IGNORE,
    TEXT,
    VISION,
    PackedBatch,
    Packer,
    PackingConfig,
    collate,
    tokenise,
)

RNG = np.random.default_rng
NEVER = replace(toys.PACKING, text_action_share=0.0, caption_dropout=0.0, context_noise=0.0)


def unpack(batch: PackedBatch) -> list[list[object]]:
    """The contents of each document in order: runs of text decoded, pixels, action vectors."""
    documents: dict[int, list[object]] = {}
    tokenizer = toys.tokenizer()
    marks = {tokenizer.boi_id, tokenizer.eoi_id, tokenizer.eos_id}
    text: list[int] = []
    for r, i in np.argwhere(batch.document_id.numpy() >= 0):
        content = documents.setdefault(int(batch.document_id[r, i]), [])
        kind, token = int(batch.modality[r, i]), int(batch.token_id[r, i])
        if kind == TEXT and token not in marks:
            text.append(token)
            ends = i + 1 == batch.token_id.shape[1] or batch.document_id[r, i + 1] != batch.document_id[r, i]
            ends = ends or batch.modality[r, i + 1] != TEXT or int(batch.token_id[r, i + 1]) in marks
            if ends:
                content.append(tokenizer.decode(text))
                text = []
        elif kind == VISION and tuple(batch.position[r, i, 1:].tolist()) == (0, 0):
            content.append(batch.frames[batch.frame_id[r, i]].numpy())
        elif kind == ACTION:
            content.append(batch.actions[batch.action_id[r, i]].numpy())
    return list(documents.values())


def contents(document: Document) -> list[object]:
    """What `unpack` should find."""
    kinds = {Text: lambda s: s.text, Frame: lambda s: s.pixels, Action: lambda s: s.vector}
    return [kinds[type(segment)](segment) for segment in document]


def a_document_of_each_kind() -> list[Document]:
    rng = RNG(0)
    return [
        (Text("a red disc moves"),),
        toys.action_video(rng, 3),
        (Frame(toys.picture(rng), predict=False), Text("top left of the room")),
        (Text("a blue room"), Frame(toys.picture(rng), predict=True)),
        (Frame(toys.picture(rng), predict=True), Frame(toys.picture(rng), predict=True)),
    ]


def test_documents_survive_packing() -> None:
    documents = a_document_of_each_kind()
    batch = toys.pack(documents[:3], documents[3:], config=NEVER)
    found = unpack(batch)
    assert len(found) == len(documents)
    for content, document in zip(found, documents, strict=True):
        for mine, original in zip(content, contents(document), strict=True):
            np.testing.assert_array_equal(mine, original)


def test_an_action_is_a_vector_or_its_text() -> None:
    document = toys.action_video(RNG(1), 2)
    (as_vector,), (as_text,) = (unpack(toys.pack([document], config=replace(NEVER, text_action_share=share))) for share in (0.0, 1.0))
    np.testing.assert_array_equal(as_vector[1], document[1].vector)
    assert as_text[1] == document[1].text


def test_frames_are_numbered_in_reading_order_and_share_a_time() -> None:
    batch = toys.packer().next_batch()
    where = np.argwhere(batch.frame_id.numpy() >= 0)
    ids = batch.frame_id[where[:, 0], where[:, 1]].numpy()
    assert (ids == np.repeat(np.arange(len(batch.frames)), 4)).all()
    places = batch.position[where[:, 0], where[:, 1]].numpy().reshape(-1, 4, 3)
    assert (places[:, :, 0] == places[:, :1, 0]).all()
    assert (places[:, :, 1:] == [[0, 0], [0, 1], [1, 0], [1, 1]]).all()


def test_time_goes_on_by_one_from_piece_to_piece() -> None:
    batch = toys.pack([toys.action_video(RNG(2), 3)], config=NEVER)
    times = batch.position[0, batch.document_id[0] == 0, 0].tolist()
    frames = [[1 + 4 * i] * 4 for i in range(3)]  # <boi>, four tokens at one time, <eoi>, action
    assert times == [0, *frames[0], 2, 3, 4, *frames[1], 6, 7, 8, *frames[2], 10]


def test_targets_are_the_next_token_of_the_same_document() -> None:
    batch = toys.packer().next_batch()
    predicted = np.argwhere(batch.text_target.numpy() != IGNORE)
    assert len(predicted) > 20
    for r, i in predicted:
        assert batch.text_target[r, i] == batch.token_id[r, i + 1]
        assert batch.document_id[r, i] == batch.document_id[r, i + 1] >= 0


def test_no_text_loss_where_a_picture_begins_or_ends() -> None:
    packer = toys.packer()
    for _ in range(4):
        batch, tokenizer = packer.next_batch(), toys.tokenizer()
        assert not np.isin(batch.text_target, [tokenizer.boi_id, tokenizer.eoi_id, tokenizer.pad_id]).any()
        begins = (batch.token_id == tokenizer.boi_id).numpy()
        inside = (batch.modality == VISION).numpy()
        assert (batch.text_target.numpy()[begins | inside] == IGNORE).all()


def test_given_text_is_not_learnt_and_a_learnt_text_ends() -> None:
    tokenizer, picture = toys.tokenizer(), toys.picture(RNG(0))
    question, answer = "where is the disc?", "near the top"
    batch = toys.pack([(Frame(picture, predict=False), Text(question, predict=False), Text(answer))])
    targets = batch.text_target[batch.text_target != IGNORE].tolist()
    assert targets == [*tokenizer.encode(answer), tokenizer.eos_id]
    assert batch.clean.tolist() == [True]


def test_context_frames_are_clean_and_targets_noised() -> None:
    video = tuple(Frame(toys.picture(RNG(i)), predict=True) for i in range(4))
    seen = {tuple(tokenise(video, toys.tokenizer(), (2, 2), NEVER, RNG(i)).clean) for i in range(50)}
    assert seen == {(True, False, True, False), (False, True, False, True)}
    noisy = replace(NEVER, context_noise=1.0)
    assert tokenise(video, toys.tokenizer(), (2, 2), noisy, RNG(0)).clean == [False] * 4
    assert tokenise(video[:1], toys.tokenizer(), (2, 2), NEVER, RNG(0)).clean == [False]


def test_captions_are_dropped_for_guidance_only_before_a_picture() -> None:
    always, picture = replace(NEVER, caption_dropout=1.0), toys.picture(RNG(0))
    drawing: Document = (Text("a red disc", predict=False), Frame(picture, predict=True))
    caption: Document = (Frame(picture, predict=False), Text("a red disc"))
    assert len(tokenise(drawing, toys.tokenizer(), (2, 2), always, RNG(0))) == 6
    lengths = [len(tokenise(caption, toys.tokenizer(), (2, 2), config, RNG(0))) for config in (always, NEVER)]
    assert lengths[0] == lengths[1]


def same(a: PackedBatch, b: PackedBatch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_packer_resumes_with_the_same_batches() -> None:
    packer = toys.packer()
    for _ in range(2):
        packer.next_batch()
    state = json.loads(json.dumps(packer.state_dict()))
    assert state["waiting"], "some documents should wait, or this shows nothing"
    later = toys.packer()
    later.load_state_dict(state)
    for _ in range(3):
        assert same(packer.next_batch(), later.next_batch())
    assert packer.state_dict() == later.state_dict()


def test_no_document_is_lost_or_read_twice() -> None:
    packer, read = toys.packer(), []
    original = packer.mixture.document
    packer.mixture.document = lambda i: read.append(i) or original(i)  # type: ignore[method-assign, func-returns-value]
    packed = sum(len(unpack(packer.next_batch())) for _ in range(5))
    assert read == list(range(packer.next_document))
    assert packed + len(packer.waiting) == len(read)


def test_another_seed_gives_other_batches() -> None:
    assert not same(toys.packer(0).next_batch(), toys.packer(1).next_batch())


def test_filled_share_and_sources_are_counted() -> None:
    batch = toys.packer().next_batch()
    positions = int((batch.document_id >= 0).sum())
    assert sum(batch.sources.values()) == positions
    assert set(batch.sources) <= {"videos", "sentences", "captions", "drawings"}
    assert batch.filled == pytest.approx(positions / batch.document_id.numel())
    assert batch.filled > 0.8


class OneDocument:
    def __init__(self, document: Document) -> None:
        self.name, self.fixed = "one document", document

    def document(self, rng: np.random.Generator) -> Document:
        return self.fixed


def packer_of(document: Document, length: int) -> Packer:
    config = PackingConfig(rows=1, length=length, text_action_share=0.0)
    return Packer(Mixture([(OneDocument(document), 1.0)], 0), toys.tokenizer(), (2, 2), 2, config)


def test_a_clip_longer_than_a_row_is_refused_and_a_long_text_cut() -> None:
    with pytest.raises(UserError, match="'one document' takes 27 positions, a sequence has 16"):
        packer_of(toys.action_video(RNG(0), 4), 16).next_batch()
    batch = packer_of((Text(toys.WORDS * 3),), 16).next_batch()
    assert batch.filled == 1
    assert batch.token_id[0].tolist() == toys.tokenizer().encode(toys.WORDS)[:16]


def test_short_actions_are_padded_and_long_ones_refused() -> None:
    frame = Frame(toys.picture(RNG(0)), predict=True)
    document: Document = (frame, Action(np.array([0.5], np.float32), "x"), frame)
    tokens = tokenise(document, toys.tokenizer(), (2, 2), NEVER, RNG(0))
    assert collate([[tokens]], 32, 0, action_dim=3).actions.tolist() == [[0.5, 0, 0]]
    with pytest.raises(UserError, match="an action has 1 numbers, the model takes 0"):
        collate([[tokens]], 32, 0, action_dim=0)


def test_a_batch_without_pictures_has_none() -> None:
    batch = toys.pack([(Text("a red disc"),)])
    assert len(batch.frames) == len(batch.clean) == len(batch.actions) == 0
