"""What stage 1 trains: a tokenizer on images (LlamaGen, section 2.1; vq_train.py)."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgen.config.construct import construct
from imgen.config.types import check_range
from imgen.errors import UserError
from imgen.latents import LatentSpec
from imgen.report import pixels
from imgen.tokenizers import usage
from imgen.tokenizers.losses.adversary import Adversary, LastLayer
from imgen.tokenizers.losses.lpips import lpips
from imgen.tokenizers.losses.terms import RECONSTRUCTION, annealed
from imgen.tokenizers.sharding_rules import sharding_rules
from imgen.tokenizers.tokenizer import Tokenizer
from imgen.training import optim
from imgen.training.gradients import accumulate
from imgen.training.latent_care import LatentCare, put
from imgen.training.reconstructions import reconstructor, replicate, stripper
from imgen.training.task import Batch, State, Task
from imgen.training.tokenizer_evaluation import prefix_sums, reconstruction_sums, summarize

# Codes are points, not weights: decay would pull unused ones together.
DECAY = ((r"codebook$", 0.0), (r"kernel$", 1.0), (".*", 0.0))


@dataclasses.dataclass
class TokenizerTask(Task):
    """Trains by reconstruction + perceptual + adversarial + the tokenizer's own losses.

    optimizer: arguments of `optim.make_optimizer`.   total_steps: length of the run, for its schedule.
    reconstruction, reconstruction_weight: a key of RECONSTRUCTION, the mean over all values.
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
    online_clustering: CVQ: beside its training each code moves to a near feature, the further the less it
        is used (`codebook.cluster_online`). Features are those of the whole batch: no microbatches.
    entropy_extra, entropy_extra_steps: the weight of the tokenizer's entropy loss starts at 1 + entropy_extra
        times its own and has come down to it after so many steps, evenly (`losses.annealed`). MaskBit's
        and BSQ's tokenizers were trained with 2 and 2000.
    usage_window: steps over which a code counts as used in the training log.
    num_pictures: images in a grid of original | reconstruction pairs.
    trained: parameters of other tokenizers, by path, to start from (`training.warm_start`).

    Images come as uint8 [B, H, W, 3] in batch["image"], a teacher's features, where the tokenizer predicts
    them, as float [B, M, F] in batch["teacher"].
    """

    tokenizer: Tokenizer
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
    online_clustering: bool = False
    entropy_extra: float = 0.0
    entropy_extra_steps: int = 2000
    usage_window: int = 100
    num_pictures: int = 32
    trained: dict[str, np.ndarray] | None = None

    def __post_init__(self):
        check_range("ema_decay", self.ema_decay, 0.0, below=1.0)
        check_range("microbatches", self.microbatches, 1)
        check_range("usage_decay", self.usage_decay, 0.0, below=1.0)
        check_range("num_pictures", self.num_pictures, 1)
        check_range("restart_every", self.restart_every, 0)
        for name in ("reconstruction_weight", "perceptual_weight", "restart_threshold"):
            check_range(name, getattr(self, name), 0.0)
        if self.reconstruction not in RECONSTRUCTION:
            known = ", ".join(RECONSTRUCTION)
            raise UserError(f"reconstruction loss {self.reconstruction!r} is none of {known}")
        self.sharding_rules = sharding_rules(self.tokenizer)
        self._care = LatentCare(
            self.tokenizer,
            self.kmeans_init,
            self.restart_every,
            self.restart_threshold,
            self.usage_decay,
            self.ema_codebook,
            self.online_clustering,
        )
        self._held = (*self.tokenizer.frozen, *self.optimizer.get("frozen", ()))
        frozen = (*self._held, *self._care.kept)
        self.optimizer = {"decay": DECAY, **self.optimizer, "frozen": frozen}
        self._optimizer, self._learning_rate = construct(
            optim.make_optimizer, self.optimizer, "optimizer", total_steps=self.total_steps
        )
        if self.adversary:
            arguments = self.disc_optimizer or self.optimizer
            self._disc_optimizer, _ = construct(
                optim.make_optimizer, arguments, "disc_optimizer", total_steps=self.total_steps
            )

    def doubts(self) -> list[str]:
        found = optim.doubts(total_steps=self.total_steps, **self.optimizer)
        if self.adversary and self.adversary.start > self.total_steps:
            found.append(
                f"the discriminator starts at step {self.adversary.start}, but the run ends at "
                f"{self.total_steps}: it never trains"
            )
        return found

    @property
    def frozen_items(self) -> State:
        """Returns what training carries along unchanged."""
        return {} if self.lpips_params is None else {"lpips": self.lpips_params}

    def parameter_notes(self, params: Any) -> dict[str, str]:
        """Describes what the optimiser does to each parameter, by path."""
        return optim.describe(params, **self.optimizer)

    def init(self, rng: jax.Array, batch: Batch) -> State:
        """Makes a fresh state: step, params, opt, usage (of the latents); ema, disc, disc_opt, disc_stats
        where they are in use. Raises UserError where the tokenizer lacks what the settings ask for."""
        images = pixels.to_float(batch["image"][:1])
        params_key, disc_key = jax.random.split(rng)
        params = self.tokenizer.init(params_key, images)["params"]
        self._check(jax.eval_shape(functools.partial(self._pass, batch=batch), params, params_key))
        state = {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt": self._optimizer.init(params),
            "usage": self._care.fresh(self._spec(batch), params),
        }
        if self.ema_decay:
            state["ema"] = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        if self.adversary:
            state["disc"], state["disc_stats"] = self.adversary.init(disc_key, images)
            state["disc_opt"] = self._disc_optimizer.init(state["disc"])
        return state

    def _check(self, out: dict[str, Any]) -> None:
        """Raises UserError where a training pass has not what the settings ask for. out: its shapes."""
        if self.adversary and "recon" not in out:
            raise UserError("this tokenizer makes no pictures in training: leave out the adversary")
        held = any(re.search(rule, "quantizer/codebook") for rule in self._held)
        self._care.check(out, held, self.microbatches)
        if self.entropy_extra and "entropy" not in out["losses"]:
            raise UserError(
                "entropy_extra adds to the weight of an entropy loss, which this tokenizer has not: set "
                "entropy_weight in config.tokenizer, or leave it out"
            )

    def after_warm_start(self, state: State, batch: Batch) -> State:
        """Returns the state with its running means those of the parameters that it was given."""
        return {**state, "usage": self._care.fresh(self._spec(batch), state["params"])}

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict]:
        """Updates the tokenizer and, where there is one, the discriminator once."""
        codebook_key, loss_key = jax.random.split(rng)
        if self.kmeans_init or self.restart_every:
            start = self.kmeans_init and "quantizer/codebook" not in (self.trained or {})
            state = self._care.before_step(state, batch["image"], codebook_key, start)
        players = {name: state[name] for name in ("params", "disc") if name in state}
        loss_fn = functools.partial(self._loss, state)
        _, aux, grads = accumulate(loss_fn, players, batch, loss_key, self.microbatches)

        step = state["step"] + 1
        updates, opt = self._optimizer.update(grads["params"], state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        care, params = self._care.after_step(state["usage"], params, aux, step)
        new = {**state, "step": step, "opt": opt, "usage": care, "params": params}
        if self.ema_decay:
            decay = optim.ema_decay_at(self.ema_decay, step)
            new["ema"] = optim.ema_update(state["ema"], params, decay, self.tokenizer.frozen)
        metrics = {
            **aux["metrics"],
            "grad_norm": optax.global_norm(grads["params"]),
            "learning_rate": self._learning_rate(optim.schedule_position(state["opt"])),
        }
        if "mse" in aux:
            metrics["psnr"] = 10.0 * jnp.log10(4.0 / aux["mse"])
        if self.adversary:
            new["disc"], new["disc_opt"] = self._update_discriminator(state, grads["disc"])
            new["disc_stats"] = aux["disc_stats"]
            metrics["disc_grad_norm"] = optax.global_norm(grads["disc"])
        return new, metrics | usage.report(care, step, self.usage_window)

    def _update_discriminator(self, state: State, gradient: Any) -> tuple[Any, Any]:
        rests = self.adversary.rests(state["step"] + 1)
        old = state["disc"], state["disc_opt"]
        updates, opt = self._disc_optimizer.update(gradient, state["disc_opt"], state["disc"])
        new = optax.apply_updates(state["disc"], updates), opt
        return jax.tree.map(lambda a, b: jnp.where(rests, a, b), old, new)

    def _loss(self, state: State, players: dict, batch: Batch, rng: jax.Array) -> tuple:
        """Adds up both players' losses; the sum's gradient by each player is that of its own loss."""
        images = pixels.to_float(batch["image"])
        out = self._pass(players["params"], rng, batch)
        terms = {
            f"{name}_loss": value
            for name, value in out["losses"].items()
            if not (self.ema_codebook and name == "codebook")
        }
        if self.entropy_extra:
            factor = annealed(state["step"], self.entropy_extra, self.entropy_extra_steps)
            terms["entropy_loss"] *= factor
        aux = self._care.look(self._spec(batch), state["usage"], players["params"], out)
        disc_loss, disc_metrics = 0.0, {}
        if "recon" in out:
            recon = out["recon"]

            def similarity_terms(recon: jax.Array) -> dict[str, jax.Array]:
                rec = RECONSTRUCTION[self.reconstruction](images, recon)
                terms = {"rec_loss": self.reconstruction_weight * rec}
                if "lpips" in state:
                    distance = jnp.mean(lpips(state["lpips"], images, recon))
                    terms["perceptual_loss"] = self.perceptual_weight * distance
                return terms

            terms = similarity_terms(recon) | terms
            aux["mse"] = jnp.mean(jnp.square(jnp.clip(recon, -1.0, 1.0) - images))
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
        aux["metrics"] = {"loss": loss, **terms, **disc_metrics, **out["stats"]}
        return loss + disc_loss, aux

    def _pass(self, params: Any, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Runs the tokenizer's training pass on a batch."""
        sample_key, dropout_key = jax.random.split(rng)
        images = pixels.to_float(batch["image"])
        teacher = {"teacher": batch["teacher"]} if "teacher" in batch else {}
        if teacher and not self.tokenizer.projectors_on():
            there = " or ".join(f"tokenizer.{name}" for name in self.tokenizer.projectors)
            raise UserError(
                "data.train.teacher is set, but this tokenizer predicts no features: leave it out"
                + (f", or switch on {there}" if there else "")
            )
        return self.tokenizer.apply(
            {"params": params}, images, sample_key, rngs={"dropout": dropout_key}, **teacher
        )

    def _last_layer(self, params: Any, hidden: jax.Array) -> LastLayer:
        """Cuts the tokenizer's last layer off, as a function of its kernel."""
        params, hidden = jax.lax.stop_gradient((params, hidden))
        path = self.tokenizer.last_layer
        layer = functools.reduce(lambda tree, name: tree[name], path, params)

        def apply(kernel: jax.Array) -> jax.Array:
            changed = put(params, path, {**layer, "kernel": kernel})
            return self.tokenizer.apply({"params": changed}, hidden, method="project")

        return LastLayer(apply, layer["kernel"])

    def eval_step(self, state: State, batch: Batch) -> dict[str, Any]:
        """Sums over the images that count, see `reconstruction_sums`."""
        return reconstruction_sums(self.tokenizer, _averaged(state), batch, state.get("lpips"))

    def prefix_step(self, state: State, batch: Batch) -> dict[str, Any]:
        """Sums as `eval_step`, of nested tokenizers, see `prefix_sums`."""
        return prefix_sums(self.tokenizer, _averaged(state), batch)

    def summarize(self, sums: dict[str, Any]) -> dict[str, float]:
        """Returns the metrics of a whole evaluation from the added sums."""
        return summarize(sums)

    def visualize(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, np.ndarray]:
        """Draws pairs original | reconstruction of the batch's first images, four to a row; where any
        number of tokens can be decoded, also strips original | 1, 2, 4, ... tokens."""
        params, images = _averaged(state), batch["image"][: self.num_pictures]
        recon = jax.device_get(replicate(self._reconstruct(params, images)))
        originals = jax.device_get(replicate(images))
        pairs = np.stack([originals, recon], axis=1).reshape(-1, *recon.shape[1:])
        pictures = {"reconstructions": pixels.grid(pairs, columns=8)}
        if self.tokenizer.nested:
            strips = jax.device_get(self._strip(params, images[:8]))
            rows = strips.reshape(-1, *strips.shape[2:])
            pictures["tokens"] = pixels.grid(rows, columns=strips.shape[1])
        return pictures

    @functools.cached_property
    def _reconstruct(self):
        return reconstructor(self.tokenizer)

    @functools.cached_property
    def _strip(self):
        return stripper(self.tokenizer)

    def _spec(self, batch: Batch) -> LatentSpec:
        """Describes the latents whose use is counted."""
        return self.tokenizer.code_spec(batch["image"].shape[1:3])


def _averaged(state: State) -> Any:
    return state.get("ema", state["params"])
