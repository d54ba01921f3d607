"""CLIP: an image tower and a causal text tower whose projections meet in one space.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision";
openai/CLIP, clip/model.py; transformers, models/clip. Parameters come from `imgen.interop.clip`; the network
is frozen wherever it is used. The metrics read both towers; the text tower's tokens are text features.

Which activation a checkpoint was trained with does not show in its shapes: OpenAI's have "quick_gelu", most
of LAION's the exact "gelu".
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError, did_you_mean
from imgen.nn.vit import ViT

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)

# name: (image size, patch, image tower, text tower, width of the common space); towers: (width, depth, heads)
SIZES = {
    "clip_b32": (224, 32, (768, 12, 12), (512, 12, 8), 512),
    "clip_b16": (224, 16, (768, 12, 12), (512, 12, 8), 512),
    "clip_l14": (224, 14, (1024, 24, 16), (768, 12, 12), 768),
    "clip_l14_336": (336, 14, (1024, 24, 16), (768, 12, 12), 768),
}

Activation = Literal["quick_gelu", "gelu"]


class ImageTower(nn.Module):
    """Normalised images [B, S, S, 3] -> tokens [B, 1 + N, D], the class token first, as the last block leaves
    them; and `pooled` [B, D], the class token after the last norm. Raises UserError for another size S."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: Activation = "quick_gelu"
    eps: float = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        if images.shape[1:] != (self.size, self.size, 3):
            raise UserError(
                f"this CLIP reads images [{self.size}, {self.size}, 3], not {list(images.shape[1:])}; "
                "resize them first"
            )
        init = nn.initializers.normal(self.width**-0.5)
        cell = (self.patch, self.patch)
        x = nn.Conv(self.width, cell, cell, "VALID", use_bias=False, name="patch_embed")(images)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("class_token", init, (self.width,))
        token = jnp.broadcast_to(token, (len(x), 1, self.width))
        x = jnp.concatenate([token, x], axis=1)  # [B, 1 + N, D]
        x = x + self.param("positions", init, x.shape[1:])
        x = nn.LayerNorm(self.eps, name="ln_pre")(x)
        x = _transformer(self)(x)
        return x, nn.LayerNorm(self.eps, name="ln_post")(x[:, 0])


class TextTower(nn.Module):
    """Ids [B, T] int, T up to `length` -> tokens [B, T, D] after the last norm; and `pooled` [B, D], the one
    at the end of the text: at the first id that is `end`, or if that is None at the first of the largest ids,
    which in every published vocabulary is the end token.

    Token t sees tokens 0 to t: what comes behind the end changes nothing before it. valid: [B, T] bool, those
    who may be seen at all, which changes the tokens of padding only.
    """

    vocab: int
    length: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: Activation = "quick_gelu"
    eps: float = 1e-5
    end: int | None = None

    @nn.compact
    def __call__(
        self, ids: jax.Array, valid: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        size = ids.shape[1]
        if size > self.length:
            raise UserError(
                f"this CLIP reads texts of up to {self.length} tokens, not {size}; cut them"
            )
        init = nn.initializers.normal(0.02)
        x = nn.Embed(self.vocab, self.width, embedding_init=init, name="table")(ids)
        x = (
            x
            + self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))[
                :size
            ]
        )
        mask = jnp.tril(jnp.ones((size, size), bool))[None, None]  # [1, 1, queries, keys]
        if valid is not None:
            mask = mask & valid[:, None, None, :]
        x = _transformer(self)(x, mask)
        x = nn.LayerNorm(self.eps, name="ln_final")(x)
        at = jnp.argmax(ids if self.end is None else ids == self.end, axis=1)
        return x, jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]


def _transformer(tower: ImageTower | TextTower) -> ViT:
    return ViT(
        tower.depth,
        tower.heads,
        (tower.hidden + 0.5) / tower.width,  # which times the width, cut, is `hidden`
        tower.eps,
        mlp=tower.activation,
        name="transformer",
    )


class CLIP(nn.Module):
    """Both towers and their projections to the common space, `width` wide."""

    image: ImageTower
    text: TextTower
    width: int

    def setup(self):
        self.image_projection = nn.Dense(self.width, use_bias=False)
        self.text_projection = nn.Dense(self.width, use_bias=False)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Normalised images [B, S, S, 3] -> features [B, width], of any length."""
        return self.image_projection(self.image(images)[1])

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Ids [B, T], with start and end -> features [B, width], of any length."""
        return self.text_projection(self.text(ids)[1])

    def __call__(self, images: jax.Array, ids: jax.Array) -> jax.Array:
        """Logits [images, texts]: exp(logit_scale) times the cosines."""
        images, texts = to_unit(self.encode_image(images)), to_unit(self.encode_text(ids))
        return jnp.exp(self.logit_scale) * images @ texts.T


def to_unit(x: jax.Array) -> jax.Array:
    """Of length 1 along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def normalised(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32 as the image tower reads them."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(MEAN)) / jnp.array(STD)


def preset(name: str, activation: Activation = "quick_gelu", end: int | None = None) -> CLIP:
    """One of the published `SIZES`. Raises UserError for a name that is not among them."""
    if name not in SIZES:
        hint = did_you_mean(name, list(SIZES)) or f"there are {', '.join(SIZES)}"
        raise UserError(f"no CLIP is called {name!r}; {hint}")
    size, patch, image, text, width = SIZES[name]
    return CLIP(
        ImageTower(size, patch, *image, 4 * image[0], activation),
        TextTower(49408, 77, *text, 4 * text[0], activation, end=end),
        width,
    )


def size_name(model: CLIP) -> str | None:
    """The name under which a model's size stands in `SIZES`, whatever its activation; None if it doesn't."""
    for name in SIZES:
        if preset(name, model.image.activation, model.text.end) == model:
            return name
    return None


def abstract_params(model: CLIP) -> dict[str, Any]:
    """Shapes of the parameters."""
    side = model.image.size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, model.text.length), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), images, ids)["params"]
