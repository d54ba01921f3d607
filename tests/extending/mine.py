"""What somebody adds from outside: one toy part of each kind, put in the registries, and a config of them.

Nothing of imgen is edited for it. CONTRIBUTING.md's table says where a part of imgen's own would stand.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from imgen.data import SOURCES
from imgen.data.source import Source
from imgen.decoding import SAMPLERS, Sampling
from imgen.decoding.samplers import Cached
from imgen.evaluation.definition import PAIRS, Metric
from imgen.evaluation.metrics import METRICS
from imgen.generators.build import HEADS, LATENTS, PLANS, Order
from imgen.generators.code_heads import CategoricalHead
from imgen.generators.orders import raster
from imgen.generators.plan import Plan
from imgen.generators.schemes import SCHEMES, Fixed
from imgen.latents import LatentSpec, height_width
from imgen.tokenizers import TOKENIZERS, Tokenizer
from imgen.training.optim import SCALINGS


def spiral(grid: tuple[int, int], num_cond: int = 1) -> Plan:
    """An order: from the edge inwards, one code a call."""
    left = np.arange(grid[0] * grid[1]).reshape(grid)
    order = []
    while left.size:
        order += left[0].tolist()
        left = np.rot90(left[1:])
    return raster(grid, num_cond, np.array(order))


class Tied(CategoricalHead):
    """A head: logits are products with the vectors of the codes."""

    def setup(self):
        self.tokens = nn.Embed(self.size, self.hidden, dtype=self.dtype)
        self.norm = self.make_norms()

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        return self.tokens.attend(self.normed(exit, hidden)).astype(jnp.float32)


class LikelierOfTwo(Cached):
    """A sampler: draws each image twice and keeps the likelier one."""

    def calls(self, model, sampling: Sampling) -> int:
        return 2 * super().calls(model, sampling)

    def draw(self, model, params, cond, rng, ids, sampling: Sampling) -> jax.Array:
        drawn = [
            super(LikelierOfTwo, self).draw(model, params, cond, key, ids, sampling)
            for key in jax.random.split(rng)
        ]
        first, second = (
            model.apply({"params": params}, model.to_codes(latents), cond, method="evaluate")
            for latents in drawn
        )
        return jnp.where((first <= second)[:, None, None], *drawn)


class FixedOrder(Fixed):
    """A scheme: the plan's order, from which that sampler draws, too."""

    samplers = (*Fixed.samplers, "likelier_of_two")


class Palette(Tokenizer):
    """A tokenizer: each patch is the nearest of a few colours, which are learned."""

    patch: int = 8
    colours: int = 8
    dtype: Any = jnp.float32

    sharding = ((r"palette$", ()),)  # on every device

    def setup(self):
        self.palette = self.param("palette", nn.initializers.uniform(2.0), (self.colours, 3))

    @nn.nowrap
    def spec(self, image_size: int | tuple[int, int]) -> LatentSpec:
        height, width = height_width(image_size)
        return LatentSpec("index", (height // self.patch, width // self.patch), self.colours)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        b, h, w, c = images.shape
        cut = images.reshape(b, h // self.patch, self.patch, w // self.patch, self.patch, c)
        means = cut.mean((2, 4))
        return jnp.square(means[..., None, :] - (self.palette - 1)).sum(-1).argmin(-1)

    def decode(self, latents: jax.Array) -> jax.Array:
        return (self.palette - 1)[latents].repeat(self.patch, 1).repeat(self.patch, 2)

    def __call__(self, images: jax.Array, rng: Any = None, teacher: Any = None) -> dict[str, Any]:
        latents = self.encode(images)
        return {"latents": latents, "losses": {}, "stats": {}, "recon": self.decode(latents)}


class Plain(Source):
    """A data source: pictures of one colour each, by class red, green or blue."""

    num_classes, class_names = 3, ("red", "green", "blue")

    def __init__(self, split: str, *, size: int = 16, num: int = 60):
        self.name, self.size, self.num = f"plain/{split}", size, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict:
        image = np.zeros((self.size, self.size, 3), np.uint8)
        image[..., index % 3] = 255
        return {"image": image, "label": index % 3}


def sign(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """An optimiser: the gradient's sign alone."""
    return optax.scale_by_sign()


def mean_absolute_error(
    images: jax.Array, originals: jax.Array, weights: Any
) -> dict[str, jax.Array]:
    """A metric: of images and their originals [B, H, W, 3] in [0, 1]."""
    return {"mae": jnp.abs(images - originals).mean((1, 2, 3))}


PLANS["spiral"] = Order(spiral, schemes=("fixed_order",))
SCHEMES["fixed_order"] = FixedOrder
HEADS["tied"], LATENTS["tied"] = Tied, "index"
SAMPLERS["likelier_of_two"] = LikelierOfTwo()
TOKENIZERS["palette"] = Palette
SOURCES["plain"] = Plain
SCALINGS["sign"] = sign
METRICS["mae"] = Metric(PAIRS, mean_absolute_error, of="pairs")


def get_config(arg: str | None = None) -> ConfigDict:
    loop = dict(steps=6, batch_size=8, log_every=1, eval_every=6, checkpoint_every=6)
    optimizer = dict(name="sign", learning_rate=0.05)
    return ConfigDict(
        dict(
            seed=0,
            data=dict(
                source=dict(name="plain"),
                train=dict(split="train"),
                eval=dict(split="test", num=8),
                image_size=16,
                crop="none",
                flip=False,
            ),
            tokenizer=dict(name="palette"),
            generator=dict(
                plan="spiral",
                plan_options=dict(),
                head="tied",
                conditioning=dict(name="class", num_classes=3),
                width=16,
                depth=1,
                heads=2,
                hidden=16,
                dropout=0.0,
            ),
            train=dict(
                tokenizer=dict(**loop, optimizer=optimizer),
                generator=dict(**loop, optimizer=dict(optimizer), num_samples=3),
            ),
        )
    )
