"""Progress: lines where there is no terminal, one bar where there is."""

import io

from imgen.report.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_without_a_terminal():
    stream = io.StringIO()
    progress = Progress("toy", 4, items=8, noun="images", line_seconds=0.0, stream=stream)
    for step in (1, 4):
        progress.update(step, "loss 2")
    progress.close()
    first, last = stream.getvalue().splitlines()
    assert first.startswith("toy 1/4 25% | loss 2 | ") and "images/s" in first
    assert last.startswith("toy 4/4 100%") and last.endswith("0:00 left")


def test_lines_come_now_and_then_and_the_last_one_always():
    stream = io.StringIO()
    progress = Progress("toy", 100, start=90, line_seconds=3600.0, stream=stream)
    for step in range(91, 101):
        progress.update(step)
    progress.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("toy 100/100 100% | ") and "steps/s" in line


def test_speed_and_time_left_count_from_the_start(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("toy", 4110, start=100, items=8, line_seconds=0.0, stream=stream)
    now[0] += 5
    progress.update(110)
    assert (
        stream.getvalue() == "toy 110/4110 3% | 16 steps/s | 33:20 left\n"
    )  # 10 x 8 in 5 s; 4,000 to go
    progress.close()


def test_a_terminal_gets_one_bar_that_is_removed():
    stream = Terminal()
    progress = Progress("toy", 2, stream=stream)
    progress.update(2, "loss 1")
    assert "\n" not in stream.getvalue() and "toy 2/2 100% | loss 1 | " in stream.getvalue()
    progress.close()
    assert stream.getvalue().split("\r")[-2].strip() == "" and stream.getvalue().endswith("\r")


def test_nothing_is_said_where_another_process_speaks():
    stream = io.StringIO()
    progress = Progress("toy", 1, line_seconds=0.0, stream=stream, enabled=False)
    progress.update(1)
    progress.close()
    assert stream.getvalue() == ""
