"""Trains every stage of a config.

    python -m imgen.train --config configs/NAME.py[:ARG] --workdir RUN

Any value of the config can be changed by `--config.key=value`. Started again with the same workdir,
it goes on where it stopped; `--config` may then be left out. Exit status: 0 when all stages are
done, 2 for an error of use, 3 when the loss is not finite, 143 or 130 when SIGTERM or Ctrl-C
stopped it (after a checkpoint).
"""

import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

from imgen import config
from imgen.errors import UserError
from imgen.report.metrics_log import MetricWriter, read_metrics
from imgen.report.run_page import write_classes, write_report
from imgen.report.summary import summary_text
from imgen.runs import cli
from imgen.runs.experiment import STAGES, Experiment
from imgen.runs.lock import locked
from imgen.runs.run import Run
from imgen.runs.training import check, check_resume, stages_to_train
from imgen.training.loop import train_stage

log = logging.getLogger("imgen.train")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="imgen.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="default: RUN/config.json")
    parser.add_argument("--workdir", required=True, metavar="RUN", help="the run's folder")
    cli.add_distributed(parser)
    args, rest = parser.parse_with_overrides(argv)
    cli.join(args.distributed)
    cli.use_compilation_cache()
    workdir = cli.make_workdir(args.workdir)
    with locked(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        settings = _settings(args.config, rest, workdir)
        config.check_same(settings)
        train(Experiment.build(settings), workdir)


def train(experiment: Experiment, workdir: Path) -> None:
    """Trains every stage of an experiment that isn't finished in `workdir` yet, and reports."""
    mesh = experiment.make_mesh()
    changes = []
    if any(Run(workdir).has_checkpoint(stage) for stage in STAGES):
        if (workdir / "config.json").exists():
            changes = check_resume(config.read_config(workdir), experiment, workdir)
    check(experiment, workdir, mesh)
    stages = stages_to_train(experiment, workdir)
    first = next(stages)
    # Nothing of the run is touched before here, where all is known to fit, on all processes.
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the config is checked")
    for change in changes:
        log.info("changed since the last start: %s", change)
    if jax.process_index() == 0:
        config.write_config(experiment.settings, workdir)
        write_classes(workdir, experiment.data.class_names)
    log.info("%s on %d %s device(s)", workdir, mesh.size, mesh.devices.flat[0].platform)
    writer, began = MetricWriter(workdir), time.monotonic()
    run = dict(workdir=workdir, mesh=mesh, seed=experiment.seed, writer=writer)
    run["meta"] = {"config": config.to_json(experiment.settings)}
    try:
        for stage in itertools.chain([first], stages):
            train_stage(stage, **run)
    finally:
        writer.close()
    if jax.process_index() == 0:
        log.info("%s", summary_text(read_metrics(workdir / "metrics.jsonl")))
        report = write_report(workdir)
        log.info("done in %.0f s: %s", time.monotonic() - began, report)


def _settings(path: str | None, overrides: Sequence[str], workdir: Path) -> FrozenConfigDict:
    """The config to train: of the file, or of the run that is there."""
    if path is not None:
        return config.load_config(path, overrides)
    if not (workdir / "config.json").exists():
        raise UserError(f"--config is needed: {workdir} holds no run to go on with")
    return config.override(config.read_config(workdir), overrides)


if __name__ == "__main__":
    sys.exit(cli.run(main))
