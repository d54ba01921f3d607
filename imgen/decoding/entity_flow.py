"""Sampling next-X flow models: entity after entity, each by a flow solver, one jitted program.

An entity's solver steps read the keys and values of the finished entities before it from a cache; when the
entity is finished, one more pass at time 0 commits its own. (The official code feeds the finished entity
again with the first step of the next one: the same function, but a step of another shape.)

Shapes: B images, R rows of the cache (2B under guidance: conditional first), n tokens of an entity, L of an
image, N entities, D width, C channels. Source: OliverRensu/xAR, models/xar.py and models/sampler.py.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.guidance import Guidance, ramp_weights
from imgen.decoding.sampling import Sampling
from imgen.diffusion import flow
from imgen.errors import UserError
from imgen.generators.arrays import fold, sample_keys
from imgen.generators.filters import Filters
from imgen.generators.transformer import unstack_layers
from imgen.generators.xar import XAR, FlowBlock, time_index
from imgen.nn.attention import KVCache, SlotPositions

# noise(entity number, solver step or -1 for the start, n) -> [B, n, C]
Noise = Callable[[Any, Any, int], jax.Array]


STEPS = 50


def solver_of(sampling: Sampling) -> flow.Solver:
    """Returns how an entity is drawn. Raises UserError for settings that do not fit."""
    return flow.Solver.flow(sampling.solver or "euler_maruyama", sampling.steps or STEPS)


def check(sampling: Sampling) -> None:
    """Raises UserError for settings that next-X flows have no use for."""
    if sampling.filters != Filters(choice_temperature=sampling.filters.choice_temperature):
        raise UserError("flows draw no codes: temperature, top_k and top_p have no meaning for xar")
    if sampling.solver_steps is not None or sampling.shift is not None:
        raise UserError(
            "an entity is drawn in `steps` of its solver: solver_steps and shift are of heads"
        )
    interval = sampling.guidance.interval
    if interval is not None and not 0 <= interval[0] < interval[1] <= 1:
        raise UserError(
            f"guidance interval {interval}: xar is guided by times, 0 <= low < high <= 1"
        )
    solver_of(sampling)


def network_calls(model: XAR, sampling: Sampling) -> int:
    """Returns the network's evaluations that draw an image, each of one entity."""
    count = model.entities.count
    return solver_of(sampling).evaluations * count + count - 1


@functools.partial(jax.jit, static_argnames=("model", "sampling"))
def sample(
    model: XAR,
    params: dict,
    cond: dict,
    rng: jax.Array,
    sample_ids: jax.Array,
    sampling: Sampling = Sampling(),
) -> jax.Array:
    """Returns tokens, float32 [B, L, C]. An image's noise depends on the key, its number and the kind of
    entity.

    Guidance grows over the entities; with the published schedule "linear" the first one is not guided.
    """
    keys = sample_keys(rng, sample_ids)

    def noise(entity: jax.Array, step: jax.Array, size: int) -> jax.Array:
        own = fold(fold(keys, entity), step + 1)
        return jax.vmap(lambda key: jax.random.normal(key, (size, model.channels)))(own)

    return sample_from(model, params, cond, noise, sampling)


