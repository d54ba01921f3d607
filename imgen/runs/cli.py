"""What all commands share: exit statuses, argument errors, logging, the run's folder."""

import argparse
import errno
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import jax

from imgen.config import OVERRIDE
from imgen.errors import NonFiniteLoss, UserError
from imgen.report.progress import CLEAR_LINE
from imgen.training.signals import Interrupted


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, and whose flags can't be abbreviated."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        raise UserError(f"{message}; see --help")

    def parse_with_overrides(
        self, argv: Sequence[str] | None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The flags, and the "--config.key=value" beside them."""
        args, rest = self.parse_known_args(argv)
        if unknown := [arg for arg in rest if not arg.startswith(OVERRIDE)]:
            self.error(f"unknown argument {unknown[0]!r}")
        return args, rest


def run(main: Callable[[], None], log_to: TextIO | None = None) -> int:
    """Calls `main` and turns its ends into exit statuses.

    0 done; 2 UserError, 3 NonFiniteLoss (one line on standard error, no traceback); 128 + signal
    (143 SIGTERM, 130 Ctrl-C) when asked to stop, so that a script can tell "stopped" from "done".
    Anything else is a defect of ours and keeps its traceback.
    """
    _log_to_terminal(log_to or sys.stdout)
    try:
        main()
    except UserError as error:
        return _end(f"imgen: error: {error}", 2)
    except NonFiniteLoss as error:
        return _end(f"imgen: error: {error}", 3)
    except Interrupted as stopped:
        return _end(f"imgen: {stopped}", 128 + stopped.signum)
    except KeyboardInterrupt:
        return _end("imgen: interrupted", 128 + signal.SIGINT)
    except Exception as error:
        if full := _of_full_disk(error):
            return _end(f"imgen: error: {full}: make room, and start the same command again", 2)
        raise
    return 0


def _of_full_disk(error: BaseException | None) -> str:
    """The line of an error, or of one behind it, that says that a disk is full; "" if none does."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        for line in str(error).splitlines():
            if full or any(os.strerror(code) in line for code in (errno.ENOSPC, errno.EDQUOT)):
                return line
        error = error.__cause__ or error.__context__
    return ""


def _end(message: str, status: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    if jax.distributed.is_initialized() and status in (2, 3):
        # The other processes wait in a collective; a tidy exit would wait for them in turn.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _log_to_terminal(stream: TextIO) -> None:
    """imgen's own messages go to `stream`; of Orbax's, which log by absl, only errors."""
    handler = logging.StreamHandler(stream)
    clear = CLEAR_LINE if stream.isatty() else ""
    handler.setFormatter(logging.Formatter(clear + "%(message)s"))
    logger = logging.getLogger("imgen")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)


def add_distributed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,PROCESSES,ID",
        help="one of several processes; no value on TPU pods and SLURM, where JAX finds the others",
    )


def join(how: str | None) -> None:
    """Joins the other processes, as --distributed says; only the first one then speaks."""
    if how == "auto":
        jax.distributed.initialize()
    elif how:
        try:
            address, processes, index = how.split(",")
            processes, index = int(processes), int(index)
        except ValueError:
            raise UserError(f"--distributed {how!r} is not HOST:PORT,PROCESSES,ID") from None
        jax.distributed.initialize(address, processes, index)
    if jax.process_index() != 0:
        logging.getLogger("imgen").setLevel(logging.WARNING)


def use_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/imgen/jax, or where JAX_COMPILATION_CACHE_DIR says."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "imgen" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def make_workdir(path: str | Path, flag: str = "--workdir") -> Path:
    """Makes the folder that the user named by `flag`, "~" being the home folder. Raises UserError if it can't
    be written to."""
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(
            f"cannot write to folder {path} ({error.strerror}); choose another {flag}"
        ) from error
    return path
