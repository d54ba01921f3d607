"""Gaussian diffusion in discrete steps with a learned-range variance, and its respaced ancestral sampler.

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, where abar_t is the product of 1 - beta up to step t; step 0 is
the cleanest. A network is told t and gives 2C channels: the noise eps, then v, which places the log-variance
of the reverse step between its two bounds. Tables are float64 on the host, what is made of them float32.

Sources: "Improved Denoising Diffusion Probabilistic Models" (schedule, variance, loss, respacing);
LTH14/mar, diffusion/ (the form that MAR's head uses).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

BIN = 1 / 255  # half the width of a bin of the decoder's likelihood: 8-bit values in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Process:
    """index [K]: the step of the original process that each step is, which the network is told.

    betas [K]: float64, as they are between neighbouring steps of this process.
    """

    index: np.ndarray
    betas: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.betas)

    @property
    def alpha_bar(self) -> np.ndarray:
        return np.cumprod(1 - self.betas)

    def tables(self) -> dict[str, jax.Array]:
        """Coefficients of each step, float32 [K]:

        signal, spread: of x0 and eps in x_t.
        gain, drift: the mean of the reverse step is gain x_t - drift eps.
        log_max, log_min: bounds of its log-variance: of beta, and of the posterior's, which is 0 at step 0
            and taken from step 1 there.
        chance: 1; 0 at step 0, where nothing is drawn.
        """
        beta, bar = self.betas, self.alpha_bar
        before = np.append(1.0, bar[:-1])
        posterior = beta * (1 - before) / (1 - bar)
        found = {
            "signal": np.sqrt(bar),
            "spread": np.sqrt(1 - bar),
            "gain": 1 / np.sqrt(1 - beta),
            "drift": beta / np.sqrt((1 - bar) * (1 - beta)),
            "log_max": np.log(beta),
            "log_min": np.log(np.append(posterior[1], posterior[1:])),
            "chance": np.arange(len(beta)) > 0,
        }
        return {name: jnp.asarray(table, jnp.float32) for name, table in found.items()}


def cosine_process(steps: int = 1000, most: float = 0.999) -> Process:
    """abar(u) = cos^2((u + 0.008) / 1.008 * pi / 2) over u in [0, 1]; no beta above `most`."""
    if steps < 2:
        raise UserError(f"a diffusion of {steps} steps: at least 2 are needed")
    bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return Process(np.arange(steps), np.minimum(1 - bar[1:] / bar[:-1], most))


def respace(process: Process, steps: int) -> Process:
    """`steps` of its steps, evenly from the first to the last, with the betas between them."""
    if not 2 <= steps <= process.steps:
        raise UserError(f"{steps} diffusion steps: 2 to {process.steps} can be taken")
    stride = (process.steps - 1) / (steps - 1)
    chosen = np.round(np.cumsum(np.append(0.0, np.full(steps - 1, stride)))).astype(int)
    bar = process.alpha_bar[chosen]
    return Process(process.index[chosen], 1 - bar / np.append(1.0, bar[:-1]))


def noised(tables: dict, x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
    """x_t. x0, eps [..., C], t [...] int."""
    return tables["signal"][t][..., None] * x0 + tables["spread"][t][..., None] * eps


def log_variance(row: dict, v: jax.Array) -> jax.Array:
    """f log_max + (1 - f) log_min with f = (v + 1) / 2. row: entries of `tables` that broadcast against v."""
    f = (v + 1) / 2
    return f * row["log_max"] + (1 - f) * row["log_min"]


def loss_terms(
    tables: dict, output: jax.Array, x0: jax.Array, eps: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Means over the channels, float32 [...]: the squared error of the noise, and the variational bound.

    output: the network's [..., 2C] for the x_t of x0, eps [..., C] at t [...]. The bound teaches the variance
    only: the noise is held fixed in it. It is the KL divergence of the reverse step from the posterior, in
    bits a channel, and at step 0 -log2 of the probability of x0's bin.
    """
    predicted, v = jnp.split(output.astype(jnp.float32), 2, axis=-1)
    error = predicted - eps
    row = {name: table[t][..., None] for name, table in tables.items()}
    log_var = log_variance(row, v)
    # From the mean of the reverse step to the posterior's; at step 0 to x0.
    gap = row["drift"] * jax.lax.stop_gradient(error)
    ratio = row["log_min"] - log_var
    kl = 0.5 * (jnp.exp(ratio) - 1 - ratio + gap**2 * jnp.exp(-log_var))
    nats = jnp.where(t[..., None] == 0, bin_nll(x0, gap, log_var), kl)
    return jnp.mean(error**2, axis=-1), jnp.mean(nats, axis=-1) / np.log(2)


def bin_nll(x0: jax.Array, gap: jax.Array, log_var: jax.Array) -> jax.Array:
    """-log of the probability, in nats, that a Gaussian at x0 - gap gives to the bin of x0; the bins at the
    ends of [-1, 1] are open. With the approximation of the normal distribution that goes with it,
    a sigmoid s; s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)) loses no digits where
    both are near 1, as the difference itself does in float32."""
    scale = jnp.exp(-0.5 * log_var)

    def argument(x: jax.Array) -> jax.Array:
        return 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)

    low, high = argument(scale * (gap - BIN)), argument(scale * (gap + BIN))
    below_high, above_low = jax.nn.log_sigmoid(high), jax.nn.log_sigmoid(-low)
    inside = below_high + above_low + jnp.log(-jnp.expm1(low - high))
    log_prob = jnp.where(x0 < -0.999, below_high, jnp.where(x0 > 0.999, above_low, inside))
    return -jnp.maximum(log_prob, np.log(1e-12))


def reverse_step(
    row: dict, x: jax.Array, eps: jax.Array, v: jax.Array, noise: jax.Array
) -> jax.Array:
    """x at the step before, drawn. row: one step's entries of `tables`."""
    deviation = row["chance"] * jnp.exp(0.5 * log_variance(row, v))
    return row["gain"] * x - row["drift"] * eps + deviation * noise


def ancestral(
    predict: Callable[[jax.Array, Any], jax.Array],
    x: jax.Array,
    process: Process,
    inputs: Any,
    noise: Callable[[jax.Array], jax.Array],
    temperature: float = 1.0,
) -> jax.Array:
    """x [..., C] at the last, noisiest step -> a drawn x0, float32, in one `lax.scan`.

    predict: (x, the step's row of `inputs`) -> [..., 2C].   inputs: arrays [K, ...], a row for each step.
    noise: the number of the step taken (traced, from 0 on) -> standard normals like x; `temperature`
        multiplies them.
    """

    def step(x: jax.Array, now: tuple) -> tuple[jax.Array, None]:
        row, at, number = now
        eps, v = jnp.split(predict(x, at).astype(jnp.float32), 2, axis=-1)
        return reverse_step(row, x, eps, v, temperature * noise(number)), None

    falling = jax.tree.map(lambda a: jnp.asarray(a)[::-1], (process.tables(), inputs))
    x, _ = jax.lax.scan(step, x.astype(jnp.float32), (*falling, jnp.arange(process.steps)))
    return x
