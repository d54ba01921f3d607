"""Masked decoding: full forward passes, each of which decides some more positions (MaskGIT, TiTok,
MaskBit, MAR).

How many are decided in each step is fixed beforehand; which ones, the model's confidence says, or a random
order of each image. All scalars of the steps are host tables. Any backbone will do, as nothing is cached.
Shapes: B images, P positions, K steps; `...` a position's code, or what predicts it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from imgen.decoding.cached import solver_of
from imgen.decoding.guidance import ramp_weights
from imgen.decoding.sampling import Sampling
from imgen.generators.arrays import fold, sample_keys
from imgen.generators.generator import Generator
from imgen.generators.head import Head, drawing_keys
from imgen.generators.mask_schedules import still_masked_counts
from imgen.generators.schemes import random_orders

DEFAULT_STEPS = 10  # ELM's; MaskGIT takes 8 to 16


@dataclasses.dataclass(frozen=True)
class Dialect:
    """law: key of `mask_schedules.LAWS`; precision: in which it is computed, "float32" or "float64".

    draw: "categorical", by the filters; "perturbed": the likeliest code after Gumbel noise, whose scale falls
        to 0 as that of the choice does (TiTok).
    confidence: "log_prob" of the drawn codes, of the model's own distribution, guided but before temperature
        and filters, or their "logit".
    select: the surest by "confidence", or a random "order" of each image, consumed from its end (MAR).
    shares: what guidance's schedule goes by: the share of "codes" decided, or of "steps" done.
    annealed: logits are divided by a temperature that falls from below 1.3 to 0.5 (an option of TiTok's).
    """

    law: str = "cosine"
    draw: Literal["categorical", "perturbed"] = "categorical"
    confidence: Literal["log_prob", "logit"] = "log_prob"
    select: Literal["confidence", "order"] = "confidence"
    shares: Literal["codes", "steps"] = "codes"
    annealed: bool = False
    precision: Literal["float32", "float64"] = "float64"


ELM = Dialect()
MASKGIT = Dialect(precision="float32")
TITOK = Dialect("arccos", "perturbed", "logit", shares="steps")
MASKBIT = Dialect("arccos", shares="steps")
MAR = Dialect(select="order")


class Steps(NamedTuple):
    """Scalars of each step, [K]: its number, how many positions are masked before and after it, the scale
    of the choice's noise, the weight of guidance, what logits are divided by."""

    number: np.ndarray
    before: np.ndarray
    after: np.ndarray
    spread: np.ndarray
    weight: np.ndarray
    temperature: np.ndarray


class Masks(NamedTuple):
    """What a step changes: codes [B, P, ...], which are masked [B, P], and what predicted each position
    that was decided, guided, [B, P, ...] or None where nobody asks."""

    codes: jax.Array
    masked: jax.Array
    out: jax.Array | None


def steps_of(positions: int, dialect: Dialect, sampling: Sampling) -> Steps:
    """Returns the tables of a decoding. Raises UserError for more steps than positions."""
    count = sampling.steps or min(DEFAULT_STEPS, positions)
    left = still_masked_counts(positions, count, dialect.law, np.dtype(dialect.precision).type)
    done = np.arange(count + 1) / count
    shares = done
    if dialect.shares == "codes":
        shares = 1 - left / positions
        if dialect.select == "order":  # MAR's schedule never counts the last one as decided
            shares = 1 - np.maximum(left, 1) / positions
    weight = ramp_weights(sampling.guidance, shares)
    progress = positions - left[:-1] if dialect.shares == "codes" else np.arange(count)
    weight[~sampling.guidance.holds(progress)] = 1
    spread = (sampling.filters.choice_temperature * (1 - done[1:])).astype(np.float32)
    temperature = 0.5 + 0.8 * (1 - done[1:]) if dialect.annealed else np.ones(count)
    return Steps(
        np.arange(count), left[:-1], left[1:], spread, weight, temperature.astype(np.float32)
    )


def generate(
    generator: Generator,
    params: dict,
    cond: dict,
    rng: jax.Array,
    *,
    sample_ids: jax.Array | None = None,
    sampling: Sampling = Sampling(),
    dialect: Dialect = ELM,
    return_out: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Draws latents [B, *grid, ...] for training parameters, and what predicted each position if asked."""
    batch = jax.tree.leaves(cond)[0].shape[0]
    sample_ids = jnp.arange(batch) if sample_ids is None else sample_ids
    latents, out = _generate(
        generator, params, cond, rng, sample_ids, sampling, dialect, return_out
    )
    return (latents, out) if return_out else latents


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _generate(generator, params, cond, rng, sample_ids, sampling, dialect, return_out):
    batch, positions = len(sample_ids), generator.plan.positions
    params = jax.tree.map(lambda leaf: leaf.astype(generator.dtype), params)
    table = steps_of(positions, dialect, sampling)
    own_keys = sample_keys(rng, sample_ids)
    guided = bool((table.weight != 1).any())
    predict, decide = networks(generator, params, cond, guided, sampling)
    if dialect.select == "order":
        order, random = random_orders(own_keys, positions), noise_of_order(generator, own_keys)
        step = by_order(predict, decide, table, order, random)
    else:
        random = noise_of_confidence(generator, own_keys, dialect)
        step = by_confidence(generator.head, predict, decide, random, dialect)
    state = everything_masked(generator, batch, return_out)
    state, _ = jax.lax.scan(lambda s, now: (step(s, now), None), state, table)
    return generator.to_latents(state.codes), state.out


def everything_masked(generator: Generator, batch: int, keep_out: bool = False) -> Masks:
    """Returns the state before the first step."""
    positions = generator.plan.positions
    blank = jnp.zeros((batch, positions, *generator.head.out_shape)) if keep_out else None
    return Masks(generator.example_codes(batch), jnp.ones((batch, positions), bool), blank)


def networks(
    generator: Generator, params: dict, cond: dict, guided: bool, sampling: Sampling
) -> tuple[Callable, Callable]:
    """Returns predict: (codes [B, P, ...], masked [B, P]) -> (what predicts each position, the same without
    the condition or None); and decide, the head's with a sampling's settings."""
    batch = len(jax.tree.leaves(cond)[0])
    copies = 2 if guided else 1
    cond = jax.tree.map(lambda x: jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)), cond)
    null = jnp.arange(copies * batch) >= batch
    solver = solver_of(generator, sampling)

    def predict(codes, masked):
        codes, masked = (jnp.concatenate([x] * copies) for x in (codes, masked))
        out = generator.apply({"params": params}, codes, cond, null, None, masked)
        return out[:batch], out[batch:] if guided else None

    def decide(out, null, weight, random):
        return generator.apply(
            {"params": params}, out, null, weight, random, sampling.filters, solver,
            method="decide",
        )  # fmt: skip

    return predict, decide


Step = Callable[[Masks, Any], Masks]


def noise_of_confidence(generator: Generator, own_keys: jax.Array, dialect: Dialect) -> Callable:
    """Returns a step's number -> (what codes are drawn with everywhere, uniforms [B, P] of the choice)."""
    head, positions = generator.head, generator.plan.positions
    keys = drawing_keys(own_keys)
    shape = head.out_shape if dialect.draw == "perturbed" else None

    def of_step(number: jax.Array) -> tuple[Any, jax.Array]:
        own = fold(keys, number)
        codes = head.random(fold(own, 0), positions, shape)(jnp.arange(positions))
        choice = jax.vmap(lambda key: jax.random.uniform(key, (positions,)))(fold(own, 1))
        return codes, choice

    return of_step


def by_confidence(head: Head, predict, decide, random: Callable, dialect: Dialect) -> Step:
    """Returns a step that draws all masked positions, keeps the surest and masks the others again.

    random: of `noise_of_confidence`.
    """

    def step(state: Masks, now: Steps) -> Masks:
        numbers, choice = random(now.number)
        out, null = jax.tree.map(lambda x: x / now.temperature, predict(state.codes, state.masked))
        if dialect.draw == "perturbed":
            out = head.guided(out, null, now.weight)
            codes = perturbed(out, numbers, now.spread)
        else:
            out, codes = decide(out, null, now.weight, numbers)
        score = head.logit if dialect.confidence == "logit" else head.confidence
        sure = score(out, codes) + now.spread * gumbel(choice)
        positions = state.masked.shape[1]
        left = still_masked(sure, state.masked, positions - now.after)
        return keep(state, codes, out)._replace(masked=left)

    return step


def noise_of_order(generator: Generator, own_keys: jax.Array) -> Callable:
    """Returns (a step's number, places [N] in the images' orders, the positions [B, N] there) -> what codes
    are drawn with."""
    keys = drawing_keys(own_keys)

    def of_step(number: jax.Array, places: jax.Array, at: jax.Array) -> Any:
        return generator.head.random(fold(keys, number), generator.plan.positions)(places)

    return of_step


def by_order(predict, decide, table: Steps, order: Int[Array, "B P"], random: Callable) -> Step:
    """Returns a step that decides the last masked positions of each image's own order: the first `after`
    of it stay masked.   random: of `noise_of_order`.
    """
    positions, rank = order.shape[1], jnp.argsort(order, axis=1)
    widest = int((table.before - table.after).max())

    def step(state: Masks, now: Steps) -> Masks:
        out, null = predict(state.codes, state.masked)
        # All steps have the widest one's shape: it reaches back to what is decided, which stays.
        first = jnp.minimum(now.after, positions - widest)
        places = first + jnp.arange(widest)
        at = jnp.take(order, places, axis=1)  # [B, N]
        out, null = (None if x is None else take_rows(x, at) for x in (out, null))
        out, codes = decide(out, null, now.weight, random(now.number, places, at))
        fresh = (places >= now.after) & (places < now.before)
        codes = write(state.codes, at, codes, fresh)
        kept = None if state.out is None else write(state.out, at, out, fresh)
        return Masks(codes, rank < now.after, kept)

    return step


def take_rows(x: jax.Array, at: Int[Array, "B N"]) -> jax.Array:
    """Returns x [B, P, ...] at positions of each image, [B, N, ...]."""
    return jax.vmap(lambda row, places: row[places])(x, at)


def write(x: jax.Array, at: Int[Array, "B N"], new: jax.Array, where: Bool[Array, " N"]):
    """Returns x [B, P, ...] with new [B, N, ...] at the positions `at` where it is fresh."""
    fresh = where.reshape(-1, *(1,) * (new.ndim - 2))

    def of_row(row, places, values):
        return row.at[places].set(jnp.where(fresh, values, row[places]))

    return jax.vmap(of_row)(x, at, new)


def gumbel(uniform: jax.Array) -> jax.Array:
    """Returns standard Gumbel noise from numbers in [0, 1)."""
    tiny = jnp.finfo(jnp.float32).tiny
    return -jnp.log(-jnp.log(jnp.clip(uniform, tiny, 1 - 1e-7)))


def perturbed(out: jax.Array, uniform: jax.Array, spread: jax.Array) -> jax.Array:
    """Returns the likeliest codes [B, N] of logits [B, N, V] after Gumbel noise of a scale."""
    return jnp.argmax(out + spread * gumbel(uniform), axis=-1).astype(jnp.int32)


def still_masked(
    confidence: Float[Array, "B P"], masked: Bool[Array, "B P"], decided: Int[Array, ""]
) -> Bool[Array, "B P"]:
    """Returns the positions to mask again: all but the `decided` surest. What is decided stays so."""
    surest_first = jnp.argsort(-jnp.where(masked, confidence, jnp.inf), axis=1, stable=True)
    place = jnp.argsort(surest_first, axis=1)
    return place >= decided


def keep(state: Masks, codes: jax.Array, out: jax.Array) -> Masks:
    """Returns the state with what a step found, [B, P, ...], where it was masked."""

    def fresh(new, old):
        masked = state.masked.reshape(state.masked.shape + (1,) * (new.ndim - 2))
        return jnp.where(masked, new, old)

    kept = None if state.out is None else fresh(out, state.out)
    return Masks(fresh(codes, state.codes), state.masked, kept)
