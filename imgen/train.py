"""Trains every stage of a config.

    python -m imgen.train --config configs/NAME.py[:ARG] --workdir RUN

Any value of the config can be changed by `--config.key=value`. Started again with the same workdir,
it goes on where it stopped; `--config` may then be left out. Exit status: 0 when all stages are
done, 2 for an error of use, 3 when the loss is not finite, 143 or 130 when SIGTERM or Ctrl-C
stopped it (after a checkpoint).
"""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from imgen import config
from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.parallel.mesh import make_mesh
from imgen.report.metrics_log import MetricWriter, read_metrics
from imgen.report.run_page import write_report
from imgen.report.summary import summary_text
from imgen.runs import cli
from imgen.runs.checks import check
from imgen.runs.stages import STAGES, build_stages, has_checkpoint
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
    train(_settle(args.config, rest, workdir), workdir)


def train(settings, workdir: Path) -> None:
    """Trains every stage of a config that isn't finished in `workdir` yet, and reports."""
    mesh = construct(make_mesh, config.plain(settings.get("mesh", {})), "config.mesh")
    check(settings, workdir, mesh)
    if jax.process_index() == 0:
        config.write_config(settings, workdir)
    log.info("%s on %d %s device(s)", workdir, mesh.size, mesh.devices.flat[0].platform)
    writer, began = MetricWriter(workdir), time.monotonic()
    meta = {"config": config.to_json(settings)}
    try:
        for stage in build_stages(settings, workdir):
            train_stage(
                stage, workdir=workdir, mesh=mesh, seed=settings.seed, writer=writer, meta=meta
            )
    finally:
        writer.close()
    if jax.process_index() == 0:
        log.info("%s", summary_text(read_metrics(workdir / "metrics.jsonl")))
        report = write_report(workdir)
        log.info("done in %.0f s: %s", time.monotonic() - began, report)


def _settle(path: str | None, overrides: Sequence[str], workdir: Path):
    """The config to train. A run that has trained already goes on with the model and data it has."""
    saved = workdir / "config.json"
    if path is None and not saved.exists():
        raise UserError(f"--config is needed: {workdir} holds no run to go on with")
    if path is None:
        settings = config.override(config.read_config(workdir), overrides)
    else:
        settings = config.load_config(path, overrides)
    if any(has_checkpoint(workdir, stage) for stage in STAGES) and saved.exists():
        for change in config.check_resume(config.read_config(workdir), settings, workdir):
            log.info("changed since the last start: %s", change)
    return settings


if __name__ == "__main__":
    sys.exit(cli.run(main))