def given_noise(start: jax.Array, steps: jax.Array, starts: np.ndarray) -> Noise:
    """`Noise` from arrays: start [B, L, C], steps [T - 1, B, L, C] ; starts: first tokens [N]."""
    steps = jnp.pad(steps, ((1, 1), *((0, 0),) * 3)).at[0].set(start)
    starts = jnp.asarray(starts)

    def noise(entity: jax.Array, step: jax.Array, size: int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(steps[step + 1], starts[entity], size, axis=1)

    return noise


def weights(model: XAR, guidance: Guidance) -> np.ndarray:
    """The guidance weight of each entity, float32 [N]; 1 means none. Schedules count entities, not tokens."""
    return ramp_weights(guidance, np.arange(model.entities.count + 1) / model.entities.count)


def sample_from(
    model: XAR, params: dict, cond: dict, noise: Noise, sampling: Sampling = Sampling()
) -> jax.Array:
    """`sample` with given noise."""
    entities, batch = model.entities, jax.tree.leaves(cond)[0].shape[0]
    weight, solver = weights(model, sampling.guidance), solver_of(sampling)
    rows = 2 * batch if (weight != 1).any() else batch
    layers = [unstack_layers(params[f"stack_{i}"]) for i in range(2)]
    layers = jax.tree.map(lambda x: x.astype(model.dtype), layers)  # as they are used, once
    null = jnp.arange(rows) >= batch
    cond = jax.tree.map(lambda x: jnp.concatenate([x] * (rows // batch)), cond)
    label = model.apply({"params": params}, cond, null, method="embed_condition")  # [R, D]
    times, interval = solver.times(), sampling.guidance.interval or (0.0, 1.0)
    at = model.apply({"params": params}, time_index(times), method="embed_time")  # [T + 1, D]
    shape = (rows, entities.length, model.heads, model.width // model.heads)
    caches = [
        [KVCache(jnp.zeros(shape, model.dtype), jnp.zeros(shape, model.dtype)) for _ in stack]
        for stack in layers
    ]
    network = functools.partial(run, model, params, layers)
    drawn, first = [], 0
    kinds = zip(entities.sizes, (weight != 1).tolist(), strict=True)
    for (size, guided), group in itertools.groupby(kinds):
        numbers = np.arange(first, first + len(list(group)))
        first = int(numbers[-1]) + 1
        read = int(entities.starts[numbers[-1]]) + size
        tokens = entities.starts[numbers][:, None] + np.arange(size)
        scanned = {
            "number": numbers.astype(np.int32),
            "start": entities.starts[numbers],
            "positions": model.positions(tokens),  # [entities, n, H / 2]
            "weight": weight[numbers],
            "last": numbers == entities.count - 1,
        }

        def draw(caches, entity, size=size, guided=guided, read=read):
            forward = functools.partial(
                network, positions=entity["positions"], start=entity["start"]
            )
            past = jax.tree.map(lambda rows: rows[:, : read - size].swapaxes(1, 2), caches)
            ahead = jax.tree.map(lambda rows: rows[:batch], past)

            def velocity(x: jax.Array, time: jax.Array) -> jax.Array:
                return forward(x, time + label[:batch], ahead)[0]

            def both(x: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
                v, _ = forward(jnp.concatenate([x, x]), time + label, past)
                return v[:batch], v[batch:]

            rule = flow.ProjectedGuidance(entity["weight"], interval) if guided else None
            number = entity["number"]
            x = flow.solve(
                velocity,
                noise(number, -1, size),
                times,
                solver.name,
                inputs=at,
                guidance=rule,
                both=both,
                noise=lambda step: noise(number, step, size),
            )

            def commit(caches):
                clean = jnp.concatenate([x] * (rows // batch))
                return forward(clean, at[-1] + label, caches, read=read)[1]

            return jax.lax.cond(entity["last"], lambda c: c, commit, caches), x

        caches, x = jax.lax.scan(draw, caches, scanned)  # x [entities, B, n, C]
        drawn.append(jnp.moveaxis(x, 0, 1).reshape(batch, -1, x.shape[-1]))
    return jnp.concatenate(drawn, axis=1)


def run(
    model: XAR,
    params: dict,
    layers: list,
    x: jax.Array,  # [R, n, C]
    condition: jax.Array,  # [R, D]
    caches: list,
    positions: SlotPositions,
    start: jax.Array,
    read: int | None = None,
) -> tuple[jax.Array, list]:
    """One pass over an entity whose first token is number `start`: velocities [R, n, C], and the caches.

    read: rows of the caches that may be seen once this entity's keys and values are written there (static).
    None: they are not written; the caches hold the entities before, and maybe others behind these.
    """
    size = x.shape[1]
    block, visible = FlowBlock(model.block, (size,)), jnp.full(size, start + size)
    h, written = model.apply({"params": params}, x, start, method="enter"), []
    for i, stack in enumerate(layers):
        own = []
        for layer, cache in zip(stack, caches[i], strict=True):
            h, cache = block.apply(
                {"params": layer},
                h,
                condition[:, None],
                positions,
                visible,
                cache,
                start=start,
                read=read,
                write=read is not None,
            )
            own.append(cache)
        written.append(own)
        if i == 0:
            h = model.apply({"params": params}, h, start, method="between")
    return model.apply({"params": params}, h, method="leave"), written
