"""What a tokenizer's training does to its latents beside the optimiser: codebooks that are tended, continuous
latents that are measured. Pure functions of the state; `usage` holds its running means."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgen.latents import LatentSpec
from imgen.tokenizers import codebook, usage
from imgen.training.task import State


def fresh(
    spec: LatentSpec, params: Any, ema_codebook: bool, online_clustering: bool
) -> codebook.CodebookState:
    """The running means that go with parameters before the first step."""
    quantizer = params.get("quantizer", {})
    state = usage.init_state(spec, quantizer["codebook"] if ema_codebook else None)
    if "mean" in state:
        deviation = 1.0 / quantizer["scale"]
        square = jnp.square(deviation) + jnp.square(quantizer["shift"])
        return {"mean": quantizer["shift"], "square": square}
    if online_clustering:
        state["share"] = jnp.zeros(len(quantizer["codebook"]))
    return state


def normalised(params: Any, care: codebook.CodebookState) -> Any:
    """The parameters, with shift and scale of continuous latents as they were measured so far."""
    if "mean" not in care:
        return params
    deviation = jnp.sqrt(jnp.maximum(care["square"] - jnp.square(care["mean"]), 1e-12))
    scale = {"shift": care["mean"], "scale": 1.0 / deviation}
    return {**params, "quantizer": {**params["quantizer"], **scale}}


def tend(
    state: State,
    rows: Callable[[Any], jax.Array],
    rng: jax.Array,
    *,
    kmeans: bool,
    restart_every: int,
    threshold: float,
) -> State:
    """k-means before the first step, restarts of codes of a usage under `threshold` at their turn.

    rows: parameters -> what their codes are compared with in this batch, [N, D]; made at those steps only.
    """

    def put(state: State, care: codebook.CodebookState, change: Callable) -> State:
        trees = {k: state[k] for k in ("params", "ema") if k in state}
        tables = {k: change(tree["quantizer"]["codebook"]) for k, tree in trees.items()}
        return {**{k: put_codes(trees[k], tables[k]) for k in trees}, "usage": care}

    def start(state: State) -> State:
        size = len(state["params"]["quantizer"]["codebook"])
        centres = codebook.kmeans(rows(state["params"]), size, rng)
        care = codebook.init_state(size, centres)
        care = {name: care.get(name, value) for name, value in state["usage"].items()}
        return put(state, care, lambda _: centres)

    def restart(state: State) -> State:
        care, dead, found = codebook.restart_dead_codes(
            state["usage"], rows(state["params"]), rng, threshold
        )
        return put(state, care, lambda table: jnp.where(dead[:, None], found, table))

    step = state["step"]
    touched = {name: state[name] for name in ("params", "ema", "usage") if name in state}
    if kmeans:
        touched = jax.lax.cond(step == 0, start, lambda s: s, touched)
    if restart_every:
        turn = (step > 0) & (step % restart_every == 0)
        touched = jax.lax.cond(turn, restart, lambda s: s, touched)
    return {**state, **touched}


def put(tree: Any, path: Sequence[str], value: Any) -> Any:
    """The nested dict with `value` at a path."""
    if not path:
        return value
    return {**tree, path[0]: put(tree[path[0]], path[1:], value)}


def put_codes(params: Any, table: jax.Array) -> Any:
    """The parameters with another codebook [K, D]."""
    return put(params, ("quantizer", "codebook"), table)
