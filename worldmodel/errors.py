"""The one exception for mistakes a user can mend: the command line prints it as one sentence and exits with status 2."""


class UserError(ValueError):
    """Bad input from outside: says what was wrong, where, and what to do. Never used for our own bugs."""


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of what a library says went wrong, shortened; the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
