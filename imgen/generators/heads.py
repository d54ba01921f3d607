"""Heads: what the code of one position is, how it is embedded, and the distribution that predicts it.

A head pairs an embedding of codes with an output layer; every plan runs with every head, but a masked plan
needs logits. Heads of continuous latents are in `imgen.generators.denoisers`.
Shapes: [...] any leading axes (a code each), D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.generators.denoisers import DiffusionHead, FlowHead
from imgen.latents import LatentSpec, bits
from imgen.nn.logits import Logits, LogitsGeneral
from imgen.nn.mlp import Init, embedding_init, kernel_init
from imgen.parallel.constrain import constrain


class Head(Protocol):
    """code_shape, code_dtype: of one position's code; latent_shape: of a tokenizer's latents there.

    logits_shape: of what predicts it.   terms: variables predicted a position.
    binary: a logit is that of a bit; otherwise the last axis of logits is a softmax's.
    continuous: what predicts a code are features for a denoiser. Such a head has no likelihood, and in place
        of `nll` and `log_normalizer` it has `denoiser`, `loss` and `sample` (see `DenoisingHead`).
    """

    code_shape: tuple[int, ...]
    code_dtype: Any
    latent_shape: tuple[int, ...]
    logits_shape: tuple[int, ...]
    terms: int
    binary: bool
    continuous: bool

    def embedding(self, width: int, init: Init, dtype: Any) -> nn.Module:
        """Unbound module: codes [..., *code_shape] -> [..., D]."""

    def output(self, init: Init, dtype: Any) -> nn.Module:
        """Unbound module: [..., D] -> float32 logits of each variable."""

    def nll(self, logits: jax.Array, codes: jax.Array) -> jax.Array:
        """Negative log-likelihood of each position's code in nats. [...]"""

    def log_normalizer(self, logits: jax.Array) -> jax.Array:
        """log sum exp of each variable's logits, which a z-loss keeps small."""

    def encode(self, latents: jax.Array) -> jax.Array:
        """A tokenizer's latents [..., *latent] -> codes [..., *code_shape]."""

    def decode(self, codes: jax.Array) -> jax.Array:
        """Codes -> latents."""


