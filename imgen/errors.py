"""Errors that are told in a line: those that end a run on purpose, and examples that are left out."""

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend. The message is one line: what is wrong and what to do.

    Commands print it without a traceback and exit with status 2.
    """


class NonFiniteLoss(Exception):
    """The training loss became NaN or infinite. Commands exit with status 3."""


class BadExample(Exception):
    """One example that cannot be read. The loader goes on without it.

    name: what the user would look for, e.g. the file's path. reason: why it could not be read.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """ "did you mean 'near'?" for the known word that is nearest, "" if none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
