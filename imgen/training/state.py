"""The train state, made where it will live: shapes, then shardings, then a sharded init."""

import jax

from imgen.parallel.mesh import Rules, shardings
from imgen.training.task import Batch, State, Task
from imgen.training.warm_start import warm_start


def run_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """(key of the initialisation, key from which each step's key is folded)."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def abstract_state(task: Task, batch: Batch, rules: Rules, mesh) -> State:
    """Shapes, types and shardings of the state; nothing is computed.

    batch: arrays or shapes of one global batch.
    """
    shapes = jax.eval_shape(task.init, jax.eval_shape(lambda: jax.random.key(0)), batch)
    shapes |= jax.eval_shape(lambda: _frozen(task))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        shardings(shapes, rules, mesh),
    )


def init_state(task: Task, seed: int, batch: Batch, abstract: State) -> State:
    """A fresh state; no device ever holds more than its shards.

    A task's `trained` (arrays by path) replaces what would be drawn for those parameters.
    """
    out = jax.tree.map(lambda x: x.sharding, abstract)
    frozen = _frozen(task)
    made = {key: out[key] for key in out if key not in frozen}
    # On CPUs every random draw costs XLA a quarter of a second of optimisation that init never earns.
    quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    init = jax.jit(task.init, out_shardings=made, compiler_options=quick)
    # A copy: the loop donates its state, and these arrays are the caller's.
    placed = jax.tree.map(
        lambda x, s: jax.device_put(x, s, may_alias=False), frozen, {k: out[k] for k in frozen}
    )
    state = init(run_keys(seed)[0], batch) | placed
    if task.trained is None:
        return state
    state = warm_start(state, task.trained)
    if task.after_warm_start is None:
        return state
    return jax.jit(task.after_warm_start, out_shardings=out)(state, batch)


def _frozen(task: Task) -> State:
    """Host arrays trained elsewhere and carried along unchanged (a tokenizer, LPIPS weights)."""
    return jax.device_get(task.frozen_items)
