"""One training at a time in a workdir."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from imgen.errors import UserError

log = logging.getLogger(__name__)
PATIENCE = 3.0  # seconds in which the workers of a killed process have ended too


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds RUN/.lock. Raises UserError where another process does; a dead one holds nothing.

    A file system without locks is gone without, with a warning.
    """
    with (workdir / ".lock").open("a+") as file:
        try:
            _take(file)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{workdir} is being trained by {file.read().strip() or 'another process'}: wait for it, "
                "end it, or choose another --workdir"
            ) from None
        except OSError as error:
            log.warning("cannot lock %s (%s): start nothing else in it", workdir, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _take(file: IO) -> None:
    """Raises BlockingIOError where another process still holds the lock after a while."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if time.monotonic() > until:
                raise BlockingIOError from error
        time.sleep(0.1)
