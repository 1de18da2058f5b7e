"""Batches of clips in a seeded, shuffled order, read ahead by threads.

    clips = ClipDataset("episodes.h5", num_steps=4)
    for batch in ClipLoader(clips, batch_size=32, start=step, stop=100_000):
        frames = torch.from_numpy(batch["frames"])  # uint8 (32, 5, H, W, 3), nothing is copied
        actions = torch.from_numpy(batch["actions"])  # float32 (32, 4, k*a)

Threads and not processes: reading, zstd and JPEG leave the interpreter's lock, and a batch is where it is needed once
it was read, while processes spend more time on passing batches on than on reading them.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from worldmodel.datasets.episodes.clips import ClipDataset
from worldmodel.datasets.shuffle import seeded_key, shuffled_many
from worldmodel.errors import UserError

PLACES_AT_ONCE = 4096
"""Of the order, found in one go."""
AHEAD = 2
"""Batches read ahead for each thread."""


class ClipLoader:
    """Batches of the clips of a data set: in each epoch every clip once, in another seeded order.

    Batches are numbered through all epochs, and batch i depends on nothing but the data set, the batch size and the seed: not on
    where reading started or on how many threads read.

    Args:
        dataset: the clips.
        batch_size: clips in a batch.
        seed: of the order.
        workers: threads that read ahead; 0 reads each batch when it is asked for. About 2 batches a thread are in memory.
        start: number of the first batch; any is found at once, so a run goes on where it stopped.
        stop: number after the last batch; without it there is no last one.
        drop_last: leave out the clips at the end of an epoch that fill no batch; otherwise they are a smaller one.

    Raises:
        UserError: the sizes make no batch; when iterating, a file is damaged.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        seed: int = 0,
        workers: int = 1,
        start: int = 0,
        stop: int | None = None,
        drop_last: bool = True,
    ) -> None:
        for name, number, least in (("batch size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 0), ("start", start, 0)):
            if number < least:
                raise UserError(f"{name} {number} of a clip loader must be at least {least}")
        if drop_last and batch_size > len(dataset):
            raise UserError(f"{len(dataset)} clips do not fill a batch of {batch_size}; take smaller batches or drop_last=False")
        self.dataset, self.batch_size, self.seed, self.workers = dataset, batch_size, seed, workers
        self.start, self.stop = start, stop
        self.batches_per_epoch = len(dataset) // batch_size if drop_last else -(-len(dataset) // batch_size)
        self._part: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def indices(self, i: int) -> np.ndarray:
        """Return the numbers of the clips of batch i: int64 (b,)."""
        epoch, batch = divmod(i, self.batches_per_epoch)
        batches = max(1, PLACES_AT_ONCE // self.batch_size)
        first = batch // batches * batches
        key, part = self._part
        if key != i - batch + first:
            stop = min((first + batches) * self.batch_size, len(self.dataset))
            part = shuffled_many(np.arange(first * self.batch_size, stop), len(self.dataset), seeded_key(self.seed, epoch))
            self._part = i - batch + first, part
        return part[(batch - first) * self.batch_size :][: self.batch_size]

    def batch(self, i: int) -> dict[str, np.ndarray]:
        """Read batch i now; see `ClipDataset.batch`."""
        return self.dataset.batch(self.indices(i))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches `start` to `stop`; the threads end with the iterator."""
        number = self.start
        if not self.workers:
            while self.stop is None or number < self.stop:
                yield self.batch(number)
                number += 1
            return
        pool, ahead = ThreadPoolExecutor(self.workers, thread_name_prefix="clips"), deque[Future[dict[str, np.ndarray]]]()
        try:
            while True:
                while len(ahead) < AHEAD * self.workers and (self.stop is None or number < self.stop):
                    ahead.append(pool.submit(self.dataset.batch, self.indices(number)))
                    number += 1
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
