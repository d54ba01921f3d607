"""Next-X prediction: one transformer that gives the flow's velocity of each entity, the noisy or finished
entities before it being its context.

Shapes: B batch, L tokens, N entities, D width, C channels of a latent. Time 1 is noise.
Source: "Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation"; OliverRensu/xAR,
models/xar.py.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, ndtri

from imgen.diffusion import flow
from imgen.errors import UserError
from imgen.generators.entities import Entities
from imgen.generators.model import Likelihood, Loss
from imgen.generators.transformer import BlockSpec
from imgen.latents import LatentSpec
from imgen.nn.adaln import Modulation, modulate
from imgen.nn.attention import Attention, KVCache, SlotPositions
from imgen.nn.mlp import GatedMLP, Init, kernel_init
from imgen.nn.norms import RMSNorm, rms_norm
from imgen.nn.rope import rotary_angles
from imgen.nn.stack import check_remat, stack
from imgen.nn.time_embedding import TimeEmbedding
from imgen.parallel.constrain import constrain

EVALUATION_ROUNDS = 8  # times of each entity at which evaluation looks
TIME_STEPS = 1000  # the network is told floor(1000 t)


def time_index(t: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """The time in [0, 1] as the network is told it: the float32 product with 1000, rounded down."""
    xp = np if isinstance(t, np.ndarray) else jnp
    return xp.floor(t.astype(xp.float32) * xp.float32(TIME_STEPS))


def evaluation_times(entities: int) -> np.ndarray:
    """Logit-normal times that evaluation looks at, float32 [EVALUATION_ROUNDS, entities]: evenly spread
    quantiles for every entity, in an order of its own, as training draws each entity's time by itself."""
    rng = np.random.default_rng(0)
    rank = np.stack([rng.permutation(EVALUATION_ROUNDS) for _ in range(entities)], axis=1)
    return expit(ndtri((rank + 0.5) / EVALUATION_ROUNDS)).astype(np.float32)


class FlowBlock(nn.Module):
    """x += gate attention(norm(x) (1 + scale) + shift); x += gate mlp(norm(x) (1 + scale) + shift).

    Gates, scales and shifts come from each entity's condition; the norms have no gains.
    sizes: tokens of each of the E entities.
    """

    spec: BlockSpec
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        condition: jax.Array,  # [B, E, D]
        positions: SlotPositions,
        visible: jax.Array,  # [T]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
        read: int | None = None,
        write: bool = True,
    ) -> tuple[jax.Array, KVCache | None]:
        spec = self.spec
        parts = Modulation((6,), x.shape[-1], spec.dtype, spec.init_std, name="modulation")(
            condition
        )
        # The order of the official layer: both gates, both scales, both shifts.
        gate_1, gate_2, scale_1, scale_2, shift_1, shift_2 = (
            spread(parts[:, :, i], self.sizes) for i in range(6)
        )
        h = modulate(rms_norm(x, spec.norm_eps), shift_1, scale_1)
        h, cache = Attention(
            spec.heads,
            init_std=spec.init_std,
            dtype=spec.dtype,
            use_bias=True,
            dropout=spec.attention_dropout,
            name="attention",
        )(h, positions, visible, cache=cache, start=start, read=read, write=write)
        x = x + gate_1 * h
        h = modulate(rms_norm(x, spec.norm_eps), shift_2, scale_2)
        h = GatedMLP(
            spec.hidden,
            spec.init_std,
            spec.dtype,
            activation="gelu",
            use_bias=True,
            dropout=spec.ffn_dropout,
            apart=True,
            name="ffn",
        )(h)
        return constrain(x + gate_2 * h, "batch", None, None), cache


