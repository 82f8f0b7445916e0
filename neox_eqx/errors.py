"""How a program ends before its work is done."""


class InputError(ValueError):
    """Something given from outside is wrong: a file, an option, a prompt.

    The message is one line that says what is wrong, where, and what to do. Command lines print
    it and exit with status 2; in a notebook it is an ordinary `ValueError`.
    """

    def __init__(self, message: str, *, mine: bool | None = None):
        super().__init__(message)
        self.mine = mine
        """Of an error that all processes of a pod raise together: whether this one tells it."""


class Stopped(Exception):
    """The program ends early, in all processes of a pod together, and says why in one line.

    Command lines print the line and exit with `status`.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
