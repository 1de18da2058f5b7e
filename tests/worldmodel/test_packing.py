"""Packing: what goes in can be read out again, targets stay inside their document, and a batch is a function of its step."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.worldmodel import toys
from worldmodel.batch import PackedBatch, collate, unpack
from worldmodel.datasets.mixture.documents import Action, Document, Frame, Text
from worldmodel.errors import UserError
from worldmodel.packing import SHORTEST_PIECE, Packer, pack
from worldmodel.tokens import IGNORE, VISION, PackingConfig, tokenise

RNG = np.random.default_rng
NEVER = replace(toys.PACKING, text_action_share=0.0, caption_dropout=0.0, context_noise=0.0)


def contents(document: Document) -> list[object]:
    """What can be read back of a document: texts with their flags, pixels, vectors."""
    kinds = {Text: lambda s: (s.text, s.predict), Frame: lambda s: s.pixels, Action: lambda s: s.vector}
    return [kinds[type(segment)](segment) for segment in document]


def assert_same_contents(found: Document, expected: Document) -> None:
    for mine, original in zip(contents(found), contents(expected), strict=True):
        if isinstance(original, tuple):
            assert mine == original
        else:
            np.testing.assert_array_equal(mine, original)


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
    found = unpack(toys.pack(documents[:3], documents[3:], config=NEVER), toys.tokenizer())
    assert len(found) == len(documents)
    for mine, document in zip(found, documents, strict=True):
        assert_same_contents(mine, document)


TEXTS = st.builds(Text, st.text(max_size=12), st.booleans())
FRAMES = st.builds(Frame, arrays(np.uint8, (4, 4, 3)), st.booleans())
ACTIONS = st.builds(Action, arrays(np.float32, 2, elements=st.floats(-1, 1, width=32)), st.just("go"))
DOCUMENTS = st.lists(st.one_of(TEXTS, FRAMES, ACTIONS), min_size=1, max_size=6).map(tuple)


def read_back(document: Document) -> Document:
    """A document as it can come out of a batch: see `unpack`."""
    merged: list[Text | Frame | Action] = []
    for segment in document:
        if isinstance(segment, Text) and merged and isinstance(merged[-1], Text) and merged[-1].predict == segment.predict:
            merged[-1] = Text(merged[-1].text + segment.text, segment.predict)
        elif not isinstance(segment, Text) or segment.text:
            merged.append(segment)
    return tuple(merged)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(DOCUMENTS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_every_document_survives_packing(rows: list[list[Document]]) -> None:
    started = [[(Frame(np.zeros((4, 4, 3), np.uint8), False), *document) for document in row] for row in rows]
    batch = toys.pack(*started, length=400, config=NEVER)
    found = unpack(batch, toys.tokenizer())
    expected = [read_back(document) for row in started for document in row]
    assert len(found) == len(expected)
    for mine, document in zip(found, expected, strict=True):
        assert_same_contents(mine, document)
    videos = [sum(isinstance(s, Frame) for s in document) > 1 for document in found]
    for video, mine, document in zip(videos, found, expected, strict=True):
        flags = [[s.predict for s in d if isinstance(s, Frame)] for d in (mine, document)]
        assert all(a <= b for a, b in zip(*flags, strict=True)) if video else flags[0] == flags[1]  # a context frame is not learnt


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=30), st.booleans())
def test_a_text_alone_comes_back_with_its_flag(text: str, predict: bool) -> None:
    (found,) = unpack(toys.pack([(Text(text, predict),)], length=200), toys.tokenizer())
    assert found == (Text(text, predict),)


def test_an_action_is_a_vector_or_its_text_or_its_words() -> None:
    document = toys.action_video(RNG(1), 2)
    action = document[1]
    assert isinstance(action, Action) and action.words

    def packed(text: float, words: float, document: Document = document) -> object:
        config = replace(NEVER, text_action_share=text, action_words_share=words)
        return contents(unpack(toys.pack([document], config=config), toys.tokenizer())[0])[1]

    np.testing.assert_array_equal(packed(0.0, 1.0), action.vector)
    assert packed(1.0, 0.0) == (action.text, False)
    assert packed(1.0, 1.0) == (action.words, False)
    wordless = (document[0], Action(action.vector, action.text), document[2])
    assert packed(1.0, 1.0, wordless) == (action.text, False)
    nameless = (document[0], Action(action.vector, ""), document[2])
    np.testing.assert_array_equal(packed(1.0, 0.0, nameless), action.vector)


def test_frames_are_numbered_in_reading_order_and_share_a_time() -> None:
    batch = toys.packer().batch(0)
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
    batch = toys.packer().batch(0)
    predicted = np.argwhere(batch.text_target.numpy() != IGNORE)
    assert len(predicted) > 20
    for r, i in predicted:
        assert batch.text_target[r, i] == batch.token_id[r, i + 1]
        assert batch.document_id[r, i] == batch.document_id[r, i + 1] >= 0


def test_no_text_loss_where_a_picture_begins_or_ends() -> None:
    packer = toys.packer()
    for step in range(4):
        batch, tokenizer = packer.batch(step), toys.tokenizer()
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


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(16, 80), st.integers(1, 8))
def test_every_item_is_packed_once_or_there_is_no_room(data: st.DataObject, length: int, rows: int) -> None:
    items = data.draw(st.lists(st.tuples(st.integers(1, length), st.booleans()), max_size=40))
    lengths, divisible = [size for size, _ in items], [may for _, may in items]
    packed = pack(lengths, divisible, rows, length)
    if packed is None:
        assert sum(lengths) > rows * length / 2  # half of the room always serves, since no item is longer than a row
        return
    assert len(packed) == rows
    assert all(sum(stop - start for _, start, stop in row) <= length for row in packed)
    pieces = sorted(piece for row in packed for piece in row)
    for item, size in enumerate(lengths):
        mine = [(start, stop) for which, start, stop in pieces if which == item]
        assert [start for start, _ in mine] == [0, *(stop for _, stop in mine[:-1])] and mine[-1][1] == size
        if len(mine) > 1:
            assert divisible[item] and all(stop - start >= min(SHORTEST_PIECE, length // 2) for start, stop in mine)


def test_the_pieces_of_a_split_text_follow_each_other() -> None:
    assert SHORTEST_PIECE == 12
    packed = pack([20, 20, 24], [False, False, True], rows=2, length=32)
    assert packed is not None and sorted(packed) == [[(0, 0, 20), (2, 12, 24)], [(1, 0, 20), (2, 0, 12)]]
    assert pack([20, 20, 24], [False, False, False], rows=2, length=32) is None


def test_a_batch_depends_on_its_step_alone() -> None:
    forwards = [batch for batch, _ in zip(toys.packer(), range(50), strict=False)]
    packer = toys.packer()
    assert packer.steps_per_group < 45, "the steps should be of several groups"
    for step in (49, 3, 22, 21, 0):
        assert same(packer.batch(step), forwards[step])
    assert not same(forwards[0], forwards[1])


def test_a_step_is_found_without_reading_those_before_it() -> None:
    packer, read = toys.packer(), []
    original = packer.mixture.document
    packer.mixture.document = lambda i: read.append(i) or original(i)  # type: ignore[method-assign, func-returns-value]
    packer.batch(10**6)
    assert len(read) < 1.2 * packer.documents_per_group
    assert min(read) == 10**6 // packer.steps_per_group * packer.documents_per_group


def test_the_documents_of_a_group_come_in_order_and_whole() -> None:
    packer = toys.packer()
    texts, pictures = set(), []
    for batch in packer.steps(2):
        for document in unpack(batch, toys.tokenizer()):
            texts |= {segment.text for segment in document if isinstance(segment, Text)}
            pictures += [segment.pixels for segment in document if isinstance(segment, Frame)]
    first = 2 * packer.documents_per_group
    expected: list[np.ndarray] = []
    number = 0
    while len(expected) < len(pictures):
        expected += [segment.pixels for segment in packer.mixture.document(first + number) if isinstance(segment, Frame)]
        number += 1
    assert number == pytest.approx(packer.documents_per_group, rel=0.15)
    assert {picture.tobytes() for picture in pictures} == {picture.tobytes() for picture in expected}


@pytest.mark.parametrize("data_shards", [1, 2, 4])
def test_the_whole_batch_is_the_same_for_any_number_of_processes(data_shards: int) -> None:
    config = replace(toys.PACKING, rows=4, data_shards=data_shards)
    whole = [toys.packer(config=config).batch(step) for step in (0, 40)]
    for world_size in (size for size in (1, 2, 4) if data_shards % size == 0):
        packers = [toys.packer(config=config, rank=rank, world_size=world_size) for rank in range(world_size)]
        for batch, step in zip(whole, (0, 40), strict=True):
            parts = [packer.batch(step) for packer in packers]
            for name in ("token_id", "modality", "position", "text_target", "frames", "clean", "actions"):
                np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))


def test_lanes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="3 rows do not divide into 2 shards"):
        replace(toys.PACKING, data_shards=2)
    with pytest.raises(UserError, match="3 shards do not divide among 2 processes"):
        toys.packer(config=replace(toys.PACKING, data_shards=3), world_size=2)


@pytest.mark.parametrize(("rows", "length"), [(3, 96), (16, 152), (4, 500)])
def test_rows_are_filled_and_the_sources_get_their_shares(rows: int, length: int) -> None:
    packer = toys.packer(config=replace(NEVER, rows=rows, length=length))
    batches = [batch for group in range(6) for batch in packer.steps(group)]
    assert np.mean([batch.filled for batch in batches]) >= 0.97
    positions = Counter(name for batch in batches for name, count in batch.sources.items() for _ in range(count))
    total = positions.total()
    documents = 6 * packer.documents_per_group
    for k, source in enumerate(packer.mixture.sources):
        share, weight = positions[source.name] / total, packer.mixture.weights[k]
        drawn = documents * packer.mixture.probabilities[k]
        assert abs(share / weight - 1) < 4 / np.sqrt(drawn) + 0.05  # 0.05: the mean length is measured on 128 documents


def test_every_step_of_a_group_has_its_share_of_frames() -> None:
    counts = [len(batch.frames) for batch in toys.packer(config=replace(NEVER, rows=16)).steps(0)]
    assert max(counts) - min(counts) <= 16  # one frame a row


def test_another_seed_gives_other_batches() -> None:
    assert not same(toys.packer(0).batch(0), toys.packer(1).batch(0))


def test_filled_share_and_sources_are_counted() -> None:
    batch = toys.packer().batch(0)
    positions = int((batch.document_id >= 0).sum())
    assert sum(batch.sources.values()) == positions
    assert set(batch.sources) <= {"videos", "sentences", "captions", "drawings"}
    assert batch.filled == pytest.approx(positions / batch.document_id.numel())
    assert batch.filled > 0.8


class OneDocument:
    def __init__(self, document: Document) -> None:
        self.name, self.fixed = "one document", document

    def __len__(self) -> int:
        return 1

    def document(self, item: int, rng: np.random.Generator) -> Document:
        return self.fixed


def packer_of(document: Document, length: int) -> Packer:
    config = PackingConfig(rows=1, length=length, text_action_share=0.0)
    return Packer(toys.measured([(OneDocument(document), 1.0)], config=config), toys.tokenizer(), (2, 2), 2, config)


def test_a_clip_longer_than_a_row_is_refused_and_a_long_text_split() -> None:
    with pytest.raises(UserError, match="'one document' takes 27 positions, a sequence has 16"):
        packer_of(toys.action_video(RNG(0), 4), 16).batch(0)
    packer = packer_of((Text(toys.WORDS * 3),), 16)
    batches = packer.steps(0)
    assert np.mean([batch.filled for batch in batches]) > 0.9
    pieces = [segment.text for batch in batches for document in unpack(batch, toys.tokenizer()) for segment in document]
    assert len("".join(pieces)) % len(toys.WORDS * 3) == 0


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
