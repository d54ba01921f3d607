"""The two ways in which a run ends early on purpose; `imgen.cli` turns them into exit statuses."""


class UserError(Exception):
    """Something that the user can mend. The message is one line: what is wrong and what to do.

    Commands print it without a traceback and exit with status 2.
    """


class NonFiniteLoss(Exception):
    """The training loss became NaN or infinite. Commands exit with status 3."""
