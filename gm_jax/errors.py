"""The one exception for bad input. The command line prints its message as one line and exits with code 2."""


class InputError(ValueError):
    """What is wrong and what to do about it, in one line."""
