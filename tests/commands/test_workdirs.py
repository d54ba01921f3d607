"""What a run's folder goes through: refused and repeated starts, odd paths, torn files, full disks."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from imgen import evaluate, sample, train
from imgen.runs import cli, lock
from imgen.runs.run import Run
from tests.commands.short import QUICK, SHORT


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose path has what a shell would take for a pattern."""
    workdir = tmp_path_factory.mktemp("runs") / "lr[0.1] *"
    assert cli.run(lambda: train.main([*QUICK, *SHORT, "--workdir", str(workdir)])) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def start(capsys, workdir, *more: str) -> tuple[int, str]:
    """Exit status and errors of the same command with further overrides, a config's own coming first."""
    capsys.readouterr()
    status = cli.run(lambda: train.main([*QUICK, *SHORT, "--workdir", str(workdir), *more]))
    return status, capsys.readouterr().err


def steps(workdir) -> list[str]:
    folders = (workdir / "checkpoints").glob("*/*")
    return sorted(f"{path.parent.name}/{path.name}" for path in folders)


def test_a_path_that_looks_like_a_pattern_is_read_as_it_is(finished, tmp_path, capsys):
    assert steps(finished) == ["generator/1", "tokenizer/2"]
    assert Run(finished).tokenizer().step == 2
    argv = ["--workdir", str(finished), "--out", str(tmp_path / "out"), "--num", "2"]
    assert cli.run(lambda: sample.main(argv)) == 0
    argv = ["--workdir", str(finished), "--metrics", "likelihood"]
    assert cli.run(lambda: evaluate.main(argv)) == 0
    status, err = start(capsys, finished)  # and it is known to be finished
    assert status == 0 and steps(finished) == ["generator/1", "tokenizer/2"]


def test_the_home_folder_may_be_short(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Run("~/run").latest_step("generator") == 1
    assert cli.make_workdir("~/new") == tmp_path / "new"
    argv = ["--workdir", "~/run", "--out", "~/out", "--num", "1"]
    assert cli.run(lambda: sample.main(argv)) == 0
    assert (tmp_path / "out" / "samples.npz").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        # other shapes of the optimiser's state, in a stage that would go on
        (["train.generator.steps=3", "train.generator.optimizer.name=lion"], ["opt/", "lr[0.1]"]),
        (["train.generator.steps=3", "train.generator.ema_decay=0.0"], ["'ema/", "has not"]),
        (["train.generator.steps=3", "generator.depth=2"], ["generator.depth=1", "--workdir"]),
        # of what is trained already: a recipe that never ran
        (["train.generator.optimizer.learning_rate=0.5"], ["generator is trained", "0.5"]),
        (["train.tokenizer.steps=1"], ["tokenizer is trained", "train.tokenizer.steps"]),
        # a tokenizer under its generator, which carries the one that it was trained with
        (["train.tokenizer.steps=3"], ["its generator is of the tokenizer of step 2"]),
    ],
)
def test_a_refused_start_leaves_everything_as_it_was(finished, capsys, changes, words):
    def files():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in finished.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    before = files()
    status, err = start(capsys, finished, *(f"--config.{change}" for change in changes))
    assert status == 2 and len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert files() == before


def test_torn_and_foreign_lines_do_not_stop_a_restart(run, capsys):
    path = run / "metrics.jsonl"
    rows = path.read_text().splitlines()
    foreign = [
        "",
        "null",
        "[1, 2]",
        '"text"',
        '{"note": "mine"}',
        '{"stage": 3, "step": "x"}',
        "\udcff",
    ]
    torn = '{"stage": "generator", "st'
    path.write_bytes("\n".join([*foreign, *rows, torn]).encode("utf-8", "surrogateescape"))
    (run / ".lock").write_text("process 1 on a machine that is gone")  # nobody holds it
    status, err = start(capsys, run, "--config.train.generator.steps=2")
    assert status == 0, err
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found[: len(rows)] == [json.loads(row) for row in rows]
    assert found[-1]["stage"] == "generator" and found[-1]["step"] == 2
    assert (run / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_workdir_is_trained_by_one_process_at_a_time(run, capsys, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from pathlib import Path; from imgen.runs.lock import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)",
            str(run),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        status, err = start(capsys, run, "--config.train.generator.steps=2")
        assert status == 2 and len(err.splitlines()) == 1
        assert f"is being trained by process {holder.pid} on" in err
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock.locked(run):  # what a dead one held is free, though its note is there
        with (run / ".lock").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(capsys, wrapped):
    def full():
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a/checkpoints")
        if not wrapped:
            raise error
        raise ValueError(f"RESOURCE_EXHAUSTED: Error writing\n{error}\nat line 3") from None

    assert cli.run(full) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "No space left" in err and "make room" in err


def test_a_defect_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)
