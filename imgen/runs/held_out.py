"""What a trained run does on held-out data, and what simple models make of the same codes."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgen.data.loader import eval_batches
from imgen.evaluation.networks.extractor import gather_rows
from imgen.evaluation.results.records import Protocol
from imgen.evaluation.tokens.baselines import bigram_cross_entropy, entropy
from imgen.parallel import prefetch
from imgen.parallel.mesh import make_mesh, replicated, whole_batch
from imgen.report.progress import Progress
from imgen.runs.stages import eval_transform, evaluation_task, open_source, reading
from imgen.runs.trained import build_tokenizer, load_generator, load_tokenizer
from imgen.training.evaluator import sum_over
from imgen.training.reconstructions import first_tokens


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A run, and on what it is measured. num: its first held-out images, all by default.   batch_size: of all
    devices together.   checkpoint: of `runs.CHECKPOINTS`."""

    workdir: str | Path
    num: int | None = None
    batch_size: int = 128
    checkpoint: str = "latest"


def measurable(settings) -> list[str]:
    """The metrics that make sense for what a run trained."""
    tokenizer, spec = build_tokenizer(settings)
    there = []
    if "tokenizer" in settings.train:
        there += ["reconstruction", "prefixes"] if tokenizer.nested else ["reconstruction"]
    if "generator" in settings.train:
        if evaluation_task("generator", settings).generator.likelihood == "none":
            return [*there, "error"]
        there += ["likelihood", "baselines"] if spec.kind == "index" else ["likelihood"]
    return there


def reconstruction(on: HeldOut, settings) -> dict[str, float]:
    run = load_tokenizer(on.workdir, on.checkpoint)
    task = evaluation_task("tokenizer", settings)
    state = {"params": run.params}
    measured = _evaluate(task, state, _batches(on, settings, "eval", on.num), run.step)
    bits = run.spec.bits
    if "tokens" in measured:  # of images with unlike numbers of them, on average
        bits = measured["tokens"] * math.log2(run.module.code_spec(settings.data.image_size).size)
    return {"tokens": run.spec.positions, "bits": bits, **measured}


def prefixes(on: HeldOut, settings) -> dict[str, dict[str, float]]:
    run = load_tokenizer(on.workdir, on.checkpoint)
    task = evaluation_task("tokenizer", settings)
    sums = _sums(
        task,
        _compiled(task.prefix_step),
        {"params": run.params},
        _batches(on, settings, "eval", on.num),
        run.step,
    )
    images = sums.pop("images")
    lengths = first_tokens(run.module, settings.data.image_size)
    rows = {
        str(keep): {name: float(values[i] / images) for name, values in sums.items()}
        for i, keep in enumerate(lengths)
    }
    return {"step": run.step, "images": int(images), "by_tokens": rows}


def error(on: HeldOut, settings) -> dict[str, float]:
    """The loss of a generator: nats where it has a likelihood, else the squared error of a velocity or of
    noise."""
    run = load_generator(on.workdir, on.checkpoint)
    task = evaluation_task("generator", settings)
    state = {"params": run.params, "tokenizer": run.tokenizer_params}
    return _evaluate(task, state, _batches(on, settings, "eval", on.num), run.step)


def baselines(on: HeldOut, settings) -> dict[str, float]:
    """What a model without context, and one with a single code of it, make of the same codes."""
    stored = settings.data.source.name == "latents"
    run = None if stored else load_tokenizer(on.workdir, on.checkpoint)

    def codes(batches) -> np.ndarray:
        """Of all processes, int32 [N, P]; each encodes its own images on its own devices."""
        found = [
            (batch["codes"] if stored else run.encode(batch["image"]))[batch["mask"] > 0]
            for batch in batches
        ]
        rows = np.concatenate(found)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        return np.concatenate(gather_rows(rows.astype(np.int32)))

    test = codes(_batches(on, settings, "eval", on.num))
    train = codes(_batches(on, settings, "train", None))
    _, spec = build_tokenizer(settings)
    return {
        **({} if stored else {"step": run.step}),
        "unigram_entropy": entropy(np.bincount(test.reshape(-1), minlength=spec.size)),
        "bigram_cross_entropy": bigram_cross_entropy(train, test, spec.size),
        "train_images": len(train),
        "test_images": len(test),
    }


MEASURES = {
    "reconstruction": reconstruction,
    "prefixes": prefixes,
    "likelihood": error,
    "error": error,
    "baselines": baselines,
}
OF_TOKENIZER = ("reconstruction", "prefixes", "baselines")  # the network that they are of


def measured(metric: str, on: HeldOut, settings) -> dict[str, Any]:
    """A metric of MEASURES as a record: what it came to, with its name, protocol, seconds and speed.

    The protocol's reference is the held-out data, its dtype the network's that was trained. images_per_second
    counts all images that were read, of baselines the training images too.
    """
    began = time.monotonic()
    found = MEASURES[metric](on, settings)
    seconds = time.monotonic() - began
    num = found["test_images" if metric == "baselines" else "images"]
    network = settings.tokenizer if metric in OF_TOKENIZER else settings.generator
    source = open_source(settings, "eval")
    part = "" if num == len(source) else f"[:{num}]"
    protocol = Protocol(
        reference=source.name + part, n=num, size=settings.data.image_size,
        dtype=network.get("dtype", "float32"),
    )  # fmt: skip
    return {
        "name": protocol.name(metric),
        **found,
        "protocol": dataclasses.asdict(protocol),
        "seconds": round(seconds, 3),
        "images_per_second": round((num + found.get("train_images", 0)) / seconds, 3),
    }


def _batches(on: HeldOut, settings, which: str, num: int | None) -> Iterator[dict[str, np.ndarray]]:
    """This process's batches of a split, with a progress bar."""
    source, size = open_source(settings, which), whole_batch(on.batch_size, make_mesh())
    batches = eval_batches(
        source, eval_transform(settings), batch_size=size, num_examples=num,
        process_index=jax.process_index(), process_count=jax.process_count(), **reading(settings),
    )  # fmt: skip
    total = -(-min(num or len(source), len(source)) // size)
    speaks = jax.process_index() == 0
    progress = Progress(f"{which} images", total, items=size, noun="images", enabled=speaks)
    with contextlib.closing(progress), prefetch.closing(batches):
        for done, batch in enumerate(batches, 1):
            yield batch
            progress.update(done)


def _compiled(step):
    """A task's evaluation of a batch, compiled when it is first called."""
    return jax.jit(step, out_shardings=replicated(make_mesh()))


def _sums(task, eval_step, state, batches, step: int) -> dict[str, np.ndarray]:
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        state = {**task.frozen_items, **state, "step": np.int32(step)}
        state = jax.device_put(jax.device_get(state), replicated(mesh))
        return sum_over(eval_step, state, batches, mesh)


def _evaluate(task, state, batches, step: int) -> dict[str, float]:
    sums = _sums(task, _compiled(task.eval_step), state, batches, step)
    return {"step": step, "images": int(sums["images"]), **task.summarize(sums)}
