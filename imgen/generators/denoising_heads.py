"""Heads over continuous latents: a token is drawn by a diffusion (MAR) or a rectified flow (Ming-UniVision).

The transformer runs once a token and gives features, the MLP of `denoisers` once a solver step. Guidance
acts on what the MLP gives. Plans decided by confidence need other heads; MAR's random order doesn't.
Shapes: B images, N tokens of each, [...] any leading axes, C channels, Z features, W the MLP's width.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.diffusion import flow, gaussian
from imgen.diffusion.flow import Solver
from imgen.errors import UserError
from imgen.generators.arrays import Purpose, fold
from imgen.generators.denoisers import Features, FeedForward, TokenMLP
from imgen.generators.filters import Filters, check_temperature_only
from imgen.generators.head import Head, drawing_keys, token_noise
from imgen.nn.mlp import kernel_init

TIME_SCALE = 1000.0  # of the times in [0, 1] that a flow's MLP is told

Run = Callable[..., jax.Array]
Noise = Callable[[Any], jax.Array]


class DenoisingHead(Head):
    """The base of both; what it reads at an exit are the MLP's features, one MLP for all exits.

    channels: of a latent.   width, depth, ffn, ratio, time_features: of `TokenMLP`.
    features: see `denoisers.Features`.
    repeats: times and noises that each token is trained on in a pass of the transformer (MAR's batch factor).
    """

    channels: int
    width: int = 1024
    depth: int = 6
    ffn: FeedForward = "silu"
    ratio: float = 4.0
    time_features: int = 256
    features: int | None = None
    repeats: int = 4

    has_likelihood: ClassVar[bool] = False
    code_dtype: ClassVar[Any] = jnp.float32
    outputs_per_channel: ClassVar[int] = 1

    def __post_init__(self):
        if self.ffn not in get_args(FeedForward):
            raise UserError(
                f"generator.head_options.ffn {self.ffn!r} is none of {', '.join(get_args(FeedForward))}"
            )
        if min(self.width, self.depth, self.repeats) < 1:
            raise UserError(
                f"generator.head_options: width {self.width}, depth {self.depth} and repeats {self.repeats} "
                "must be at least 1"
            )
        super().__post_init__()

    def setup(self):
        init = kernel_init(self.init_std)
        self.tokens = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=init)
        self.norm = self.make_norms()
        self.head = [Features(self.features, self.init_std, self.dtype) for _ in range(self.exits)]
        self.denoiser = self.network()

    @nn.nowrap
    def network(self) -> TokenMLP:
        """Returns the MLP, unbound."""
        outputs = self.outputs_per_channel * self.channels
        return TokenMLP(
            outputs, self.width, self.depth, self.ffn, self.ratio, self.time_features, self.dtype
        )

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.channels,)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.features or self.hidden,)

    def prepare(self, codes: jax.Array, out: jax.Array) -> None:
        self.denoiser(codes, jnp.zeros(()), out)

    @nn.nowrap
    def encode(self, latents: jax.Array) -> jax.Array:
        return latents.astype(jnp.float32)

    @nn.nowrap
    def check(self, filters: Filters) -> None:
        check_temperature_only(filters, "continuous latents")

    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """The loss of each token, [B, P]; without keys its draws are the same for every sample."""
        if keys is None:
            keys = jnp.broadcast_to(jax.random.key(0), len(codes))
        return self.denoising_loss(self.denoiser, out, codes, fold(keys, Purpose.NOISE))

    @nn.nowrap
    def denoising_loss(self, network: Run, features: jax.Array, codes: jax.Array, keys: jax.Array):
        """Returns [B, ...]: the loss of each token as a sum over its channels, the mean over `repeats` draws.

        network: (x, what is told of the time, features) -> the MLP's output.
        features [B, ..., Z], codes [B, ..., C].   keys [B]: each draws the times and noises of a sample.
        """
        shape = (self.repeats, *codes.shape[1:])

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            time_key, noise_key = jax.random.split(key)
            return self.draw_times(time_key, shape[:-1]), jax.random.normal(noise_key, shape)

        t, eps = jax.vmap(draw)(keys)  # [B, repeats, ...], [B, repeats, ..., C]
        errors = self.errors(network, codes[:, None], t, eps, features[:, None])
        return self.channels * jnp.mean(errors, axis=1)

    @nn.nowrap
    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Returns times to train at."""
        raise NotImplementedError

    @nn.nowrap
    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        """Returns the published loss of each token, a mean over its channels: float32 [...]."""
        raise NotImplementedError

    @nn.nowrap
    def random(self, keys: jax.Array, count: int, shape: tuple[int, ...] | None = None):
        keys, shape = drawing_keys(keys), self.code_shape if shape is None else shape
        return lambda positions: token_noise(keys, positions, shape)

    def decide(self, out, null, weight, random, filters, solver=None):
        network, variables = self.denoiser.unbind()

        def run(method, *args):
            return network.apply(variables, *args, method=method)

        solver = solver or self.solver(None, None, None)
        return out, self.sample(run, out, null, weight, random, solver, filters.temperature)

    @nn.nowrap
    def sample(
        self,
        run: Run,
        features: jax.Array,
        null: jax.Array | None,
        weight: jax.Array | float,
        noise: Noise,
        solver: Solver,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Returns tokens, float32 [B, N, C], drawn given features [B, N, Z].

        run: (method's name, arguments) -> that method of the MLP.
        null: the features without the condition, for guidance; None for none.
        noise: a solver step's number (-1 for the start, then traced from 0) -> standard normals [B, N, C].
        """
        if null is None:
            return self.integrate(
                run, (features,), lambda output: output, noise, solver, temperature
            )
        combine = self.combine(weight)
        return self.integrate(run, (features, null), combine, noise, solver, temperature)

    @nn.nowrap
    def combine(self, weight: jax.Array | float) -> Callable[..., jax.Array]:
        """Returns (conditional, unconditional output) -> guided; with weight 1 the conditional one, bit for
        bit."""
        guidance = flow.ProjectedGuidance(weight)
        return lambda given, null: flow.guide_velocity(given, null, guidance)[0]

    @nn.nowrap
    def integrate(
        self,
        run: Run,
        features: Sequence[jax.Array],
        combine: Callable[..., jax.Array],
        noise: Noise,
        solver: Solver,
        temperature: float = 1.0,
    ) -> jax.Array:
        """`sample` under any guidance: `combine` takes the MLP's output for each of several features."""
        raise NotImplementedError


def predictor(
    run: Run, features: Sequence[jax.Array], combine: Callable[..., jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns (x [B, N, C], embedded time [W]) -> the combined output; the features are embedded once."""
    condition = run("embed_features", jnp.concatenate(features))

    def predict(x: jax.Array, time: jax.Array) -> jax.Array:
        output = run("denoise", jnp.concatenate([x] * len(features)), time + condition)
        return combine(*jnp.split(output, len(features)))

    return predict


class DiffusionHead(DenoisingHead):
    """MAR's head: Gaussian diffusion with a learned variance (`imgen.diffusion.gaussian`).

    train_steps: of the process, of which sampling takes some.   In sampling the temperature multiplies the
    noise of the steps, and guidance acts on the noise that is predicted; the variance is the conditional one.
    """

    train_steps: int = 1000

    outputs_per_channel: ClassVar[int] = 2

    @nn.nowrap
    def solver(self, name, steps, shift) -> Solver:
        if name is not None or shift is not None:
            raise UserError(
                "a diffusion head has no solver to choose and no shift: set solver_steps only"
            )
        found = Solver("ancestral", min(100, self.train_steps) if steps is None else steps)
        self.process(found.steps)
        return found

    @nn.nowrap
    def process(self, steps: int) -> gaussian.Process:
        """Returns the process that is sampled."""
        return gaussian.respace(gaussian.cosine_process(self.train_steps), steps)

    @nn.nowrap
    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.randint(key, shape, 0, self.train_steps)

    @nn.nowrap
    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        tables = gaussian.cosine_process(self.train_steps).tables()
        output = network(gaussian.noised(tables, x0, eps, t), t, features)
        return sum(gaussian.loss_terms(tables, output, x0, eps, t))

    @nn.nowrap
    def combine(self, weight: jax.Array | float) -> Callable[..., jax.Array]:
        guided = super().combine(weight)

        def combine(given: jax.Array, null: jax.Array) -> jax.Array:
            (eps, v), (null_eps, _) = (jnp.split(output, 2, axis=-1) for output in (given, null))
            return jnp.concatenate([guided(eps, null_eps), v], axis=-1)

        return combine

    @nn.nowrap
    def integrate(self, run, features, combine, noise, solver, temperature=1.0) -> jax.Array:
        process, predict = self.process(solver.steps), predictor(run, features, combine)
        told = run("embed_time", jnp.asarray(process.index, jnp.float32))  # [K, W]
        return gaussian.ancestral(predict, noise(-1), process, told, noise, temperature)


class FlowHead(DenoisingHead):
    """A rectified flow (`imgen.diffusion.flow`): the MLP is told 1000 t and gives the velocity eps - x0.

    times: how training times are drawn, see `flow.sample_times`.
    In sampling the temperature multiplies the noise at the start.
    """

    times: Literal["uniform", "logit_normal", "mode"] = "uniform"

    def __post_init__(self):
        if self.times not in flow.TIMES:
            raise UserError(
                f"generator.head_options.times {self.times!r} must be one of {', '.join(flow.TIMES)}"
            )
        super().__post_init__()

    @nn.nowrap
    def solver(self, name, steps, shift) -> Solver:
        return Solver.flow(name or "euler", 16 if steps is None else steps, shift or 1.0)

    @nn.nowrap
    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return flow.sample_times(key, shape, self.times)

    @nn.nowrap
    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        velocity = network(flow.interpolate(x0, eps, t), TIME_SCALE * t, features)
        return jnp.mean(jnp.square(velocity - (eps - x0)), axis=-1)

    @nn.nowrap
    def integrate(self, run, features, combine, noise, solver, temperature=1.0) -> jax.Array:
        times, predict = solver.times(), predictor(run, features, combine)
        told = run("embed_time", TIME_SCALE * jnp.asarray(times, jnp.float32))  # [T + 1, W]
        start = temperature * noise(-1)
        return flow.solve(predict, start, times, solver.name, inputs=told, noise=noise)
