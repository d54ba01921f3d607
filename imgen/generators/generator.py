"""Generator = condition slots + code embedding + transformer + heads, arranged by a plan.

Shapes: B batch, P positions, S slots, T condition slots, C context rows, D width. A position's code has
the shape `unit_shape` (`...`): () for an index, the head's `code_shape`, behind m codes for a window.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.generators import lexinvariant, windows
from imgen.generators.arrays import Purpose, content_keys, fold, join_valid, permute, take
from imgen.generators.heads import Head
from imgen.generators.masking import likelihood_mask, training_mask
from imgen.generators.plan import Kind, Plan
from imgen.generators.positions import Position, check_position, rotary_places, table_places
from imgen.generators.transformer import Transformer
from imgen.nn.attention import Places
from imgen.nn.dropout import Dropout
from imgen.nn.mlp import Init, embedding_init, swiglu_hidden
from imgen.nn.norms import RMSNorm
from imgen.nn.rope import NullRow, rotate
from imgen.parallel.constrain import constrain


class Generator(nn.Module):
    """An autoregressive model of latents; the plan decides the order. Of continuous latents the "logits" are
    what the head's denoiser is told (`generators.denoisers`).

    plan: slots, mask, reads and calls.           coding: what a position's code is and what predicts it.
    decoding_plan: replaces the plan in decoding (RandAR's parallel steps).
    conditioner: module of `imgen.conditioning`, of the same width.
    depth: blocks below the first exit; head h exits after depth + h blocks (NAR's nested heads).
    hidden: feed-forward width, by default Llama's rule.   ffn, qk_norm: see `transformer.Block`.
    window: window x window codes are fused in a slot (Token-Shuffle); the plan is then over windows.
    shuffle_blocks: residual MLPs on either side of the windows.
    lexinvariant: share of the codes whose vectors are drawn anew for each sequence, 1 for all; the output
        is then tied to the vectors. None: learned vectors, an output of its own.
    position: "rope"; "learned": a table with a row for every condition slot and position, added to the
        slots after the token dropout, and no rotation (NAR's video model); "block": such a table in every
        block (Instella).
    cond_rope: rotary row of slots without a position; "zero" as published (`nn.rope.rope_rows`).
    dropout: on the embedded slots, after attention and after the feed-forward (LlamaGen: 0.1).
    drop_path: greatest stochastic depth rate; if not 0 it replaces the two inner dropouts, as published.
    """

    plan: Plan
    coding: Head
    conditioner: nn.Module
    width: int
    depth: int
    heads: int
    kv_heads: int | None = None
    hidden: int | None = None
    decoding_plan: Plan | None = None
    window: int = 1
    shuffle_blocks: int = 2
    lexinvariant: float | None = None
    dropout: float = 0.1
    drop_path: float = 0.0
    position: Position = "rope"
    rope_base: float = 10000.0
    cond_rope: NullRow = "zero"
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: bool = False
    norm_eps: float = 1e-5
    init_std: Init = 0.02
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    @property
    def has_likelihood(self) -> bool:
        """Whether losses are nats: not those of a denoiser."""
        return not self.coding.continuous

    @property
    def trains_on_likelihood(self) -> bool:
        """Whether the training loss is a likelihood: a masked plan's is of masked codes only."""
        return self.has_likelihood and not self.plan.masked

    def setup(self):
        if self.width % self.heads:
            raise UserError(f"generator width {self.width} is not divisible by {self.heads} heads")
        check_position(self.position, self.cond_rope)
        if self.conditioner.num_slots != self.plan.num_cond:
            raise UserError(
                f"the plan has {self.plan.num_cond} condition slots, "
                f"the conditioner {self.conditioner.num_slots}"
            )
        vector = embedding_init(self.init_std)
        if self.lexinvariant != 1:
            self.tokens = self.coding.embedding(self.width, self.init_std, self.dtype)
        if self.plan.num_special:
            self.special = self.param("special", vector, (self.plan.num_special, self.width))
        if self.plan.masked:
            self.mask = self.param("mask", vector, (self.width,))
        if self.plan.queries:
            self.query = self.param("query", vector, (1, self.width))
        if self.position == "learned":
            self.position_table = self.param(
                "position_table", vector, (self.position_rows, self.width)
            )
        self.token_dropout = Dropout(self.dropout)
        self.transformer = self.backbone()
        exits = range(self.plan.heads)
        self.norm = [RMSNorm(self.norm_eps) for _ in exits]
        if self.lexinvariant is None:
            self.head = [self.coding.output(self.init_std, self.dtype) for _ in exits]
        if self.coding.continuous:
            self.denoiser = self.coding.denoiser(self.dtype)
        if self.window > 1:
            shuffle = dict(blocks=self.shuffle_blocks, dtype=self.dtype)
            self.fuse = windows.Fuse(**shuffle)
            self.split = [windows.Split(self.window, **shuffle) for _ in exits]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """Shape of one position's code."""
        m = (self.window**2,) if self.window > 1 else ()
        return (*m, *self.coding.code_shape)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of one position's logits."""
        m = (self.window**2,) if self.window > 1 else ()
        return (*m, *self.coding.logits_shape)

    @property
    def terms(self) -> int:
        """Variables predicted a position: published losses are means over them."""
        return self.window**2 * self.coding.terms

    @property
    def position_rows(self) -> int:
        return self.plan.num_cond + self.plan.positions

    def __call__(
        self,
        codes: jax.Array,
        cond: dict,
        null: jax.Array | None = None,
        order: jax.Array | None = None,
        keys: jax.Array | None = None,
        masked: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher-forced logits. codes [B, P, ...], null [B] bool -> float32 [B, P, ..., V].

        order [B, P]: the positions in the order of each sample, for plans by sample; drawn from `keys` if
        not given, and the grid's own without keys.
        keys [B]: a random key for each sequence, for lexinvariant embeddings too.
        masked [B, P] bool: the positions whose codes a masked plan doesn't show; by default all of them.
        """
        plan, batch = self.plan, codes.shape[0]
        if plan.decodes_only:
            raise UserError(f"plan {plan.name} only decodes: train with the plan it is made for")
        if null is None:
            null = jnp.zeros(batch, bool)
        if plan.by_sample:
            order = self.orders(keys, batch) if order is None else order
            codes = permute(codes, order)
        elif order is not None:
            raise UserError(f"plan {plan.name} has one order for all samples")
        if masked is not None and not plan.masked:
            raise UserError(f"plan {plan.name} shows its codes in order: it masks none")
        table = self.code_table(keys, batch)
        features, valid = self.embed_condition(cond, null)
        context, context_valid = self.embed_context(cond, null)
        fed = np.arange(plan.num_cond, plan.slots)
        if plan.masked and masked is None:
            masked = jnp.ones(codes.shape[:2], bool)
        places = self.places(fed, order)
        x = self.embed_slots(plan.kind[fed], plan.src[fed], places, codes, table, masked)
        if plan.queries:  # RandAR drops out codes only
            is_token = (plan.kind[fed] == Kind.TOKEN)[:, None]
            x = jnp.concatenate([features, jnp.where(is_token, self.token_dropout(x), x)], axis=1)
        else:
            x = self.token_dropout(jnp.concatenate([features, x], axis=1))
        places = self.places(np.arange(plan.slots), order)
        x = constrain(self.add_position(x, places), "batch", None, None)
        visible = plan.visible + self.conditioner.context_slots
        key_valid = join_valid(context_valid, valid, batch, self.conditioner, plan.slots)
        exits = self.transformer(x, places, visible, key_valid, context)
        logits = sum(
            self.read(h, take(exits[h], plan.read_slot[:, h]), table)
            * plan.read_weight[:, h].reshape(-1, *(1,) * len(self.logits_shape))
            for h in range(plan.heads)
        )
        logits = permute(logits, jnp.argsort(order, axis=1)) if plan.by_sample else logits
        if self.coding.continuous and self.is_initializing():
            self.denoiser(codes, jnp.zeros(()), logits)
        return logits

    def training_nll(
        self, codes: jax.Array, cond: dict, null: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Each position's nll in nats, its weight in the mean that is minimised, both [B, P], and the mean
        square of the log-normalisers. Orders, code vectors and masks are drawn from `key`.

        Of continuous latents the denoiser's loss, a sum over channels, for times and noise from `key`."""
        keys = jax.random.split(key, len(codes)) if self.needs_keys else None
        masked = training_mask(fold(keys, Purpose.MASK), self.plan) if self.plan.masked else None
        logits = self(codes, cond, null, keys=keys, masked=masked)
        if self.coding.continuous:
            loss = self.denoising_loss(logits, codes, keys)
            return loss, jnp.ones(loss.shape), 0.0
        nll = self.nll(logits, codes)
        weight = jnp.ones(nll.shape) if masked is None else masked.astype(jnp.float32)
        return nll, weight, jnp.mean(self.coding.log_normalizer(logits) ** 2)

    def evaluation_nll(self, codes: jax.Array, cond: dict) -> jax.Array:
        """-log p(codes | cond) in nats, [B]; the same for the same codes, whatever the order.

        Of plans by sample, in a random order; of masked plans, an estimate of a bound (`likelihood_mask`).
        Of continuous latents the denoiser's loss, which is no likelihood.
        """
        order, masked, weight = None, None, 1.0
        if self.plan.by_sample:
            order = self.orders(content_keys(codes), len(codes))
        if self.plan.masked:
            keys = fold(content_keys(codes), Purpose.MASK)
            masked, weight = likelihood_mask(keys, self.plan.positions)
        logits = self(codes, cond, order=order, masked=masked)
        if self.coding.continuous:
            keys = jnp.broadcast_to(jax.random.key(0), len(codes))  # the same for every image
            return self.denoising_loss(logits, codes, keys).sum(axis=1)
        nll = self.nll(logits, codes)
        return weight * jnp.sum(nll if masked is None else nll * masked, axis=1)

    @property
    def variables(self) -> int:
        """Predicted variables of an image: codes, sub-codes, bits or channels; losses are means over them."""
        return self.plan.positions * self.terms

    @property
    def needs_keys(self) -> bool:
        """Whether training draws something for each sequence: an order, code vectors, a mask, noise."""
        drawn = self.plan.by_sample or self.plan.masked or self.lexinvariant is not None
        return drawn or self.coding.continuous

    @nn.nowrap
    def nll(self, logits: jax.Array, codes: jax.Array) -> jax.Array:
        """Negative log-likelihood of each position's code in nats, [B, P]."""
        nll = self.coding.nll(logits, codes)
        return nll.sum(axis=2) if self.window > 1 else nll

    def denoising_loss(self, features: jax.Array, codes: jax.Array, keys: jax.Array) -> jax.Array:
        """The denoiser's loss of each position, [B, P], with what `keys` [B] draw for each sample."""
        loss = self.coding.loss(self.denoiser, features, codes, fold(keys, Purpose.NOISE))
        return loss.sum(axis=2) if self.window > 1 else loss

    @nn.nowrap
    def init_params(self, rng: jax.Array) -> dict:
        """Fresh parameters."""
        return self.init(rng, self.example_codes(1), self.conditioner.example(1))["params"]

    @nn.nowrap
    def example_codes(self, batch: int) -> jax.Array:
        """Codes of the right shape, to initialise with."""
        shape = (batch, self.plan.positions, *self.unit_shape)
        return jnp.zeros(shape, self.coding.code_dtype)

    @nn.nowrap
    def to_codes(self, latents: jax.Array) -> jax.Array:
        """A tokenizer's latents [B, *grid, ...], whatever their grid's shape -> codes [B, P, ...]."""
        grid = tuple(self.window * n for n in self.plan.grid)
        latents = latents.reshape(len(latents), *grid, *self.coding.latent_shape)
        codes = self.coding.encode(latents)
        if self.window > 1:
            return windows.to_windows(codes, self.window)
        return codes.reshape(len(codes), self.plan.positions, *self.unit_shape)

    @nn.nowrap
    def to_latents(self, codes: jax.Array) -> jax.Array:
        """Codes [B, P, ...] -> latents [B, *grid, ...]."""
        if self.window > 1:
            codes = windows.from_windows(codes, self.plan.grid, self.window)
        grid = tuple(self.window * n for n in self.plan.grid)
        codes = codes.reshape(len(codes), *grid, *self.coding.code_shape)
        return self.coding.decode(codes)

    @nn.nowrap
    def orders(self, keys: jax.Array | None, batch: int) -> jax.Array:
        """An order of the positions for each sample, [B, P]; the grid's own without keys."""
        positions = self.plan.positions
        if keys is None:
            return jnp.tile(jnp.arange(positions), (batch, 1))
        keys = fold(keys, Purpose.ORDER)
        return jax.vmap(lambda key: jax.random.permutation(key, positions))(keys)

    def code_table(self, keys: jax.Array | None, batch: int) -> jax.Array | None:
        """Lexinvariant vectors [B, V, D]; None without that option.

        Without keys, mixed tables hold the learned vectors and random ones are the same at every call.
        """
        if self.lexinvariant is None:
            return None
        learned = None if self.lexinvariant == 1 else self.tokens.embedding
        if keys is None and learned is not None:
            return jnp.broadcast_to(learned, (batch, *learned.shape))
        keys = jax.random.split(jax.random.key(0), batch) if keys is None else keys
        keys, shape = fold(keys, Purpose.VECTORS), (self.coding.size, self.width)
        return lexinvariant.draw_tables(keys, learned, *shape, self.lexinvariant)

    def embed_condition(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Condition slots [B, T, D] and which are real [B, T] (None: all)."""
        return self.conditioner(cond, null)

    @nn.nowrap
    def embed_context(self, cond: dict, null: jax.Array) -> tuple:
        """What every layer is told [L, B, C, R] and which of it is real [B, C]; None, None for nothing."""
        if not self.conditioner.context_slots:
            return None, None
        context, valid = self.conditioner.context(cond, null)
        layers = self.depth + self.plan.heads - 1
        if len(context) > layers:
            raise UserError(f"text of {len(context)} layers, but the generator has only {layers}")
        last = jnp.repeat(context[-1:], layers - len(context), axis=0)
        return jnp.concatenate([context, last]), valid

    def embed_slots(
        self,
        kind: jax.Array,
        src: jax.Array,
        places: Places,
        codes: jax.Array,
        table: jax.Array | None = None,
        masked: jax.Array | None = None,
    ) -> jax.Array:
        """Embeddings [B, W, D] of slots that hold codes or learned vectors. kind, src: [W].

        codes [B, P, ...] in the order of the plan; table: of `code_table`; masked [B, P]: see `__call__`.
        """
        is_token = (kind == Kind.TOKEN) | (kind == Kind.STATE)
        x = codes[:, src * is_token]
        x = self.tokens(x) if table is None else lexinvariant.embed(table, x).astype(self.dtype)
        if self.window > 1:
            x = self.fuse(x)
        if self.plan.num_special:
            is_special = kind == Kind.SPECIAL
            learned = self.special[src * is_special].astype(x.dtype)
            x = jnp.where(is_special[:, None], learned, x)
        if self.plan.masked:
            unknown = (kind == Kind.STATE) & masked[:, src * is_token]  # [B, W]
            x = jnp.where(unknown[..., None], self.mask.astype(x.dtype), x)
        if self.plan.queries:
            query = jnp.tile(self.query, (1, len(src), 1)).astype(x.dtype)  # [1, W, D]
            if places.cos is not None:
                split = query.reshape(1, len(src), self.heads, -1)
                query = rotate(split, places.cos, places.sin).reshape(-1, *query.shape[1:])
            x = jnp.where((kind == Kind.QUERY)[:, None], query, x)
        return x

    def read(self, head: int, hidden: jax.Array, table: jax.Array | None = None) -> jax.Array:
        """Exit `head`: its norm and output matrix. [..., D] -> float32 logits of a position each."""
        if self.window > 1:
            hidden = self.split[head](hidden)
        hidden = self.norm[head](hidden)
        if table is None:
            return self.head[head](hidden)
        return lexinvariant.logits(table, hidden, self.width**-0.5)

    def backbone(self) -> Transformer:
        """The transformer with its arguments (unbound)."""
        inner_dropout = 0.0 if self.drop_path else self.dropout
        return Transformer(
            exits=tuple(self.depth + h for h in range(self.plan.heads)),
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden or swiglu_hidden(self.width),
            residual_dropout=inner_dropout,
            ffn_dropout=inner_dropout,
            drop_path=self.drop_path,
            norm_eps=self.norm_eps,
            init_std=self.init_std,
            remat=self.remat,
            dtype=self.dtype,
            ffn=self.ffn,
            qk_norm=self.qk_norm,
            position_rows=self.position_rows if self.position == "block" else 0,
            parent=None,
        )

    @nn.nowrap
    def places(self, slots: np.ndarray | jax.Array, order: jax.Array | None = None) -> Places:
        """Where some slots [W] of the plan stand; with an order [B, P], where they stand for each sample."""
        if self.position != "rope":
            return table_places(self.plan, slots, order)
        head_dim = self.width // self.heads
        return rotary_places(self.plan, slots, order, head_dim, self.rope_base, self.cond_rope)

    def add_position(self, x: jax.Array, places: Places) -> jax.Array:
        """Adds the slots' learned positions to x [B, W, D] where the table is at the input."""
        if self.position != "learned":
            return x
        return x + self.position_table[places.rows].astype(x.dtype)
