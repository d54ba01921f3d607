"""The best checkpoint by a metric: which one it is, also after interruptions."""

import json
import shutil

import jax
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.report.metrics_log import read_metrics
from imgen.training.best import Best, KeepBest, best_dir
from imgen.training.checkpoint import Checkpointer
from imgen.training.evaluator import Evaluator
from imgen.training.signals import Interrupted
from tests.training.killing import assert_same_run, final_arrays
from tests.training.toy import toy_stage, train


def wavy(state, poll) -> dict[str, float]:
    """A metric that is best in the middle, at step 9 of 12, and not always measured."""
    return {"fd": abs(float(state["step"]) - 9.0)}


def stage(keep=KeepBest("fd"), **changes):
    how = dict(eval_every=6, checkpoint_every=4, visualize_every=0, keep_best=keep)
    return toy_stage(steps=12, **{**how, "evaluators": (Evaluator(wavy, 3),), **changes})


def best_of(workdir):
    with Checkpointer(best_dir(workdir, "toy"), read_only=True) as checkpointer:
        return checkpointer.latest_meta()


def test_the_best_is_kept_with_what_evaluation_needs(tmp_path):
    train(tmp_path, stage())
    meta = best_of(tmp_path)
    assert meta["step"] == 9 and meta["best"] == {"metric": "fd", "mode": "min", "value": 0.0}
    kept = {path.split("/")[0] for path in final_arrays(tmp_path, "toy_best")}
    assert kept == {"ema"}  # no moments of the optimiser
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows if "val/fd" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in rows if "val/loss" in r] == [6, 12]
    train(tmp_path / "max", stage(KeepBest("fd", "max")))
    assert best_of(tmp_path / "max")["step"] == 3


def test_a_run_that_goes_on_keeps_the_same_best_and_is_exact(tmp_path):
    train(tmp_path / "straight", stage())

    def stopping(state, poll):
        if int(state["step"]) == 9:
            raise Interrupted(15, "stopped while it measures")
        return wavy(state, poll)

    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", stage(evaluators=(Evaluator(stopping, 3),)))
    assert best_of(tmp_path / "stopped")["step"] == 6
    # Where all that it could resume from is lost, the best is from the future of step 0.
    shutil.copytree(
        tmp_path / "straight/checkpoints/toy_best", tmp_path / "lost/checkpoints/toy_best"
    )
    for name in ("stopped", "lost"):
        train(tmp_path / name, stage())
        assert best_of(tmp_path / name)["step"] == 9
        assert_same_run(tmp_path / name, tmp_path / "straight", ["toy", "toy_best"])


def test_a_best_that_another_config_will_not_come_to_is_removed(tmp_path):
    state = {"step": jax.numpy.int32(9), "params": {"w": jax.numpy.zeros(3)}}
    for config, start, left in (("a", 0, True), ("b", 9, True), ("b", 4, False)):
        with Best(tmp_path / f"{config}{start}", "toy", KeepBest("fd"), 0, {"config": "a"}) as best:
            assert best.beaten_by({"val/fd": 1.0}) and not best.beaten_by({"val/fd": np.nan})
            best.save(9, state, {"val/fd": 1.0})
        meta = {"config": config}
        with Best(tmp_path / f"{config}{start}", "toy", KeepBest("fd"), start, meta) as best:
            assert best.beaten_by({"val/fd": 2.0}) is not left
            assert best.beaten_by({"val/fd": 0.5}) and not best.beaten_by({"val/loss": 0.0})


def test_what_is_better_on_the_way_takes_the_place_of_a_later_best(tmp_path, monkeypatch):
    def state(step):
        return {"step": jax.numpy.int32(step), "params": {"w": jax.numpy.full(3, float(step))}}

    def best(start):
        return Best(tmp_path, "toy", KeepBest("fd"), start, {})

    with best(0) as first:
        first.save(9, state(9), {"val/fd": 1.0})
    with best(4) as again:
        assert not again.beaten_by({"val/fd": 1.0}) and again.beaten_by({"val/fd": 0.5})
        with monkeypatch.context() as killed:  # between removing and saving
            killed.setattr(Checkpointer, "save", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                again.save(6, state(6), {"val/fd": 0.5})
    assert best_of(tmp_path) is None
    with best(6) as after:
        assert after.beaten_by({"val/fd": 0.5})
        after.save(6, state(6), {"val/fd": 0.5})
        after.save(6, state(6), {"val/fd": 0.4})  # the same step, measured otherwise
        assert not after.beaten_by({"val/fd": 0.5})
    assert best_of(tmp_path)["step"] == 6 and best_of(tmp_path)["best"]["value"] == 0.4
    np.testing.assert_array_equal(final_arrays(tmp_path, "toy_best")["params/w"], np.full(3, 6.0))
    with Best(
        tmp_path, "toy", KeepBest("fd", "max"), 6, {}
    ) as other:  # an old value means nothing to it
        assert other.beaten_by({"val/fd": 0.1})


def test_a_metric_that_is_not_measured_is_named_at_the_first_whole_evaluation(tmp_path):
    with pytest.raises(UserError, match="'df' was not measured, only loss, fd"):
        train(tmp_path, stage(KeepBest("df")))
    assert max(json.loads(r)["step"] for r in (tmp_path / "metrics.jsonl").open()) <= 6
    with pytest.raises(UserError, match="neither min nor max"):
        KeepBest("fd", "least")
