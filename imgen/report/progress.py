"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys

from tqdm import tqdm

CLEAR_LINE = "\r\x1b[K"  # written before anything that would stand on the bar


class Progress:
    """Shows "name 120/400 30% | loss 3.14 | 810 images/s | 01:15 left" on standard error, by tqdm.

    start, total: units of work done before and at the end; items: what is counted for the speed
      (e.g. images) per unit. Lines (not a terminal) come every `line_seconds`, and at the end.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        start: int = 0,
        items: int = 1,
        noun: str = "steps",
        line_seconds: float = 15.0,
        stream=None,
        enabled: bool = True,
    ):
        stream = stream or sys.stderr
        on_terminal = stream.isatty()
        self._bar = (_Bar if on_terminal else _Lines)(
            desc=name, total=total, initial=start, file=stream, disable=not enabled, leave=False,
            dynamic_ncols=True, mininterval=0.1 if on_terminal else line_seconds, miniters=1, smoothing=0,
        )  # fmt: skip
        self._bar.items, self._bar.noun = items, noun

    def update(self, done: int, note: str = "") -> None:
        """Says how much is done by now; what is last is always shown."""
        self._bar.note = f"{note} | " if note else ""
        if done >= self._bar.total:
            self._bar.mininterval = 0
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Removes the bar; lines stay."""
        self._bar.close()


class _Bar(tqdm):
    """A bar whose speed is of items, on average since the start."""

    monitor_interval = 0  # no thread that redraws it
    look = "{desc} {n}/{total} {percentage:.0f}% | {note}{speed} | {remaining} left {bar}"
    items, noun, note = 1, "steps", ""

    @property
    def format_dict(self):
        found = super().format_dict
        speed = self.items * (found["n"] - found["initial"]) / max(found["elapsed"], 1e-9)
        words = {"speed": f"{speed:.3g} {self.noun}/s", "note": self.note}
        return found | words | {"bar_format": self.look}


class _Lines(_Bar):
    """The same as lines, from the first update on."""

    look = _Bar.look.removesuffix(" {bar}")

    def display(self, msg=None, pos=None) -> None:
        if self.n > self.initial:
            print(self, file=self.fp, flush=True)

    def close(self) -> None:
        self.sp = None  # nothing to clear
        super().close()
