"""Hidden states of a Llama-like decoder language model, one for each of its layers (Instella-T2I's text).

Source: Touvron et al. 2023; Groeneveld et al. 2024 (OLMo, whose norms have no parameters); transformers,
models/llama and models/olmo; Instella-T2I takes `hidden_states[1:]` of AMD-OLMo-1B, the last of them after
the final norm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.nn.norms import RMSNorm
from imgen.nn.stack import stack


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Sizes, by the names of config.json. norm: "rms", or "plain": mean 0 and variance 1, no parameters."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    norm: Literal["rms", "plain"] = "rms"
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "LMConfig":
        """Reads a config.json of model_type "llama" or "olmo". Raises UserError for what isn't built: other
        activations, biases, scaled rotations, clipped projections."""
        plain = config["model_type"] == "olmo"
        rope = config.get("rope_parameters") or {}
        unlike = {
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "attention_bias": bool(config.get("attention_bias")),
            "mlp_bias": bool(config.get("mlp_bias")),
            "clip_qkv": config.get("clip_qkv") is not None,
            "rope_scaling": bool(config.get("rope_scaling"))
            or rope.get("rope_type", "default") != "default",
            "head_dim": config.get("head_dim") is not None
            and config["head_dim"] * config["num_attention_heads"] != config["hidden_size"],
        }
        if any(unlike.values()):
            name = next(name for name, true in unlike.items() if true)
            raise UserError(
                f"config.json: a language model with {name} {config.get(name)!r} is not built"
            )
        names = [field.name for field in dataclasses.fields(cls)[:5]]
        missing = [name for name in names if name not in config]
        if missing:
            raise UserError(f"config.json is not whole: it lacks {missing[0]}")
        return cls(
            **{name: config[name] for name in names},
            num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            norm="plain" if plain else "rms",
            norm_eps=1e-5 if plain else config.get("rms_norm_eps", 1e-6),
            rope_theta=config.get("rope_theta") or rope.get("rope_theta", 10000.0),
        )


def _norm(c: LMConfig, name: str) -> nn.Module:
    if c.norm == "rms":
        return RMSNorm(c.norm_eps, name=name)
    return nn.LayerNorm(c.norm_eps, use_bias=False, use_scale=False, name=name)


def rotate_halves(x: jax.Array, theta: float) -> jax.Array:
    """Rotates component j of [B, T, H, D] with component j + D / 2, in float32."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class LMBlock(nn.Module):
    """x += attention(norm x), causal; x += down(silu(gate h) * up h) with h = norm x. [B, T, D]"""

    config: LMConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        c, (batch, length, width) = self.config, x.shape
        size = width // c.num_attention_heads

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        h = _norm(c, "norm1")(x)
        counts = {
            "q": c.num_attention_heads,
            "k": c.num_key_value_heads,
            "v": c.num_key_value_heads,
        }
        q, k, v = (
            dense(n * size, name)(h).reshape(batch, length, n, size) for name, n in counts.items()
        )
        q, k = rotate_halves(q, c.rope_theta), rotate_halves(k, c.rope_theta)
        mask = valid[:, None, None, :] & jnp.tril(jnp.ones((length, length), bool))
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape)
        x = x + dense(width, "out")(mixed)
        h = _norm(c, "norm2")(x)
        gated = nn.silu(dense(c.intermediate_size, "gate")(h)) * dense(c.intermediate_size, "up")(h)
        x = x + dense(width, "down")(gated)
        return x, x


class LM(nn.Module):
    """ids [B, T] int, mask [B, T] bool -> features [B, L, T, D], a layer each, the last one after the norm.

    Texts are padded on the right here: no token sees what is behind it, and rotations are relative, so that
    the features are those of padding on the left, to where `tokens.to_left` moves them.
    """

    config: LMConfig
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        c, init = self.config, nn.initializers.normal(0.02)
        x = nn.Embed(
            c.vocab_size, c.hidden_size, dtype=self.dtype, embedding_init=init, name="table"
        )(ids)
        last, outputs = stack(LMBlock, c.num_hidden_layers)(c, self.dtype, name="blocks")(x, mask)
        outputs = outputs.at[-1].set(_norm(c, "norm")(last))
        return jnp.moveaxis(outputs, 0, 1)
