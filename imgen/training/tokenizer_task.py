"""What stage 1 trains: a tokenizer on images (LlamaGen, section 2.1; vq_train.py)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgen import images as pixels
from imgen.construct import construct
from imgen.errors import UserError
from imgen.evaluation.codes import entropy
from imgen.nn.constrain import constrain
from imgen.tokenizers import codebook
from imgen.tokenizers.adversary import Adversary, LastLayer
from imgen.tokenizers.losses import RECONSTRUCTION
from imgen.tokenizers.lpips import lpips
from imgen.training import optim
from imgen.training.gradients import accumulate
from imgen.training.task import Batch, State

# A tokenizer is small beside what it trains on: every device holds all of it.
SHARDING_RULES = [(".*", ())]
# Codes are points, not weights: decay would pull unused ones together.
DECAY = ((r"codebook$", 0.0), (r"(kernel|embedding)$", 1.0), (".*", 0.0))


@dataclasses.dataclass
class TokenizerTask:
    """Reconstruction + perceptual + adversarial + the quantizer's own losses.

    tokenizer: a module such as `tokenizers.vq.VQ`.
    optimizer: arguments of `optim.make_optimizer`.   total_steps: length of the run, for its schedule.
    reconstruction, reconstruction_weight: "l2" or "l1", the mean over all values.
    lpips_params, perceptual_weight: LPIPS weights (`interop.lpips.load`); None leaves the term out.
    adversary, disc_optimizer: a discriminator with its losses and its optimiser's arguments. Each
        step updates tokenizer and discriminator on the same reconstruction, made before either.
    ema_decay: 0 keeps no average. The average is young at first: the decay is at most
        (1 + step) / (10 + step). Evaluation and pictures use it where there is one.
    microbatches: passes that a batch is cut into. Entropy loss and batch norms are then per pass,
        and running statistics the mean of what the passes make of them.
    kmeans_init: the first step starts the codebook at the k-means centres of its batch's features.
    restart_every, restart_threshold: every so many steps (0: never), codes that are used less than
        this share of an even usage (a running mean) are put on random features of the batch.
    usage_decay: of the running means of usage.
    ema_codebook: EMA-VQ: each code is the running mean (`usage_decay`) of its features, which
        takes the place of the codebook loss and of the optimiser there.
    usage_window: steps over which a code counts as used in the training log.
    num_pictures: images in a grid of original | reconstruction pairs.

    Images come as uint8 [B, H, W, 3] in batch["image"].
    """

    tokenizer: nn.Module
    optimizer: dict
    total_steps: int
    reconstruction: str = "l2"
    reconstruction_weight: float = 1.0
    lpips_params: Any = None
    perceptual_weight: float = 1.0
    adversary: Adversary | None = None
    disc_optimizer: dict | None = None
    ema_decay: float = 0.0
    microbatches: int = 1
    kmeans_init: bool = False
    restart_every: int = 0
    restart_threshold: float = 0.03
    usage_decay: float = 0.99
    ema_codebook: bool = False
    usage_window: int = 100
    num_pictures: int = 32

    def __post_init__(self):
        if self.reconstruction not in RECONSTRUCTION:
            known = ", ".join(RECONSTRUCTION)
            raise UserError(f"reconstruction loss {self.reconstruction!r} is none of {known}")
        self.sharding_rules = SHARDING_RULES
        frozen = (r"codebook$",) if self.ema_codebook else ()
        self.optimizer = {"decay": DECAY, "frozen": frozen, **self.optimizer}
        self._optimizer, self._learning_rate = construct(
            optim.make_optimizer, self.optimizer, "optimizer", total_steps=self.total_steps
        )
        if self.adversary:
            arguments = self.disc_optimizer or self.optimizer
            self._disc_optimizer, _ = construct(
                optim.make_optimizer, arguments, "disc_optimizer", total_steps=self.total_steps
            )

    @property
    def frozen_items(self) -> State:
        """State that training carries along unchanged."""
        return {} if self.lpips_params is None else {"lpips": self.lpips_params}

    def parameter_notes(self, params: Any) -> dict[str, str]:
        return optim.describe(params, **self.optimizer)

    def init(self, rng: jax.Array, batch: Batch) -> State:
        """A fresh state: step, params, opt, codebook (usage); ema, disc, disc_opt, disc_stats
        where they are in use."""
        images = pixels.to_float(batch["image"][:1])
        params_key, disc_key = jax.random.split(rng)
        params = self.tokenizer.init(params_key, images)["params"]
        state = {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt": self._optimizer.init(params),
            "codebook": codebook.init_state(params["quantizer"]["codebook"]),
        }
        if self.ema_decay:
            state["ema"] = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        if self.adversary:
            state["disc"], state["disc_stats"] = self.adversary.init(disc_key, images)
            state["disc_opt"] = self._disc_optimizer.init(state["disc"])
        return state

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict]:
        """One update of the tokenizer and, where there is one, of the discriminator."""
        codebook_key, loss_key = jax.random.split(rng)
        state = self._tend_codebook(state, batch, codebook_key)
        players = {name: state[name] for name in ("params", "disc") if name in state}
        loss_fn = functools.partial(self._loss, state)
        _, aux, grads = accumulate(loss_fn, players, batch, loss_key, self.microbatches)

        step = state["step"] + 1
        updates, opt = self._optimizer.update(grads["params"], state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {**state, "step": step, "params": params, "opt": opt}
        metrics = {
            **aux["metrics"],
            "psnr": 10.0 * jnp.log10(4.0 / aux["mse"]),
            "grad_norm": optax.global_norm(grads["params"]),
            "learning_rate": self._learning_rate(state["step"]),
        }
        new["codebook"] = codebook.update_state(
            state["codebook"], aux["counts"], aux["sums"], step, self.usage_decay
        )
        if self.ema_codebook:
            table = codebook.ema_table(new["codebook"])
            new["params"] = params = _put_codes(params, lambda _: table)
        if self.ema_decay:
            decay = jnp.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
            new["ema"] = optim.ema_update(state["ema"], params, decay)
        if self.adversary:
            updates, new["disc_opt"] = self._disc_optimizer.update(
                grads["disc"], state["disc_opt"], state["disc"]
            )
            new["disc"] = optax.apply_updates(state["disc"], updates)
            new["disc_stats"] = aux["disc_stats"]
            metrics["disc_grad_norm"] = optax.global_norm(grads["disc"])
        window = codebook.usage_in_window(new["codebook"], step, self.usage_window)
        metrics["codebook_usage"] = window
        metrics["perplexity"] = codebook.perplexity(new["codebook"]["usage"])
        return new, metrics

    def _loss(self, state: State, players: dict, batch: Batch, rng: jax.Array) -> tuple:
        """The sum of both players' losses, whose gradient by each player is that of its own."""
        images = pixels.to_float(batch["image"])
        out = self.tokenizer.apply(
            {"params": players["params"]}, images, deterministic=False, rngs={"dropout": rng}
        )
        recon = out["recon"]

        def similarity_terms(recon: jax.Array) -> dict[str, jax.Array]:
            rec = RECONSTRUCTION[self.reconstruction](images, recon)
            terms = {"rec_loss": self.reconstruction_weight * rec}
            if "lpips" in state:
                distance = jnp.mean(lpips(state["lpips"], images, recon))
                terms["perceptual_loss"] = self.perceptual_weight * distance
            return terms

        terms = similarity_terms(recon)
        terms |= {
            f"{name}_loss": value
            for name, value in out["losses"].items()
            if not (self.ema_codebook and name == "codebook")
        }
        codes, size = out["codes"].reshape(-1), self._codes(batch)
        features = self._code_features(players["params"], out["z"])
        aux = {
            "counts": codebook.code_counts(codes, size),
            "sums": codebook.feature_sums(features, codes, size),
        }
        disc_loss, disc_metrics = 0.0, {}
        if self.adversary:
            adversarial = self.adversary.terms(
                players["disc"],
                state["disc_stats"],
                images,
                recon,
                state["step"] + 1,
                lambda x: sum(similarity_terms(x).values()),
                self._last_layer(players["params"], out["hidden"]),
            )
            terms["adversarial_loss"] = adversarial.generator
            disc_loss = disc_metrics["disc_loss"] = adversarial.discriminator
            aux["disc_stats"] = adversarial.stats
        loss = sum(terms.values())
        mse = jnp.mean(jnp.square(jnp.clip(recon, -1.0, 1.0) - images))
        aux |= {"mse": mse, "metrics": {"loss": loss, **terms, **disc_metrics}}
        return loss + disc_loss, aux

    def _last_layer(self, params: Any, hidden: jax.Array) -> LastLayer:
        decoder, hidden = jax.lax.stop_gradient((params["decoder"], hidden))

        def apply(kernel: jax.Array) -> jax.Array:
            conv_out = {**decoder["conv_out"], "kernel": kernel}
            variables = {"params": {"decoder": {**decoder, "conv_out": conv_out}}}
            return self.tokenizer.apply(variables, hidden, method="project")

        return LastLayer(apply, decoder["conv_out"]["kernel"])

    def _tend_codebook(self, state: State, batch: Batch, rng: jax.Array) -> State:
        """k-means before the first step, restarts at their turn; features are only made then."""
        if not (self.kmeans_init or self.restart_every):
            return state

        def features(params: Any) -> jax.Array:
            images = pixels.to_float(batch["image"])
            z = self.tokenizer.apply({"params": params}, images, method="features")
            return self._code_features(params, z)

        def put(state: State, care: codebook.CodebookState, change: Callable) -> State:
            trees = {k: _put_codes(state[k], change) for k in ("params", "ema") if k in state}
            return {**trees, "codebook": care}

        def start(state: State) -> State:
            centres = codebook.kmeans(features(state["params"]), self._codes(batch), rng)
            return put(state, codebook.init_state(centres), lambda _: centres)

        def restart(state: State) -> State:
            care, dead, rows = codebook.restart_dead_codes(
                state["codebook"], features(state["params"]), rng, self.restart_threshold
            )
            return put(state, care, lambda table: jnp.where(dead[:, None], rows, table))

        step = state["step"]
        first = (step == 0) & self.kmeans_init
        turn = (step > 0) & (step % max(self.restart_every, 1) == 0) & (self.restart_every > 0)
        touched = {name: state[name] for name in ("params", "ema", "codebook") if name in state}
        which = jnp.where(first, 1, jnp.where(turn, 2, 0))
        return {**state, **jax.lax.switch(which, [lambda s: s, start, restart], touched)}

    def _code_features(self, params: Any, z: jax.Array) -> jax.Array:
        return self.tokenizer.apply({"params": params}, z, method="code_features")

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the images that count. PSNR: of each image on its own, both sides uint8, range
        255; an exact reconstruction counts as 98 dB."""
        images, mask = batch["image"], batch["mask"]
        out = self.tokenizer.apply({"params": _averaged(state)}, pixels.to_float(images))
        rounded = pixels.to_uint8(out["recon"]).astype(jnp.float32)
        error = jnp.mean(jnp.square(rounded - images.astype(jnp.float32)), axis=(1, 2, 3))
        psnr = 10.0 * jnp.log10(255.0**2 / jnp.maximum(error, 1e-5))
        sums = {
            "images": jnp.sum(mask),
            "psnr": jnp.sum(mask * psnr),
            "counts": codebook.code_counts(out["codes"], self._codes(batch), mask),
        }
        if "lpips" in state:
            distance = lpips(state["lpips"], pixels.to_float(images), jnp.clip(out["recon"], -1, 1))
            sums["lpips"] = jnp.sum(mask * distance)
        return sums

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Means over the images; codebook usage and perplexity over the whole evaluation set.

        psnr: mean over images of the PSNR of each, in dB.
        codebook_usage: share of the codes that occurred. perplexity: exp of the codes' entropy.
        """
        counts, images = sums["counts"], max(float(sums["images"]), 1.0)
        out = {k: float(v) / images for k, v in sums.items() if k not in ("counts", "images")}
        out["codebook_usage"] = float(np.mean(counts > 0))
        out["perplexity"] = float(np.exp(entropy(counts)))
        return out

    def visualize(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, np.ndarray]:
        """Pairs original | reconstruction of the batch's first images, four to a row."""
        pairs = self._pairs(_averaged(state), batch["image"])
        return {"reconstructions": pixels.grid(jax.device_get(pairs), columns=8)}

    @functools.cached_property
    def _pairs(self):
        @jax.jit
        def pairs(params: Any, images: jax.Array) -> jax.Array:
            images = images[: self.num_pictures]
            codes = self.tokenizer.apply(
                {"params": params}, pixels.to_float(images), method="encode"
            )
            recon = self.tokenizer.apply({"params": params}, codes, method="decode")
            both = jnp.stack([images, pixels.to_uint8(recon)], axis=1)  # [N, 2, H, W, 3]
            return constrain(both.reshape(-1, *images.shape[1:]), None, None, None, None)

        return pairs

    def _codes(self, batch: Batch) -> int:
        return self.tokenizer.spec(batch["image"].shape[1:3]).size


def _averaged(state: State) -> Any:
    return state.get("ema", state["params"])


def _put_codes(params: Any, change: Callable[[jax.Array], jax.Array]) -> Any:
    """The parameters with another codebook [K, D]."""
    quantizer = params["quantizer"]
    return {**params, "quantizer": {**quantizer, "codebook": change(quantizer["codebook"])}}
