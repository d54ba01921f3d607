"""How a tokenizer uses its latents, whatever their kind.

A tally holds sums over a batch, which add up over batches, devices and microbatches:

    index       counts [K]: how often each code occurs
    bits        ones [D]: how often each bit is set; positions; counts [S, 2^(D/S)] of its S sub-codes (S is 1
                for up to MOST_BITS bits)
    continuous  sum, square: of all channels; values: how many
"""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.latents import LatentSpec
from imgen.latents.bits import sub_codes
from imgen.tokenizers import codebook

Tally = dict[str, jax.Array]
MOST_BITS = 16  # of what is counted; codes of more bits are counted in parts
ALIVE = 0.1  # bits: a bit of less entropy hardly tells anything


def tally(spec: LatentSpec, latents: jax.Array, weights: jax.Array | None = None) -> Tally:
    """Sums up a batch of latents. weights: [B], 0 on padding."""
    if spec.kind == "index":
        return {"counts": codebook.code_counts(latents, spec.size, weights)}
    rows = latents.reshape(len(latents), -1, spec.size).astype(jnp.float32)  # [B, P, D]
    weights = jnp.ones(len(rows)) if weights is None else weights
    positions = weights.sum() * rows.shape[1]
    if spec.kind == "bits":
        sums = {"ones": jnp.einsum("b,bpd->d", weights, rows), "positions": positions}
        cuts = (n for n in range(1, spec.size + 1) if spec.size % n == 0)
        parts = next(n for n in cuts if spec.size // n <= MOST_BITS)
        size = 2 ** (spec.size // parts)
        codes = sub_codes(latents, parts) + size * jnp.arange(parts)
        counts = codebook.code_counts(codes, parts * size, weights)
        return sums | {"counts": counts.reshape(parts, size)}
    return {
        "sum": jnp.einsum("b,bpd->", weights, rows),
        "square": jnp.einsum("b,bpd->", weights, jnp.square(rows)),
        "values": positions * spec.size,
    }


def summarize(sums: Tally) -> dict[str, float]:
    """Returns what the sums of a whole evaluation come to, on the host.

    index, bits: codebook_usage, the share of the codes that occurred, and perplexity, exp of their entropy.
        Of bits that are counted in parts both are of a sub-code of sub_code_bits bits, on average (of the
        entropies).
    bits: bit_usage, the share of the bits with an entropy of at least ALIVE, and bit_entropy, the mean over
        the bits of each one's entropy in bits (1: set half of the time).
    continuous: latent_mean and latent_std over all channels.
    """
    found = {}
    if "counts" in sums:
        counts = np.atleast_2d(sums["counts"])  # [S, K]
        found["codebook_usage"] = float(np.mean(counts > 0))
        each = [codebook.perplexity(jnp.asarray(part)) for part in counts]
        found["perplexity"] = float(np.exp(np.mean(np.log(each))))
        if len(counts) > 1:
            found["sub_code_bits"] = float(np.log2(counts.shape[1]))
    if "ones" in sums:
        entropy = bit_entropies(jnp.asarray(sums["ones"] / np.maximum(sums["positions"], 1)))
        found["bit_usage"] = float(np.mean(entropy >= ALIVE))
        found["bit_entropy"] = float(np.mean(entropy))
    if "sum" in sums:
        mean, deviation = moments(sums)
        found |= {"latent_mean": float(mean), "latent_std": float(deviation)}
    return found


def bit_entropies(share: jax.Array) -> jax.Array:
    """Returns the entropy, in bits, of each of the bits that are set with probability `share` [D]."""
    p = jnp.clip(share, 1e-7, 1 - 1e-7)
    return -(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))


def moments(sums: Tally) -> tuple[jax.Array, jax.Array]:
    """Returns mean and standard deviation of continuous latents."""
    mean = sums["sum"] / sums["values"]
    variance = sums["square"] / sums["values"] - mean**2
    return mean, jnp.sqrt(jnp.maximum(variance, 0.0))


def init_state(spec: LatentSpec, table: jax.Array | None = None) -> codebook.CodebookState:
    """Starts the running means of a training's usage: of a codebook those of `codebook`, with `sums` if it
    has a table [K, D]; else the share of ones [D], or mean and square of the values."""
    if spec.kind == "index":
        return codebook.init_state(spec.size, table)
    if spec.kind == "bits":
        return {"ones": jnp.full(spec.size, 0.5)}
    return {"mean": jnp.zeros(()), "square": jnp.ones(())}


def update_state(
    state: codebook.CodebookState,
    sums: Tally,
    step: jax.Array,
    decay: float,
    features: jax.Array | None = None,
) -> codebook.CodebookState:
    """Takes in the tally of one global batch, of step 1, 2, ...

    features: [K, D] sums of the features of each code, where the state keeps them. The means of bits and
    values are young at first: the decay is at most step / (9 + step), 0.1 at the first step.
    """
    if "usage" in state:
        return codebook.update_state(state, sums["counts"], features, step, decay)
    if "ones" in sums:
        fresh = {"ones": sums["ones"] / sums["positions"]}
    else:
        fresh = {"mean": sums["sum"] / sums["values"], "square": sums["square"] / sums["values"]}
    decay = jnp.minimum(decay, step / (9.0 + step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state, fresh)


def report(state: codebook.CodebookState, step: jax.Array, window: int) -> dict[str, jax.Array]:
    """Returns scalars for the training log. window: steps within which a code counts as used."""
    if "usage" in state:
        return {
            "codebook_usage": codebook.usage_in_window(state, step, window),
            "perplexity": codebook.perplexity(state["usage"]),
        }
    if "ones" in state:
        return {"bit_entropy": jnp.mean(bit_entropies(state["ones"]))}
    deviation = jnp.sqrt(jnp.maximum(state["square"] - jnp.square(state["mean"]), 0.0))
    return {"latent_mean": state["mean"], "latent_std": deviation}
