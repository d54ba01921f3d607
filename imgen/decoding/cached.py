"""The cached loop: one jitted program with a static key/value cache, for every plan and head.

Three pure functions make a call: `forward` feeds slots and reads what predicts the positions, the head's
`decide` draws their codes, `commit` writes both down.
Shapes: B images, R rows of the cache's batch (2B under guidance: conditional first, then unconditional),
P positions, W slots fed by a call, N positions decided by it, D width; `...` a position's code, or what
predicts it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from imgen.conditioning.conditions import Condition
from imgen.decoding.guidance import guidance_weights
from imgen.decoding.sampling import Sampling
from imgen.decoding.schedule import Segment, make_schedule
from imgen.diffusion.flow import Solver
from imgen.generators.arrays import join_valid, permute, sample_keys
from imgen.generators.generator import Generator, context_rows
from imgen.generators.head import pad_positions
from imgen.generators.plan import Plan
from imgen.generators.transformer import Block, unstack
from imgen.nn.attention import KVCache, SlotPositions


class Loop(NamedTuple):
    """What a call changes. The last position takes what padding writes.

    codes [B, P + 1, ...].   caches: of each layer.   out [B, P + 1, ...]: what predicted each position,
    guided; None where nobody asks.
    """

    codes: jax.Array
    caches: list[KVCache]
    out: jax.Array | None


class Call(NamedTuple):
    """What differs from call to call of a segment; leading axis n, of its calls, when they are scanned.

    slots [W]: what is fed.   positions: where that stands; None where each sample's order decides.
    visible [W]: cache rows that each slot sees.   start: cache row of the first slot.
    decided [N]: positions.   reads [N, H]: index into the W slots for each exit; weights [N, H].
    guidance: weight.
    """

    slots: Int[Array, " W"]
    positions: SlotPositions | None
    visible: Int[Array, " W"]
    start: Int[Array, ""]
    decided: Int[Array, " N"]
    reads: Int[Array, "N H"]
    weights: Float[Array, "N H"]
    guidance: Float[Array, ""]


class Rows(NamedTuple):
    """What belongs to each of the R rows; None for what there isn't.

    valid: which keys are real.   order: of its positions.   vectors: of `Head.vectors`.   vector: for adaLN.
    """

    valid: Bool[Array, "R S"] | None
    order: Int[Array, "R P"] | None
    vectors: jax.Array | None
    vector: Float[Array, "R D"] | None


def decoding_params(params: dict, dtype: jnp.dtype = jnp.float32) -> dict:
    """Returns what `generate` runs on: per-layer trees ("layers") instead of stacked leaves, in `dtype`.

    Done once, outside the loop: slicing stacked layers inside it costs up to twice the time.
    """
    stacked = params["transformer"]
    rest = {name: tree for name, tree in stacked.items() if not name.startswith("blocks_")}
    params = {**params, "transformer": rest, "layers": unstack(stacked)}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def generate(
    generator: Generator,
    params: dict,
    cond: dict,
    rng: jax.Array,
    *,
    sample_ids: jax.Array | None = None,
    order: jax.Array | None = None,
    sampling: Sampling = Sampling(),
    plan: Plan | None = None,
    segments: int | None = None,
    return_out: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws latents: int32 [B, *grid], [B, *grid, bits] where the tokenizer's are bits, or float32
    [B, *grid, C] where they are continuous.

    params: of `decoding_params`.   cond: the conditioner's inputs, e.g. {"label": [B]}.
    sample_ids: number of each image in the whole job, by default 0 ... B-1.
    order [B, P]: positions in each image's own order; by default what the scheme draws from `rng`.
    plan: decodes in place of the model's own (RandAR's parallel steps).
    segments: the most loops to compile; by default what `decoding.schedule` finds worth it.
    return_out: also return what predicts each position, [B, P, ...]: guided logits before filtering; of
        continuous latents the features under the condition, as it is the head that is guided.
    """
    batch = jax.tree.leaves(cond)[0].shape[0]
    if sample_ids is None:
        sample_ids = jnp.arange(batch)
    if plan is not None:
        generator = generator.clone(plan=plan)
    latents, out = _generate(
        generator, params, cond, rng, sample_ids, order, sampling, segments, return_out
    )
    return (latents, out) if return_out else latents


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _generate(generator, params, cond, rng, sample_ids, order, sampling, segments, return_out):
    plan, batch, own_keys = generator.plan, len(sample_ids), sample_keys(rng, sample_ids)
    weights = guidance_weights(sampling.guidance, plan)
    schedule = make_schedule(plan, weights, segments, generator.width)
    rows = 2 * batch if schedule[0].guided else batch
    random = generator.head.random(own_keys, plan.positions)
    order = generator.scheme.decoding(own_keys, plan) if order is None else order
    vectors = apply(generator, params, "sampling_vectors", own_keys, batch)

    def both(leaf):  # for the unconditional rows too
        return jnp.tile(leaf, (rows // batch,) + (1,) * (leaf.ndim - 1))

    null = jnp.arange(rows) >= batch
    condition = apply(generator, params, "condition", jax.tree.map(both, cond), null)
    # A row past the end takes what padding writes.
    slots = plan.slots + max(segment.slots.shape[1] for segment in schedule)
    loop = start(generator, params, condition, batch, slots, return_out)
    own = Rows(
        valid=join_valid(condition, rows, slots),
        order=None if order is None else both(order),
        vectors=None if vectors is None else both(vectors),
        vector=condition.vector,
    )
    prefill = condition
    for segment in schedule:
        if not segment.guided and rows != batch:  # guidance has ended: its rows aren't needed again
            rows = batch
            caches, own = jax.tree.map(lambda leaf: leaf[:batch], (loop.caches, own))
            loop = loop._replace(caches=caches)
        step = functools.partial(
            _step, generator, params, segment, prefill, context_rows(condition), own, random,
            sampling,
        )  # fmt: skip
        calls = make_calls(segment, generator, context_rows(condition), order is not None)
        loop, _ = jax.lax.scan(step, loop, calls)
        prefill = None
    codes, out = loop.codes[:, :-1], None if loop.out is None else loop.out[:, :-1]
    if order is not None:
        inverse = jnp.argsort(order, axis=1)
        codes, out = jax.tree.map(lambda x: permute(x, inverse), (codes, out))
    return generator.to_latents(codes), out


def start(
    generator: Generator, params: dict, condition: Condition, batch: int, slots: int, keep: bool
) -> Loop:
    """Returns the loop before its first call: empty caches for the context's rows and some slots."""
    spec = generator.transformer.spec
    rows, dtype = len(condition.slots), condition.slots.dtype
    head_dim = generator.width // spec.heads
    shape = (rows, context_rows(condition) + slots, spec.kv_heads or spec.heads, head_dim)
    caches = [KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in params["layers"]]
    out = None
    if keep:
        blank = (batch, generator.plan.positions, *generator.head.out_shape)
        out = pad_positions(jnp.zeros(blank, jnp.float32))
    return Loop(pad_positions(generator.example_codes(batch)), caches, out)


def make_calls(segment: Segment, generator: Generator, before: int, ordered: bool) -> Call:
    """Returns the calls of a segment, leading axis n. before: rows of a context."""
    is_first = segment.start[:1] == 0  # the prefill also writes the context's rows
    return Call(
        slots=segment.slots,
        positions=None if ordered else generator.positions(segment.slots),
        visible=before + segment.visible,
        start=np.where(is_first, 0, before + segment.start),
        decided=segment.positions,
        reads=segment.reads,
        weights=segment.weights,
        guidance=segment.guidance,
    )


def _step(generator, params, segment, prefill, before, own, random, sampling, loop, call):
    """A call of a scan: (loop, call) -> (loop, None)."""
    batch = len(loop.codes)
    out, caches = forward(generator, params, segment.read + before, prefill, own, loop, call)
    null = out[batch:] if segment.guided else None
    solver = solver_of(generator, sampling)
    out, codes = apply(
        generator, params, "decide", out[:batch], null, call.guidance, random(call.decided),
        sampling.filters, solver,
    )  # fmt: skip
    return commit(loop, call, caches, codes, out), None


def solver_of(generator: Generator, sampling: Sampling) -> Solver | None:
    """Returns how the head draws a code from noise."""
    return generator.head.solver(sampling.solver, sampling.solver_steps, sampling.shift)


def forward(
    generator: Generator,
    params: dict,
    read: int,
    prefill: Condition | None,
    own: Rows,
    loop: Loop,
    call: Call,
) -> tuple[Float[Array, "R N ..."], list[KVCache]]:
    """Feeds W slots and returns what predicts N positions, and the caches with the slots' keys and values.

    read: cache rows that attention reads (static).   prefill: the condition, for the call that feeds it.
    """
    rows, batch = loop.caches[0].k.shape[0], loop.codes.shape[0]
    positions = call.positions
    if positions is None:
        positions = generator.positions(call.slots, own.order)
    codes = jnp.concatenate([loop.codes] * (rows // batch))
    x = apply(generator, params, "embed_slots", call.slots, positions, codes, None, own.vectors)
    if prefill is not None:  # the condition's slots come first
        x = jnp.concatenate([prefill.slots, x[:, prefill.slots.shape[1] :]], axis=1)
    x = apply(generator, params, "add_position", x, positions, call.slots, own.order)  # [R, W, D]
    vector = apply(generator, params, "slot_vector", Condition(vector=own.vector), call.slots)
    key_valid = None if own.valid is None else own.valid[:, :read]
    block, caches, out = Block(generator.transformer.spec), [], 0.0
    for depth, layer in enumerate(params["layers"]):
        context = None if prefill is None or prefill.context is None else prefill.context[depth]
        x, cache = block.apply(
            {"params": layer},
            x,
            0.0,
            positions,
            call.visible,
            key_valid,
            context,
            vector,
            cache=loop.caches[depth],
            start=call.start,
            read=read,
        )
        caches.append(cache)
        exit = depth + 1 - generator.transformer.depth
        if exit >= 0:
            out += _read(generator, params, exit, x, vector, own, call)
    return out, caches


def _read(generator, params, exit, x, vector, own, call) -> jax.Array:
    """What an exit predicts for the N positions, times its weights."""
    hidden = apply(generator, params, "leave", x, vector)
    hidden = jnp.take(hidden, call.reads[:, exit], axis=1)  # [R, N, D]
    out = apply(generator, params, "read", exit, hidden, own.vectors)
    weight = call.weights[:, exit]
    return out * weight.reshape(-1, *(1,) * (out.ndim - 2))


def commit(loop: Loop, call: Call, caches: list, codes: jax.Array, out: jax.Array) -> Loop:
    """Returns the loop with N positions decided: codes and what predicted them, [B, N, ...]."""
    kept = None if loop.out is None else loop.out.at[:, call.decided].set(out)
    return Loop(loop.codes.at[:, call.decided].set(codes), caches, kept)


def apply(generator: Generator, params: dict, method: str, *args: Any):
    """Returns the result of one of the generator's methods on parameters outside the blocks."""
    return generator.apply({"params": params}, *args, method=method)


def check_cached(model: Generator, sampling: Sampling) -> None:
    """Raises UserError for settings that the head cannot be drawn with."""
    model.head.check(sampling.filters)
    solver_of(model, sampling)
