"""Parameters for tests in no time, drawn on the host instead of compiling a module's own init; and passes
that are compiled once for all tests."""

import functools

import jax
import numpy as np


def random_params(model, *args, seed=0):
    """{"params": ...} of the module's shapes: gains near 1, the rest about as large as in training."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return rng.normal(1.0, 0.1, leaf.shape).astype(np.float32)
        fan_in = int(np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 4
        return rng.normal(0.0, fan_in**-0.5, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def compiled(model, method=None, **options):
    """(variables, *inputs) -> what the method gives, one compilation for equal ones."""
    return jax.jit(functools.partial(model.apply, method=method, **options))
