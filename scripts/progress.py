"""What a verb is at, for what has no steps to count: a bar over its stages, each with its name."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def stages(*names: str) -> Iterator[Callable[[], None]]:
    """A bar that says which stage is running; where stderr is no terminal, nothing.

    Args:
        names: of the stages, in their order; the first begins at once.

    Yields:
        A function that ends a stage and begins the next one.
    """
    with tqdm(total=len(names), unit="stage", desc=names[0], leave=False, disable=None) as bar:

        def end() -> None:
            bar.update()
            if bar.n < len(names):
                bar.set_description(names[int(bar.n)])

        yield end
