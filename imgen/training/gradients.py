"""Gradient accumulation: a batch in several smaller passes, with one optimiser update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.parallel.constrain import constrain


def accumulate(
    loss_fn: Callable,
    params,
    batch: dict[str, jax.Array],
    rng: jax.Array,
    microbatches: int = 1,
    weigh: Callable[[Any], jax.Array] | None = None,
):
    """Mean loss, auxiliary values and gradient of `batch`, `microbatches` passes one after another.

    loss_fn: (params, batch, rng) -> (loss, aux): a mean over its batch.
    weigh: aux -> the sum of the weights of that mean, where parts may differ in it: the result is then the
      sum over the whole batch by the sum of its weights. None: all parts weigh the same.
    batch: arrays [B, ...]; part m holds the examples m, m + M, ... of the batch, so that every
      device keeps its own examples. Each part's key is folded from `rng` and m.

    Returns (loss, aux, gradient). Raises UserError if B is not a multiple of `microbatches`.
    """
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if microbatches == 1:
        (loss, aux), gradient = value_and_grad(params, batch, rng)
        return loss, aux, gradient

    def split(x):  # [B, ...] -> [M, B/M, ...]
        if x.shape[0] % microbatches:
            raise UserError(
                f"batch size {x.shape[0]} is not a multiple of {microbatches} microbatches"
            )
        x = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    def part(m, small):
        (loss, aux), gradient = value_and_grad(params, small, jax.random.fold_in(rng, m))
        weight = jnp.ones(()) if weigh is None else weigh(aux)
        return jax.tree.map(lambda x: x * weight, (loss, aux, gradient)), weight

    def add(total, xs):
        return jax.tree.map(jnp.add, total, part(*xs)), None

    parts = jax.tree.map(split, batch)
    shapes = jax.eval_shape(part, 0, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, weight), _ = jax.lax.scan(add, zeros, (jnp.arange(microbatches), parts))
    return jax.tree.map(lambda x: x / jnp.maximum(weight, 1.0), total)
