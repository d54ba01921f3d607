"""SIGTERM, Ctrl-C, a closed terminal and SLURM's SIGUSR1 as a request to stop after the current step."""

import signal

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(Exception):
    """The run was asked to stop and has saved a checkpoint. `signum` is the signal it obeyed."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """While open, remembers SIGNALS instead of dying; a second Ctrl-C dies as usual.

    Handlers are put back on leaving; a signal that is ignored (SIGHUP under nohup) stays so. Only the main
    thread may install handlers; elsewhere (a notebook's or test's thread) signals keep their meaning and
    nothing is ever requested.
    """

    def __init__(self):
        self.signum = 0
        self._before = {}

    def __enter__(self):
        try:
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._remember)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _remember(self, signum, frame):
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def agreed(self, ask_others: bool) -> int:
        """The signal to obey now, else 0. With several processes all get the same answer, and only
        where all pass `ask_others` (it costs a collective)."""
        if jax.process_count() == 1:
            return self.signum
        if not ask_others:
            return 0
        return int(np.max(multihost_utils.process_allgather(np.array(self.signum))))
