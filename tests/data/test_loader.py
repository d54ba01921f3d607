import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import numpy as np
import pytest

from imgen.data.loader import eval_batches, train_batches
from imgen.data.preprocess import EvalImages, TrainImages
from imgen.errors import UserError
from tests.data.tiny import Numbers


class Draws:
    """A transform that shows the example's random numbers."""

    def __call__(self, example, rng):
        return {"label": np.int32(example["label"]), "draw": rng.random()}


def take(count, *args, **kwargs):
    batches = train_batches(*args, **kwargs)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_batch_depends_on_seed_and_step_only():
    whole = take(9, Numbers(13), Draws(), batch_size=4, seed=5)
    resumed = take(5, Numbers(13), Draws(), batch_size=4, seed=5, start_step=4)
    assert_same(whole[4:], resumed)
    other = take(1, Numbers(13), Draws(), batch_size=4, seed=6)
    assert not np.array_equal(whole[0]["draw"], other[0]["draw"])


def test_worker_processes_give_the_same_batches():
    settings = dict(batch_size=4, seed=5, start_step=2)
    source, transform = Numbers(13, bad=(3,)), TrainImages(4)
    alone = take(5, source, transform, max_bad_share=1.0, **settings)
    with_workers = train_batches(source, transform, num_workers=2, max_bad_share=1.0, **settings)
    assert_same(alone, [next(with_workers) for _ in range(5)])
    assert with_workers.skipped > 0  # the count comes back from the workers
    assert with_workers.state()["next_index"] == 7 * 4
    with_workers.close()


def test_hosts_together_read_the_same_global_batch():
    whole = take(6, Numbers(13), Draws(), batch_size=4, seed=5)
    parts = [
        take(6, Numbers(13), Draws(), batch_size=4, seed=5, process_index=i, process_count=2)
        for i in range(2)
    ]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert_same(whole, joined)


def test_every_epoch_has_each_example_once_in_a_new_order():
    labels = np.concatenate(
        [b["label"] for b in take(6, Numbers(8), Draws(), batch_size=4, seed=0)]
    )
    epochs = labels.reshape(3, 8)
    for epoch in epochs:
        assert sorted(epoch) == list(range(8))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_epochs_of_consecutive_seeds_are_unrelated():
    first, second = (
        np.concatenate([b["label"] for b in take(4, Numbers(64), Draws(), batch_size=32, seed=s)])
        for s in (0, 1)
    )
    assert not np.array_equal(first[64:], second[:64])


def test_a_bad_example_is_replaced_by_the_next_readable_one_and_named_once(caplog):
    batches = train_batches(
        Numbers(10, bad=(4, 5)), Draws(), batch_size=10, seed=0, max_bad_share=0.5
    )
    labels = [next(batches)["label"] for _ in range(3)]
    batches.close()
    for epoch in labels:  # 6 stands in for 4 and 5
        assert Counter(epoch.tolist()) == {0: 1, 1: 1, 2: 1, 3: 1, 6: 3, 7: 1, 8: 1, 9: 1}
    assert batches.skipped == 3 * 3  # 5 is tried for 4 as well
    logged = [r.getMessage() for r in caplog.records]
    assert sum("number 4" in m for m in logged) == sum("number 5" in m for m in logged) == 1


def test_too_many_bad_examples_stop_the_run_and_are_named():
    batches = train_batches(Numbers(40, bad=(7,)), Draws(), batch_size=8, seed=0)
    with pytest.raises(UserError, match=r"max_bad_share=0.01 .*number 7"):
        for _ in range(5):  # one epoch
            next(batches)


def test_evaluation_stops_over_too_many_bad_examples():
    batches = eval_batches(Numbers(40, bad=(7, 30)), EvalImages(4), batch_size=8)
    with pytest.raises(UserError, match=r"2 of 40 .*max_bad_share=0.01 .*number 7, number 30"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_without_any_readable_example_says_so_at_once(workers):
    source = Numbers(4, bad=(0, 1, 2, 3))
    batches = train_batches(source, Draws(), batch_size=2, seed=0, num_workers=workers)
    with pytest.raises(UserError, match="none of 4 .* number"):
        next(batches)
    with pytest.raises(UserError, match="none of its 4 examples"):
        next(eval_batches(source, EvalImages(4), batch_size=2))


def test_an_error_in_a_worker_reaches_the_user_as_it_is():
    transform = TrainImages(6, crop="none")
    batches = train_batches(Numbers(8), transform, batch_size=2, seed=0, num_workers=1)
    with pytest.raises(UserError, match="4x4 where the config asks for 6x6"):
        next(batches)


def test_a_batch_that_the_hosts_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch size 9 .* 2 processes"):
        train_batches(Numbers(8), Draws(), batch_size=9, seed=0, process_count=2)


def test_evaluation_sees_each_readable_example_once_on_any_number_of_hosts():
    for hosts in (1, 2):
        seen, sizes = [], []
        for host in range(hosts):
            batches = list(
                eval_batches(
                    Numbers(9, bad=(2,)),
                    EvalImages(4),
                    batch_size=4,
                    process_index=host,
                    process_count=hosts,
                    num_workers=hosts - 1,
                    max_bad_share=0.3,
                )
            )
            sizes.append([len(b["mask"]) for b in batches])
            seen += [int(n) for b in batches for n in b["label"][b["mask"] == 1]]
        assert sorted(seen) == [0, 1, 3, 4, 5, 6, 7, 8]
        # The second host has nothing in the last batch, and still takes part in it.
        assert sizes == [[4 // hosts] * 3] * hosts


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """On Linux. A worker left behind would hold memory and the terminal after every kill -9."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, os, signal
            from imgen.data import make_source
            from imgen.data.loader import train_batches
            from imgen.data.preprocess import TrainImages

            if __name__ == "__main__":
                source = make_source("shapes", "train")
                batches = train_batches(
                    source, TrainImages(32), batch_size=4, seed=0, num_workers=1)
                next(batches)
                print(*(p.pid for p in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    printed = tmp_path / "workers.txt"  # a worker left behind would keep a pipe open
    with printed.open("w") as file:
        subprocess.run([sys.executable, script], env=environment, stdout=file)
    workers = [int(pid) for pid in printed.read_text().split()]
    assert workers
    deadline = time.monotonic() + 10
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in workers if _runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
