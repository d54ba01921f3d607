"""A run killed anywhere and started again ends as if nothing had happened."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.training.killing import assert_same_run, exact_rows, final_arrays, kill_at_random, run

COMMAND = [sys.executable, "-m", "tests.training.toy", "--steps", "60"]


@pytest.fixture
def one_device():
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env["PYTHONPATH"] = os.getcwd()
    return env


def test_five_kills_leave_no_trace(tmp_path, one_device):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run([*COMMAND, "--workdir", str(whole)], one_device)
    assert done.returncode == 0, done.stderr
    command = [*COMMAND, "--workdir", str(killed)]
    rows = len(exact_rows(whole))
    kill_at_random(command, killed, one_device, kills=5, rows=rows, seed=0)
    done = run(command, one_device)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    assert_same_run(whole, killed, ["toy"])


def test_sigterm_gives_143_and_one_line(tmp_path, one_device):
    command = [*COMMAND, "--workdir", str(tmp_path), "--seconds", "0.1"]
    process = subprocess.Popen(
        command, env=one_device, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].startswith("imgen: stopped at toy step ")


def test_two_processes_train_as_one(tmp_path, one_device):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.training.toy", "--steps", "8", "--seconds", "0"]
    two = [
        subprocess.Popen(
            [*command, "--workdir", str(tmp_path / "two"), "--distributed", address, "2", index],
            env=one_device,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in "01"
    ]
    one = run([*command, "--workdir", str(tmp_path / "one")], one_device)
    assert one.returncode == 0, one.stderr
    for process in two:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    rows = {name: exact_rows(tmp_path / name) for name in ("one", "two")}
    assert len(rows["one"]) == len(rows["two"])  # process 0 writes, and it alone
    for a, b in zip(rows["one"], rows["two"], strict=True):
        assert a.pop("stage") == b.pop("stage") == "toy"
        assert a == pytest.approx(b, rel=1e-4)
    a, b = (final_arrays(tmp_path / name, "toy") for name in ("one", "two"))
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-4, atol=1e-6)
