"""A mixture's documents, packed into batches: step i's batch is a pure function of the mixture, the settings and i.

Packing one batch at a time leaves gaps, and carrying the documents that did not fit makes a state. So the rows of several steps (at
least 64, a group) are packed at once, and a group starts at a place in the stream that is computed and not remembered:

1. Group g draws documents g * d, g * d + 1, ..., d being how many fill its rows on average, and takes as many of them, in this order,
   as it finds room for. One that takes more than d reads some of the next group's documents too, one that takes fewer skips some.
2. Documents with frames or actions are placed whole, the longest first, in the fullest row that has room (best-fit decreasing);
   then texts. A text that fits nowhere is split over gaps of at least 12 positions; its pieces are documents of their own.
3. The rows are dealt to the group's steps, each step getting its share of rows rich and poor in frames, in a seeded order.

So nothing is cut off or left out for its length, and the shares of the sources stay what the mixture says. Filled on the standard
mixture (TwoRoom, clips of 4 frames), for rows x length and tokens per frame:

    16 x 152, 16   98.1 %        32 x 2048, 64    99.7 %
    32 x 512, 16   99.2 %        32 x 512, 64     96.1 %      a clip takes 267: one to a row
                                 32 x 2048, 256   85.7 %      a clip takes 1035: one to a row

so choose a length that holds a whole number of clips with little to spare.

Frames are not aligned to the blocks of 128 positions of FlexAttention, since that does not pay. With frames of 256 tokens and rows of
4096, aligned frames left 58 % of the positions in use instead of 87 %, and 86 blocks to compute per 1000 of these instead of 51
(`create_block_mask`, made-up rows of clips, pictures and texts): a frame with its three other positions takes three blocks, not two.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from worldmodel.batch import PackedBatch, collate
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.errors import UserError
from worldmodel.tokenizer import Tokenizer
from worldmodel.tokens import PackingConfig, Tokens, tokenise

GROUP_ROWS = 64
"""Rows that are packed together, at least: enough for gaps of one row to fit what another cannot take."""
SHORTEST_PIECE = 12
"""Positions of a piece of a split text, at least."""

Span = tuple[int, int, int]
"""A part of an item: which, from where, up to where."""
PackedRow = list[tuple[int, Tokens]]
"""What lies in a row: documents or pieces of texts, each with its index in the mixture."""


class Packer:
    """Batches of a mixture by step number; no state in it changes which batches it returns.

    Args:
        mixture: where documents come from; measured in positions of this tokenizer and these settings.
        tokenizer: for the texts.
        grid: rows and columns of a frame's latent tokens.
        action_dim: numbers in an action vector; shorter ones are padded with zeros.
        config: shape of a batch, and what is drawn per document.
        rank: which process this is; it packs and gives its own shards only.
        world_size: how many processes there are.

    Raises:
        UserError: the shards do not divide among the processes.
    """

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: Tokenizer,
        grid: tuple[int, int],
        action_dim: int,
        config: PackingConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if config.data_shards % world_size or not 0 <= rank < world_size:
            raise UserError(
                f"{config.data_shards} shards do not divide among {world_size} processes; "
                f"set the packing's data_shards to a multiple of {world_size}"
            )
        self.mixture, self.tokenizer, self.grid = mixture, tokenizer, grid
        self.action_dim, self.config = action_dim, config
        own = config.data_shards // world_size
        self.data_shards = range(rank * own, (rank + 1) * own)
        self.shard_rows = config.rows // config.data_shards
        self.steps_per_group = -(-GROUP_ROWS // self.shard_rows)
        capacity = self.shard_rows * self.steps_per_group * config.length
        self.documents_per_shard = max(1, round(capacity / mixture.mean_length))
        self._held: tuple[int, list[PackedBatch]] = (-1, [])  # the group read last

    def share(self, rank: int, world_size: int) -> "Packer":
        """Return the same packer for the shards of one of several processes.

        Raises:
            UserError: the shards do not divide among the processes.
        """
        return Packer(self.mixture, self.tokenizer, self.grid, self.action_dim, self.config, rank, world_size)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_held": (-1, [])}  # worker processes pack for themselves

    @property
    def documents_per_group(self) -> int:
        """Documents of the stream from the start of one group to the start of the next.

        With n documents in a shard of a group, their number varies by about 0.7 sqrt(n) around what fills it: a few percent of
        documents come twice or not at all in a pass. Which ones is a matter of their place alone, not of what they are.
        """
        return self.documents_per_shard * self.config.data_shards

    def documents_before(self, step: int) -> int:
        """Return how much of the stream the first `step` steps stand for; `mixture.epochs` of it is the passes over the data."""
        return step * self.documents_per_group // self.steps_per_group

    def batch(self, step: int) -> PackedBatch:
        """Return the batch of a step, 0 <= step. The steps of one group cost one packing, if they are asked for in turn."""
        group, place = divmod(step, self.steps_per_group)
        if self._held[0] != group:
            self._held = (group, self.steps(group))
        return self._held[1][place]

    def __iter__(self) -> Iterator[PackedBatch]:
        """Yield the batches of all steps, without end."""
        step = 0
        while True:
            yield self.batch(step)
            step += 1

    def steps(self, group: int) -> list[PackedBatch]:
        """Return the batches of steps group * steps_per_group and following, `steps_per_group` of them.

        Raises:
            UserError: a document with frames is longer than a row.
        """
        dealt = [self._deal(self._shard(group, shard), group, shard) for shard in self.data_shards]
        return [self._collate([row for shard in dealt for row in shard[place]]) for place in range(self.steps_per_group)]

    def tokens(self, index: int) -> Tokens:
        """Turn document `index` of the mixture into positions: a pure function of the mixture's seed and the index.

        Raises:
            UserError: it has frames and is longer than a row.
        """
        rng = np.random.default_rng([self.mixture.seed, index, 1])
        tokens = tokenise(self.mixture.document(index), self.tokenizer, self.grid, self.config, rng)
        if len(tokens) > self.config.length and not tokens.is_text:
            raise UserError(
                f"a document of source {self.mixture.source_name(index)!r} takes {len(tokens)} positions, a sequence has "
                f"{self.config.length}: use shorter clips or a larger packing length"
            )
        return tokens

    def _shard(self, group: int, shard: int) -> list[PackedRow]:
        """Fill the rows of a shard of a group: documents, or pieces of texts, each with its index in the stream."""
        rows, length = self.shard_rows * self.steps_per_group, self.config.length
        first = (group * self.config.data_shards + shard) * self.documents_per_shard
        drawn: list[Tokens] = []
        total = 0
        while total < rows * length:
            drawn.append(self.tokens(first + len(drawn)))
            total += len(drawn[-1])
        while (packed := pack([len(t) for t in drawn], [t.is_text for t in drawn], rows, length)) is None:
            del drawn[-max(1, len(drawn) // 200) :]
        return [[(first + i, drawn[i].part(start, stop)) for i, start, stop in row] for row in packed]

    def _deal(self, rows: list[PackedRow], group: int, shard: int) -> list[list[PackedRow]]:
        """Deal rows to each step of the group: of k rows with about as many frames, each of the k steps gets one."""
        k = self.steps_per_group
        rng = np.random.default_rng([self.mixture.seed, group * self.config.data_shards + shard, 2])
        rows = sorted(rows, key=lambda row: sum(len(tokens.frames) for _, tokens in row))
        dealt: list[list[PackedRow]] = [[] for _ in range(k)]
        for start in range(0, len(rows), k):
            for place, row in zip(rng.permutation(k), rows[start : start + k], strict=True):
                dealt[place].append(row)
        return dealt

    def _collate(self, rows: list[PackedRow]) -> PackedBatch:
        sources: dict[str, int] = {}
        for index, tokens in (document for row in rows for document in row):
            name = self.mixture.source_name(index)
            sources[name] = sources.get(name, 0) + len(tokens)
        packed = [[tokens for _, tokens in row] for row in rows]
        documents = [index for row in rows for index, _ in row]
        return collate(packed, self.config.length, self.tokenizer.pad_id, self.action_dim, sources, documents)


def pack(lengths: Sequence[int], divisible: Sequence[bool], rows: int, length: int) -> list[list[Span]] | None:
    """Place every item in a bin: best-fit decreasing, the indivisible ones first; divisible ones are split where they must.

    Args:
        lengths: of the items, at least 1.
        divisible: per item, whether it may be split into pieces of at least `SHORTEST_PIECE`.
        rows: number of bins.
        length: of each bin.

    Returns:
        The pieces (item, start, stop) of each bin, None when there is no room for all.
    """
    packed: list[list[Span]] = [[] for _ in range(rows)]
    room = [(length, row) for row in range(rows)]  # sorted
    too_long: list[int] = []
    shortest = min(SHORTEST_PIECE, length // 2)
    splits = [may and size >= 2 * shortest for may, size in zip(divisible, lengths, strict=True)]
    for item in sorted(range(len(lengths)), key=lambda i: (splits[i], -lengths[i], i)):
        at = bisect_left(room, (lengths[item], -1))
        if at == len(room):
            if not splits[item]:
                return None
            too_long.append(item)
            continue
        free, row = room.pop(at)
        packed[row].append((item, 0, lengths[item]))
        insort(room, (free - lengths[item], row))
    for item in too_long:
        start = 0
        while start < lengths[item]:
            free, row = room.pop()
            rest = lengths[item] - start
            size = rest if rest <= free else min(free, rest - shortest)
            if size < min(rest, shortest):
                return None
            packed[row].append((item, start, start + size))
            insort(room, (free - size, row))
            start += size
    return packed
