"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import shutil
import sys
import time

CLEAR_LINE = "\r\x1b[K"


def duration(seconds: float) -> str:
    """75 -> "1:15", 4000 -> "1:06:40"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Shows "name 120/400 30% | loss 3.14 | 810 images/s | 1:15 left" on standard error.

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
        self._name, self._total, self._start, self._items = name, total, start, items
        self._noun, self._enabled = noun, enabled
        self._stream = stream or sys.stderr
        self._bar = self._stream.isatty()
        self._interval = 0.1 if self._bar else line_seconds
        self._begun = self._shown = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if not self._enabled or (now - self._shown < self._interval and done < self._total):
            return
        self._shown = now
        per_second = (done - self._start) / max(now - self._begun, 1e-9)
        left = duration((self._total - done) / per_second) if done > self._start else "?"
        speed = f"{per_second * self._items:.3g} {self._noun}/s"
        text = f"{self._name} {done}/{self._total} {100 * done // self._total}%"
        text = " | ".join(filter(None, [text, note, speed, f"{left} left"]))
        if self._bar:
            columns = shutil.get_terminal_size().columns
            width = max(columns - len(text) - 4, 0)
            filled = "#" * (width * done // self._total)
            text = f"{CLEAR_LINE}{text} [{filled:<{width}}]"[: columns + len(CLEAR_LINE) - 1]
        self._stream.write(text if self._bar else text + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._enabled and self._bar:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
