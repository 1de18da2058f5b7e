"""How a file of another program must be refused: in one sentence that names it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from worldmodel.errors import UserError


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """What `read` says when it refuses a file."""
    with pytest.raises(UserError) as error:
        read(path)
    return one_line(error, path)


def one_line(error: pytest.ExceptionInfo[UserError], path: Path) -> str:
    """A refusal's sentence, which names the file."""
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message
