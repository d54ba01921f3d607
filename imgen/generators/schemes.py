"""Schemes: what teacher forcing shows of an image: in which order, and which codes stay hidden.

Shapes: B batch, P positions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.generators.arrays import Purpose, fold
from imgen.generators.mask_schedules import still_masked_counts
from imgen.generators.model import Likelihood
from imgen.generators.plan import Plan


class Teacher(NamedTuple):
    """What the model is shown of each sample.

    order [B, P]: the positions in the order in which they are decided; None: the plan's own.
    hidden [B, P] bool: the positions whose codes are not shown in place; None for none.
    weight [B, P]: of each position's nll. In training they are those of a mean; in evaluation the weighted
        sum is the nll of the image.
    """

    order: jax.Array | None
    hidden: jax.Array | None
    weight: jax.Array


class Scheme(Protocol):
    """likelihood: of what `evaluation` shows.   trains_on_likelihood: whether training predicts every code.

    samplers: as of `LatentModel`; those of `unsure` heads, which give no confidence.
    """

    likelihood: Likelihood
    trains_on_likelihood: bool
    samplers: tuple[str, ...]
    unsure: tuple[str, ...]

    def training(self, key: jax.Array, plan: Plan, batch: int, progress: Any) -> Teacher:
        """Returns what a training step shows; progress: share of the run that is done."""

    def evaluation(self, keys: jax.Array, plan: Plan) -> Teacher:
        """Returns what evaluation shows for keys [B] that depend on the codes only."""

    def decoding(self, keys: jax.Array, plan: Plan) -> jax.Array | None:
        """Returns the orders [B, P] that samples are drawn in, from their keys [B]; None: the plan's own."""


def random_orders(keys: jax.Array, positions: int) -> jax.Array:
    """Returns an order of the positions for each key, [B, P]."""
    keys = fold(keys, Purpose.ORDER)
    return jax.vmap(lambda key: jax.random.permutation(key, positions))(keys)


def _ones(batch: int, plan: Plan) -> jax.Array:
    return jnp.ones((batch, plan.positions))


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The plan's own order, every code predicted."""

    likelihood: ClassVar[Likelihood] = "exact"
    trains_on_likelihood: ClassVar[bool] = True
    samplers: ClassVar[tuple[str, ...]] = ("cached",)
    unsure: ClassVar[tuple[str, ...]] = ("cached",)

    def training(self, key: jax.Array, plan: Plan, batch: int, progress: Any) -> Teacher:
        return Teacher(None, None, _ones(batch, plan))

    def evaluation(self, keys: jax.Array, plan: Plan) -> Teacher:
        return Teacher(None, None, _ones(len(keys), plan))

    def decoding(self, keys: jax.Array, plan: Plan) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class RandomOrder(Fixed):
    """Another order for each sample (RandAR). The nll of one order bounds that of all together."""

    likelihood: ClassVar[Likelihood] = "bound"
    samplers: ClassVar[tuple[str, ...]] = ("random",)
    unsure: ClassVar[tuple[str, ...]] = ("random",)

    def training(self, key: jax.Array, plan: Plan, batch: int, progress: Any) -> Teacher:
        return self.evaluation(jax.random.split(key, batch), plan)

    def evaluation(self, keys: jax.Array, plan: Plan) -> Teacher:
        return Teacher(self.decoding(keys, plan), None, _ones(len(keys), plan))

    def decoding(self, keys: jax.Array, plan: Plan) -> jax.Array:
        return random_orders(keys, plan.positions)


@dataclasses.dataclass(frozen=True)
class Annealed(Fixed):
    """Random orders at first and the plan's own at last (RAR): a sample's order is random with a probability
    that is 1 up to `start` of the run, falls linearly and is 0 from `end` on. Evaluation and samples take the
    plan's own."""

    start: float = 0.5
    end: float = 0.75

    def __post_init__(self):
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(
                f"generator.scheme_options: 0 <= start {self.start} <= end {self.end} <= 1 is needed"
            )

    def share(self, progress: Any) -> jax.Array:
        """Returns the probability of a random order."""
        left = (self.end - progress) / max(self.end - self.start, 1e-9)
        return jnp.clip(jnp.where(progress >= self.end, 0.0, left), 0.0, 1.0)

    def training(self, key: jax.Array, plan: Plan, batch: int, progress: Any) -> Teacher:
        keys = jax.random.split(key, batch)
        choose = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))
        is_random = choose(fold(keys, Purpose.ORDER)) < self.share(progress)
        own = jnp.arange(plan.positions)
        order = jnp.where(is_random[:, None], random_orders(keys, plan.positions), own)
        return Teacher(order, None, _ones(batch, plan))


