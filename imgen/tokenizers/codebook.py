"""Care of a codebook during training: k-means, restart of dead codes, online clustering, usage.

Pure functions of explicit state. All statistics are over the global batch: under `jax.jit` on a
sharded batch every device sees the same sums, keys and candidates, so that replicas agree.
"""

import jax
import jax.numpy as jnp

from imgen.tokenizers.quantizers.chunks import rows_per_device
from imgen.tokenizers.quantizers.nearest import HIGHEST, nearest_codes

CodebookState = dict[str, jax.Array]


def code_counts(codes: jax.Array, size: int, weights: jax.Array | None = None) -> jax.Array:
    """Counts how often each code occurs: int [B, ...] -> float32 [size]. weights: [B], 0 on padding."""
    if weights is None:
        weights = jnp.ones(codes.shape[:1], jnp.float32)
    weights = jnp.broadcast_to(
        weights.reshape((-1,) + (1,) * (codes.ndim - 1)), codes.shape
    ).reshape(-1)
    return jnp.zeros(size, jnp.float32).at[codes.reshape(-1)].add(weights)


def feature_sums(features: jax.Array, codes: jax.Array, size: int) -> jax.Array:
    """Sums the features [N, D] of each code: codes [N] -> [size, D]."""
    return jnp.zeros((size, features.shape[-1]), jnp.float32).at[codes].add(features)


def perplexity(counts: jax.Array) -> jax.Array:
    """Returns exp(entropy of the code distribution): 1 if one code is used, K if all are used equally."""
    p = counts / jnp.maximum(counts.sum(), 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0.0)))


def init_state(size: int, table: jax.Array | None = None) -> CodebookState:
    """Makes the state that goes with K codes:

    usage [K]: running mean of a code's share of the batch, times K: 1 where all are used equally.
    last_seen int32 [K]: the step that used the code last.
    sums [K, D], with a table [K, D] of codes: running mean of the features assigned to a code, in the
        unit of usage.
    """
    state = {
        "usage": jnp.ones(size, jnp.float32),
        "last_seen": jnp.full(size, -1, jnp.int32),
    }
    return state if table is None else {**state, "sums": table.astype(jnp.float32)}


def update_state(
    state: CodebookState,
    counts: jax.Array,
    sums: jax.Array | None,
    step: jax.Array,
    decay: float,
) -> CodebookState:
    """Takes in one global batch: counts [K] of the codes and, where the state keeps them, sums [K, D] of
    their features."""
    scale = (1.0 - decay) * counts.size / jnp.maximum(counts.sum(), 1.0)
    new = {
        "usage": decay * state["usage"] + scale * counts,
        "last_seen": jnp.where(counts > 0, step, state["last_seen"]),
    }
    if "sums" in state:
        new["sums"] = decay * state["sums"] + scale * sums
    return new


def ema_table(state: CodebookState, epsilon: float = 1e-5) -> jax.Array:
    """Returns the codebook [K, D] of EMA-VQ: each code is the running mean of the features assigned to it
    (VQ-VAE-2, appendix A.1), with the counts smoothed so that no code is divided by 0."""
    size = state["usage"].size
    total = state["usage"].sum()
    smoothed = (state["usage"] + epsilon) / (total + size * epsilon) * total
    return state["sums"] / smoothed[:, None]


def usage_in_window(state: CodebookState, step: jax.Array, window: int) -> jax.Array:
    """Returns the share of the codes that occurred in the last `window` steps (up to and with `step`)."""
    seen = (state["last_seen"] >= 0) & (step - state["last_seen"] < window)
    return jnp.mean(seen.astype(jnp.float32))


def kmeans(features: jax.Array, size: int, key: jax.Array, iterations: int = 10) -> jax.Array:
    """Makes a codebook [size, D] from features [N, D]: random rows, then Lloyd's iterations.

    With fewer rows than codes, rows repeat, and the copies are told apart by a little noise.
    A cluster that empties keeps its centre.
    """
    rows_key, noise_key = jax.random.split(key)
    n = features.shape[0]
    rows = jax.random.choice(rows_key, n, (size,), replace=n < size)
    centres = jnp.take(features, rows, axis=0)
    if n < size:
        spread = 1e-2 * jnp.std(features, axis=0)
        centres = centres + spread * jax.random.normal(noise_key, centres.shape)

    def lloyd(_: int, centres: jax.Array) -> jax.Array:
        nearest = nearest_codes(features, centres)
        counts = code_counts(nearest, size)[:, None]
        sums = feature_sums(features, nearest, size)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), centres)

    return jax.lax.fori_loop(0, iterations, lloyd, centres)


def restart_dead_codes(
    state: CodebookState, features: jax.Array, key: jax.Array, threshold: float
) -> tuple[CodebookState, jax.Array, jax.Array]:
    """Finds the codes whose usage is under `threshold` and draws each a random row of features.

    features [N, D]: of the global batch. Returns the state (a restarted code counts as of even
    usage, which gives it time to be found), dead [K] bool and rows [K, D]: the codebook, and any
    average of it, becomes `where(dead[:, None], rows, codebook)`.
    """
    dead = state["usage"] < threshold
    chosen = jax.random.randint(key, dead.shape, 0, features.shape[0])
    rows = jnp.take(features, chosen, axis=0)
    state = {
        **state,
        "usage": jnp.where(dead, 1.0, state["usage"]),
    }
    if "sums" in state:
        state["sums"] = jnp.where(dead[:, None], rows, state["sums"])
    return state, dead, rows


def cluster_online(
    share: jax.Array,
    table: jax.Array,
    features: jax.Array,
    codes: jax.Array,
    decay: float = 0.99,
) -> tuple[jax.Array, jax.Array]:
    """CVQ's step after the codebook `table` [K, D] has quantised features [N, D] to codes [N].

    Each code moves towards the nearest feature of the batch, the further the less it is used: a code
    that is never used jumps there, one of even usage stays. share [K]: running mean of the share of the
    batch that a code gets, zeros at first. Returns the new share and table.

    Source: "Online Clustered Codebook", section 3.2; 1d-tokenizer, modeling/quantizer/quantizer.py.
    """
    size, features = len(table), features.astype(jnp.float32)
    share = decay * share + (1.0 - decay) * code_counts(codes, size) / codes.size
    move = jnp.exp(-10.0 * size * share / (1.0 - decay) - 1e-3)[:, None]
    rows = jnp.take(features, nearest_features(features, table), axis=0)
    return share, (1.0 - move) * table + move * rows


def nearest_features(features: jax.Array, table: jax.Array, max_bytes: int = 2**27) -> jax.Array:
    """Finds the feature nearest to each code, the first of equals: [N, D], [K, D] -> int32 [K].

    The codes are taken in chunks so that no tensor of over `max_bytes` on a device is built: each needs
    one smallest distance over all features, wherever they are.
    """
    size = len(table)
    lengths = jnp.square(features).sum(-1)[:, None]  # a code's own length is left out

    def search(codes: jax.Array) -> jax.Array:
        scores = lengths - 2.0 * jnp.matmul(features, codes.T, precision=HIGHEST)  # [N, chunk]
        return jnp.argmin(scores, axis=0).astype(jnp.int32)

    chunk = max(1, max_bytes // (4 * rows_per_device(len(features))))
    if chunk >= size:
        return search(table)
    chunks = -(-size // chunk)
    padded = jnp.pad(table, ((0, chunks * chunk - size), (0, 0)))
    return jax.lax.map(search, padded.reshape(chunks, chunk, -1)).reshape(-1)[:size]
