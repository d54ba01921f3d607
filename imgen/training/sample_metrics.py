"""Metrics of what a generator draws, measured while it trains."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.prompts.shapes_check import class_accuracy
from imgen.training.evaluator import Poll
from imgen.training.generator_task import GeneratorTask, averaged
from imgen.training.reconstructions import replicate
from imgen.training.task import State


def shapes_accuracy(
    task: GeneratorTask, *, num: int = 480, seed: int = 0
) -> Callable[[State, Poll], dict[str, float]]:
    """Measures the share of `num` samples in which the analytic check finds the shape and colour asked for.

    Drawn in batches of the size that the task's pictures have: one program serves both.
    """

    def measure(state: State, poll: Poll) -> dict[str, float]:
        size = task.num_samples
        key, pixels = jax.random.key(seed), []
        labels = np.arange(num) % task.generator.conditioner.num_classes
        for start in range(0, num, size):
            ids = np.arange(start, start + size)
            cond = {"label": jnp.asarray(labels[ids % num], jnp.int32)}
            drawn = task.draw(averaged(state), state["tokenizer"], cond, key, jnp.asarray(ids))
            pixels.append(jax.device_get(replicate(drawn)))
            poll()
        return class_accuracy(np.concatenate(pixels)[:num], labels)

    return measure


SAMPLE_METRICS = {"shapes": shapes_accuracy}
