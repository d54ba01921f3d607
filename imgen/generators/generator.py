"""Generator = condition slots + a head's codes + a transformer, arranged by a plan and shown by a scheme.

Shapes: B batch, P positions, S slots, W of them, T condition slots, C context rows, D width; `...` a
position's code, or what predicts it (logits, or a denoiser's features), in the shapes that the head says.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from imgen.conditioning.conditions import Condition
from imgen.errors import UserError
from imgen.generators.arrays import content_keys, join_valid, permute, take
from imgen.generators.feeds import FEEDS, Slots, feed
from imgen.generators.head import Head
from imgen.generators.model import Likelihood, Loss
from imgen.generators.plan import Kind, Plan
from imgen.generators.positions import Position, rotary_positions, table_positions, target_rows
from imgen.generators.schemes import FIXED, Scheme
from imgen.generators.transformer import Surroundings
from imgen.latents import LatentSpec
from imgen.nn.attention import SlotPositions
from imgen.nn.dropout import Dropout
from imgen.nn.mlp import Init, embedding_init
from imgen.nn.rope import NullRow
from imgen.parallel.constrain import constrain


class Generator(nn.Module):
    """A model of latents that decides positions by a plan; a `LatentModel`.

    plan: slots, mask, reads and calls.   scheme: which order, and which codes are hidden, in training.
    head: what a position's code is and what predicts it.   conditioner: of the same width.
    transformer: a `Transformer`, or another backbone in `FullAttention`.
    heads: attention heads, for rotary positions.
    position: "rope"; "learned": a table with a row for every condition slot and position, added to the slots
        after the token dropout, and no rotation (NAR's video model); "block": such a table in every block
        (Instella); "target_aware": a learned table, and a second one for the position that a slot predicts
        (RAR); backbones with positions of their own get "block".
    modulation: of the blocks by the condition's vector: "none", "shared" by all slots, or "slots", with a
        learned vector for each slot added (RAR).
    cond_rope: rotary row of slots without a position; "zero" as published (`nn.rope.rope_rows`).
    dropout: on the embedded slots.
    """

    spec: LatentSpec
    plan: Plan
    head: Head
    conditioner: nn.Module
    transformer: nn.Module
    width: int
    heads: int
    scheme: Scheme = FIXED
    dropout: float = 0.1
    position: Position = "rope"
    modulation: Literal["none", "shared", "slots"] = "none"
    rope_base: float = 10000.0
    cond_rope: NullRow = "zero"
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        nn.share_scope(self, self.head)
        vector, plan = embedding_init(self.init_std), self.plan
        own = [FEEDS[kind] for kind in plan.fed if FEEDS[kind].parameter]
        if self.transformer.masks:
            own.remove(FEEDS[Kind.STATE])
        self.learned = {
            f.parameter: self.param(f.parameter, vector, f.shape(plan, self.width)) for f in own
        }
        table = (plan.num_cond + plan.positions, self.width)
        if self.position in ("learned", "target_aware"):
            self.position_table = self.param("position_table", vector, table)
        if self.position == "target_aware":
            self.target_table = self.param("target_table", vector, table)
        if self.modulation == "slots":
            self.slot_table = self.param("slot_table", vector, (plan.slots, self.width))
        self.token_dropout = Dropout(self.dropout)

    @property
    def likelihood(self) -> Likelihood:
        return self.scheme.likelihood if self.head.has_likelihood else "none"

    @property
    def trains_on_likelihood(self) -> bool:
        return self.head.has_likelihood and self.scheme.trains_on_likelihood

    @property
    def samplers(self) -> tuple[str, ...]:
        return self.scheme.samplers if self.head.has_likelihood else self.scheme.unsure

    @property
    def variables_per_position(self) -> int:
        return self.head.variables_per_position

    @property
    def variables(self) -> int:
        return self.plan.positions * self.variables_per_position

    def __call__(
        self,
        codes: jax.Array,
        cond: dict,
        null: Bool[Array, " B"] | None = None,
        order: Int[Array, "B P"] | None = None,
        hidden: Bool[Array, "B P"] | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Returns what predicts each position, teacher-forced. codes [B, P, ...] -> float32 [B, P, ...].

        order: the positions in the order of each sample; None: the plan's own.
        hidden: the positions whose states are masked; by default all of them.
        keys [B]: a random key for each sequence, for heads that draw what codes mean.
        """
        plan, batch, slots = self.plan, codes.shape[0], np.arange(self.plan.slots)
        if plan.scratch.any():
            raise UserError(f"plan {plan.name} only decodes: train with the plan it is made for")
        null = jnp.zeros(batch, bool) if null is None else null
        shown = codes if order is None else permute(codes, order)
        hidden = jnp.ones(codes.shape[:2], bool) if hidden is None else hidden
        vectors = self.head.vectors(keys, batch)
        condition = self.condition(cond, null)
        x = self.embed(condition, shown, hidden, order, vectors)
        positions = self.positions(slots, order)
        x = constrain(self.add_position(x, positions, slots, order), "batch", None, None)
        given = jnp.ones((batch, plan.num_cond), bool)
        around = Surroundings(
            positions=positions,
            visible=plan.visible + context_rows(condition),
            known=jnp.concatenate([given, ~hidden], axis=1),
            key_valid=join_valid(condition, batch, plan.slots),
            context=condition.context,
            vector=self.slot_vector(condition, slots),
        )
        exits = self.transformer(x, around)
        out = sum(
            _weighted(
                self.read(h, take(exits[h], plan.read_slot[:, h]), vectors), plan.read_weight[:, h]
            )
            for h in range(plan.heads)
        )
        out = out if order is None else permute(out, jnp.argsort(order, axis=1))
        if self.is_initializing():
            self.head.prepare(codes, out)
        return out

    def embed(self, condition: Condition, codes, hidden, order, vectors) -> jax.Array:
        """Returns the vectors [B, S, D] of all slots, dropped out, without added positions."""
        plan = self.plan
        fed = np.arange(plan.num_cond, plan.slots)
        x = self.embed_slots(fed, self.positions(fed, order), codes, hidden, vectors)
        if Kind.QUERY in plan.fed:  # RandAR drops out codes only
            is_token = (plan.kind[fed] == Kind.TOKEN)[:, None]
            x = jnp.where(is_token, self.token_dropout(x), x)
            return jnp.concatenate([condition.slots, x], axis=1)
        return self.token_dropout(jnp.concatenate([condition.slots, x], axis=1))

    def loss(
        self, codes: jax.Array, cond: dict, null: jax.Array, key: jax.Array, progress: Any = 1.0
    ) -> Loss:
        """Returns the nll of each position in nats, or a denoiser's loss summed over channels. Orders, masks,
        code vectors, times and noise are drawn from `key`."""
        batch = len(codes)
        teacher = self.scheme.training(key, self.plan, batch, progress)
        keys = jax.random.split(key, batch)
        out = self(codes, cond, null, teacher.order, teacher.hidden, keys)
        loss = self.head.loss(out, codes, keys)
        squares = self.head.log_normalizer(out)
        return Loss(loss, teacher.weight, {} if squares is None else {"log_normalizer": squares})

    def evaluate(self, codes: jax.Array, cond: dict) -> jax.Array:
        """Returns -log p(codes | cond) in nats, [B]; the same for the same codes, whatever the order.

        Of random orders, in a random one; of masked codes, an estimate of a bound (`likelihood_mask`).
        Of continuous latents the denoiser's loss, which is no likelihood.
        """
        teacher = self.scheme.evaluation(content_keys(codes), self.plan)
        out = self(codes, cond, None, teacher.order, teacher.hidden)
        return jnp.sum(teacher.weight * self.head.nll(out, codes), axis=1)

    @nn.nowrap
    def init_params(self, rng: jax.Array) -> dict:
        return self.init(rng, self.example_codes(1), self.conditioner.example(1))["params"]

    @nn.nowrap
    def example_codes(self, batch: int) -> jax.Array:
        """Returns codes [B, P, ...] of the right shape, to initialise with."""
        shape = (batch, self.plan.positions, *self.head.code_shape)
        return jnp.zeros(shape, self.head.code_dtype)

    @nn.nowrap
    def to_codes(self, latents: jax.Array) -> jax.Array:
        return self.head.to_codes(latents, self.plan.grid)

    @nn.nowrap
    def to_latents(self, codes: jax.Array) -> jax.Array:
        return self.head.to_latents(codes, self.plan.grid)

    def condition(self, cond: dict, null: Bool[Array, " B"]) -> Condition:
        """Returns what the conditioner gives, with a context for every layer: the last one's is repeated."""
        found = self.conditioner(cond, null)
        if found.context is None:
            return found
        layers, given = self.transformer.layers, len(found.context)
        if given > layers:
            raise UserError(f"text of {given} layers, but the generator has only {layers}")
        last = jnp.repeat(found.context[-1:], layers - given, axis=0)
        return found._replace(context=jnp.concatenate([found.context, last]))

    def embed_slots(
        self,
        slots: np.ndarray | Int[Array, " W"],
        positions: SlotPositions,
        codes: jax.Array,
        hidden: Bool[Array, "B P"] | None = None,
        vectors: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the vectors [B, W, D] of slots that hold codes or learned vectors.

        codes [B, P, ...] in the order of the plan; hidden: states that are masked; vectors: of the head.
        """
        kind, src = (_of(array, slots) for array in (self.plan.kind, self.plan.src))
        given = Slots(kind, src, positions, codes, hidden, vectors)
        return feed(self.head, self.learned, self.plan.fed, given)

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        """Returns what an exit predicts, [..., D] -> float32 [..., of a position]."""
        return self.head.read(exit, hidden, vectors)

    def decide(self, *args):
        """Returns `Head.decide`."""
        return self.head.decide(*args)

    def sampling_vectors(self, keys: jax.Array, batch: int) -> jax.Array | None:
        return self.head.sampling_vectors(keys, batch)

    def leave(self, x: jax.Array, vector: jax.Array | None) -> jax.Array:
        """Returns what the transformer's exits give of its residual stream."""
        return self.transformer.leave(x, vector)

    @nn.nowrap
    def positions(
        self, slots: np.ndarray | jax.Array, order: Int[Array, "B P"] | None = None
    ) -> SlotPositions:
        """Returns where some slots [W] of the plan stand; with an order, where they stand for each sample."""
        if self.position != "rope":
            return table_positions(self.plan, slots, order)
        head_dim = self.width // self.heads
        return rotary_positions(self.plan, slots, order, head_dim, self.rope_base, self.cond_rope)

    def add_position(self, x: jax.Array, positions: SlotPositions, slots, order=None) -> jax.Array:
        """Returns x [B, W, D] with the slots' learned positions, where their tables are at the input."""
        if self.position in ("learned", "target_aware"):
            x = x + self.position_table[positions.rows].astype(x.dtype)
        if self.position == "target_aware":
            rows = target_rows(self.plan, slots, order)
            targets = jnp.where(rows[..., None] < 0, 0.0, self.target_table[rows])
            x = x + targets.astype(x.dtype)
        return x

    def slot_vector(self, condition: Condition, slots) -> jax.Array | None:
        """Returns the vectors [B, 1 or W, D] for adaLN of some slots; None without modulation."""
        if self.modulation == "none":
            return None
        vector = condition.vector[:, None]
        if self.modulation == "shared":
            return vector
        return vector + self.slot_table[slots].astype(vector.dtype)


def context_rows(condition: Condition) -> int:
    """Returns how many rows of a context come before the slots."""
    return 0 if condition.context is None else condition.context.shape[2]


def _of(array: np.ndarray, slots: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    return array[slots] if isinstance(slots, np.ndarray) else jnp.asarray(array)[slots]


def _weighted(out: jax.Array, weight: np.ndarray) -> jax.Array:
    """What is read for each position [B, N, ...], times its weight [N]."""
    return out * weight.reshape(-1, *(1,) * (out.ndim - 2))
