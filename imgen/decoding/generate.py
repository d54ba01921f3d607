"""Drawing codes: one jitted loop with a static key/value cache, for every plan.

Shapes: B images, R cache rows' batch (2B under guidance: conditional first, then unconditional),
P positions, W slots fed by a call, N positions decided by it, D width, V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.filters import Filters, draw
from imgen.decoding.guidance import Guidance, guidance_weights, guide
from imgen.decoding.schedule import Segment, make_schedule
from imgen.generators.generator import Generator
from imgen.generators.transformer import Block, unstack
from imgen.nn.attention import KVCache


def decoding_params(params: dict, dtype: jnp.dtype = jnp.float32) -> dict:
    """Training parameters -> what `generate` runs on: per-layer trees instead of stacked leaves, in `dtype`.

    Done once, outside the loop: slicing stacked layers inside it costs up to twice the time.
    """
    params = {**params, "transformer": unstack(params["transformer"])}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def sample_uniforms(rng: jax.Array, sample_ids: jax.Array, positions: int) -> jax.Array:
    """Random numbers [B, P] that depend only on the key, the sample's number and the position.

    So an image is the same in any batch, on any number of devices, with any cut of the calls.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(sample_ids)
    return jax.vmap(lambda key: jax.random.uniform(key, (positions,)))(keys)


def generate(
    generator: Generator,
    params: dict,
    cond: dict,
    rng: jax.Array,
    *,
    sample_ids: jax.Array | None = None,
    guidance: Guidance = Guidance(),
    filters: Filters = Filters(),
    segments: int | None = None,
    return_logits: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws codes [B, *grid] int32.

    params: of `decoding_params`.   cond: the conditioner's inputs, e.g. {"label": [B]}.
    sample_ids: number of each image in the whole job, by default 0 ... B-1.
    segments: loops to compile (see `decoding.schedule`); by default 1 for short plans and 4 for long.
    return_logits: also return the guided logits [B, P, V] before filtering.
    """
    batch = jax.tree.leaves(cond)[0].shape[0]
    if sample_ids is None:
        sample_ids = jnp.arange(batch)
    if segments is None:
        segments = 1 if generator.plan.slots < 128 else 4
    codes, logits = _generate(
        generator, params, cond, rng, sample_ids, guidance, filters, segments, return_logits
    )
    codes = codes.reshape(batch, *generator.plan.grid)
    return (codes, logits) if return_logits else codes


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7, 8))
def _generate(generator, params, cond, rng, sample_ids, guidance, filters, segments, keep_logits):
    plan = generator.plan
    schedule = make_schedule(plan, guidance_weights(guidance, plan), segments, generator.width)
    batch = sample_ids.shape[0]
    rows = 2 * batch if schedule[0].guided else batch
    uniforms = jnp.pad(sample_uniforms(rng, sample_ids, plan.positions), ((0, 0), (0, 1)))

    null = jnp.arange(rows) >= batch
    cond = jax.tree.map(
        lambda leaf: jnp.tile(leaf, (rows // batch,) + (1,) * (leaf.ndim - 1)), cond
    )
    features, valid = apply(generator, params, "embed_condition", cond, null)

    # A position or row past the end takes what padding writes.
    length = plan.slots + max(s.slots.shape[1] for s in schedule)
    if valid is not None:
        valid = jnp.pad(valid, ((0, 0), (0, length - valid.shape[1])), constant_values=True)
    kv_heads = generator.kv_heads or generator.heads
    shape = (rows, length, kv_heads, generator.width // generator.heads)
    state = {
        "codes": jnp.zeros((batch, plan.positions + 1), jnp.int32),
        "caches": [
            KVCache(jnp.zeros(shape, features.dtype), jnp.zeros(shape, features.dtype))
            for _ in params["transformer"]
        ],
    }
    if keep_logits:
        state["logits"] = jnp.zeros((batch, plan.positions + 1, generator.vocab), jnp.float32)

    for segment in schedule:
        if (
            not segment.guided and rows != batch
        ):  # guidance has ended: its rows are not needed again
            rows = batch
            state["caches"] = jax.tree.map(lambda leaf: leaf[:batch], state["caches"])
            valid = None if valid is None else valid[:batch]
        call = functools.partial(
            decode_call, generator, params, segment, features, valid, uniforms, filters
        )
        state, _ = jax.lax.scan(
            lambda s, c, call=call: (call(s, c), None), state, scanned(segment, generator)
        )
    return state["codes"][:, :-1], state["logits"][:, :-1] if keep_logits else None


def scanned(segment: Segment, generator: Generator) -> dict[str, np.ndarray]:
    """The arrays that differ from call to call of a segment, leading axis n."""
    plan = generator.plan
    cos, sin = generator.rotary()
    return dict(
        slots=segment.slots,
        kind=plan.kind[segment.slots],
        src=plan.src[segment.slots],
        cos=cos[segment.slots],
        sin=sin[segment.slots],
        visible=segment.visible,
        start=segment.start,
        positions=segment.positions,
        reads=segment.reads,
        weights=segment.weights,
        guidance=segment.guidance,
    )


def decode_call(
    generator, params, segment, features, valid, uniforms, filters, state, call
) -> dict:
    """One forward pass: feeds W slots, appends their keys and values, draws N codes."""
    batch = uniforms.shape[0]
    rows = state["caches"][0].k.shape[0]
    if segment.start[0] == 0:  # the prefill: condition slots come first and fill call 0
        x = features
    else:
        x = apply(generator, params, "embed_slots", call["kind"], call["src"], state["codes"])
        x = jnp.concatenate([x] * (rows // batch))
    x = apply(generator, params, "add_position", x, call["slots"])  # [R, W, D]
    key_valid = None if valid is None else valid[:, : segment.read]
    block = Block(**generator.backbone().block_arguments())
    caches, logits = [], 0.0
    for depth, layer in enumerate(params["transformer"]):
        x, cache = block.apply(
            {"params": layer},
            x,
            0.0,
            call["cos"],
            call["sin"],
            call["visible"],
            key_valid,
            state["caches"][depth],
            call["start"],
            segment.read,
        )
        caches.append(cache)
        head = depth + 1 - generator.depth
        if head >= 0:
            read = jnp.take(x, call["reads"][:, head], axis=1)  # [R, N, D]
            logits += apply(generator, params, "read", head, read) * call["weights"][:, head, None]
    if segment.guided:
        logits = guide(logits[:batch], logits[batch:], call["guidance"])
    drawn = draw(logits, uniforms[:, call["positions"]], filters)
    state = dict(state, caches=caches, codes=state["codes"].at[:, call["positions"]].set(drawn))
    if "logits" in state:
        state["logits"] = state["logits"].at[:, call["positions"]].set(logits)
    return state


def apply(generator: Generator, params: dict, method: str, *args):
    """Calls one of the generator's methods on parameters outside the transformer."""
    return generator.apply({"params": params}, *args, method=method)