@dataclasses.dataclass(frozen=True)
class CategoricalHead:
    """One index out of `size`, by a softmax over all of them."""

    size: int
    code_shape: ClassVar[tuple[int, ...]] = ()
    latent_shape: ClassVar[tuple[int, ...]] = ()
    code_dtype: ClassVar[Any] = jnp.int32
    terms: ClassVar[int] = 1
    binary: ClassVar[bool] = False
    continuous: ClassVar[bool] = False

    @property
    def logits_shape(self) -> tuple[int, ...]:
        return (self.size,)

    def embedding(self, width: int, init: Init, dtype: Any) -> nn.Module:
        return nn.Embed(self.size, width, dtype=dtype, embedding_init=embedding_init(init))

    def output(self, init: Init, dtype: Any) -> nn.Module:
        return Categorical(self.size, dtype=dtype)

    def nll(self, logits: jax.Array, codes: jax.Array) -> jax.Array:
        return categorical_nll(logits, codes)

    def log_normalizer(self, logits: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(logits, axis=-1)

    def encode(self, latents: jax.Array) -> jax.Array:
        return latents

    def decode(self, codes: jax.Array) -> jax.Array:
        return codes


@dataclasses.dataclass(frozen=True)
class SubCodeHead:
    """The bits of a position as `parts` sub-codes, predicted side by side (ELM, `llama/ar_model.py`)."""

    bits: int
    parts: int = 2
    code_dtype: ClassVar[Any] = jnp.int32
    binary: ClassVar[bool] = False
    continuous: ClassVar[bool] = False

    def __post_init__(self):
        bits.sub_width(self.bits, self.parts)

    @property
    def size(self) -> int:
        return 2 ** (self.bits // self.parts)

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.parts,)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (self.bits,)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        return (self.parts, self.size)

    @property
    def terms(self) -> int:
        return self.parts

    def embedding(self, width: int, init: Init, dtype: Any) -> nn.Module:
        return SubCodeEmbedding(self.parts, self.size, width, init, dtype)

    def output(self, init: Init, dtype: Any) -> nn.Module:
        return SubCodeLogits(self.parts, self.size, dtype=dtype)

    def nll(self, logits: jax.Array, codes: jax.Array) -> jax.Array:
        return categorical_nll(logits, codes).sum(axis=-1)

    def log_normalizer(self, logits: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(logits, axis=-1)

    def encode(self, latents: jax.Array) -> jax.Array:
        return bits.sub_codes(latents, self.parts)

    def decode(self, codes: jax.Array) -> jax.Array:
        return bits.from_sub_codes(codes, self.bits // self.parts)


@dataclasses.dataclass(frozen=True)
class BernoulliHead:
    """The bits of a position as independent coins (Instella-T2I, `models/ar_model.py`)."""

    bits: int
    code_dtype: ClassVar[Any] = jnp.int32
    binary: ClassVar[bool] = True
    continuous: ClassVar[bool] = False

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.bits,)

    latent_shape = logits_shape = code_shape

    @property
    def terms(self) -> int:
        return self.bits

    def embedding(self, width: int, init: Init, dtype: Any) -> nn.Module:
        return BitEmbedding(width, init, dtype)

    def output(self, init: Init, dtype: Any) -> nn.Module:
        return BitLogits(self.bits, init, dtype)

    def nll(self, logits: jax.Array, codes: jax.Array) -> jax.Array:
        return bits.binary_nll(logits, codes).sum(axis=-1)

    def log_normalizer(self, logits: jax.Array) -> jax.Array:
        return jax.nn.softplus(logits)

    def encode(self, latents: jax.Array) -> jax.Array:
        return latents

    def decode(self, codes: jax.Array) -> jax.Array:
        return codes


HEADS = {
    "categorical": CategoricalHead,
    "subcodes": SubCodeHead,
    "bernoulli": BernoulliHead,
    "diffusion": DiffusionHead,
    "flow": FlowHead,
}
LATENTS = {
    "categorical": "index",
    "subcodes": "bits",
    "bernoulli": "bits",
    "diffusion": "continuous",
    "flow": "continuous",
}


def make_head(spec: LatentSpec, name: str, width: int, options: Mapping[str, Any]) -> Head:
    """A head for the latents of `spec` on a transformer of a width: key of HEADS, and its options."""
    if name not in HEADS:
        raise UserError(f"generator.head {name!r} is none of {', '.join(HEADS)}")
    if spec.kind != LATENTS[name]:
        fitting = [head for head, kind in LATENTS.items() if kind == spec.kind]
        raise UserError(
            f"a {name} head needs {LATENTS[name]} latents; this tokenizer gives {spec.kind} "
            f"(heads for those: {', '.join(fitting)})"
        )
    given = {
        "index": {"size": spec.size},
        "bits": {"bits": spec.size},
        "continuous": {"channels": spec.size, "hidden": width},
    }
    return construct(HEADS[name], options, "generator.head_options", **given[spec.kind])


class Categorical(nn.Module):
    """Logits over a vocabulary, in float32. [..., D] -> [..., V].

    LlamaGen starts the output matrix at zero (init_std 0), so that the first loss is exactly ln V.
    """

    size: int
    init_std: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        logits = Logits(
            self.size,
            use_bias=False,
            dtype=self.dtype,
            name="output",
            kernel_init=nn.initializers.normal(self.init_std),
        )(hidden)
        return constrain(logits, "batch", *(None,) * (logits.ndim - 2), "vocab")


class SubCodeEmbedding(nn.Module):
    """One table for each sub-code, concatenated and projected. [..., t] -> [..., D].

    A single sub-code has its table and no projection.
    """

    parts: int
    size: int
    width: int
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        shape = (self.parts, self.size, self.width)
        tables = self.param("embedding", embedding_init(self.init_std), shape).astype(self.dtype)
        vectors = tables[jnp.arange(self.parts), codes]  # [..., t, D]
        if self.parts == 1:
            return vectors[..., 0, :]
        init = kernel_init(self.init_std)
        return nn.DenseGeneral(
            self.width,
            axis=(-2, -1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=init,
            name="proj",
        )(vectors)


class SubCodeLogits(nn.Module):
    """Logits over each sub-code's vocabulary, float32, zero at first. [..., D] -> [..., t, 2^c]."""

    parts: int
    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        logits = LogitsGeneral(
            (self.parts, self.size),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="outputs",
        )(hidden)
        return constrain(logits, "batch", *(None,) * (logits.ndim - 2), "vocab")


class BitEmbedding(nn.Module):
    """A linear layer on the bit vector, with bias. [..., bits] -> [..., D]."""

    width: int
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        init = kernel_init(self.init_std)
        layer = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="proj")
        return layer(codes.astype(self.dtype))


class BitLogits(nn.Module):
    """One logit a bit, float32. [..., D] -> [..., bits]."""

    bits: int
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        init = kernel_init(self.init_std)
        return Logits(self.bits, dtype=self.dtype, kernel_init=init, name="output")(hidden)


def categorical_nll(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats of codes [...] under logits [..., V]."""
    picked = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked
