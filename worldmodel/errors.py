"""The one exception for mistakes a user can mend: the command line prints it as one sentence and exits with status 2."""


class UserError(ValueError):
    """Bad input from outside: says what was wrong, where, and what to do. Never used for our own bugs."""
