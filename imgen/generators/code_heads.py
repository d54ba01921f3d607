"""Heads of codes: an index, sub-codes of bits, or bits, each predicted by logits.

Shapes: [...] any leading axes (a code each), D width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.generators.filters import Filters, check_temperature_only, draw_bits
from imgen.generators.head import Head
from imgen.latents import bits
from imgen.nn.logits import Logits, LogitsGeneral
from imgen.nn.mlp import Init, embedding_init, kernel_init
from imgen.parallel.constrain import constrain


class CategoricalHead(Head):
    """One index out of `size`, by a softmax over all of them.

    bias: of the output; output_std: at the start, 0 for a first loss of exactly ln(size) (LlamaGen).
    tied: the output is the table of the codes' vectors, with a bias (MaskGIT).
    label_smoothing: share of the training target that is spread over all codes.
    """

    size: int
    bias: bool = False
    output_std: float = 0.0
    tied: bool = False
    label_smoothing: float = 0.0

    def setup(self):
        init = embedding_init(self.init_std)
        self.tokens = nn.Embed(self.size, self.hidden, dtype=self.dtype, embedding_init=init)
        self.norm = self.make_norms()
        if self.tied:
            self.head = [OutputBias(self.size) for _ in range(self.exits)]
            return
        output = dict(init_std=self.output_std, use_bias=self.bias, dtype=self.dtype)
        self.head = [Categorical(self.size, **output) for _ in range(self.exits)]

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        if not self.tied:
            return super().read(exit, hidden, vectors)
        table = self.tokens.embedding.astype(self.dtype)
        logits = jnp.einsum(
            "...d,vd->...v", self.normed(exit, hidden), table, preferred_element_type=jnp.float32
        )
        return self.head[exit](logits)

    @property
    def code_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.size,)

    @nn.nowrap
    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return categorical_nll(out, codes)

    @nn.nowrap
    def loss(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        nll, share = self.nll(out, codes), self.label_smoothing
        if not share:
            return nll
        of_all = jax.nn.logsumexp(out, axis=-1) - jnp.mean(out, axis=-1)
        return (1 - share) * nll + share * of_all

    @nn.nowrap
    def log_normalizer(self, out: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(out, axis=-1) ** 2

    @nn.nowrap
    def logit(self, out: jax.Array, codes: jax.Array) -> jax.Array:
        return jnp.take_along_axis(out, codes[..., None], axis=-1)[..., 0]


class SubCodeHead(Head):
    """The bits of a position as `parts` sub-codes, predicted side by side (ELM, `llama/ar_model.py`)."""

    bits: int
    parts: int = 2

    def __post_init__(self):
        bits.sub_width(self.bits, self.parts)
        super().__post_init__()

    def setup(self):
        self.tokens = SubCodeEmbedding(
            self.parts, self.size, self.hidden, self.init_std, self.dtype
        )
        self.norm = self.make_norms()
        self.head = [
            SubCodeLogits(self.parts, self.size, dtype=self.dtype) for _ in range(self.exits)
        ]

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
    def out_shape(self) -> tuple[int, ...]:
        return (self.parts, self.size)

    @nn.nowrap
    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return categorical_nll(out, codes).sum(axis=-1)

    @nn.nowrap
    def log_normalizer(self, out: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.logsumexp(out, axis=-1) ** 2, axis=-1)

    @nn.nowrap
    def encode(self, latents: jax.Array) -> jax.Array:
        return bits.sub_codes(latents, self.parts)

    @nn.nowrap
    def decode(self, codes: jax.Array) -> jax.Array:
        return bits.from_sub_codes(codes, self.bits // self.parts)


class BernoulliHead(Head):
    """The bits of a position as independent coins (Instella-T2I, `models/ar_model.py`)."""

    bits: int

    def setup(self):
        self.tokens = BitEmbedding(self.hidden, self.init_std, self.dtype)
        self.norm = self.make_norms()
        self.head = [BitLogits(self.bits, self.init_std, self.dtype) for _ in range(self.exits)]

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.bits,)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.bits,)

    @nn.nowrap
    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return bits.binary_nll(out, codes).sum(axis=-1)

    @nn.nowrap
    def log_normalizer(self, out: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.softplus(out) ** 2, axis=-1)

    @nn.nowrap
    def check(self, filters: Filters) -> None:
        check_temperature_only(filters, "bits")

    def decide(self, out, null, weight, random, filters, solver=None):
        out = self.guided(out, null, weight)
        return out, draw_bits(out, random, filters)


class Categorical(nn.Module):
    """Logits over a vocabulary, in float32. [..., D] -> [..., V].

    LlamaGen starts the output matrix at zero (init_std 0), so that the first loss is exactly ln V.
    """

    size: int
    init_std: float = 0.0
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        logits = Logits(
            self.size,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="output",
            kernel_init=nn.initializers.normal(self.init_std),
        )(hidden)
        return constrain(logits, "batch", *(None,) * (logits.ndim - 2), "vocab")


class OutputBias(nn.Module):
    """Adds a bias, zero at first, to float32 logits [..., V]."""

    size: int

    @nn.compact
    def __call__(self, logits: jax.Array) -> jax.Array:
        logits = logits + self.param("bias", nn.initializers.zeros, (self.size,))
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