# Shares of the positions that are masked, from uniform numbers in [0, 1).
RATIOS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "cosine": lambda r: jnp.cos(jnp.pi / 2 * r),
    "arccos": lambda r: jnp.arccos(r) / (jnp.pi / 2),
    "uniform": lambda r: 1 - r,
    # MAR: mean 1, deviation 0.25, cut to [0.7, 1].
    "truncated_normal": lambda r: 1 + 0.25 * jax.scipy.special.ndtri(
        jax.scipy.special.ndtr(-1.2) + r * (0.5 - jax.scipy.special.ndtr(-1.2))
    ),
}  # fmt: skip
ROUNDING = {"round": jnp.round, "ceil": jnp.ceil, "floor": jnp.floor}


@dataclasses.dataclass(frozen=True)
class Masked:
    """Random positions are hidden, and predicted from all others (MaskGIT).

    ratio: "steps": as many as some call of decoding in `steps` calls meets (ELM `mlm_model.py`); otherwise a
        key of RATIOS for the share, of which at least `least` is taken.
    rounding: of their number, "round", "ceil" (MAR) or "floor"; at least one is hidden.
    shared: whether a batch shares the number (MAR).   shown_weight: of the loss of shown codes (TiTok: 0.1).
    per_sample: whether all samples count alike, however many of their codes are hidden (MaskGIT).
    """

    ratio: str = "steps"
    steps: int = 10
    least: float = 0.0
    rounding: str = "round"
    shared: bool = False
    shown_weight: float = 0.0
    per_sample: bool = False

    likelihood: ClassVar[Likelihood] = "bound"
    trains_on_likelihood: ClassVar[bool] = False
    samplers: ClassVar[tuple[str, ...]] = (
        "masked", "maskgit", "titok", "titok_annealed", "maskbit", "mar",
    )  # fmt: skip
    unsure: ClassVar[tuple[str, ...]] = ("mar",)

    def __post_init__(self):
        if self.ratio not in ("steps", *RATIOS) or self.rounding not in ROUNDING:
            raise UserError(
                f"generator.scheme_options: ratio {self.ratio!r} must be one of steps, {', '.join(RATIOS)}, "
                f"rounding {self.rounding!r} one of {', '.join(ROUNDING)}"
            )
        if self.steps < 1 or not 0 <= self.least <= 1 or self.shown_weight < 0:
            raise UserError(
                f"generator.scheme_options: steps {self.steps} must be at least 1, least {self.least} in "
                f"[0, 1], shown_weight {self.shown_weight} 0 or more"
            )

    def training(self, key: jax.Array, plan: Plan, batch: int, progress: Any) -> Teacher:
        keys = fold(jax.random.split(key, batch), Purpose.MASK)
        of_count = jnp.broadcast_to(keys[0], keys.shape) if self.shared else keys
        count = self._count(fold(of_count, 0), plan.positions)
        hidden = random_positions(fold(keys, 1), count, plan.positions)
        weight = jnp.where(hidden, 1.0, self.shown_weight).astype(jnp.float32)
        if self.per_sample:
            weight /= weight.sum(axis=1, keepdims=True)
        return Teacher(None, hidden, weight)

    def _count(self, keys: jax.Array, positions: int) -> jax.Array:
        """How many positions are hidden, [B]."""
        if self.ratio == "steps":
            met = jnp.asarray(still_masked_counts(positions, self.steps)[:-1])
            return met[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(met)))(keys)]
        share = RATIOS[self.ratio](jax.vmap(jax.random.uniform)(keys))
        count = ROUNDING[self.rounding](positions * jnp.maximum(share, self.least))
        return jnp.clip(count.astype(jnp.int32), 1, positions)

    def evaluation(self, keys: jax.Array, plan: Plan) -> Teacher:
        hidden, weight = likelihood_mask(fold(keys, Purpose.MASK), plan.positions)
        return Teacher(None, hidden, weight[:, None] * hidden)

    def decoding(self, keys: jax.Array, plan: Plan) -> None:
        return None


def likelihood_mask(keys: jax.Array, positions: int) -> tuple[jax.Array, jax.Array]:
    """Returns bool [B, P] and weights [B]: the weighted sum of the masked positions' nll is, in the mean, the
    nll of all when they are decided one by one in random order. That bounds the -log p of such decoding from
    above, not that of deciding many at once by confidence.

    The number of masked positions is uniform in 1 ... P, the weight P / number. (Order-agnostic training:
    Uria et al. 2014, "A deep and tractable density estimator", equation 9.)
    """
    count = jax.vmap(lambda key: jax.random.randint(key, (), 1, positions + 1))(fold(keys, 0))
    return random_positions(fold(keys, 1), count, positions), positions / count.astype(jnp.float32)


def random_positions(keys: jax.Array, count: jax.Array, positions: int) -> jax.Array:
    """Returns bool [B, P] with `count` [B] random positions set."""
    ranks = jax.vmap(lambda key: jax.random.permutation(key, positions))(keys)
    return ranks < count[:, None]


FIXED, RANDOM_ORDER = Fixed(), RandomOrder()
SCHEMES = {"fixed": Fixed, "random": RandomOrder, "annealed": Annealed, "masked": Masked}
