"""What a trained run does on held-out data, and what simple models make of the same codes."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.results.records import Protocol
from imgen.evaluation.tokens.baselines import bigram_cross_entropy, entropy
from imgen.parallel import prefetch
from imgen.parallel.hosts import gather_rows
from imgen.parallel.mesh import make_mesh, replicated, whole_batch
from imgen.report.progress import Progress
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run
from imgen.training.evaluator import sum_over
from imgen.training.reconstructions import first_tokens
from imgen.training.task import Task


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A run, and on what it is measured. num: its first held-out images, all by default. batch_size: of all
    devices together."""

    run: Run
    num: int | None = None
    batch_size: int = 128


def measurable(experiment: Experiment) -> list[str]:
    """Gives the metrics of MEASURES that make sense for what a run trained."""
    there = []
    if "tokenizer" in experiment.stages:
        nested = experiment.tokenizer.nested
        there += ["reconstruction", "prefixes"] if nested else ["reconstruction"]
    if "generator" in experiment.stages:
        if experiment.model.likelihood == "none":
            return [*there, "error"]
        codes = experiment.spec.kind == "index"
        there += ["likelihood", "baselines"] if codes else ["likelihood"]
    return there


def reconstruction(on: HeldOut) -> dict[str, float]:
    """Measures the tokenizer: PSNR, SSIM, tokens and bits an image, usage."""
    trained, task = on.run.tokenizer(), on.run.experiment.task("tokenizer")
    measured = _evaluate(task, {"params": trained.params}, on, trained.step)
    bits = trained.spec.bits
    if "tokens" in measured:  # of images with unlike numbers of them, on average
        size = on.run.experiment.data.image_size
        bits = measured["tokens"] * math.log2(trained.module.code_spec(size).size)
    return {"tokens": trained.spec.positions, "bits": bits, **measured}


def prefixes(on: HeldOut) -> dict[str, dict[str, float]]:
    """Measures what the first 1, 2, 4, ... tokens decode to."""
    trained, task = on.run.tokenizer(), on.run.experiment.task("tokenizer")
    sums = _sums(task, task.prefix_step, {"params": trained.params}, on, trained.step)
    images = sums.pop("images")
    lengths = first_tokens(trained.module, on.run.experiment.data.image_size)
    rows = {
        str(keep): {name: float(values[i] / images) for name, values in sums.items()}
        for i, keep in enumerate(lengths)
    }
    return {"step": trained.step, "images": int(images), "by_tokens": rows}


def error(on: HeldOut) -> dict[str, float]:
    """Measures the loss of a generator: nats where it has a likelihood, else the squared error of a velocity
    or of noise."""
    trained, task = on.run.generator(), on.run.experiment.task("generator")
    state = {"params": trained.params, "tokenizer": trained.tokenizer_params}
    return _evaluate(task, state, on, trained.step)


def baselines(on: HeldOut) -> dict[str, float]:
    """Measures what a model without context, and one with a single code of it, make of the same codes."""
    experiment = on.run.experiment
    trained = on.run.tokenizer() if experiment.data.stores_images else None

    def codes(batches) -> np.ndarray:
        """Of all processes, int32 [N, P]; each encodes its own images on its own devices."""
        found = [
            (trained.encode(batch["image"]) if trained else batch["codes"])[batch["mask"] > 0]
            for batch in batches
        ]
        rows = np.concatenate(found)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        return np.concatenate(gather_rows(rows.astype(np.int32)))

    test = codes(_batches(on, "eval", on.num))
    train, size = codes(_batches(on, "train", None)), experiment.spec.size
    return {
        **({"step": trained.step} if trained else {}),
        "unigram_entropy": entropy(np.bincount(test.reshape(-1), minlength=size)),
        "bigram_cross_entropy": bigram_cross_entropy(train, test, size),
        "train_images": len(train),
        "test_images": len(test),
    }


MEASURES: dict[str, Callable[[HeldOut], dict[str, Any]]] = {
    "reconstruction": reconstruction,
    "prefixes": prefixes,
    "likelihood": error,
    "error": error,
    "baselines": baselines,
}
OF_TOKENIZER = ("reconstruction", "prefixes", "baselines")  # the network that they are of


def measured(metric: str, on: HeldOut) -> dict[str, Any]:
    """Gives a metric of MEASURES as a record: what it came to, with its name, protocol, seconds and speed.

    The protocol's reference is the held-out data, its dtype the network's that was trained. images_per_second
    counts all images that were read, of baselines the training images too.
    """
    began, experiment = time.monotonic(), on.run.experiment
    found = MEASURES[metric](on)
    seconds = time.monotonic() - began
    num = found["test_images" if metric == "baselines" else "images"]
    network = experiment.tokenizer if metric in OF_TOKENIZER else experiment.model
    source = experiment.data.held_out
    part = "" if num == len(source) else f"[:{num}]"
    protocol = Protocol(
        reference=source.name + part, n=num, size=experiment.data.image_size,
        dtype=jnp.dtype(network.dtype).name,
    )  # fmt: skip
    return {
        "name": protocol.name(metric),
        **found,
        "protocol": dataclasses.asdict(protocol),
        "seconds": round(seconds, 3),
        "images_per_second": round((num + found.get("train_images", 0)) / seconds, 3),
    }


def _batches(on: HeldOut, which: str, num: int | None) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches of a split, with a progress bar."""
    data, size = on.run.experiment.data, whole_batch(on.batch_size, make_mesh())
    there = len(data.train if which == "train" else data.held_out)
    batches = data.eval_batches(which, num, size)
    total = -(-min(num or there, there) // size)
    speaks = jax.process_index() == 0
    progress = Progress(f"{which} images", total, items=size, noun="images", enabled=speaks)
    with contextlib.closing(progress), prefetch.closing(batches):
        for done, batch in enumerate(batches, 1):
            yield batch
            progress.update(done)


def _sums(task: Task, eval_step, state, on: HeldOut, step: int) -> dict[str, np.ndarray]:
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        state = {**task.frozen_items, **state, "step": np.int32(step)}
        state = jax.device_put(jax.device_get(state), replicated(mesh))
        compiled = jax.jit(eval_step, out_shardings=replicated(mesh))
        return sum_over(compiled, state, _batches(on, "eval", on.num), mesh)


def _evaluate(task: Task, state, on: HeldOut, step: int) -> dict[str, float]:
    sums = _sums(task, task.eval_step, state, on, step)
    return {"step": step, "images": int(sums["images"]), **task.summarize(sums)}