def spread(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """[B, E, D] -> [B, T, D]: each entity's row for each of its tokens; a single one stays [B, 1, D]."""
    if len(sizes) == 1:
        return x
    if len(set(sizes)) == 1:
        return jnp.repeat(x, sizes[0], axis=1)
    rows = [jnp.repeat(x[:, e : e + 1], size, axis=1) for e, size in enumerate(sizes)]
    return jnp.concatenate(rows, axis=1)


class XAR(nn.Module):
    """The velocity of every entity, given those before it, a class and a time of its own for each; a
    `LatentModel`.

    entities: `entities.ENTITIES` of the latents' grid.   channels: of a latent.
    conditioner: one that gives a vector, the entities' condition beside the time.
    depth: blocks of the first and of the second stack; between them stand a linear layer and a second table
        of positions. All tokens go through both.
    hidden: of the feed-forward, by default 8/3 of the width.   time_features: sinusoids of the time.
    remat: of the blocks, see `transformer.Transformer`.
    dtype: of the blocks; the time, the latents and the velocities are float32.
    """

    entities: Entities
    channels: int
    conditioner: nn.Module
    width: int
    depth: tuple[int, int]
    heads: int
    hidden: int | None = None
    dropout: float = 0.1
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    time_features: int = 256
    init_std: Init = "xavier"
    remat: Literal["none", "full", "dots"] = "none"
    dtype: Any = jnp.float32

    likelihood: ClassVar[Likelihood] = "none"
    trains_on_likelihood: ClassVar[bool] = False
    samplers: ClassVar[tuple[str, ...]] = ("entity_flow",)

    def setup(self):
        table = nn.initializers.normal(0.02)
        positions = (self.entities.length, self.width)
        self.time = TimeEmbedding(self.width, self.time_features, init_std=self.init_std)
        self.positions = [self.param(f"positions_{i}", table, positions) for i in range(2)]
        init = kernel_init(self.init_std)
        dtypes = jnp.float32, self.dtype
        self.inputs = [nn.Dense(self.width, dtype=dtype, kernel_init=init) for dtype in dtypes]
        self.input_norm = RMSNorm(self.norm_eps)
        self.stack = [self._stack(depth) for depth in self.depth]
        self.norm = [RMSNorm(self.norm_eps) for _ in range(2)]
        self.output = nn.Dense(self.channels, kernel_init=init)

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec("continuous", self.entities.grid, self.channels)

    @property
    def block(self) -> BlockSpec:
        """What the blocks are made of."""
        return BlockSpec(
            self.heads,
            self.hidden or int(self.width * 8 / 3),
            norm_eps=self.norm_eps,
            attention_dropout=self.dropout,
            ffn_dropout=self.dropout,
            init_std=self.init_std,
            dtype=self.dtype,
        )

    def _stack(self, depth: int) -> nn.Module:
        return stack(FlowBlock, depth, remat=self.remat)(self.block, self.entities.sizes)

    def __call__(
        self, x: jax.Array, t: jax.Array, cond: dict, null: jax.Array | None = None
    ) -> jax.Array:
        """Noisy tokens [B, L, C] at the times [B, N] of their entities -> velocities, float32 [B, L, C]."""
        null = jnp.zeros(len(x), bool) if null is None else null
        condition = self.embed_condition(cond, null)[:, None] + self.embed_time(time_index(t))
        ends = self.entities.starts + np.asarray(self.entities.sizes)
        visible = ends[self.entities.of_token]
        positions = self.rotary(np.arange(self.entities.length))
        h = constrain(self.enter(x), "batch", None, None)
        for i in range(2):
            h, _ = self.stack[i](h, condition, positions, visible)
            h = self.between(h) if i == 0 else self.leave(h)
        return h

    def embed_condition(self, cond: dict, null: jax.Array) -> jax.Array:
        """The condition's vector, [B, D]."""
        return self.conditioner(cond, null).vector

    def embed_time(self, index: jax.Array) -> jax.Array:
        """Times of `time_index` [...] -> [..., D]."""
        return self.time(index)

    def enter(self, x: jax.Array, start: jax.Array | int = 0) -> jax.Array:
        """Tokens [B, T, C], of which the first is number `start` -> what the first stack reads, [B, T, D]."""
        return self.input_norm(self._place(self.inputs[0](x), 0, start)).astype(self.dtype)

    def between(self, h: jax.Array, start: jax.Array | int = 0) -> jax.Array:
        """What the first stack gives -> what the second reads."""
        return self._place(self.inputs[1](self.norm[0](h)), 1, start)

    def leave(self, h: jax.Array) -> jax.Array:
        """What the second stack gives -> velocities, float32 [B, T, C]."""
        return self.output(self.norm[1](h).astype(jnp.float32))

    def _place(self, h: jax.Array, table: int, start: jax.Array | int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(self.positions[table], start, h.shape[1])
        return h + rows.astype(h.dtype)

    @nn.nowrap
    def rotary(self, tokens: np.ndarray) -> SlotPositions:
        """Rotary positions of tokens [...], as arrays [..., H / 2]."""
        coordinates, head_dim = self.entities.coordinates[tokens], self.width // self.heads
        angles = rotary_angles(
            coordinates.reshape(-1, coordinates.shape[-1]), head_dim, self.rope_base
        ).reshape(*tokens.shape, -1)
        return SlotPositions(
            np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32), None
        )

    def loss(
        self, codes: jax.Array, cond: dict, null: jax.Array, key: jax.Array, progress: Any = 1.0
    ) -> Loss:
        """Returns the squared error of each token's velocity, summed over its channels. `key` draws a
        logit-normal time for each entity, and the noise."""
        time_key, noise_key = jax.random.split(key)
        t = flow.sample_times(time_key, (len(codes), self.entities.count))
        error = self._error(codes, t, jax.random.normal(noise_key, codes.shape), cond, null)
        return Loss(error, jnp.ones(error.shape), {})

    def evaluate(self, codes: jax.Array, cond: dict) -> jax.Array:
        """Returns an estimate of the training loss of an image as a sum, [B]: the mean over rounds at
        fixed times
        (`evaluation_times`) with noise that is the same for every image. It is no likelihood."""
        times = evaluation_times(self.entities.count)

        def error(number: jax.Array) -> jax.Array:
            eps = jax.random.normal(jax.random.fold_in(jax.random.key(0), number), codes.shape[1:])
            t, eps = (
                jnp.broadcast_to(x, (len(codes), *x.shape))
                for x in (jnp.asarray(times)[number], eps)
            )
            return self._error(codes, t, eps, cond, None).sum(axis=1)

        return jnp.mean(jax.lax.map(error, jnp.arange(len(times))), axis=0)

    def _error(self, x0, t, eps, cond, null) -> jax.Array:
        of_each = t[:, self.entities.of_token]
        velocity = self(flow.interpolate(x0, eps, of_each), t, cond, null)
        return jnp.sum(jnp.square(velocity - (eps - x0)), axis=-1)

    @property
    def variables_per_position(self) -> int:
        """Variables of a token."""
        return self.channels

    @property
    def variables(self) -> int:
        """Variables of an image."""
        return self.entities.length * self.channels

    @nn.nowrap
    def to_codes(self, latents: jax.Array) -> jax.Array:
        """Latents [B, *grid, C] -> tokens [B, L, C]."""
        return self.entities.tokens(latents)

    @nn.nowrap
    def to_latents(self, codes: jax.Array) -> jax.Array:
        """Tokens [B, L, C] -> latents [B, *grid, C]."""
        return self.entities.latents(codes)

    @nn.nowrap
    def init_params(self, rng: jax.Array) -> dict:
        """Fresh parameters."""
        x = jnp.zeros((1, self.entities.length, self.channels))
        t = jnp.zeros((1, self.entities.count))
        return self.init(rng, x, t, self.conditioner.example(1))["params"]


def check(model: XAR) -> None:
    """Raises UserError for settings that do not fit together."""
    if model.width % model.heads:
        raise UserError(f"generator width {model.width} is not divisible by {model.heads} heads")
    if "vector" not in model.conditioner.gives:
        raise UserError(
            "xar takes a class as its condition: set generator.conditioning.name to class"
        )
    pair = isinstance(model.depth, Sequence) and len(model.depth) == 2
    if not pair or min(model.depth) < 1:
        raise UserError(
            f"generator.depth {model.depth} must be two numbers, a stack each, and at least 1"
        )
    check_remat(model.remat)
