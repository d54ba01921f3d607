"""Heads over continuous latents: an MLP that denoises one token, given what the transformer says of it.

The token's distribution is a diffusion (MAR) or a rectified flow (Ming-UniVision). The transformer runs once
a token, the MLP once a solver step. Either head goes with any plan but masked ones, which need confidences.

Shapes: [...] any leading axes, a token each, C its channels, Z features, W the MLP's width; in sampling
B images and N tokens of each. Sources: "Autoregressive Image Generation without Vector Quantization",
LTH14/mar, models/diffloss.py; inclusionAI/Ming-UniVision, mingunivision/diff_loss_rf_swiglu.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.diffusion import flow
from imgen.diffusion import gaussian as diffusion
from imgen.errors import UserError
from imgen.nn.adaln import Modulation, layer_norm, modulate
from imgen.nn.mlp import GatedMLP, Init, kernel_init
from imgen.nn.time_embedding import TimeEmbedding
from imgen.parallel.constrain import constrain

FeedForward = Literal["silu", "swiglu"]
NORM_EPS = 1e-6
TIME_SCALE = 1000.0  # of the times in [0, 1] that a flow's MLP is told

# MAR's README; its weights are not decayed. Ming: the signature's defaults.
MAR = {
    "B": dict(depth=6, width=1024),
    "L": dict(depth=8, width=1280),
    "H": dict(depth=12, width=1536),
}
MING = dict(depth=12, width=3072, ffn="swiglu", features=3072)

Run = Callable[..., jax.Array]
Noise = Callable[[Any], jax.Array]


class ResBlock(nn.Module):
    """h + gate ffn(norm(h) (1 + scale) + shift), shift, scale and gate from the condition. [..., W] both.

    ffn: "silu" is down(silu(up h)), as wide as h (MAR); "swiglu" is `GatedMLP` with biases, 2/3 of `ratio` as
        wide as h, rounded up to a multiple of 8 (Ming).
    """

    ffn: FeedForward = "silu"
    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, condition: jax.Array) -> jax.Array:
        width = h.shape[-1]
        parts = Modulation((3,), width, self.dtype, name="modulation")(condition)
        shift, scale, gate = jnp.moveaxis(parts, -2, 0)
        out = modulate(nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(h), shift, scale)
        if self.ffn == "swiglu":
            hidden = 8 * -(-int(2 * self.ratio * width / 3) // 8)
            out = GatedMLP(hidden, "xavier", self.dtype, use_bias=True, name="ffn")(out)
        else:
            common = dict(dtype=self.dtype, kernel_init=kernel_init("xavier"))
            out = nn.silu(nn.Dense(width, **common, name="up")(out))
            out = constrain(out, "batch", *(None,) * (out.ndim - 2), "hidden")
            out = nn.Dense(width, **common, name="down")(out)
        return h + gate * out


class TokenMLP(nn.Module):
    """Noisy tokens [..., C], what is told of the time [...] and features [..., Z] -> float32 [..., outputs].

    Starts at zero: gates, modulations and the output. The tokens enter and leave in float32.
    """

    outputs: int
    width: int = 1024
    depth: int = 6
    ffn: FeedForward = "silu"
    ratio: float = 4.0
    time_features: int = 256
    dtype: Any = jnp.float32

    def setup(self):
        init = kernel_init("xavier")
        self.time = TimeEmbedding(self.width, self.time_features, dtype=self.dtype)
        self.condition = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)
        self.input = nn.Dense(self.width, kernel_init=init)
        self.block = [ResBlock(self.ffn, self.ratio, self.dtype) for _ in range(self.depth)]
        self.modulation = Modulation((2,), self.width, self.dtype)
        self.output = nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)

    def __call__(self, x: jax.Array, time: jax.Array, z: jax.Array) -> jax.Array:
        return self.denoise(x, self.embed_time(time) + self.embed_features(z))

    def embed_time(self, time: jax.Array) -> jax.Array:
        """[...] -> [..., W]."""
        return self.time(time)

    def embed_features(self, z: jax.Array) -> jax.Array:
        """[..., Z] -> [..., W]."""
        return self.condition(z)

    def denoise(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """x [..., C]; condition [..., W]: the sum of both embeddings."""
        h = self.input(x).astype(self.dtype)
        for block in self.block:
            h = block(h, condition)
        shift, scale = jnp.moveaxis(self.modulation(condition), -2, 0)
        h = modulate(layer_norm(h, NORM_EPS), shift, scale)
        return self.output(h.astype(jnp.float32))


class Features(nn.Module):
    """What an exit tells the MLP, float32. [..., D] -> [..., size]: a linear layer and a LayerNorm (Ming's
    `vis_head`), or without a size the hidden state itself (MAR)."""

    size: int | None
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        if self.size is None:
            return hidden.astype(jnp.float32)
        init = kernel_init(self.init_std)
        hidden = nn.Dense(self.size, dtype=self.dtype, kernel_init=init, name="output")(hidden)
        return nn.LayerNorm(NORM_EPS, dtype=jnp.float32, name="norm")(hidden)


@dataclasses.dataclass(frozen=True)
class DenoisingHead:
    """A head whose "logits" are features of an MLP, one for all exits (a `Head` of `imgen.generators.heads`).

    channels: of a latent.   hidden: width of the transformer.
    width, depth, ffn, ratio: of `TokenMLP`.   features: see `Features`.
    repeats: times and noises that each token is trained on in a pass of the transformer (MAR's batch factor).
    """

    channels: int
    hidden: int
    width: int = 1024
    depth: int = 6
    ffn: FeedForward = "silu"
    ratio: float = 4.0
    features: int | None = None
    repeats: int = 4

    continuous: ClassVar[bool] = True
    binary: ClassVar[bool] = False
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

    @property
    def evaluations(self) -> int:
        """Calls of the MLP that draw a token."""
        raise NotImplementedError

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.channels,)

    latent_shape = code_shape

    @property
    def logits_shape(self) -> tuple[int, ...]:
        return (self.features or self.hidden,)

    @property
    def terms(self) -> int:
        return self.channels

    def embedding(self, width: int, init: Init, dtype: Any) -> nn.Module:
        return nn.Dense(width, dtype=dtype, kernel_init=kernel_init(init))

    def output(self, init: Init, dtype: Any) -> nn.Module:
        return Features(self.features, init, dtype)

    def encode(self, latents: jax.Array) -> jax.Array:
        return latents.astype(jnp.float32)

    def decode(self, codes: jax.Array) -> jax.Array:
        return codes

    def denoiser(self, dtype: Any) -> TokenMLP:
        """The MLP, unbound."""
        outputs = self.outputs_per_channel * self.channels
        return TokenMLP(outputs, self.width, self.depth, self.ffn, self.ratio, dtype=dtype)

    def loss(self, network: Run, features: jax.Array, codes: jax.Array, keys: jax.Array):
        """[B, ...]: the loss of each token as a sum over its channels, the mean over `repeats` draws.

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

    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Times to train at."""
        raise NotImplementedError

    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        """The published loss of each token, a mean over its channels: float32 [...]."""
        raise NotImplementedError

    def sample(
        self,
        run: Run,
        features: jax.Array,
        null: jax.Array | None,
        weight: jax.Array | float,
        noise: Noise,
        temperature: float = 1.0,
    ) -> jax.Array:
        """Draws tokens, float32 [B, N, C], from features [B, N, Z].

        run: (method's name, arguments) -> that method of the MLP.
        null: the features without the condition, for guidance c + (weight - 1) (c - u); None for none.
        noise: a solver step's number (-1 for the start, then traced from 0) -> standard normals [B, N, C].
        """
        if null is None:
            return self.integrate(run, (features,), lambda output: output, noise, temperature)
        return self.integrate(run, (features, null), self.guide(weight), noise, temperature)

    def guide(self, weight: jax.Array | float) -> Callable[..., jax.Array]:
        """(conditional, unconditional output) -> guided; with weight 1 the conditional one, bit for bit."""
        return lambda given, null: flow.guide(given, null, flow.Guidance(weight))[0]

    def integrate(
        self,
        run: Run,
        features: Sequence[jax.Array],
        combine: Callable[..., jax.Array],
        noise: Noise,
        temperature: float = 1.0,
    ) -> jax.Array:
        """`sample` under any guidance: `combine` takes the MLP's output for each of several features."""
        raise NotImplementedError


def predictor(
    run: Run, features: Sequence[jax.Array], combine: Callable[..., jax.Array]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(x [B, N, C], embedded time [W]) -> the combined output; the features are embedded once."""
    condition = run("embed_features", jnp.concatenate(features))

    def predict(x: jax.Array, time: jax.Array) -> jax.Array:
        output = run("denoise", jnp.concatenate([x] * len(features)), time + condition)
        return combine(*jnp.split(output, len(features)))

    return predict


@dataclasses.dataclass(frozen=True)
class DiffusionHead(DenoisingHead):
    """MAR's head: Gaussian diffusion with a learned variance (`imgen.diffusion.gaussian`).

    steps: of sampling, out of `train_steps`.   In sampling the temperature multiplies the noise of the steps,
    and guidance acts on the noise that is predicted; the variance is the conditional one.
    """

    steps: int = 100
    train_steps: int = 1000

    outputs_per_channel: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        self.process()

    @property
    def evaluations(self) -> int:
        return self.steps

    def process(self) -> diffusion.Process:
        """The process that is sampled."""
        return diffusion.respace(diffusion.cosine_process(self.train_steps), self.steps)

    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.randint(key, shape, 0, self.train_steps)

    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        tables = diffusion.cosine_process(self.train_steps).tables()
        output = network(diffusion.noised(tables, x0, eps, t), t, features)
        return sum(diffusion.loss_terms(tables, output, x0, eps, t))

    def guide(self, weight: jax.Array | float) -> Callable[..., jax.Array]:
        guide = super().guide(weight)

        def combine(given: jax.Array, null: jax.Array) -> jax.Array:
            (eps, v), (null_eps, _) = (jnp.split(output, 2, axis=-1) for output in (given, null))
            return jnp.concatenate([guide(eps, null_eps), v], axis=-1)

        return combine

    def integrate(self, run, features, combine, noise, temperature=1.0) -> jax.Array:
        process, predict = self.process(), predictor(run, features, combine)
        told = run("embed_time", jnp.asarray(process.index, jnp.float32))  # [K, W]
        return diffusion.ancestral(predict, noise(-1), process, told, noise, temperature)


@dataclasses.dataclass(frozen=True)
class FlowHead(DenoisingHead):
    """A rectified flow (`imgen.diffusion.flow`): the MLP is told 1000 t and gives the velocity eps - x0.

    times: how training times are drawn, see `flow.sample_times`.
    steps, solver: of sampling, see `flow.solve`.   shift: of its times, see `flow.shift_times`.
    In sampling the temperature multiplies the noise at the start.
    """

    steps: int = 16
    times: Literal["uniform", "logit_normal", "mode"] = "uniform"
    solver: Literal["euler", "heun", "euler_maruyama"] = "euler"
    shift: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.times not in flow.TIMES or self.solver not in flow.SOLVERS or self.shift <= 0:
            raise UserError(
                f"generator.head_options: times {self.times!r} must be one of {', '.join(flow.TIMES)}, "
                f"solver {self.solver!r} one of {', '.join(flow.SOLVERS)}, shift {self.shift} above 0"
            )
        self.grid()

    def grid(self) -> np.ndarray:
        """The times of sampling, float64 [steps + 1]."""
        return flow.shift_times(flow.solver_times(self.solver, self.steps), self.shift)

    @property
    def evaluations(self) -> int:
        return flow.evaluations(self.solver, self.steps)

    def draw_times(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return flow.sample_times(key, shape, self.times)

    def errors(self, network: Run, x0, t, eps, features) -> jax.Array:
        velocity = network(flow.interpolate(x0, eps, t), TIME_SCALE * t, features)
        return jnp.mean(jnp.square(velocity - (eps - x0)), axis=-1)

    def integrate(self, run, features, combine, noise, temperature=1.0) -> jax.Array:
        times, predict = self.grid(), predictor(run, features, combine)
        told = run("embed_time", TIME_SCALE * jnp.asarray(times, jnp.float32))  # [T + 1, W]
        start = temperature * noise(-1)
        return flow.solve(predict, start, times, self.solver, inputs=told, noise=noise)


def guide_twice(
    given: jax.Array, null: jax.Array, textless: jax.Array, text: float, image: float
) -> jax.Array:
    """Ming's guidance with two weights: outputs given everything, nothing, and all but the text.

    null + image (textless - null) + text (given - textless).
    """
    return null + image * (textless - null) + text * (given - textless)


def renorm(guided: jax.Array, given: jax.Array) -> jax.Array:
    """A guided velocity [..., C], shortened to the norm of the conditional one where it is longer (Ming)."""
    norm, longest = (jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (guided, given))
    return guided * jnp.clip(longest / norm + 1e-8, 0, 1)
