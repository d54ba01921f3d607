import json
import signal
import threading

import jax
import numpy as np
import pytest

from imgen.errors import NonFiniteLoss, UserError
from imgen.parallel.mesh import make_mesh
from imgen.report.metrics_log import read_metrics
from imgen.training.evaluator import Evaluator
from imgen.training.signals import SIGNALS, Interrupted
from imgen.training.stage import Stage
from tests.report import reading
from tests.training.killing import assert_same_run
from tests.training.toy import ToyTask, eval_batches, toy_stage, train, train_batches


def test_loss_falls_and_the_run_leaves_all_its_files(tmp_path):
    state = train(tmp_path, toy_stage(steps=40))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert int(state["step"]) == 40
    losses = [r["loss"] for r in rows if "loss" in r]
    assert len(losses) == 20 and losses[-1] < 0.8 * losses[0]
    assert [r["step"] for r in rows if "val/loss" in r] == list(range(5, 41, 5))
    assert all(r["stage"] == "toy" for r in rows)
    assert sorted(p.name for p in (tmp_path / "checkpoints/toy").iterdir()) == ["36", "40"]
    assert (tmp_path / "samples/toy/noise_00000040.png").exists()
    page = reading.Page(tmp_path / "report.html")
    assert "noise, step 40" in page.pngs
    curve = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    reading.assert_shows(reading.line(page.charts["loss"], 0), *zip(*curve, strict=True))
    assert list((tmp_path / "tensorboard/toy").iterdir())


def test_eight_devices_take_the_same_steps_as_one(tmp_path):
    mesh = make_mesh(2, 2, 2)
    eight = train(tmp_path / "8", toy_stage(steps=5), mesh)
    one = train(tmp_path / "1", toy_stage(steps=5))
    kernel = eight["opt"][1].mu["blocks"]["kernel"]
    assert kernel.sharding.spec == jax.P(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (2, 4, 4)
    for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_checkpoint_of_eight_devices_is_resumed_on_one(tmp_path):
    train(tmp_path / "a", toy_stage(ToyTask(steps=20), steps=8), make_mesh(2, 2, 2))
    moved = train(tmp_path / "a", toy_stage(steps=20))
    straight = train(tmp_path / "b", toy_stage(steps=20))
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(straight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_after_a_damaged_checkpoint_the_run_ends_as_if_nothing_had_been(tmp_path):
    train(tmp_path / "a", toy_stage(steps=10))
    train(tmp_path / "b", toy_stage(steps=10))
    newest = tmp_path / "a" / "checkpoints" / "toy" / "10"
    files = [path for path in newest.glob("params/**/*") if path.is_file()]
    data = max(files, key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    train(tmp_path / "a", toy_stage(steps=10))
    assert_same_run(tmp_path / "a", tmp_path / "b", ["toy"])


def test_what_fails_after_the_last_step_loses_nothing_and_is_done_again(tmp_path):
    def fails(state, poll):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk is full"):
        train(tmp_path / "a", toy_stage(steps=6, evaluators=(Evaluator(fails),)))
    rows = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert not any(r["step"] == 6 and "val/loss" in r for r in rows)
    train(tmp_path / "a", toy_stage(steps=6))
    train(tmp_path / "b", toy_stage(steps=6))
    assert_same_run(tmp_path / "a", tmp_path / "b", ["toy"])
    assert train(tmp_path / "a", toy_stage(steps=6)) is None


@pytest.fixture
def signals_are_heard():
    """Under nohup, or in the background of a script, a process is born deaf to some."""
    before = {s: signal.signal(s, signal.SIG_DFL) for s in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of 20 steps."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(workdir, toy_stage(steps=20))
    return workdir


@pytest.mark.usefixtures("signals_are_heard")
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_saves_at_once_and_the_resumed_run_is_exact(tmp_path, undisturbed, signum):
    """The first one comes between steps, the second one in the midst of an evaluation, which is given up."""
    handlers = [signal.getsignal(s) for s in SIGNALS]

    def interrupted_batches(start):
        for step, batch in enumerate(train_batches(start), start):
            if step == 7:
                signal.raise_signal(signum)
            yield batch

    def interrupted_evaluation():
        signal.raise_signal(signum)
        yield from [*eval_batches()] * 10**6

    stage = toy_stage(steps=20)
    broken = {"make_train": interrupted_batches}
    if signum == signal.SIGINT:
        broken = {"make_eval": interrupted_evaluation, "visualize_every": 0}
    broken = Stage(**{**vars(stage), **broken})
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "a", broken)
    assert stopped.value.signum == signum
    step = int(str(stopped.value).split("step ")[1].split(":")[0])
    assert (step == 5 if signum == signal.SIGINT else 5 <= step <= 8) and (
        tmp_path / f"a/checkpoints/toy/{step}"
    ).is_dir()
    assert [signal.getsignal(s) for s in SIGNALS] == handlers
    train(tmp_path / "a", stage)
    assert_same_run(tmp_path / "a", undisturbed, ["toy"])


def test_nan_stops_with_step_and_last_good_checkpoint(tmp_path):
    task = ToyTask(nan_at=11)
    with pytest.raises(NonFiniteLoss, match=r"toy step 12: loss is nan.*checkpoints/toy/8\. "):
        train(tmp_path, toy_stage(task))
    assert sorted(p.name for p in (tmp_path / "checkpoints/toy").iterdir()) == ["4", "8"]
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 12 and last["loss"] is None


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    task = ToyTask(learning_rate=1e39)
    with pytest.raises(NonFiniteLoss, match="toy step 1: the parameters.*no checkpoint yet"):
        train(tmp_path, toy_stage(task, log_every=0, eval_every=0, checkpoint_every=1))
    assert not list((tmp_path / "checkpoints/toy").iterdir())


def test_a_finished_stage_reads_no_data_again(tmp_path):
    train(tmp_path, toy_stage(steps=4))
    before = (tmp_path / "metrics.jsonl").read_text()

    def no_data(start):
        raise AssertionError("data asked for")

    assert train(tmp_path, Stage(**{**vars(toy_stage(steps=4)), "make_train": no_data})) is None
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_changed_architecture_is_named_with_both_shapes(tmp_path):
    train(tmp_path, toy_stage(steps=4))
    with pytest.raises(UserError, match=r"'ema/blocks/kernel' has shape \(2, 8, 8\).*\(2, 8, 16\)"):
        train(tmp_path, toy_stage(ToyTask(width=16), steps=8))


def test_batches_must_fit_the_mesh(tmp_path):
    stage = Stage(**{**vars(toy_stage()), "batch_size": 6})
    with pytest.raises(UserError, match="6 is not a multiple of data x fsdp = 4"):
        train(tmp_path, stage, make_mesh(2, 2, 2))


def test_off_the_main_thread_no_handler_is_installed_and_training_works(tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(train(tmp_path, toy_stage(steps=3))))
    thread.start()
    thread.join()
    assert int(states[0]["step"]) == 3
