"""Binary codes: their order, packing, sub-codes and losses. Bits are 0 or 1; [..., D] holds one position's.

Bit 0 is the most significant; sub-code i is the bits [i c, (i + 1) c). (ELM `train_ddp.py`; Instella-T2I.)
"""

import jax
import jax.numpy as jnp

from imgen.errors import UserError

MAX_SUB_BITS = 24  # wider vocabularies than 2^24 are no use as tables


def sub_codes(bits: jax.Array, parts: int) -> jax.Array:
    """Packs bits [..., D] into the `parts` contiguous sub-codes of D / parts bits, int32 [..., parts]."""
    width = sub_width(bits.shape[-1], parts)
    chunks = bits.reshape(*bits.shape[:-1], parts, width).astype(jnp.int32)
    return jnp.sum(chunks << jnp.arange(width - 1, -1, -1), axis=-1)


def from_sub_codes(codes: jax.Array, width: int) -> jax.Array:
    """Unpacks sub-codes [..., parts] of `width` bits each into int32 bits [..., parts * width]."""
    bits = (codes[..., None] >> jnp.arange(width - 1, -1, -1)) & 1
    return bits.reshape(*codes.shape[:-1], codes.shape[-1] * width)


def sub_codes_low_first(bits: jax.Array, parts: int) -> jax.Array:
    """Packs as `sub_codes`, with the first bit of each sub-code the least significant (LFQ; with several
    parts Open-MAGVIT2's factorised indices, low bits first)."""
    width = sub_width(bits.shape[-1], parts)
    chunks = bits.reshape(*bits.shape[:-1], parts, width)
    return sub_codes(chunks[..., ::-1], 1)[..., 0]


def from_sub_codes_low_first(codes: jax.Array, width: int) -> jax.Array:
    """Undoes `sub_codes_low_first`: [..., parts] -> int32 bits [..., parts * width]."""
    bits = from_sub_codes(codes[..., None], width)[..., ::-1]
    return bits.reshape(*codes.shape[:-1], codes.shape[-1] * width)


def sub_width(bits: int, parts: int) -> int:
    """Counts the bits of each sub-code. Raises UserError where the bits can't be cut so."""
    if parts < 1 or bits % parts or bits // parts > MAX_SUB_BITS:
        raise UserError(
            f"{bits} bits cannot be cut into {parts} equal sub-codes of at most {MAX_SUB_BITS} bits"
        )
    return bits // parts


def binary_nll(logits: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns -log p of each bit in nats, float32, under p(1) = sigmoid(logit): no sum is taken."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softplus(logits) - logits * bits


def accuracy(logits: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns the share of the bits that the more likely value gets right."""
    return jnp.mean((logits > 0) == (bits > 0.5))


def code_loss(probabilities: jax.Array) -> jax.Array:
    """Returns mean(p (1 - p)): small where a tokenizer's bits are sure."""
    return jnp.mean(probabilities * (1 - probabilities))


def straight_through(bits: jax.Array, probabilities: jax.Array) -> jax.Array:
    """Returns the bits, with the gradient of their probabilities."""
    return jax.lax.stop_gradient(bits) + (probabilities - jax.lax.stop_gradient(probabilities))


def embed(bits: jax.Array, table: jax.Array) -> jax.Array:
    """Sums the table's rows [D, C] where the bit is set: [..., D] -> [..., C]."""
    return bits.astype(table.dtype) @ table


def unflip(flip_logits: jax.Array, noisy: jax.Array) -> jax.Array:
    """Turns logits that each bit of `noisy` is flipped into logits of the clean bits; its own inverse."""
    return jnp.where(noisy > 0.5, -flip_logits, flip_logits)
