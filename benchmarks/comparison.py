"""The order of a comparison: the same training for each of several names, a row of a table for each.

A name is trained in DIR/NAME, a run like any other: started again, the command goes on where it stopped.
DIR/NAME/row.json holds what was measured of it, DIR/NAME.png its pictures; DIR/results.jsonl, DIR/table.md
and DIR/compare.html show the rows of all names that are there.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from imgen import config, train
from imgen.errors import UserError
from imgen.report import pixels
from imgen.report.page import Section, drawn, png, write_page
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run
from imgen.runs.training import check_resume

Job = tuple[
    Callable[[int], None], int
]  # does a numbered piece of work and waits for it; its images


def chosen(asked: str | None, known: Sequence[str], flag: str) -> list[str]:
    """Returns the names that a flag's value lists, all known ones without a value. Raises UserError."""
    names = asked.split(",") if asked else list(known)
    for name in names:
        if name not in known:
            raise UserError(f"{flag} {name!r} is none of {', '.join(known)}")
    return names


class Comparison:
    """Names side by side in a folder; `known` is their order in the table."""

    def __init__(self, out: str, names: Sequence[str], known: Sequence[str]):
        cli.use_compilation_cache()
        self.out = cli.make_workdir(out, "--out")
        self.names = [name for name in known if name in names]
        self.shown = [name for name in known if name in names or self._row(name).exists()]
        self.rows: dict[str, dict] = {}

    def train(
        self,
        settings: Callable[[str], FrozenConfigDict],
        measure: Callable[[Run], dict],
        draw: Callable[[Run], np.ndarray],
    ) -> dict[str, Run]:
        """Trains the chosen names, measures and draws each once; returns the runs of all that are shown.

        settings: name -> config; measure: run -> its row; draw: run -> picture [H, W, 3].
        Raises UserError if something was trained here with other settings: its numbers would not compare.
        """
        runs = {name: Run(self.out / name) for name in self.shown}
        experiments = {name: Experiment.build(settings(name)) for name in self.shown}
        for name, run in runs.items():
            _refuse_changes(run, experiments[name])
        for name in self.names:
            if self._row(name).exists():
                continue
            train.train(experiments[name], cli.make_workdir(runs[name].workdir))
            pixels.save_png(self._picture(name), draw(runs[name]))
            self._keep({"name": name, **measure(runs[name])})
        self.rows = {name: json.loads(self._row(name).read_text()) for name in self.shown}
        return runs

    def add(self, name: str, values: Mapping) -> None:
        """Adds values to a name's row."""
        self.rows[name] |= values
        self._keep(self.rows[name])

    def report(
        self,
        title: str,
        columns: Mapping[str, str],
        note: str,
        charts: Mapping[str, Figure],
        shown: Callable[[dict], dict] = dict,
    ) -> None:
        """Writes results.jsonl, table.md, also printed, and compare.html.

        columns: key of a row -> head; charts: by heading; shown: a row as the table shows it.
        """
        rows = list(self.rows.values())
        (self.out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        table = [
            [*columns.values()],
            *([_cell(shown(row).get(k)) for k in columns] for row in rows),
        ]
        lines = [table[0], ["---", *["--:"] * (len(columns) - 1)], *table[1:]]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"
        (self.out / "table.md").write_text(text)
        print(text)
        device = rows[0]["device"]
        sections = [Section(tables=[table])]
        sections += [Section(name, charts=drawn({name: chart})) for name, chart in charts.items()]
        pictures = [png(self._picture(name), name) for name in self.rows]
        sections.append(Section("Pictures", pictures=pictures))
        write_page(self.out / "compare.html", f"{title} ({device})", note, sections)

    def _row(self, name: str) -> Path:
        return self.out / name / "row.json"

    def _picture(self, name: str) -> Path:
        return self.out / f"{name}.png"

    def _keep(self, row: dict) -> None:
        self._row(row["name"]).write_text(json.dumps(row))


def _refuse_changes(run: Run, experiment: Experiment) -> None:
    """Raises UserError if something was trained in the run's folder that the experiment is not."""
    if (run.workdir / "config.json").exists():
        settings = config.read_config(run.workdir)
        for change in check_resume(settings, experiment, run.workdir):
            raise UserError(f"{run.workdir} was trained otherwise ({change}); use another --out")


def _cell(value) -> str:
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def in_turns(jobs: dict[Any, Job], seconds: float) -> dict[Any, float]:
    """Returns images a second of each job by its key: medians of rounds in which all have a turn, so that
    whatever else the machine does falls on all of them.

    A turn is two calls, the second of which is timed: the first brings the model's weights back into the
    cache. At least 5 rounds, `seconds` for each job.
    """
    for once, _ in jobs.values():
        once(0)
    times, began = {key: [] for key in jobs}, time.monotonic()
    while len(next(iter(times.values()))) < 5 or time.monotonic() - began < seconds * len(jobs):
        for key, (once, _) in jobs.items():
            once(len(times[key]))
            start = time.monotonic()
            once(len(times[key]))
            times[key].append(time.monotonic() - start)
    return {
        key: float(f"{count / statistics.median(times[key]):.3g}")
        for key, (_, count) in jobs.items()
    }
