"""How a tokenizer uses its latents, whatever their kind.

A tally holds sums over a batch, which add up over batches, devices and microbatches:

    index       counts [K]: how often each code occurs
    bits        ones [D]: how often each bit is set; positions; for up to WHOLE_BITS bits also counts [2^D]
    continuous  sum, square: of all channels; values: how many
"""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.bits import sub_codes
from imgen.latents import LatentSpec
from imgen.tokenizers import codebook

Tally = dict[str, jax.Array]
WHOLE_BITS = 16  # codes of more bits than this are not counted whole


def tally(spec: LatentSpec, latents: jax.Array, weights: jax.Array | None = None) -> Tally:
    """The sums of a batch of latents. weights: [B], 0 on padding."""
    if spec.kind == "index":
        return {"counts": codebook.code_counts(latents, spec.size, weights)}
    rows = latents.reshape(len(latents), -1, spec.size).astype(jnp.float32)  # [B, P, D]
    weights = jnp.ones(len(rows)) if weights is None else weights
    positions = weights.sum() * rows.shape[1]
    if spec.kind == "bits":
        sums = {"ones": jnp.einsum("b,bpd->d", weights, rows), "positions": positions}
        if spec.size <= WHOLE_BITS:
            whole = sub_codes(latents, 1)[..., 0]
            sums["counts"] = codebook.code_counts(whole, 2**spec.size, weights)
        return sums
    return {
        "sum": jnp.einsum("b,bpd->", weights, rows),
        "square": jnp.einsum("b,bpd->", weights, jnp.square(rows)),
        "values": positions * spec.size,
    }


def summarize(sums: Tally) -> dict[str, float]:
    """What the sums of a whole evaluation come to, on the host.

    index, and bits that are counted whole: codebook_usage, the share of the codes that occurred, and
        perplexity, exp of their entropy.
    bits: bit_usage, the share of the bits that took both values, and bit_entropy, the mean over the bits
        of each one's entropy in bits (1: set half of the time).
    continuous: latent_mean and latent_std over all channels.
    """
    found = {}
    if "counts" in sums:
        found["codebook_usage"] = float(np.mean(sums["counts"] > 0))
        found["perplexity"] = float(codebook.perplexity(jnp.asarray(sums["counts"])))
    if "ones" in sums:
        share = sums["ones"] / np.maximum(sums["positions"], 1)
        found["bit_usage"] = float(np.mean((share > 0) & (share < 1)))
        found["bit_entropy"] = float(bit_entropy(jnp.asarray(share)))
    if "sum" in sums:
        mean, deviation = moments(sums)
        found |= {"latent_mean": float(mean), "latent_std": float(deviation)}
    return found


def bit_entropy(share: jax.Array) -> jax.Array:
    """Mean entropy, in bits, of bits that are set with probability `share` [D]."""
    p = jnp.clip(share, 1e-7, 1 - 1e-7)
    return -jnp.mean(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))


def moments(sums: Tally) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of continuous latents."""
    mean = sums["sum"] / sums["values"]
    variance = sums["square"] / sums["values"] - mean**2
    return mean, jnp.sqrt(jnp.maximum(variance, 0.0))


def init_state(spec: LatentSpec, table: jax.Array | None = None) -> codebook.CodebookState:
    """Running means of a training's usage: of a codebook those of `codebook`, with `sums` if it has a
    table [K, D]; else the share of ones [D], or mean and square of the values."""
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
    """Scalars for the training log. window: steps within which a code counts as used."""
    if "usage" in state:
        return {
            "codebook_usage": codebook.usage_in_window(state, step, window),
            "perplexity": codebook.perplexity(state["usage"]),
        }
    if "ones" in state:
        return {"bit_entropy": bit_entropy(state["ones"])}
    deviation = jnp.sqrt(jnp.maximum(state["square"] - jnp.square(state["mean"]), 0.0))
    return {"latent_mean": state["mean"], "latent_std": deviation}
