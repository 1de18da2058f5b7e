"""The values used last, up to a number of them."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the values that were used last.

    Threads may share one: it has no lock (which a fork could copy while it is held), only single operations of a dictionary,
    and takes a value that another thread has just dropped for one that was never there. A pickled copy starts empty.

    Args:
        capacity: number of values; 0 keeps none.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value, or None when it is not kept."""
        value = self._values.get(key)
        if value is not None:
            try:
                self._values.move_to_end(key)
            except KeyError:
                pass
        return value

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps a value, and drops those not used for longest that are too many."""
        if self.capacity < 1:
            return
        self._values[key] = value
        while len(self._values) > self.capacity:
            try:
                self._values.popitem(last=False)
            except KeyError:
                return

    def __getstate__(self) -> dict[str, int]:
        return {"capacity": self.capacity}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["capacity"])  # type: ignore[misc]
