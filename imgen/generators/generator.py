"""Generator = condition slots + code embedding + transformer + heads, arranged by a plan.

Shapes: B batch, P positions, S slots, T condition slots, D width, V vocabulary.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.generators.heads import Categorical
from imgen.generators.plan import Kind, Plan
from imgen.generators.transformer import Transformer
from imgen.nn.constrain import constrain
from imgen.nn.dropout import Dropout
from imgen.nn.mlp import normal_init, swiglu_hidden
from imgen.nn.norms import RMSNorm
from imgen.nn.rope import NullRow, rope_angles, rope_rows


class Generator(nn.Module):
    """An autoregressive model of index latents; the plan decides the order.

    plan: slots, mask, reads and calls.           vocab: number of codes V.
    conditioner: module of `imgen.conditioning`, of the same width.
    depth: blocks below the first exit; head h exits after depth + h blocks (NAR's nested heads).
    hidden: SwiGLU width, by default Llama's rule.
    position: "rope", or "learned": a table with a row for every condition slot and position, added to the
        slots after the token dropout, and no rotation (NAR's video model).
    cond_rope: rotary row of slots without a position; "zero" as published (`nn.rope.rope_rows`).
    dropout: on the embedded slots, after attention and after the feed-forward (LlamaGen: 0.1).
    drop_path: greatest stochastic depth rate; if not 0 it replaces the two inner dropouts, as published.
    """

    plan: Plan
    vocab: int
    conditioner: nn.Module
    width: int
    depth: int
    heads: int
    kv_heads: int | None = None
    hidden: int | None = None
    dropout: float = 0.1
    drop_path: float = 0.0
    position: Literal["rope", "learned"] = "rope"
    rope_base: float = 10000.0
    cond_rope: NullRow = "zero"
    norm_eps: float = 1e-5
    init_std: float = 0.02
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.width % self.heads:
            raise UserError(f"generator width {self.width} is not divisible by {self.heads} heads")
        if self.conditioner.num_slots != self.plan.num_cond:
            raise UserError(
                f"the plan has {self.plan.num_cond} condition slots, "
                f"the conditioner {self.conditioner.num_slots}"
            )
        self.tokens = nn.Embed(
            self.vocab, self.width, dtype=self.dtype, embedding_init=normal_init(self.init_std)
        )
        if self.plan.num_special:
            self.special = self.param(
                "special", normal_init(self.init_std), (self.plan.num_special, self.width)
            )
        if self.position == "learned":
            rows = self.plan.num_cond + self.plan.positions
            self.position_table = self.param(
                "position_table", normal_init(self.init_std), (rows, self.width)
            )
        self.token_dropout = Dropout(self.dropout)
        self.transformer = self.backbone()
        self.norm = [RMSNorm(self.norm_eps) for _ in range(self.plan.heads)]
        self.head = [Categorical(self.vocab, dtype=self.dtype) for _ in range(self.plan.heads)]

    def __call__(self, codes: jax.Array, cond: dict, null: jax.Array | None = None) -> jax.Array:
        """Teacher-forced logits. codes [B, P] int, null [B] bool -> float32 [B, P, V] of each position."""
        plan = self.plan
        if null is None:
            null = jnp.zeros(codes.shape[0], bool)
        features, valid = self.embed_condition(cond, null)
        slots = self.embed_slots(plan.kind[plan.num_cond :], plan.src[plan.num_cond :], codes)
        x = self.token_dropout(jnp.concatenate([features, slots], axis=1))
        x = self.add_position(x, np.arange(plan.slots))
        if valid is not None:
            valid = jnp.pad(valid, ((0, 0), (0, slots.shape[1])), constant_values=True)
        cos, sin = self.rotary()
        hidden = self.transformer(constrain(x, "batch", None, None), cos, sin, plan.visible, valid)
        return sum(
            self.read(h, take(hidden[h], plan.read_slot[:, h])) * plan.read_weight[:, h, None]
            for h in range(plan.heads)
        )

    def embed_condition(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Condition slots [B, T, D] and which are real [B, T] (None: all)."""
        return self.conditioner(cond, null)

    def embed_slots(self, kind: jax.Array, src: jax.Array, codes: jax.Array) -> jax.Array:
        """Embeddings [B, S', D] of slots that hold codes or learned vectors. kind, src: [S']."""
        is_special = kind == Kind.SPECIAL
        x = self.tokens(codes[:, src * ~is_special])
        if self.plan.num_special:
            learned = self.special[src * is_special].astype(x.dtype)
            x = jnp.where(is_special[:, None], learned, x)
        return x

    def read(self, head: int, hidden: jax.Array) -> jax.Array:
        """Exit `head`: its norm and output matrix. [..., D] -> float32 logits [..., V]."""
        return self.head[head](self.norm[head](hidden))

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
            parent=None,
        )

    def rotary(self) -> tuple[np.ndarray, np.ndarray]:
        """cos, sin [S, H / 2] of every slot."""
        head_dim = self.width // self.heads
        if self.position == "learned":
            return rope_rows(np.zeros((1, head_dim // 2)), np.full(self.plan.slots, -1), "identity")
        angles = rope_angles(self.plan.grid, head_dim, self.rope_base)
        return rope_rows(angles, self.plan.rope, self.cond_rope)

    def add_position(self, x: jax.Array, slots: np.ndarray | jax.Array) -> jax.Array:
        """Adds the learned positions of some slots: x [B, len(slots), D]. Nothing to add under rope."""
        if self.position == "rope":
            return x
        plan = self.plan
        rows = np.where(plan.kind == Kind.COND, plan.src, plan.num_cond + plan.rope)
        return x + self.position_table[jnp.asarray(rows)[slots]].astype(x.dtype)


def take(hidden: jax.Array, slots: np.ndarray) -> jax.Array:
    """hidden[:, slots] for static slots; a plain slice where they are consecutive."""
    if (np.diff(slots) == 1).all():
        return hidden[:, slots[0] : slots[0] + len(slots)]
    return hidden[:, slots]
