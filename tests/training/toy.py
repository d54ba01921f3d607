"""A small task and a command that trains it, for tests of everything that is not a model."""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from imgen.parallel.constrain import constrain
from imgen.parallel.mesh import make_mesh
from imgen.report.metrics_log import MetricWriter
from imgen.runs import cli
from imgen.training import optim
from imgen.training.gradients import accumulate
from imgen.training.loop import train_stage
from imgen.training.stage import Stage
from imgen.training.task import Task

WIDTH = 8


class ToyTask(Task):
    """Regression through two stacked layers, with dropout, EMA, AdamW: every kind of state."""

    sharding_rules = [("blocks/kernel", ("fsdp", "tensor")), ("head/kernel", ("fsdp", None)),
                      ("bias", ())]  # fmt: skip

    def __init__(self, width=WIDTH, steps=20, nan_at=None, microbatches=1, learning_rate=1e-2):
        self.width, self.nan_at, self.microbatches = width, nan_at, microbatches
        self.rules = {"weight_decay": 0.1, "decay": [("bias", 0.0), ("kernel", 1.0)]}
        self.optimizer, self.lr = optim.make_optimizer(
            learning_rate=learning_rate,
            total_steps=steps,
            schedule={"name": "cosine", "warmup_steps": 3},
            **self.rules,
        )

    def init(self, rng, batch):
        del batch
        first, second = jax.random.split(rng)
        shape = (2, WIDTH, self.width)
        params = {
            "blocks": {"kernel": 0.3 * jax.random.normal(first, shape)},
            "head": {
                "kernel": 0.3 * jax.random.normal(second, (self.width, 4)),
                "bias": jnp.zeros(4),
            },
        }
        opt = self.optimizer.init(params)
        return {"step": jnp.int32(0), "params": params, "opt": opt, "ema": params}

    def _loss(self, params, batch, rng):
        x = batch["x"].astype(jnp.float32)
        for kernel in params["blocks"]["kernel"]:
            x = constrain(jnp.tanh(x @ kernel), "batch", None)
        if rng is not None:
            x = x * jax.random.bernoulli(rng, 0.9, x.shape) / 0.9
        error = x @ params["head"]["kernel"] + params["head"]["bias"] - batch["y"]
        return jnp.sum(error**2, -1), error

    def train_step(self, state, batch, rng):
        def loss_fn(params, batch, rng):
            loss, error = self._loss(params, batch, rng)
            return jnp.mean(loss), {"error": jnp.mean(jnp.abs(error))}

        loss, aux, gradient = accumulate(loss_fn, state["params"], batch, rng, self.microbatches)
        updates, opt = self.optimizer.update(gradient, state["opt"], state["params"])
        params = jax.tree.map(jnp.add, state["params"], updates)
        if self.nan_at is not None:
            loss = jnp.where(state["step"] + 1 >= self.nan_at, jnp.nan, loss)
        ema = optim.ema_update(state["ema"], params, 0.9)
        metrics = {"loss": loss, "learning_rate": self.lr(state["step"]), **aux}
        return {"step": state["step"] + 1, "params": params, "opt": opt, "ema": ema}, metrics

    def eval_step(self, state, batch):
        loss, _ = self._loss(state["ema"], batch, None)
        return {"loss": jnp.sum(loss * batch["mask"]), "count": jnp.sum(batch["mask"])}

    def summarize(self, sums):
        return {"loss": sums["loss"] / sums["count"]}

    def visualize(self, state, batch, rng):
        noise = jax.random.uniform(rng, (16, 16, 3))
        return {"noise": np.asarray((noise * 255).astype(jnp.uint8))}

    def parameter_notes(self, params):
        return optim.describe(params, **self.rules)


def train_batches(start, batch_size=16, process_index=0, process_count=1, seconds=0.0):
    """Batch s is a pure function of s; each process gets its slice."""
    step = start
    while True:
        x = np.random.default_rng((7, step)).normal(size=(batch_size, WIDTH)).astype(np.float32)
        own = np.split(x, process_count)[process_index]
        yield {"x": own, "y": np.sin(own[:, :4])}
        time.sleep(seconds)
        step += 1


def eval_batches(process_index=0, process_count=1):
    for batch in (
        next(train_batches(10**6 + i, 16, process_index, process_count)) for i in range(2)
    ):
        yield {**batch, "mask": np.ones(len(batch["x"]), np.float32)}


def toy_stage(task=None, *, steps=20, seconds=0.0, **kwargs):
    where = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    defaults = {"log_every": 2, "eval_every": 5, "checkpoint_every": 4, "visualize_every": 10}
    return Stage(
        name="toy",
        task=task or ToyTask(steps=steps),
        make_train=lambda start: train_batches(start, seconds=seconds, **where),
        make_eval=lambda: eval_batches(**where),
        steps=steps,
        batch_size=16,
        **{**defaults, **kwargs},
    )


def train(workdir, stage, mesh=None, seed=0):
    """One stage in this process; returns its final state."""
    writer = MetricWriter(workdir)
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    try:
        return train_stage(stage, workdir=workdir, mesh=mesh, seed=seed, writer=writer)
    finally:
        writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.02, help="per step")
    parser.add_argument("--distributed", nargs=3, help="address, processes, id")
    args = parser.parse_args()
    if args.distributed:
        address, count, index = args.distributed
        jax.distributed.initialize(address, int(count), int(index))
    cli.use_compilation_cache()
    workdir = cli.make_workdir(args.workdir)
    train(workdir, toy_stage(steps=args.steps, seconds=args.seconds), make_mesh())


if __name__ == "__main__":
    sys.exit(cli.run(main))
