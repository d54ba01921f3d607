"""Metrics of what a generator draws, measured while it trains."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.shapes import class_accuracy
from imgen.training.generator_task import GeneratorTask, averaged, sampler
from imgen.training.task import State


def shapes_accuracy(
    task: GeneratorTask, state: State, *, num: int = 480, seed: int = 0
) -> dict[str, float]:
    """Share of `num` samples in which the analytic check finds the shape and the colour asked for."""
    labels = np.arange(num) % task.generator.conditioner.num_classes
    draw = sampler(task.generator, task.tokenizer, task.guidance, task.filters)
    pixels = draw(
        averaged(state),
        state["tokenizer"],
        {"label": jnp.asarray(labels, jnp.int32)},
        jax.random.key(seed),
        jnp.arange(num),
    )
    return class_accuracy(jax.device_get(pixels), labels)


SAMPLE_METRICS = {"shapes": shapes_accuracy}
