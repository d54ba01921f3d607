"""What a tokenizer's training does to its latents beside the optimiser: codebooks that are tended, continuous
latents that are measured. Pure functions of the state, whose "usage" holds the running means."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.latents import LatentSpec
from imgen.report import pixels
from imgen.tokenizers import codebook, usage
from imgen.tokenizers.tokenizer import Tokenizer
from imgen.training.task import State

CODEBOOK = ("quantizer", "codebook")


@dataclasses.dataclass(frozen=True)
class LatentCare:
    """Tends a codebook, or measures shift and scale of continuous latents. The fields: see
    `TokenizerTask`."""

    tokenizer: Tokenizer
    kmeans_init: bool
    restart_every: int
    restart_threshold: float
    usage_decay: float
    ema_codebook: bool
    online_clustering: bool

    @property
    def tends(self) -> bool:
        """Says whether there is anything that needs a codebook."""
        return bool(
            self.kmeans_init or self.restart_every or self.ema_codebook or self.online_clustering
        )

    @property
    def kept(self) -> tuple[str, ...]:
        """Names the parameters that are set here, and not by the optimiser."""
        measured = (r"^quantizer/(shift|scale)$",)  # of continuous latents
        return (*measured, r"^quantizer/codebook$") if self.ema_codebook else measured

    def check(self, out: dict[str, Any], held: bool, microbatches: int) -> None:
        """Raises UserError where the tokenizer lacks what is tended, or settings exclude each other.

        out: shapes of a training pass.   held: the codebook is frozen.
        """
        if self.tends and "z" not in out:
            raise UserError(
                "kmeans_init, restart_every, ema_codebook and online_clustering tend a codebook of nearest "
                "codes, which this tokenizer has not: leave them out"
            )
        if self.tends and held:
            raise UserError("this codebook is frozen: leave out what tends it (kmeans_init, ...)")
        if self.online_clustering and out["z"].shape[:-1] != out["latents"].shape:
            raise UserError(
                "online_clustering needs one code for each feature; this tokenizer has several, or drops some"
            )
        if self.online_clustering and (self.ema_codebook or microbatches > 1):
            raise UserError(
                "online_clustering goes neither with ema_codebook nor with microbatches"
            )

    def fresh(self, spec: LatentSpec, params: Any) -> codebook.CodebookState:
        """Makes the running means that go with parameters before the first step."""
        quantizer = params.get("quantizer", {})
        state = usage.init_state(spec, quantizer["codebook"] if self.ema_codebook else None)
        if "mean" in state:
            deviation = 1.0 / quantizer["scale"]
            square = jnp.square(deviation) + jnp.square(quantizer["shift"])
            return {"mean": quantizer["shift"], "square": square}
        if self.online_clustering:
            state["share"] = jnp.zeros(len(quantizer["codebook"]))
        return state

    def before_step(self, state: State, images: jax.Array, rng: jax.Array, start: bool) -> State:
        """Runs k-means before the first step, if `start`, and restarts codes of little usage at their
        turn."""
        step = state["step"]
        touched = {name: state[name] for name in ("params", "ema", "usage") if name in state}

        def from_centres(state: State) -> State:
            size = len(state["params"]["quantizer"]["codebook"])
            centres = codebook.kmeans(self._rows(state["params"], images), size, rng)
            care = codebook.init_state(size, centres)
            care = {name: care.get(name, value) for name, value in state["usage"].items()}
            return _with_codes(state, care, lambda _: centres)

        def restart(state: State) -> State:
            care, dead, found = codebook.restart_dead_codes(
                state["usage"],
                self._rows(state["params"], images),
                rng,
                self.restart_threshold,
            )
            return _with_codes(state, care, lambda table: jnp.where(dead[:, None], found, table))

        if start:
            touched = jax.lax.cond(step == 0, from_centres, lambda s: s, touched)
        if self.restart_every:
            turn = (step > 0) & (step % self.restart_every == 0)
            touched = jax.lax.cond(turn, restart, lambda s: s, touched)
        return {**state, **touched}

    def look(
        self, spec: LatentSpec, care: codebook.CodebookState, params: Any, out: dict[str, Any]
    ) -> dict[str, Any]:
        """Looks at the latents of a training pass: their tally, and what becomes of the codebook.

        spec: of the latents that count.   care: the running means so far.
        """
        latents = out["latents"]
        if spec.kind == "continuous":  # of the latents before they are centred and scaled
            quantizer = params["quantizer"]
            latents = latents / quantizer["scale"] + quantizer["shift"]
        seen = {"tally": usage.tally(spec, jax.lax.stop_gradient(latents))}
        if "sums" in care:
            features = self._code_features(params, out)
            seen["sums"] = codebook.feature_sums(features, out["latents"].reshape(-1), spec.size)
        if self.online_clustering:
            table, z, share = params["quantizer"]["codebook"], out["z"], care["share"]
            rows = z.reshape(-1, z.shape[-1])
            share, moved = codebook.cluster_online(share, table, rows, out["latents"].reshape(-1))
            seen |= {"share": share, "move": jax.lax.stop_gradient(moved - table)}
        return seen

    def after_step(
        self, care: codebook.CodebookState, params: Any, seen: dict[str, Any], step: jax.Array
    ) -> tuple[codebook.CodebookState, Any]:
        """Returns the running means after what `look` saw in step 1, 2, ..., and the parameters that
        follow."""
        care = usage.update_state(care, seen["tally"], step, self.usage_decay, seen.get("sums"))
        if self.online_clustering:
            care["share"] = seen["share"]
            params = put(params, CODEBOOK, params["quantizer"]["codebook"] + seen["move"])
        if self.ema_codebook:
            params = put(params, CODEBOOK, codebook.ema_table(care))
        return care, _normalised(params, care)

    def _rows(self, params: Any, images: jax.Array) -> jax.Array:
        """Returns what a codebook's codes are compared with, a row for each code of a batch: [N, D].

        Of a training pass in which nothing is random; what is not used of it is not computed. The whole batch
        goes through the encoder at once, whatever the microbatches: a pass without gradients keeps little.
        """
        out = self.tokenizer.apply({"params": params}, pixels.to_float(images))
        return self._code_features(params, out)

    def _code_features(self, params: Any, out: dict[str, Any]) -> jax.Array:
        return self.tokenizer.apply(
            {"params": params}, out["z"], out["latents"], method="code_features"
        )


def put(tree: Any, path: Sequence[str], value: Any) -> Any:
    """Returns the nested dict with `value` at a path."""
    if not path:
        return value
    return {**tree, path[0]: put(tree[path[0]], path[1:], value)}


def _with_codes(state: State, care: codebook.CodebookState, change: Callable) -> State:
    """Returns the state with another codebook, and another in the average where one is kept."""
    trees = {k: state[k] for k in ("params", "ema") if k in state}
    changed = {
        k: put(tree, CODEBOOK, change(tree["quantizer"]["codebook"])) for k, tree in trees.items()
    }
    return {**changed, "usage": care}


def _normalised(params: Any, care: codebook.CodebookState) -> Any:
    """Returns the parameters, with shift and scale of continuous latents as they were measured so far."""
    if "mean" not in care:
        return params
    deviation = jnp.sqrt(jnp.maximum(care["square"] - jnp.square(care["mean"]), 1e-12))
    scale = {"shift": care["mean"], "scale": 1.0 / deviation}
    return {**params, "quantizer": {**params["quantizer"], **scale}}
