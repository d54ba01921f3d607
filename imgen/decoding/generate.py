"""Drawing codes: one jitted loop with a static key/value cache, for every plan and head.

Shapes: B images, R cache rows' batch (2B under guidance: conditional first, then unconditional),
P positions, W slots fed by a call, N positions decided by it, D width; `...` a position's code or logits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.confidence import confidence, keep_decided, still_masked
from imgen.decoding.filters import Filters, draw, draw_bits
from imgen.decoding.guidance import Guidance, guidance_weights, guide
from imgen.decoding.schedule import Segment, make_schedule
from imgen.errors import UserError
from imgen.generators.arrays import Purpose, fold, join_valid, permute, sample_keys
from imgen.generators.generator import Generator
from imgen.generators.transformer import Block, unstack
from imgen.nn.attention import KVCache


def decoding_params(params: dict, dtype: jnp.dtype = jnp.float32) -> dict:
    """Training parameters -> what `generate` runs on: per-layer trees instead of stacked leaves, in `dtype`.

    Done once, outside the loop: slicing stacked layers inside it costs up to twice the time.
    """
    params = {**params, "transformer": unstack(params["transformer"])}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def sample_uniforms(rng: jax.Array, sample_ids: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random numbers [B, *shape] that depend only on the key, the sample's number and the place in `shape`.

    So an image is the same in any batch, on any number of devices, with any cut of the calls.
    """
    keys = sample_keys(rng, sample_ids)
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def generate(
    generator: Generator,
    params: dict,
    cond: dict,
    rng: jax.Array,
    *,
    sample_ids: jax.Array | None = None,
    order: jax.Array | None = None,
    guidance: Guidance = Guidance(),
    filters: Filters = Filters(),
    segments: int | None = None,
    return_logits: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws latents: int32 [B, *grid], [B, *grid, bits] where the tokenizer's are bits, or float32
    [B, *grid, C] where they are continuous.

    params: of `decoding_params`.   cond: the conditioner's inputs, e.g. {"label": [B]}.
    sample_ids: number of each image in the whole job, by default 0 ... B-1.
    order [B, P]: positions in each image's own order, for plans by sample; by default drawn from `rng`.
    segments: the most loops to compile; by default what `decoding.schedule` finds worth it.
    return_logits: also return the guided logits [B, P, ..., V] before filtering; of continuous latents the
        features under the condition, as it is the head that is guided.
    """
    plan = generator.decoding_plan or generator.plan
    if order is not None and not plan.by_sample:
        raise UserError(f"plan {plan.name} has one order for all images")
    batch = jax.tree.leaves(cond)[0].shape[0]
    if sample_ids is None:
        sample_ids = jnp.arange(batch)
    generator = generator.clone(plan=plan, decoding_plan=None)
    latents, logits = _generate(
        generator, params, cond, rng, sample_ids, order, guidance, filters, segments, return_logits
    )
    return (latents, logits) if return_logits else latents


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9))
def _generate(
    generator, params, cond, rng, sample_ids, order, guidance, filters, segments, keep_logits
):
    plan = generator.plan
    schedule = make_schedule(plan, guidance_weights(guidance, plan), segments, generator.width)
    batch = sample_ids.shape[0]
    rows = 2 * batch if schedule[0].guided else batch
    draws = make_draws(generator, rng, sample_ids)
    own_keys = sample_keys(rng, sample_ids)
    if plan.by_sample and order is None:
        order = generator.orders(own_keys, batch)
    # Mixed tables are a regulariser: samples use the learned one.
    table_keys = own_keys if generator.lexinvariant == 1 else None
    table = apply(generator, params, "code_table", table_keys, batch)

    null = jnp.arange(rows) >= batch

    def both(leaf):  # for the unconditional rows too
        return jnp.tile(leaf, (rows // batch,) + (1,) * (leaf.ndim - 1))

    cond = jax.tree.map(both, cond)
    features, valid = apply(generator, params, "embed_condition", cond, null)
    context, context_valid = generator.embed_context(cond, null)

    # A position or row past the end takes what padding writes.
    padding = 0 if plan.masked else max(s.slots.shape[1] for s in schedule)
    slots = plan.slots + padding
    length = generator.conditioner.context_slots + slots
    kv_heads = generator.kv_heads or generator.heads
    shape = (rows, length, kv_heads, generator.width // generator.heads)
    state = {
        "codes": pad_positions(generator.example_codes(batch)),
        "caches": [
            KVCache(jnp.zeros(shape, features.dtype), jnp.zeros(shape, features.dtype))
            for _ in params["transformer"]
        ],
    }
    if keep_logits:
        blank = jnp.zeros((batch, plan.positions, *generator.logits_shape), jnp.float32)
        state["logits"] = pad_positions(blank)
    if plan.masked:
        state["masked"] = jnp.ones((batch, plan.positions), bool)
    own = dict(
        valid=join_valid(context_valid, valid, rows, generator.conditioner, slots),
        order=None if order is None else both(order),
        table=None if table is None else both(table),
    )
    prefill = (features, context)
    for segment in schedule:
        if not segment.guided and rows != batch:  # guidance has ended: its rows aren't needed again
            rows = batch
            state["caches"], own = jax.tree.map(lambda leaf: leaf[:batch], (state["caches"], own))
        call = functools.partial(
            decode_call, generator, params, segment, prefill, own, draws, filters
        )
        state, _ = jax.lax.scan(
            lambda s, c, call=call: (call(s, c), None), state, scanned(segment, generator)
        )
        prefill = None
    drawn = [state["codes"][:, :-1]] + ([state["logits"][:, :-1]] if keep_logits else [None])
    if plan.by_sample:
        inverse = jnp.argsort(order, axis=1)
        drawn = jax.tree.map(lambda x: permute(x, inverse), drawn)
    codes, logits = drawn
    return generator.to_latents(codes), logits


def make_draws(generator: Generator, rng: jax.Array, sample_ids: jax.Array):
    """A call's entries of `scanned` -> random numbers for the N positions that it decides: [B, N, ...] to
    draw codes with (of continuous latents `token_noise`) and, in a masked plan, [B, N] to choose positions.

    There each call has numbers of its own, as a position may be drawn again.
    """
    positions = generator.plan.positions
    shape = (positions, *generator.unit_shape)
    if generator.coding.continuous:
        keys = fold(sample_keys(rng, sample_ids), Purpose.DRAWS)
        return lambda call: (token_noise(keys, call["positions"], generator.unit_shape), None)
    if generator.plan.masked:
        keys = fold(sample_keys(rng, sample_ids), Purpose.DRAWS)

        def of_call(call):
            own = fold(keys, call["number"])
            codes, choice = (
                jax.vmap(lambda key, s=s: jax.random.uniform(key, s))(fold(own, i))
                for i, s in enumerate((shape, (positions,)))
            )
            return codes, choice

        return of_call
    uniforms = pad_positions(sample_uniforms(rng, sample_ids, shape))
    return lambda call: (uniforms[:, call["positions"]], None)


def token_noise(keys: jax.Array, positions: jax.Array, shape: tuple[int, ...]):
    """The number of a solver step, from -1 on -> standard normals [B, N, *shape]. keys [B], positions [N]."""
    own = jax.vmap(lambda key: jax.vmap(lambda at: jax.random.fold_in(key, at))(positions))(keys)

    def noise(step: jax.Array | int) -> jax.Array:
        def draw(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, step + 1), shape)

        return jax.vmap(jax.vmap(draw))(own)

    return noise


def pad_positions(x: jax.Array) -> jax.Array:
    """[B, P, ...] -> [B, P + 1, ...]."""
    return jnp.pad(x, ((0, 0), (0, 1)) + ((0, 0),) * (x.ndim - 2))


def scanned(segment: Segment, generator: Generator) -> dict:
    """The arrays that differ from call to call of a segment, leading axis n."""
    plan, before = generator.plan, generator.conditioner.context_slots
    is_first = segment.start[:1] == 0  # the prefill also writes the context's rows
    chosen = {}
    if plan.masked:
        number = np.arange(plan.calls)
        spread = (1 - (number + 1) / plan.calls).astype(np.float32)
        chosen = dict(number=number, spread=spread, decided=plan.decided)
    return dict(
        slots=segment.slots,
        kind=plan.kind[segment.slots],
        src=plan.src[segment.slots],
        places=None if plan.by_sample else generator.places(segment.slots),
        visible=before + segment.visible,
        start=np.where(is_first, 0, before + segment.start),
        positions=segment.positions,
        reads=segment.reads,
        weights=segment.weights,
        guidance=segment.guidance,
        **chosen,
    )


def decode_call(generator, params, segment, prefill, own, draws, filters, state, call) -> dict:
    """One forward pass: feeds W slots, appends their keys and values, draws N codes.

    prefill: the condition's features [R, T, D] and context, for the call that feeds them.
    own: what belongs to each of the R rows: key mask, order, table of code vectors.
    draws: of `make_draws`.
    """
    batch = state["codes"].shape[0]
    rows = state["caches"][0].k.shape[0]
    features, context = prefill or (None, None)
    places, table = call["places"], own["table"]
    if places is None:
        places = generator.places(call["slots"], own["order"])
    codes, masked = (
        None if x is None else jnp.concatenate([x] * (rows // batch))
        for x in (state["codes"], state.get("masked"))
    )
    x = apply(
        generator, params, "embed_slots", call["kind"], call["src"], places, codes, table, masked
    )
    if features is not None:  # the condition's slots come first
        x = jnp.concatenate([features, x[:, features.shape[1] :]], axis=1)
    x = apply(generator, params, "add_position", x, places)  # [R, W, D]
    read = generator.conditioner.context_slots + segment.read
    key_valid = None if own["valid"] is None else own["valid"][:, :read]
    block = Block(**generator.backbone().block_arguments())
    caches, logits = [], 0.0
    for depth, layer in enumerate(params["transformer"]):
        x, cache = block.apply(
            {"params": layer},
            x,
            0.0,
            places,
            call["visible"],
            key_valid,
            None if context is None else context[depth],
            cache=state["caches"][depth],
            start=call["start"],
            read=read,
        )
        caches.append(cache)
        head = depth + 1 - generator.depth
        if head >= 0:
            hidden = jnp.take(x, call["reads"][:, head], axis=1)  # [R, N, D]
            weight = call["weights"][:, head]
            weight = weight.reshape(-1, *(1,) * len(generator.logits_shape))
            logits += apply(generator, params, "read", head, hidden, table) * weight
    random, choice = draws(call)
    null = logits[batch:] if segment.guided else None
    logits, codes = decide(
        generator, params, logits[:batch], null, call["guidance"], random, filters
    )
    found = {"codes": codes}
    if "logits" in state:
        found["logits"] = logits
    state = dict(state, caches=caches)
    if choice is not None:
        spread = filters.choice_temperature * call["spread"]
        sure = confidence(generator, logits, found["codes"], choice, spread)
        found = keep_decided(state, found)
        state["masked"] = still_masked(sure, state["masked"], call["decided"])
    for name, values in found.items():
        state[name] = state[name].at[:, call["positions"]].set(values)
    return state


def decide(generator, params, logits, null, weight, random, filters) -> tuple[jax.Array, jax.Array]:
    """What predicts N positions, and their codes. null: logits without the condition, None if not guided.

    Logits are guided here; a head of continuous latents guides what its denoiser gives.
    """
    coding = generator.coding
    if coding.continuous:

        def run(method, *args):
            mlp = coding.denoiser(generator.dtype)
            return mlp.apply({"params": params["denoiser"]}, *args, method=method)

        codes = coding.sample(run, logits, null, weight, random, filters.temperature)
        return logits, codes
    logits = logits if null is None else guide(logits, null, weight)
    draw_codes = draw_bits if coding.binary else draw
    return logits, draw_codes(logits, random, filters)


def apply(generator: Generator, params: dict, method: str, *args):
    """Calls one of the generator's methods on parameters outside the transformer."""
    return generator.apply({"params": params}, *args, method=method)
